//! How much of the machine guests may have, and what is left of it.

use std::{fmt, fs, io};

use nix::sys::statvfs::statvfs;

use super::{MachineKind, Overhead, Overheads};
use crate::{
    config::Config,
    spec::{ByteSize, GuestSpec},
};

/// Processors, memory and disk for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// The machine's processors times the configured ratio.
    pub vcpus: u64,
    /// Without what is reserved for the host.
    pub memory: ByteSize,
    /// On the file system of guests' disks, without what is reserved.
    pub disk: ByteSize,
}

/// What the machine has for guests, as measured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Room {
    /// If no guest were there.
    pub capacity: Capacity,
    /// What is not written yet of the disk, beyond the reserve.
    pub disk_free: ByteSize,
    /// What QEMUs take beside their guests' memory.
    pub overheads: Overheads,
}

/// What one guest may come to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// What QEMU needs for it.
    pub kind: MachineKind,
    /// Processors.
    pub vcpus: u64,
    /// The guest's own.
    pub memory: ByteSize,
    /// When its disks are full.
    pub disk: ByteSize,
}

impl Demand {
    /// `image_disk` is what a root disk without a size of its own has, where that is known.
    pub fn of(spec: &GuestSpec, image_disk: Option<ByteSize>) -> Self {
        let root = spec.root_disk.as_ref().and_then(|disk| disk.size.or(image_disk));
        let disks = spec.data_disks.iter().map(|disk| disk.size).chain(root);
        let kind = MachineKind::of(spec);
        Self { kind, vcpus: spec.machine.vcpus.into(), memory: spec.machine.memory, disk: sum(disks) }
    }
}

/// A number that is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// With what QEMU takes beside it.
    Memory {
        /// By the guest, with QEMU's.
        asked: ByteSize,
        /// QEMU's.
        overhead: Overhead,
        /// What is left.
        available: ByteSize,
    },
    /// When its disks are full.
    Disk {
        /// By the guest.
        asked: ByteSize,
        /// What is left.
        available: ByteSize,
    },
    /// Processors.
    Vcpus {
        /// By the guest.
        asked: u64,
        /// What is left.
        available: u64,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |asked: ByteSize, available: ByteSize| ByteSize::bytes(asked.get().saturating_sub(available.get()));
        match *self {
            Self::Memory { asked, overhead, available } => write!(
                formatter,
                "memory is short by {}: the guest needs {asked}, of which {overhead}; {available} are left",
                short(asked, available)
            ),
            Self::Disk { asked, available } => write!(
                formatter,
                "disk is short by {}: the guest's disks can grow to {asked}, {available} are left",
                short(asked, available)
            ),
            Self::Vcpus { asked, available } => write!(
                formatter,
                "vCPUs are short by {}: the guest asks for {asked}, {available} are left",
                asked.saturating_sub(available)
            ),
        }
    }
}

impl Room {
    /// Measures the machine; `overheads` are what was learned of QEMUs so far. Quick, but it reads files.
    pub fn measure(config: &Config, overheads: Overheads) -> io::Result<Self> {
        let capacity = &config.capacity;
        let processors = std::thread::available_parallelism()?.get();
        // A ratio is at most 1024: this is far from where a float ends.
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let vcpus = (processors as f64 * capacity.vcpu_ratio) as u64;
        let memory = total_memory(&fs::read_to_string("/proc/meminfo")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal"))?;
        let disks = statvfs(&config.directories.state)?;
        let blocks = |count: u64| ByteSize::bytes(count.saturating_mul(disks.fragment_size()));
        let reserved = ByteSize::mib(capacity.reserved_disk_mib);
        Ok(Self {
            capacity: Capacity {
                vcpus,
                memory: minus(memory, ByteSize::mib(capacity.reserved_memory_mib)),
                disk: minus(blocks(disks.blocks()), reserved),
            },
            disk_free: minus(blocks(disks.blocks_available()), reserved),
            overheads,
        })
    }

    /// What a new guest could still get, of whatever kind: for its memory, what QEMU takes beside it is taken off already.
    pub fn available(&self, guests: &[Demand]) -> Capacity {
        let left = self.left(guests);
        Capacity { memory: minus(left.memory, self.overheads.largest()), ..left }
    }

    fn left(&self, guests: &[Demand]) -> Capacity {
        let vcpus = guests.iter().fold(0_u64, |sum, guest| sum.saturating_add(guest.vcpus));
        let memory = sum(guests.iter().map(|guest| self.memory_of(*guest)));
        let disk = sum(guests.iter().map(|guest| guest.disk));
        Capacity {
            vcpus: self.capacity.vcpus.saturating_sub(vcpus),
            memory: minus(self.capacity.memory, memory),
            disk: minus(self.capacity.disk, disk).min(self.disk_free),
        }
    }

    fn memory_of(&self, guest: Demand) -> ByteSize {
        sum([guest.memory, self.overheads.of(guest.kind).size])
    }

    /// What is short for a guest beside others. One that is here and asks for no more than it has is never short.
    pub(super) fn shortages(&self, others: &[Demand], held: Option<Demand>, new: Demand) -> Vec<Shortage> {
        let left = self.left(others);
        let grows = |demand: fn(&Demand) -> u64| held.is_none_or(|held| demand(&new) > demand(&held));
        let memory = self.memory_of(new);
        let mut shortages = Vec::new();
        if memory > left.memory && grows(|demand| demand.memory.get()) {
            shortages.push(Shortage::Memory {
                asked: memory,
                overhead: self.overheads.of(new.kind),
                available: left.memory,
            });
        }
        if new.disk > left.disk && grows(|demand| demand.disk.get()) {
            shortages.push(Shortage::Disk { asked: new.disk, available: left.disk });
        }
        if new.vcpus > left.vcpus && grows(|demand| demand.vcpus) {
            shortages.push(Shortage::Vcpus { asked: new.vcpus, available: left.vcpus });
        }
        shortages
    }
}

fn sum(sizes: impl IntoIterator<Item = ByteSize>) -> ByteSize {
    ByteSize::bytes(sizes.into_iter().fold(0, |sum, size| sum.saturating_add(size.get())))
}

fn minus(size: ByteSize, less: ByteSize) -> ByteSize {
    ByteSize::bytes(size.get().saturating_sub(less.get()))
}

/// proc(5): `MemTotal:       24576000 kB`.
fn total_memory(meminfo: &str) -> Option<ByteSize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize::bytes(kib.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_tells_it() {
        assert_eq!(total_memory("MemTotal:       24576 kB\nMemFree: 1 kB\n"), Some(ByteSize::mib(24)));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }
}
