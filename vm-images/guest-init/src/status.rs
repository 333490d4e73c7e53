//! What the guest tells of itself.

use std::{fs, net::Ipv4Addr};

use nix::ifaddrs::getifaddrs;
use serde::Serialize;

use crate::certificates::Description;

/// Sent as JSON to whoever asks.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    hostname: String,
    kernel: String,
    boot_id: String,
    /// Since the kernel started.
    uptime_seconds: f64,
    interfaces: Vec<InterfaceStatus>,
    /// The one that this connection was served with; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Description>,
}

#[derive(Debug, Serialize)]
struct InterfaceStatus {
    name: String,
    mac_address: String,
    mtu: u32,
    /// With prefix lengths.
    addresses: Vec<String>,
}

impl Status {
    pub(crate) fn read(certificate: Option<Description>) -> Self {
        let first_word = |path| line(path).split_whitespace().next().map(str::to_owned).unwrap_or_default();
        Self {
            hostname: line("/proc/sys/kernel/hostname"),
            kernel: line("/proc/sys/kernel/osrelease"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            uptime_seconds: first_word("/proc/uptime").parse().unwrap_or_default(),
            interfaces: interfaces(),
            certificate,
        }
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

fn interfaces() -> Vec<InterfaceStatus> {
    let mut interfaces: Vec<InterfaceStatus> = Vec::new();
    for found in getifaddrs().into_iter().flatten().filter(|found| found.interface_name != "lo") {
        let name = found.interface_name;
        let position = interfaces.iter().position(|interface| interface.name == name).unwrap_or_else(|| {
            interfaces.push(InterfaceStatus {
                mac_address: line(&format!("/sys/class/net/{name}/address")),
                mtu: line(&format!("/sys/class/net/{name}/mtu")).parse().unwrap_or_default(),
                name,
                addresses: Vec::new(),
            });
            interfaces.len() - 1
        });
        let ipv4 = |address: Option<nix::sys::socket::SockaddrStorage>| {
            address.and_then(|address| address.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        };
        if let (Some(address), Some(mask)) = (ipv4(found.address), ipv4(found.netmask))
            && let Some(interface) = interfaces.get_mut(position)
        {
            interface.addresses.push(format!("{address}/{}", prefix_length(mask)));
        }
    }
    interfaces
}

fn prefix_length(mask: Ipv4Addr) -> u32 {
    u32::from(mask).leading_ones()
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}
