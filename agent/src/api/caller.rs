//! Who calls, as the connection proved it.

use std::{fmt, net::IpAddr};

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process on this machine, by the Unix socket; the kernel told whose it is.
    Local {
        /// Its effective user.
        uid: u32,
        /// Its process when it connected.
        pid: Option<i32>,
    },
    /// A holder of a client certificate.
    Operator {
        /// The subject's common name; empty where it has none.
        common_name: String,
        /// Hex pairs with colons.
        serial_number: String,
        /// From where.
        address: IpAddr,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid: Some(pid) } => write!(formatter, "uid {uid} (process {pid})"),
            Self::Local { uid, pid: None } => write!(formatter, "uid {uid}"),
            Self::Operator { common_name, serial_number, address } => {
                write!(formatter, "{common_name:?} (certificate {serial_number}, from {address})")
            }
        }
    }
}
