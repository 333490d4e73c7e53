//! A line shell on the serial console, so that people and tests can act inside the guest.

use std::{
    fs, io,
    io::{BufRead as _, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt as _,
    sync::OnceLock,
    time::Duration,
};

use nix::libc::O_NONBLOCK;

use crate::{certificates, ping, power, say, status::Status};

const PATIENCE: Duration = Duration::from_secs(3);
const PROMPT: &str = "goliath> ";
const HELP: &str = "commands: status | ping ADDRESS [BYTES] | fetch ADDRESS[:PORT] | poweroff | reboot | panic";

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Nothing,
    Help,
    Status,
    Ping { address: Ipv4Addr, length: usize },
    Fetch(SocketAddr),
    PowerOff,
    Restart,
    Panic,
}

impl Command {
    fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => Ok(Self::Nothing),
            ["help"] => Ok(Self::Help),
            ["status"] => Ok(Self::Status),
            ["ping", address] => Ok(Self::Ping { address: ipv4(address)?, length: 56 }),
            ["ping", address, length] => {
                let length = length.parse().ok().filter(|length| *length <= 65_507);
                let length = length.ok_or("BYTES is a number of at most 65507")?;
                Ok(Self::Ping { address: ipv4(address)?, length })
            }
            ["fetch", address] => match address.parse() {
                Ok(address) => Ok(Self::Fetch(address)),
                Err(_) => Ok(Self::Fetch(SocketAddr::new(ipv4(address)?.into(), 8080))),
            },
            ["poweroff"] => Ok(Self::PowerOff),
            ["reboot"] => Ok(Self::Restart),
            ["panic"] => Ok(Self::Panic),
            _ => Err(format!("not understood; {HELP}")),
        }
    }
}

fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| format!("{text} is not an IPv4 address"))
}

/// Writes what the console takes at once. A host that does not read its end must not hold up the guest's work.
pub(crate) fn print(text: &str) {
    static CONSOLE: OnceLock<Option<fs::File>> = OnceLock::new();
    let console = CONSOLE
        .get_or_init(|| fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open("/dev/console").ok())
        .as_ref();
    if let Some(mut console) = console {
        let _ = console.write_all(text.as_bytes());
    }
}

/// Reads commands until the console goes away.
pub(crate) fn run() {
    print(PROMPT);
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match Command::parse(&line) {
            Ok(command) => execute(&command),
            Err(reason) => say!("{reason}"),
        }
        print(PROMPT);
    }
    say!("the console is closed");
}

fn execute(command: &Command) {
    match command {
        Command::Nothing => {}
        Command::Help => say!("{HELP}"),
        Command::Status => {
            let certificate = certificates::read(crate::CERTIFICATES.as_ref());
            if let Err(error) = &certificate {
                say!("{error}");
            }
            say!("status {}", Status::read(certificate.ok().map(|identity| identity.description)).to_json().trim());
        }
        Command::Ping { address, length } => match ping::ping(*address, *length) {
            Ok(time) => say!("ping {address}: {length} bytes answered in {} us", time.as_micros()),
            Err(error) => say!("ping {address}: no answer: {error}"),
        },
        Command::Fetch(address) => match fetch(*address) {
            Ok(body) => say!("fetch {address}: {}", body.trim()),
            Err(error) => say!("fetch {address}: failed: {error}"),
        },
        Command::PowerOff => power::power_off(),
        Command::Restart => power::restart(),
        Command::Panic => power::panic(),
    }
}

/// The body of what another guest's HTTP service answers.
fn fetch(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.to_owned()),
        None => Err(io::Error::other("the answer is not HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands() {
        let neighbour = Ipv4Addr::new(10, 7, 0, 12);
        for (line, command) in [
            ("", Command::Nothing),
            (" status ", Command::Status),
            ("ping 10.7.0.12", Command::Ping { address: neighbour, length: 56 }),
            ("ping 10.7.0.12 1400", Command::Ping { address: neighbour, length: 1400 }),
            ("fetch 10.7.0.12", Command::Fetch(SocketAddr::new(neighbour.into(), 8080))),
            ("fetch 10.7.0.12:80", Command::Fetch(SocketAddr::new(neighbour.into(), 80))),
            ("poweroff", Command::PowerOff),
        ] {
            assert_eq!(Command::parse(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_does_nothing_and_says_so() {
        for line in ["pign 10.7.0.12", "ping", "ping host", "ping 10.7.0.12 70000", "poweroff now", "fetch 10.7"] {
            assert!(Command::parse(line).is_err(), "{line}");
        }
    }
}
