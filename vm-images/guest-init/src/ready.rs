//! Tells the host that this guest has booted: `READY=1`, as systemd would say it, on a virtio-serial port.

use std::{fs, io, io::Write as _, path::PathBuf, thread};

use crate::say;

const PORT: &str = "goliath.notify.0";

/// Says it as soon as somebody listens. The write waits for that, so it has a thread of its own.
pub(crate) fn tell() {
    let Some(device) = port_device() else {
        say!("no port {PORT}: the boot is not reported");
        return;
    };
    thread::spawn(move || {
        let told: io::Result<()> =
            fs::OpenOptions::new().write(true).open(&device).and_then(|mut port| port.write_all(b"READY=1\n"));
        if let Err(error) = told {
            say!("error: the boot was not reported on {}: {error}", device.display());
        }
    });
}

fn port_device() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == PORT).then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}
