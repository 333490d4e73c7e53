//! The terminal as a wire: every key goes to the guest.

use std::io::{self, Read as _};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// Ctrl-], as in telnet and virsh.
pub(super) const ESCAPE: u8 = 0x1d;

/// Raw as long as it lives; what it was before comes back in every case, a panic included.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Reads the standard input on a thread of its own, because nothing can interrupt such a read; the channel closes at
/// its end. The thread ends with the process.
pub(super) fn read_input(interactive: bool) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(if interactive { 16 } else { 4 });
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match io::stdin().read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let piece = buffer.get(..length).unwrap_or_default().to_vec();
                    if sender.blocking_send(piece).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    })?;
    Ok(receiver)
}
