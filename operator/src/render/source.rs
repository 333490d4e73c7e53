//! Where templates come from.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::TemplatesError;

/// Of one file, and of directories below each other: a directory that was named by mistake is not read for minutes.
const LARGEST: u64 = 512 << 10;
const DEEPEST: usize = 4;

macro_rules! own {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../cloud-config/", $name)))),*]
    };
}

/// The files of cloud-config/, by their paths there.
pub(super) const OWN: &[(&str, &str)] = own![
    "files/etcd.service",
    "files/kube-apiserver.service",
    "files/kube-controller-manager.service",
    "files/kube-scheduler.service",
    "files/kubeconfig",
    "files/kubelet.service",
    "files/kubelet.yaml",
    "files/run-goliath-certs.mount",
    "files/sysctl.conf",
    "master.cloud-config",
    "worker.cloud-config",
    "worker.ignition",
];

/// The files of a directory, by their paths below it. Hidden ones and READMEs are none.
pub(super) fn read(directory: &Path) -> Result<Vec<(String, String)>, TemplatesError> {
    let mut found = Vec::new();
    read_below(directory, "", DEEPEST, &mut found)?;
    Ok(found)
}

fn read_below(
    directory: &Path,
    prefix: &str,
    depth: usize,
    found: &mut Vec<(String, String)>,
) -> Result<(), TemplatesError> {
    let entries = fs::read_dir(directory).map_err(unreadable(directory))?;
    for entry in entries {
        let path = entry.map_err(unreadable(directory))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(unreadable(&path)(io::Error::other("its name is not UTF-8")));
        };
        if name.starts_with('.') || name == "README.md" {
            continue;
        }
        let name = format!("{prefix}{name}");
        let metadata = fs::metadata(&path).map_err(unreadable(&path))?;
        if metadata.is_dir() {
            let depth = depth.checked_sub(1);
            let depth = depth.ok_or_else(|| unreadable(&path)(io::Error::other("it lies too deep")))?;
            read_below(&path, &format!("{name}/"), depth, found)?;
        } else if metadata.len() > LARGEST {
            let reason = format!("it has {} bytes: {LARGEST} are allowed", metadata.len());
            return Err(unreadable(&path)(io::Error::other(reason)));
        } else {
            found.push((name, fs::read_to_string(&path).map_err(unreadable(&path))?));
        }
    }
    Ok(())
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> TemplatesError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| TemplatesError::Unreadable { path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_cloud_config_is_part_of_the_program() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cloud-config");
        let there: BTreeSet<_> = read(&directory).unwrap().into_iter().collect();
        let own = OWN.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(there, own);
    }
}
