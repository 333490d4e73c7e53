//! Addresses.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use super::InvalidValue;

/// Serde by way of the text, and a schema with a pattern.
macro_rules! as_text {
    ($name:ident, longest: $longest:literal, pattern: $pattern:literal) => {
        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "maxLength": $longest, "pattern": $pattern })
            }
        }
    };
}

/// An IPv4 network, such as `10.7.0.0/24`: no bit is set behind the prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr(Ipv4Network);

as_text!(Ipv4Cidr, longest: 18, pattern: r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$");

impl Ipv4Cidr {
    /// The network, for arithmetic.
    pub fn network(self) -> Ipv4Network {
        self.0
    }

    /// Whether an address lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.0.contains(address)
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.0.overlaps(other.0)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = text
            .contains('/')
            .then(|| text.parse::<Ipv4Network>().ok())
            .flatten()
            .ok_or_else(|| InvalidValue::new(format!("{text:?} is not an IPv4 network like 10.7.0.0/24")))?;
        if network.network() != network.ip() {
            let (meant, prefix) = (network.network(), network.prefix());
            return Err(InvalidValue::new(format!(
                "{text:?} has bits behind its prefix: did you mean {meant}/{prefix}?"
            )));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A unicast Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

as_text!(MacAddress, longest: 17, pattern: "^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$");

impl MacAddress {
    /// The bytes, as on the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let octets = octets(text)
            .ok_or_else(|| InvalidValue::new(format!("{text:?} is not a MAC address like 06:12:34:56:78:9a")))?;
        match octets {
            [first, ..] if first & 1 == 1 => {
                Err(InvalidValue::new(format!("{text} is a group address: a guest needs a unicast one")))
            }
            [0, 0, 0, 0, 0, 0] => Err(InvalidValue::new("must not be all zeros")),
            _ => Ok(Self(octets)),
        }
    }
}

/// Six pairs of hex digits between colons.
fn octets(text: &str) -> Option<[u8; 6]> {
    let mut octets = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut octets {
        // `from_str_radix` alone would take a sign.
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(octets)
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// Where something answers: a DNS name or an IPv4 address, and a port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    host: String,
    port: u16,
}

as_text!(Endpoint, longest: 259, pattern: "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?:[1-9][0-9]{0,4}$");

impl Endpoint {
    /// The name or address; the server's certificate is checked against it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Endpoint {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || InvalidValue::new(format!("{text:?} is not an address like host-a.example:7411"));
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        host.parse::<super::DomainName>().map_err(|_| malformed())?;
        if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.starts_with('0') {
            return Err(malformed());
        }
        let port = port.parse().map_err(|_| malformed())?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_no_bits_behind_its_prefix() {
        let network: Ipv4Cidr = "10.7.0.0/24".parse().unwrap();
        assert!(network.contains([10, 7, 0, 255].into()));
        assert!(network.overlaps("10.0.0.0/8".parse().unwrap()));
        assert!(!network.overlaps("10.7.1.0/24".parse().unwrap()));
        assert_eq!(
            "10.7.0.5/24".parse::<Ipv4Cidr>().unwrap_err().to_string(),
            "\"10.7.0.5/24\" has bits behind its prefix: did you mean 10.7.0.0/24?"
        );
        for bad in ["", "10.7.0.0", "10.7.0.0/33", "10.7.0/24", "fd00::/8", "10.7.0.0/24/1"] {
            assert!(bad.parse::<Ipv4Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mac_address_is_unicast() {
        assert_eq!("06:AA:0b:0c:0d:0e".parse::<MacAddress>().unwrap().to_string(), "06:aa:0b:0c:0d:0e");
        for bad in [
            "",
            "06:aa:0b:0c:0d",
            "06:aa:0b:0c:0d:0e:0f",
            "01:00:00:00:00:01",
            "00:00:00:00:00:00",
            "+6:aa:0b:0c:0d:0e",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_a_name_or_an_address_with_a_port() {
        let endpoint: Endpoint = "host-a.example:7411".parse().unwrap();
        assert_eq!((endpoint.host(), endpoint.port()), ("host-a.example", 7411));
        assert!("192.0.2.11:7411".parse::<Endpoint>().is_ok());
        for bad in
            ["", "host-a", "host-a:", "host-a:0", "host-a:65536", "host-a:+1", "https://host-a:1", ":7411", "a b:1"]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
