//! Tells whoever started the agent that it is ready: sd_notify(3), spoken by hand, since it is one datagram.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{ffi::OsStrExt as _, net::SocketAddr, net::UnixDatagram},
    },
};

/// Says that the API is served and that the guests that run were found again. Nothing where nobody asked to be told.
pub fn ready() -> io::Result<()> {
    let Some(address) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match address.as_bytes() {
        // A name that is no path begins with @ in the environment.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&address)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address).map(drop)
}
