//! The medium in a running guest's certificate drive.
//!
//! ```text
//!  add-fd              QEMU gets the new image as an open file, marked with its generation
//!  blockdev-change-medium   out with the old one, in with the new: one command, so the guest never finds half of it
//!  blockdev-del, remove-fd  QEMU lets go of what the drive held before
//! ```
//!
//! What was done already is asked of QEMU each time and never remembered: an agent that was killed between two of these
//! leaves the old medium or the new one, and the next one goes on from there.

use std::{collections::BTreeMap, fs::File, io, path::PathBuf};

use qapi_qmp::QmpCommand;
use qapi_spec::Command;
use serde::{Deserialize, Serialize};

use super::{
    arguments::CERTIFICATES,
    machine::CertificateMedium,
    qmp::{Qmp, QmpError, schema},
};

/// Why a guest's drive does not hold the medium that it shall.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// The image is not there.
    #[error("cannot open the certificate disk {}", path.display())]
    Image {
        /// Where it shall be.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// QEMU did not do as it was told.
    #[error("the medium of the certificate drive was not changed")]
    Qmp(#[from] QmpError),
    /// It said that it did.
    #[error(
        "QEMU said that it changed the medium of the certificate drive, and shows generation {shown:?} instead of {wanted}"
    )]
    NotShown {
        /// What the drive holds; none: nothing that we know.
        shown: Option<u64>,
        /// What it shall hold.
        wanted: u64,
    },
}

/// Has a running QEMU's certificate drive hold a medium, and nothing else of its kind open. Safe to repeat, and to drop
/// at any point.
pub async fn show_medium(qmp: &Qmp, medium: &CertificateMedium) -> Result<(), MediumError> {
    let mut drive = look(qmp).await?;
    if drive.generation() != Some(medium.generation) {
        insert(qmp, medium).await?;
        drive = look(qmp).await?;
    }
    if drive.generation() != Some(medium.generation) {
        return Err(MediumError::NotShown { shown: drive.generation(), wanted: medium.generation });
    }
    for surplus in drive.surplus() {
        match surplus {
            Surplus::FirstNode => qmp.execute(schema::blockdev_del { node_name: CERTIFICATES.to_owned() }).await?,
            Surplus::Set(fdset_id) => qmp.execute(schema::remove_fd { fd: None, fdset_id }).await?,
        };
    }
    Ok(())
}

async fn insert(qmp: &Qmp, medium: &CertificateMedium) -> Result<(), MediumError> {
    let path = medium.path.clone();
    // On a tmpfs: this waits for no disk.
    let file = File::open(&path).map_err(|source| MediumError::Image { path, source })?;
    let command = schema::add_fd { fdset_id: None, opaque: Some(mark(medium.generation)) };
    let set = qmp.execute_with_file(command, file.into()).await?.fdset_id;
    qmp.execute(ChangeMedium {
        id: CERTIFICATES,
        filename: set_name(set),
        format: "raw",
        read_only_mode: "read-only",
        // A guest that has it mounted has locked the drive, and shall not decide how long its old keys stay.
        force: true,
    })
    .await?;
    Ok(())
}

async fn look(qmp: &Qmp) -> Result<Drive, MediumError> {
    let devices = qmp.execute(QueryBlock {}).await?;
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    let sets = qmp.execute(schema::query_fdsets {}).await?;
    let inserted = devices.into_iter().find(|device| device.qdev.as_deref() == Some(CERTIFICATES));
    Ok(Drive {
        inserted: inserted.and_then(|device| device.inserted),
        has_first_node: nodes.iter().any(|node| node.node_name == CERTIFICATES),
        sets: sets
            .into_iter()
            .filter_map(|set| {
                let generation = set.fds.iter().find_map(|fd| generation(fd.opaque.as_deref()?))?;
                Some((set.fdset_id, generation))
            })
            .collect(),
    })
}

/// What QEMU says of the drive and of our files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Drive {
    inserted: Option<Inserted>,
    /// Whether the node that the drive was started with is still there; it holds its file open.
    has_first_node: bool,
    /// Sets of descriptors that hold an image: the set's id, and the image's generation.
    sets: BTreeMap<i64, u64>,
}

/// What QEMU holds and the drive does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Surplus {
    FirstNode,
    Set(i64),
}

impl Drive {
    fn set(&self) -> Option<i64> {
        let file = &self.inserted.as_ref()?.file;
        self.sets.keys().copied().find(|set| set_name(*set) == *file)
    }

    /// What the guest reads.
    fn generation(&self) -> Option<u64> {
        self.sets.get(&self.set()?).copied()
    }

    fn surplus(&self) -> Vec<Surplus> {
        let shown_node = self.inserted.as_ref().map(|inserted| inserted.node_name.as_str());
        let node = (self.has_first_node && shown_node != Some(CERTIFICATES)).then_some(Surplus::FirstNode);
        let sets = self.sets.keys().copied().filter(|set| Some(*set) != self.set()).map(Surplus::Set);
        node.into_iter().chain(sets).collect()
    }
}

/// What a descriptor of an image is marked with in QEMU.
pub(super) fn mark(generation: u64) -> String {
    format!("{CERTIFICATES}:{generation}")
}

fn generation(mark: &str) -> Option<u64> {
    mark.strip_prefix(CERTIFICATES)?.strip_prefix(':')?.parse().ok()
}

fn set_name(set: i64) -> String {
    format!("/dev/fdset/{set}")
}

/// `query-block`, of which we need little: the schema's own answer knows every detail of every format, and a newer QEMU
/// has more.
#[derive(Debug, Clone, Serialize)]
struct QueryBlock {}

#[derive(Debug, Clone, Deserialize)]
struct BlockDevice {
    qdev: Option<String>,
    inserted: Option<Inserted>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Inserted {
    file: String,
    #[serde(rename = "node-name", default)]
    node_name: String,
}

impl Command for QueryBlock {
    const NAME: &'static str = "query-block";
    const ALLOW_OOB: bool = false;
    type Ok = Vec<BlockDevice>;
}

impl QmpCommand for QueryBlock {}

/// `blockdev-change-medium`, without the schema's deprecated way of naming the drive.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ChangeMedium {
    id: &'static str,
    filename: String,
    format: &'static str,
    read_only_mode: &'static str,
    force: bool,
}

impl Command for ChangeMedium {
    const NAME: &'static str = "blockdev-change-medium";
    const ALLOW_OOB: bool = false;
    type Ok = qapi_spec::Empty;
}

impl QmpCommand for ChangeMedium {}

#[derive(Debug, Clone, Serialize)]
struct QueryNamedBlockNodes {
    flat: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct BlockNode {
    #[serde(rename = "node-name", default)]
    node_name: String,
}

impl Command for QueryNamedBlockNodes {
    const NAME: &'static str = "query-named-block-nodes";
    const ALLOW_OOB: bool = false;
    type Ok = Vec<BlockNode>;
}

impl QmpCommand for QueryNamedBlockNodes {}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(inserted: Option<(&str, &str)>, has_first_node: bool, sets: &[(i64, u64)]) -> Drive {
        let inserted = inserted.map(|(node, file)| Inserted { file: file.to_owned(), node_name: node.to_owned() });
        Drive { inserted, has_first_node, sets: sets.iter().copied().collect() }
    }

    #[test]
    fn wherever_a_change_stopped_what_is_shown_and_what_is_surplus_is_known() {
        use Surplus::{FirstNode, Set};
        let first = Some((CERTIFICATES, "/dev/fdset/9"));
        let second = Some(("#block1", "/dev/fdset/0"));
        for (when, drive, shown, surplus) in [
            ("started", drive(first, true, &[(9, 1)]), Some(1), vec![]),
            ("handed over", drive(first, true, &[(0, 2), (9, 1)]), Some(1), vec![Set(0)]),
            ("handed over twice", drive(first, true, &[(0, 2), (1, 2), (9, 1)]), Some(1), vec![Set(0), Set(1)]),
            ("changed", drive(second, true, &[(0, 2), (9, 1)]), Some(2), vec![FirstNode, Set(9)]),
            ("its node gone", drive(second, false, &[(0, 2), (9, 1)]), Some(2), vec![Set(9)]),
            ("done", drive(second, false, &[(0, 2)]), Some(2), vec![]),
            ("emptied by somebody", drive(None, false, &[(0, 2)]), None, vec![Set(0)]),
            ("a stranger's medium", drive(Some(("#block2", "/x")), false, &[]), None, vec![]),
        ] {
            assert_eq!((drive.generation(), drive.surplus()), (shown, surplus), "{when}");
        }
    }

    #[test]
    fn a_mark_tells_its_generation_and_other_marks_are_not_ours() {
        assert_eq!(generation(&mark(u64::MAX)), Some(u64::MAX));
        for other in ["", "goliath-certs", "goliath-certs:", "goliath-certs:x", "x:1", "goliath-certs:-1"] {
            assert_eq!(generation(other), None, "{other}");
        }
    }
}
