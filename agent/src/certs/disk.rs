//! A read-only disk with the certificates, for guests without virtiofs: vfat, labelled `GOLIATHCERT`, with the files of
//! the volume as `<name>/tls.crt` and so on.
//!
//! Each generation of the volume is an image of its own, written whole beside its place and renamed into it. A running
//! QEMU is given the new one in place of the old; until then the old one stays.

use std::{
    fs::{self, OpenOptions},
    io::{self, Cursor, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use zeroize::Zeroizing;

use crate::files;

/// Of an image that is whole.
const EXTENSION: &str = "img";
/// Of one that is being written.
const UNFINISHED: &str = "next";
const LABEL: [u8; 11] = *b"GOLIATHCERT";
/// What every image has room for, so that rotations seldom change its size: a disk that grows under a guest is one more
/// thing that can go wrong.
const SMALLEST: usize = 1 << 20;
/// The most that FAT's clusters waste on a file or a directory.
const CLUSTER: usize = 4 << 10;

/// An image of a guest's certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateDisk {
    /// The volume's; a later image has a higher one.
    pub generation: u64,
    /// On a tmpfs, for root alone.
    pub path: PathBuf,
}

impl CertificateDisk {
    pub(super) fn new(directory: &Path, generation: u64) -> Self {
        Self { generation, path: directory.join(format!("{generation}.{EXTENSION}")) }
    }

    /// Removes the images of earlier generations. Only once no QEMU shows one of them.
    pub fn remove_earlier(&self) -> io::Result<()> {
        let Some(directory) = self.path.parent() else { return Ok(()) };
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if generation_of(&path).is_some_and(|generation| generation < self.generation) {
                files::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Of an image, or of what a crash left of one.
fn generation_of(path: &Path) -> Option<u64> {
    let extension = path.extension()?;
    (extension == EXTENSION || extension == UNFINISHED).then(|| path.file_stem()?.to_str()?.parse().ok())?
}

/// One certificate's directory.
pub(super) struct Directory {
    pub(super) name: String,
    /// Name and content.
    pub(super) files: Vec<(&'static str, Zeroizing<Vec<u8>>)>,
}

/// Writes the image to `path`, which is on a tmpfs: it holds keys.
pub(super) fn write(path: &Path, directories: &[Directory]) -> io::Result<()> {
    let image = image(directories)?;
    let next = path.with_extension(UNFINISHED);
    // What a crash left half written.
    match fs::remove_file(&next) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => return Err(reason),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?.write_all(&image)?;
    fs::rename(next, path)
}

fn image(directories: &[Directory]) -> io::Result<Zeroizing<Vec<u8>>> {
    let files = directories.iter().flat_map(|directory| &directory.files);
    let content: usize = files.map(|(_, content)| content.len().next_multiple_of(CLUSTER)).sum();
    let entries = root_entries(directories);
    let tables = directories.len() * CLUSTER + usize::from(entries) * 32;
    let size = (content * 2 + tables).next_multiple_of(SMALLEST);
    let mut image = Zeroizing::new(vec![0; size]);
    let mut disk = Cursor::new(image.as_mut_slice());
    let kind = if size < 8 << 20 { FatType::Fat12 } else { FatType::Fat16 };
    let options = FormatVolumeOptions::new().volume_label(LABEL).fat_type(kind).max_root_dir_entries(entries);
    fatfs::format_volume(&mut disk, options)?;
    let file_system = FileSystem::new(&mut disk, FsOptions::new())?;
    for Directory { name, files } in directories {
        let directory = file_system.root_dir().create_dir(name)?;
        for (name, content) in files {
            let mut file = directory.create_file(name)?;
            file.write_all(content)?;
            file.flush()?;
        }
    }
    file_system.unmount()?;
    Ok(image)
}

/// FAT's root directory has a fixed size: 13 characters of a name take an entry, and one more is its short form.
fn root_entries(directories: &[Directory]) -> u16 {
    let needed: usize = directories.iter().map(|directory| directory.name.len().div_ceil(13) + 1).sum();
    u16::try_from((needed + 1).next_multiple_of(16)).unwrap_or(!15).max(512)
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn directory(name: &str, files: &[(&'static str, &[u8])]) -> Directory {
        let files = files.iter().map(|(name, content)| (*name, Zeroizing::new(content.to_vec()))).collect();
        Directory { name: name.to_owned(), files }
    }

    fn read(image: &[u8], path: &str) -> Vec<u8> {
        let file_system = FileSystem::new(Cursor::new(image.to_vec()), FsOptions::new()).unwrap();
        assert_eq!(file_system.volume_label_as_bytes(), LABEL);
        let mut content = Vec::new();
        file_system.root_dir().open_file(path).unwrap().read_to_end(&mut content).unwrap();
        content
    }

    #[test]
    fn an_image_shows_the_files_under_their_own_names() {
        let long = "n".repeat(63);
        let directories = [
            directory("node", &[("tls.crt", b"certificate"), ("tls.key", b"key"), ("ca.crt", b"authorities")]),
            directory(&long, &[("tls.crt", &vec![7; 20_000])]),
        ];
        let image = image(&directories).unwrap();
        assert_eq!(read(&image, "node/tls.key"), b"key");
        assert_eq!(read(&image, &format!("{long}/tls.crt")), vec![7; 20_000]);
    }

    #[test]
    fn there_is_room_for_hundreds_of_long_chains() {
        let chain = vec![b'x'; 30_000];
        let directories: Vec<_> = (0..300)
            .map(|n| directory(&format!("certificate-{n}"), &[("tls.crt", &chain), ("tls.key", b"key")]))
            .collect();
        let image = image(&directories).unwrap();
        assert_eq!(read(&image, "certificate-299/tls.crt"), chain);
    }

    #[test]
    fn a_disk_is_replaced_whole_and_is_for_root_alone() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = place.path().join("certificates.img");
        fs::write(place.path().join("certificates.next"), "what a crash left").unwrap();
        for content in [b"one", b"two"] {
            write(&path, &[directory("node", &[("tls.crt", content)])]).unwrap();
            assert_eq!(read(&fs::read(&path).unwrap(), "node/tls.crt"), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn earlier_images_go_and_later_ones_stay() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        for name in ["8.next", "9.img", "10.img", "11.img", "11.next", "other"] {
            fs::write(place.path().join(name), name).unwrap();
        }
        let disk = CertificateDisk::new(place.path(), 10);
        assert_eq!(fs::read_to_string(&disk.path).unwrap(), "10.img");
        for _ in 0..2 {
            disk.remove_earlier().unwrap();
            let mut left: Vec<_> =
                fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            left.sort();
            assert_eq!(left, ["10.img", "11.img", "11.next", "other"]);
        }
    }

    #[test]
    fn a_disk_without_certificates_is_a_disk() {
        let image = image(&[]).unwrap();
        assert_eq!(image.len(), SMALLEST);
        FileSystem::new(Cursor::new(image.to_vec()), FsOptions::new()).unwrap();
    }
}
