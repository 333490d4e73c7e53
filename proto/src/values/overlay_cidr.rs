//! The addresses of a cluster's network.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use super::InvalidValue;

/// An IPv4 network that a cluster's overlay can have: without host bits, /8 to /29, and for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OverlayCidr(Ipv4Network);

impl OverlayCidr {
    /// Room for the gateway, two hosts and three guests.
    pub const LONGEST_PREFIX: u8 = 29;
    /// The largest private network there is.
    pub const SHORTEST_PREFIX: u8 = 8;

    /// As a network.
    pub fn network(self) -> Ipv4Network {
        self.0
    }

    /// The first address that a machine can have.
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.network().to_bits() + 1)
    }

    /// The last address that a machine can have.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.broadcast().to_bits() - 1)
    }

    /// How many addresses machines can have.
    pub fn size(self) -> u32 {
        self.0.size() - 2
    }
}

impl FromStr for OverlayCidr {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A bare address would be read as a network of one.
        let cidr: Ipv4Network = Some(text)
            .filter(|text| text.contains('/'))
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| InvalidValue::new(format!("{text:?} is not an IPv4 network like 10.7.0.0/24")))?;
        let base = cidr.network();
        if cidr.ip() != base {
            return Err(InvalidValue::new(format!("{text:?} has host bits: is {base}/{} meant?", cidr.prefix())));
        }
        let (shortest, longest) = (Self::SHORTEST_PREFIX, Self::LONGEST_PREFIX);
        if !(shortest..=longest).contains(&cidr.prefix()) {
            return Err(InvalidValue::new(format!(
                "is a /{}: /{shortest} to /{longest} have room for a cluster",
                cidr.prefix()
            )));
        }
        let reserved = base.octets()[0] == 0 || base.octets()[0] >= 224 || base.is_loopback() || base.is_link_local();
        if reserved {
            return Err(InvalidValue::new(format!(
                "{text} is not for machines: take a private network like 10.7.0.0/24"
            )));
        }
        Ok(Self(cidr))
    }
}

impl TryFrom<String> for OverlayCidr {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OverlayCidr> for String {
    fn from(cidr: OverlayCidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for OverlayCidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_network_has_six_addresses() {
        let cidr: OverlayCidr = "10.7.0.8/29".parse().unwrap();
        assert_eq!((cidr.first(), cidr.last(), cidr.size()), ([10, 7, 0, 9].into(), [10, 7, 0, 14].into(), 6));
    }

    #[test]
    fn a_network_that_machines_cannot_have_is_refused() {
        for bad in [
            "",
            "10.7.0.0",
            "10.7.0.1/24",
            "10.7.0.0/30",
            "0.0.0.0/0",
            "12.0.0.0/7",
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/8",
            "fd00::/64",
        ] {
            assert!(bad.parse::<OverlayCidr>().is_err(), "{bad}");
        }
    }
}
