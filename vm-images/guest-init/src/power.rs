//! The ways in which this guest ends.

use std::{fs, io, io::Read as _, path::PathBuf, thread};

use nix::sys::reboot::{RebootMode, reboot};

use crate::say;

/// `struct input_event` on 64-bit Linux: two 64-bit times, then type, code and value.
const EVENT_LENGTH: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Powers off as soon as any input device reports the power key, ACPI's button among them.
pub(crate) fn watch_buttons() {
    let devices: Vec<PathBuf> = fs::read_dir("/dev/input")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("event")))
        .collect();
    if devices.is_empty() {
        say!("error: there is no input device: the power button will not be heard");
    }
    for device in devices {
        thread::spawn(move || match wait_for_press(&device) {
            Ok(()) => {
                say!("power button: powering off");
                power_off();
            }
            Err(error) => say!("error: {} is not watched: {error}", device.display()),
        });
    }
}

fn wait_for_press(device: &PathBuf) -> io::Result<()> {
    let mut file = fs::File::open(device)?;
    let mut event = [0; EVENT_LENGTH];
    loop {
        file.read_exact(&mut event)?;
        if is_press(&event) {
            return Ok(());
        }
    }
}

fn is_press(event: &[u8; EVENT_LENGTH]) -> bool {
    let [.., t0, t1, c0, c1, v0, v1, v2, v3] = *event;
    u16::from_ne_bytes([t0, t1]) == EV_KEY
        && u16::from_ne_bytes([c0, c1]) == KEY_POWER
        && i32::from_ne_bytes([v0, v1, v2, v3]) == 1
}

/// Ends the machine.
pub(crate) fn power_off() {
    end(RebootMode::RB_POWER_OFF);
}

/// Starts the machine anew.
pub(crate) fn restart() {
    end(RebootMode::RB_AUTOBOOT);
}

fn end(mode: RebootMode) {
    nix::unistd::sync();
    let Err(error) = reboot(mode);
    say!("error: the kernel refused: {error}");
}

/// Makes the kernel panic.
pub(crate) fn panic() {
    if let Err(error) = fs::write("/proc/sysrq-trigger", "c") {
        say!("error: the kernel refused to panic: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> [u8; EVENT_LENGTH] {
        let mut event = [0; EVENT_LENGTH];
        event[16..18].copy_from_slice(&kind.to_ne_bytes());
        event[18..20].copy_from_slice(&code.to_ne_bytes());
        event[20..24].copy_from_slice(&value.to_ne_bytes());
        event
    }

    #[test]
    fn only_the_power_key_going_down_is_a_press() {
        assert!(is_press(&event(EV_KEY, KEY_POWER, 1)));
        for other in [event(EV_KEY, KEY_POWER, 0), event(EV_KEY, 30, 1), event(0, 0, 0), event(4, KEY_POWER, 1)] {
            assert!(!is_press(&other));
        }
    }
}
