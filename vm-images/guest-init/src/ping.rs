//! ICMP echo, by the kernel's ping sockets: no raw packets, no headers of our own.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const HEADER_LENGTH: usize = 8;
const ATTEMPTS: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the first answer took. The data of a request has `length` bytes.
pub(crate) fn ping(address: Ipv4Addr, length: usize) -> io::Result<Duration> {
    // Who may open ping sockets is a range of groups, empty at boot.
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
    let descriptor: OwnedFd =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    // The standard library's socket calls are the same for every datagram socket.
    let socket = UdpSocket::from(descriptor);
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut answer = vec![0; HEADER_LENGTH + length];
    let mut last = no_answer();
    for sequence in 1..=ATTEMPTS {
        let mut request = vec![0x5a; HEADER_LENGTH + length];
        // Checksum and identifier are the kernel's to fill in.
        for (byte, value) in request.iter_mut().zip([ECHO_REQUEST, 0, 0, 0, 0, 0, 0, sequence]) {
            *byte = value;
        }
        let start = Instant::now();
        let outcome =
            socket.send_to(&request, SocketAddrV4::new(address, 0)).and_then(|_| socket.recv_from(&mut answer));
        match outcome {
            Ok((received, _)) if received == request.len() && answer.first() == Some(&ECHO_REPLY) => {
                return Ok(start.elapsed());
            }
            Ok(_) => last = io::Error::other("the answer is not an echo reply"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => last = no_answer(),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("nothing came back within {} s", PATIENCE.as_secs()))
}
