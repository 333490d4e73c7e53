//! cloud-init's NoCloud seed: a small FAT disk labelled `cidata`.
//!
//! The user's data is carried as it is; what the agent knows (names, addresses) is added beside it. Documents of ours
//! are JSON, which is YAML too. The same input gives the same bytes.

use std::{
    io::{self, Cursor, Write as _},
    net::Ipv4Addr,
};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use ipnetwork::Ipv4Network;
use serde_json::{Value, json};

use crate::spec::{ClusterName, GuestName, GuestUid, MacAddress, Mtu};

const LABEL: [u8; 11] = *b"CIDATA     ";
/// A FAT needs some clusters whatever is in it, and directories and tables take their part.
const SMALLEST: usize = 256 << 10;
const SECTOR: usize = 512;

/// What a guest shall know at its first boot.
#[derive(Clone)]
pub struct SeedInput {
    /// Identity for cloud-init: what runs once per instance runs once per uid.
    pub uid: GuestUid,
    /// The hostname.
    pub name: GuestName,
    /// Told as metadata.
    pub cluster: ClusterName,
    /// Its place in the cluster's network, where it has one.
    pub link: Option<Link>,
    /// Told where the user brings no vendor data.
    pub ntp_servers: Vec<String>,
    /// As given; may be empty.
    pub user_data: String,
    /// As given; may be empty.
    pub vendor_data: String,
}

/// A place in a cluster's network.
#[derive(Debug, Clone)]
pub struct Link {
    /// By this the guest knows its device.
    pub mac_address: MacAddress,
    /// Its own address, in this network.
    pub address: Ipv4Addr,
    /// The network.
    pub cidr: Ipv4Network,
    /// Where the rest of the world is.
    pub gateway: Ipv4Addr,
    /// As in use.
    pub mtu: Mtu,
    /// May be empty.
    pub dns_servers: Vec<Ipv4Addr>,
}

/// The seed could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the seed disk of {size} bytes")]
pub struct SeedError {
    size: usize,
    #[source]
    source: io::Error,
}

/// The disk's bytes.
pub fn nocloud_disk(input: &SeedInput) -> Result<Vec<u8>, SeedError> {
    let vendor_data =
        if input.vendor_data.is_empty() { vendor_data(&input.ntp_servers) } else { input.vendor_data.clone() };
    let files = [
        ("meta-data", meta_data(input).to_string()),
        ("network-config", network_config(input.link.as_ref()).to_string()),
        // cloud-init wants the file; without a header it is data for nobody.
        (
            "user-data",
            if input.user_data.is_empty() { "#cloud-config\n{}\n".to_owned() } else { input.user_data.clone() },
        ),
        ("vendor-data", vendor_data),
    ];
    // Clusters of 4 KiB at the most, and a third on top for tables.
    let content: usize = files.iter().map(|(_, text)| text.len().next_multiple_of(4096)).sum();
    let size = (SMALLEST + content + content / 3).next_multiple_of(SECTOR);
    format(size, input.uid, &files).map_err(|source| SeedError { size, source })
}

fn format(size: usize, uid: GuestUid, files: &[(&str, String)]) -> io::Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; size]);
    let [a, b, c, d, ..] = *uid.as_uuid().as_bytes();
    let options = FormatVolumeOptions::new()
        .volume_label(LABEL)
        .volume_id(u32::from_be_bytes([a, b, c, d]))
        .fat_type(if size < 8 << 20 { FatType::Fat12 } else { FatType::Fat16 });
    fatfs::format_volume(&mut disk, options)?;
    {
        let file_system = FileSystem::new(&mut disk, FsOptions::new())?;
        let root = file_system.root_dir();
        for (name, text) in files {
            let mut file = root.create_file(name)?;
            file.write_all(text.as_bytes())?;
            file.flush()?;
        }
        drop(root);
        file_system.unmount()?;
    }
    Ok(disk.into_inner())
}

fn meta_data(input: &SeedInput) -> Value {
    json!({
        "instance-id": input.uid.to_string(),
        "local-hostname": input.name.as_str(),
        "cluster": input.cluster.as_str(),
    })
}

/// Version 2. Without a link cloud-init must not try DHCP on its own, which would delay the boot by minutes.
fn network_config(link: Option<&Link>) -> Value {
    let Some(link) = link else { return json!({"version": 2, "ethernets": {}}) };
    json!({
        "version": 2,
        "ethernets": {
            "cluster": {
                "match": {"macaddress": link.mac_address.to_string()},
                "addresses": [format!("{}/{}", link.address, link.cidr.prefix())],
                "routes": [{"to": "0.0.0.0/0", "via": link.gateway.to_string()}],
                "nameservers": {"addresses": link.dns_servers},
                "mtu": link.mtu.get(),
                "dhcp4": false,
                "dhcp6": false,
            },
        },
    })
}

fn vendor_data(ntp_servers: &[String]) -> String {
    let document =
        if ntp_servers.is_empty() { json!({}) } else { json!({"ntp": {"enabled": true, "servers": ntp_servers}}) };
    format!("#cloud-config\n{document}\n")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn input() -> SeedInput {
        let spec = crate::spec::test::guest("worker-0");
        SeedInput {
            uid: spec.uid,
            name: spec.name,
            cluster: spec.cluster,
            link: Some(Link {
                mac_address: MacAddress::of_guest(spec.uid),
                address: Ipv4Addr::new(10, 7, 0, 11),
                cidr: "10.7.0.0/24".parse().unwrap(),
                gateway: Ipv4Addr::new(10, 7, 0, 1),
                mtu: Mtu::try_from(1450).unwrap(),
                dns_servers: vec![Ipv4Addr::new(10, 7, 0, 1)],
            }),
            ntp_servers: vec!["ntp.example".to_owned()],
            user_data: "#cloud-config\nhostname: ignored\n".to_owned(),
            vendor_data: String::new(),
        }
    }

    fn read(disk: Vec<u8>, name: &str) -> String {
        let file_system = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
        let mut text = String::new();
        file_system.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_seed_tells_what_the_agent_knows_and_carries_the_users_data_as_it_is() {
        let disk = nocloud_disk(&input()).unwrap();
        let document = |name| serde_json::from_str::<Value>(&read(disk.clone(), name)).unwrap();
        let mac = MacAddress::of_guest(input().uid).to_string();
        let expected = json!({"version": 2, "ethernets": {"cluster": {
            "match": {"macaddress": mac},
            "addresses": ["10.7.0.11/24"],
            "routes": [{"to": "0.0.0.0/0", "via": "10.7.0.1"}],
            "nameservers": {"addresses": ["10.7.0.1"]},
            "mtu": 1450,
            "dhcp4": false,
            "dhcp6": false,
        }}});
        assert_eq!(document("network-config"), expected);
        assert_eq!(document("meta-data")["instance-id"], input().uid.to_string());
        assert_eq!(read(disk.clone(), "user-data"), input().user_data);
        assert_eq!(
            read(disk.clone(), "vendor-data"),
            "#cloud-config\n{\"ntp\":{\"enabled\":true,\"servers\":[\"ntp.example\"]}}\n"
        );
        let file_system = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
        assert_eq!(file_system.volume_label().trim(), "CIDATA");
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(nocloud_disk(&input()).unwrap(), nocloud_disk(&input()).unwrap());
    }

    #[test]
    fn large_user_data_fits() {
        for size in [100_000, 1 << 20, 9 << 20] {
            let large = SeedInput { user_data: "x".repeat(size), ..input() };
            assert_eq!(read(nocloud_disk(&large).unwrap(), "user-data").len(), size);
        }
    }
}
