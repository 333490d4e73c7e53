//! What a QEMU takes beside its guest's memory, learned from those that run.

use std::{collections::HashMap, fmt};

use crate::spec::{Accelerator, Boot, ByteSize, GuestSpec};

/// Machines for which a QEMU needs about the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MachineKind {
    accelerator: Accelerator,
    has_firmware: bool,
    has_certificates: bool,
}

impl MachineKind {
    /// A guest's.
    pub fn of(spec: &GuestSpec) -> Self {
        Self {
            accelerator: spec.machine.accelerator,
            has_firmware: matches!(spec.boot, Boot::Firmware { .. }),
            has_certificates: !spec.certificates.is_empty(),
        }
    }
}

/// What a QEMU takes beside its guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overhead {
    /// All of it.
    pub size: ByteSize,
    /// Seen of a QEMU that ran, and not the configuration's guess.
    pub is_measured: bool,
}

impl fmt::Display for Overhead {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.is_measured { "measured" } else { "configured" };
        write!(formatter, "{} {how} overhead", self.size)
    }
}

/// One QEMU that went mad must not close the host to all guests of its kind.
const MOST: ByteSize = ByteSize::mib(1024);

/// The largest overhead seen of each kind of machine, and a floor for all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overheads {
    floor: ByteSize,
    /// Those above the floor. There are only a few kinds.
    seen: HashMap<MachineKind, ByteSize>,
}

impl Overheads {
    /// `floor` holds for every kind, until more was seen.
    pub fn at_least(floor: ByteSize) -> Self {
        Self { floor, seen: HashMap::new() }
    }

    /// Takes in what was measured of one QEMU; whether that is news.
    pub fn saw(&mut self, kind: MachineKind, measured: ByteSize) -> bool {
        let measured = measured.min(MOST);
        let is_news = measured > self.of(kind).size;
        if is_news {
            self.seen.insert(kind, measured);
        }
        is_news
    }

    /// What a machine of this kind may come to need.
    pub fn of(&self, kind: MachineKind) -> Overhead {
        match self.seen.get(&kind) {
            Some(size) => Overhead { size: *size, is_measured: true },
            None => Overhead { size: self.floor, is_measured: false },
        }
    }

    /// What is enough for every kind.
    pub fn largest(&self) -> ByteSize {
        self.seen.values().copied().fold(self.floor, ByteSize::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::test::guest;

    #[test]
    fn the_largest_seen_of_a_kind_counts_within_bounds() {
        let (kernel, mut spec) = (MachineKind::of(&guest("a")), guest("b"));
        spec.boot = Boot::Firmware { path: None };
        let firmware = MachineKind::of(&spec);
        let mut overheads = Overheads::at_least(ByteSize::mib(96));
        assert!(!overheads.saw(kernel, ByteSize::mib(40)), "the floor holds");
        assert_eq!(overheads.of(kernel).to_string(), "96 MiB configured overhead");
        assert!(overheads.saw(kernel, ByteSize::mib(131)));
        assert!(!overheads.saw(kernel, ByteSize::mib(120)), "the largest stays");
        assert_eq!(overheads.of(kernel).to_string(), "131 MiB measured overhead");
        assert_eq!(overheads.of(firmware), Overhead { size: ByteSize::mib(96), is_measured: false });
        assert_eq!(overheads.largest(), ByteSize::mib(131));
        assert!(overheads.saw(firmware, ByteSize::mib(1 << 20)));
        assert_eq!(overheads.of(firmware).size, MOST);
    }
}
