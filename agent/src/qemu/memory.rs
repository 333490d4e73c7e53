//! What a QEMU takes beside its guest's memory, as the kernel counts it.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
};

use crate::spec::ByteSize;

/// Below this much memory of the guest, its pages are told from QEMU's own by a walk through QEMU's page tables. For more
/// that would take a noticeable time, under a lock that the guest's page faults may need.
const WALKED: ByteSize = ByteSize::mib(8 << 10);

/// The memory of a QEMU that is resident beside its guest's, which has `guest` of it. Shared pages count as its own.
///
/// None: it cannot be told. Of a large guest that did not touch all of its memory yet it is too little. Blocks for some
/// milliseconds.
pub fn beside_guest(pid: i32, guest: ByteSize) -> io::Result<Option<ByteSize>> {
    if guest <= WALKED {
        return outside_of(BufReader::new(File::open(format!("/proc/{pid}/smaps"))?), guest);
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = field(&status, "VmRSS:");
    Ok(resident.and_then(|resident| resident.get().checked_sub(guest.get())).map(ByteSize::bytes))
}

/// The memory of a process and its children that is resident and is not shared with others, such as a guest's.
pub fn private(pid: i32) -> io::Result<ByteSize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let part = |name| field(&status, name).unwrap_or_default().get();
    let own = part("RssAnon:") + part("RssFile:");
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let of_children = children.split_ascii_whitespace().filter_map(|child| private(child.parse().ok()?).ok());
    Ok(ByteSize::bytes(of_children.fold(own, |sum, child| sum.saturating_add(child.get()))))
}

/// What is resident in all mappings but the guest's memory, which is known by its exact size: no other is as large, or it
/// is less full. `smaps` is that of proc(5).
fn outside_of(smaps: impl BufRead, guest: ByteSize) -> io::Result<Option<ByteSize>> {
    let (mut all, mut of_guest) = (0_u64, None);
    let mut may_be_guest = false;
    for line in smaps.lines() {
        let line = line?;
        if let Some(size) = mapping(&line) {
            may_be_guest = size == guest.get();
        } else if let Some(resident) = field(&line, "Rss:") {
            all = all.saturating_add(resident.get());
            if may_be_guest {
                of_guest = of_guest.max(Some(resident.get()));
            }
        }
    }
    Ok(of_guest.map(|of_guest| ByteSize::bytes(all.saturating_sub(of_guest))))
}

/// The size of a mapping, from the line that begins it: `7f0000000000-7f000c000000 rw-p 00000000 00:00 0`.
fn mapping(line: &str) -> Option<u64> {
    let (from, rest) = line.split_once('-')?;
    let (to, _) = rest.split_once(' ')?;
    u64::from_str_radix(to, 16).ok()?.checked_sub(u64::from_str_radix(from, 16).ok()?)
}

/// A line such as `VmRSS:   24576 kB`.
fn field(text: &str, name: &str) -> Option<ByteSize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize::bytes(kib.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c0400000 r-xp 00000000 fe:01 1234   /usr/bin/qemu-system-x86_64
Size:               4096 kB
Rss:                2048 kB
VmFlags: rd ex mr mw me
7f0000000000-7f000c000000 rw-p 00000000 00:00 0
Size:             196608 kB
Rss:              102400 kB
AnonHugePages:     65536 kB
7f0010000000-7f001c000000 rw-p 00000000 00:00 0
Rss:                1024 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0      [stack]
Rss:                  64 kB
";

    #[test]
    fn the_guests_memory_is_known_by_its_size() {
        let outside = |guest| outside_of(SMAPS.as_bytes(), guest).unwrap();
        assert_eq!(outside(ByteSize::mib(192)), Some(ByteSize::bytes((2048 + 1024 + 64) << 10)));
        assert_eq!(outside(ByteSize::mib(256)), None, "a machine of another size");
        assert_eq!(outside_of("".as_bytes(), ByteSize::mib(192)).unwrap(), None);
    }

    #[test]
    fn a_process_is_measured_as_the_kernel_tells_it() {
        let own = std::process::id().cast_signed();
        assert!(private(own).unwrap() > ByteSize::MIB);
        assert_eq!(beside_guest(own, ByteSize::mib(1 << 20)).unwrap(), None, "it has no terabyte");
        assert!(beside_guest(-1, ByteSize::MIB).is_err());
    }
}
