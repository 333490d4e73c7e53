//! What a guest mounts or reads at boot: its disks and its seed.

mod disks;
mod overlay;
mod seed;

pub use disks::{Base, DiskError, data_disk, root_disk};
pub use seed::{Link, SeedError, SeedInput, nocloud_disk};
