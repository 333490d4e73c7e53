//! The NoCloud seed: a FAT disk labelled `cidata` with `meta-data` and `network-config`.
//! It is read straight from the block device, so neither a mount nor the kernel's FAT modules are needed.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    io::Read as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ipnetwork::Ipv4Network;
use serde::Deserialize;

/// No file of a seed that this guest reads is longer.
const LONGEST_FILE: u64 = 64 * 1024;

/// What this guest takes from its seed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seed {
    pub(crate) hostname: Option<String>,
    pub(crate) interfaces: Vec<Interface>,
}

/// One Ethernet device and what it shall have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Lower case, with colons; where none is given the only device is meant.
    pub(crate) mac_address: Option<String>,
    pub(crate) mtu: Option<u32>,
    pub(crate) addresses: Vec<Ipv4Network>,
    pub(crate) gateway: Option<Ipv4Addr>,
}

impl fmt::Display for Interface {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        formatter.write_str(&addresses.join(" "))?;
        if let Some(mtu) = self.mtu {
            write!(formatter, " mtu {mtu}")?;
        }
        if let Some(gateway) = self.gateway {
            write!(formatter, " gateway {gateway}")?;
        }
        Ok(())
    }
}

/// Why a seed disk that is there could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error("the seed's {file} cannot be read: {reason}")]
    Unreadable { file: &'static str, reason: io::Error },
    #[error("the seed's {file} is not what NoCloud describes: {reason}")]
    Malformed { file: &'static str, reason: String },
}

#[derive(Deserialize)]
struct MetaData {
    #[serde(rename = "local-hostname")]
    local_hostname: Option<String>,
    hostname: Option<String>,
}

/// Version 2 of cloud-init's network configuration, with or without netplan's `network:` around it.
#[derive(Deserialize)]
#[serde(untagged)]
enum NetworkDocument {
    Wrapped { network: NetworkConfig },
    Plain(NetworkConfig),
}

#[derive(Deserialize)]
struct NetworkConfig {
    version: u8,
    #[serde(default)]
    ethernets: BTreeMap<String, Ethernet>,
}

#[derive(Deserialize)]
struct Ethernet {
    #[serde(default, rename = "match")]
    matching: Match,
    mtu: Option<u32>,
    #[serde(default)]
    addresses: Vec<Ipv4Network>,
    gateway4: Option<Ipv4Addr>,
    #[serde(default)]
    routes: Vec<Route>,
}

#[derive(Deserialize, Default)]
struct Match {
    macaddress: Option<String>,
}

#[derive(Deserialize)]
struct Route {
    to: String,
    via: Option<Ipv4Addr>,
}

impl Seed {
    fn parse(meta_data: &str, network_config: Option<&str>) -> Result<Self, SeedError> {
        let meta: MetaData = yaml("meta-data", meta_data)?;
        let interfaces = match network_config {
            None => Vec::new(),
            Some(text) => {
                let config = match yaml("network-config", text)? {
                    NetworkDocument::Wrapped { network } | NetworkDocument::Plain(network) => network,
                };
                if config.version != 2 {
                    let reason = format!("its version is {}, and only 2 is known", config.version);
                    return Err(SeedError::Malformed { file: "network-config", reason });
                }
                config.ethernets.into_values().map(Interface::from).collect()
            }
        };
        Ok(Self { hostname: meta.local_hostname.or(meta.hostname), interfaces })
    }
}

impl From<Ethernet> for Interface {
    fn from(ethernet: Ethernet) -> Self {
        let default_route = ethernet.routes.iter().find(|route| matches!(route.to.as_str(), "default" | "0.0.0.0/0"));
        Self {
            mac_address: ethernet.matching.macaddress.map(|mac_address| mac_address.to_lowercase()),
            mtu: ethernet.mtu,
            addresses: ethernet.addresses,
            gateway: ethernet.gateway4.or(default_route.and_then(|route| route.via)),
        }
    }
}

fn yaml<T: serde::de::DeserializeOwned>(file: &'static str, text: &str) -> Result<T, SeedError> {
    serde_saphyr::from_str(text).map_err(|error| SeedError::Malformed { file, reason: error.to_string() })
}

/// Reads the seed; none where no disk carries the label.
pub(crate) fn read() -> Result<Option<Seed>, SeedError> {
    for device in block_devices() {
        if let Some(disk) = open(&device, "cidata") {
            let meta_data = read_file(&disk, "meta-data")?.unwrap_or_default();
            let network_config = read_file(&disk, "network-config")?;
            return Seed::parse(&meta_data, network_config.as_deref()).map(Some);
        }
    }
    Ok(None)
}

pub(crate) type Disk = fatfs::FileSystem<fs::File>;

pub(crate) fn block_devices() -> Vec<PathBuf> {
    let mut devices: Vec<PathBuf> = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(Path::new("/dev").join(entry.ok()?.file_name())))
        .collect();
    devices.sort();
    devices
}

/// A FAT file system with this label, in either case.
pub(crate) fn open(device: &Path, label: &str) -> Option<Disk> {
    let file = fs::File::open(device).ok()?;
    let disk = fatfs::FileSystem::new(file, fatfs::FsOptions::new()).ok()?;
    let in_root = disk.read_volume_label_from_root_dir().ok().flatten();
    in_root.unwrap_or_else(|| disk.volume_label()).eq_ignore_ascii_case(label).then_some(disk)
}

fn read_file(disk: &Disk, file: &'static str) -> Result<Option<String>, SeedError> {
    let unreadable = |reason| SeedError::Unreadable { file, reason };
    let mut text = String::new();
    match disk.root_dir().open_file(file) {
        Ok(content) => content.take(LONGEST_FILE).read_to_string(&mut text).map_err(unreadable)?,
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(reason) => return Err(unreadable(reason)),
    };
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    const META_DATA: &str = "instance-id: 11111111-2222-3333-4444-555555555555\nlocal-hostname: worker-1\n";
    const NETWORK: &str = "version: 2\nethernets:\n  uplink:\n    match: {macaddress: '02:00:00:00:00:0A'}\n    mtu: 1450\n    addresses: [10.7.0.11/24]\n    routes: [{to: default, via: 10.7.0.1}]\n    nameservers: {addresses: [192.0.2.53]}\n";

    fn interface() -> Interface {
        Interface {
            mac_address: Some("02:00:00:00:00:0a".to_owned()),
            mtu: Some(1450),
            addresses: vec!["10.7.0.11/24".parse().unwrap()],
            gateway: Some(Ipv4Addr::new(10, 7, 0, 1)),
        }
    }

    #[test]
    fn the_network_is_read_with_and_without_netplans_wrapping() {
        let indented: String = NETWORK.lines().fold(String::new(), |text, line| text + "  " + line + "\n");
        for text in [NETWORK.to_owned(), format!("network:\n{indented}")] {
            let seed = Seed::parse(META_DATA, Some(&text)).unwrap();
            assert_eq!(seed, Seed { hostname: Some("worker-1".to_owned()), interfaces: vec![interface()] });
        }
    }

    #[test]
    fn json_is_as_good_as_yaml() {
        let text = r#"{"version":2,"ethernets":{"eth0":{"match":{"macaddress":"02:00:00:00:00:0a"},"mtu":1450,
            "addresses":["10.7.0.11/24"],"routes":[{"to":"0.0.0.0/0","via":"10.7.0.1"}]}}}"#;
        assert_eq!(Seed::parse("{}", Some(text)).unwrap().interfaces, [interface()]);
    }

    #[test]
    fn what_is_not_a_network_configuration_is_refused_with_the_files_name() {
        for text in ["version: 1\nconfig: []\n", "version: 2\nethernets: {a: {addresses: [10.7.0.300/24]}}\n", ":"] {
            let error = Seed::parse(META_DATA, Some(text)).unwrap_err();
            assert!(error.to_string().starts_with("the seed's network-config "), "{error}");
        }
    }

    #[test]
    fn a_fat_disk_is_found_by_its_label_in_either_case() {
        for (label, found) in [(*b"cidata     ", true), (*b"CIDATA     ", true), (*b"OTHER      ", false)] {
            let mut image = tempfile::NamedTempFile::new().unwrap();
            image.as_file().set_len(1 << 20).unwrap();
            fatfs::format_volume(image.as_file(), fatfs::FormatVolumeOptions::new().volume_label(label)).unwrap();
            image.rewind().unwrap();
            let disk = fatfs::FileSystem::new(image.as_file(), fatfs::FsOptions::new()).unwrap();
            disk.root_dir().create_file("meta-data").unwrap().write_all(META_DATA.as_bytes()).unwrap();
            disk.unmount().unwrap();
            let read = open(image.path(), "cidata").map(|disk| read_file(&disk, "meta-data").unwrap().unwrap());
            assert_eq!(read, found.then(|| META_DATA.to_owned()));
        }
    }
}
