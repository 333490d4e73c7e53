//! Opens taps in the calling thread's network namespace.
#![allow(unsafe_code)] // Two ioctls of the tun driver, which nix does not wrap.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{errno::Errno, net::if_::if_nametoindex};

mod ioctl {
    use nix::libc::{c_char, c_int, c_short};

    /// `struct ifreq`, as far as TUNSETIFF reads it; padded to its size.
    #[repr(C)]
    pub(super) struct InterfaceRequest {
        pub(super) name: [c_char; 16],
        pub(super) flags: c_short,
        pub(super) rest: [u8; 22],
    }

    nix::ioctl_write_ptr_bad!(set_interface, nix::request_code_write!(b'T', 202, size_of::<c_int>()), InterfaceRequest);
    nix::ioctl_write_int_bad!(set_persistent, nix::request_code_write!(b'T', 203, size_of::<c_int>()));
}

/// Ethernet frames, without a header of the driver's own, with virtio's for offloads: what QEMU expects of an open tap.
const FLAGS: nix::libc::c_short = 0x0002 | 0x1000 | 0x4000;

/// A tap could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// A process has it open: a QEMU that runs.
    #[error("the tap {device} is in use by another process")]
    Held {
        /// Its name.
        device: String,
    },
    /// The driver said no.
    #[error("cannot open the tap {device}: is the module `tun` there?")]
    Driver {
        /// Its name.
        device: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Opens a new tap. It lives as long as somebody has it open: we, then QEMU. One that a crash left, held by nobody, is
/// replaced.
pub fn open(device: &str) -> Result<OwnedFd, TapError> {
    if if_nametoindex(device).is_ok() {
        // Only a persistent one is there without a holder. Without persistence it goes with the file that is closed here.
        drop(open_device(device)?);
    }
    open_device(device).map(OwnedFd::from)
}

fn open_device(device: &str) -> Result<File, TapError> {
    let failed = |source: io::Error| TapError::Driver { device: device.to_owned(), source };
    let mut request = ioctl::InterfaceRequest { name: [0; 16], flags: FLAGS, rest: [0; 22] };
    if device.len() >= request.name.len() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "the name is longer than 15 characters")));
    }
    for (target, byte) in request.name.iter_mut().zip(device.bytes()) {
        *target = byte.cast_signed();
    }
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(failed)?;
    // SAFETY: the descriptor is open, and the request is a whole `ifreq` with a terminated name.
    match unsafe { ioctl::set_interface(file.as_raw_fd(), &raw const request) } {
        Ok(_) => {}
        Err(Errno::EBUSY) => return Err(TapError::Held { device: device.to_owned() }),
        Err(reason) => return Err(failed(reason.into())),
    }
    // SAFETY: the descriptor is an open tap; the argument is a plain number.
    unsafe { ioctl::set_persistent(file.as_raw_fd(), 0) }.map_err(|reason| failed(reason.into()))?;
    Ok(file)
}
