//! Numbers with a meaning.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{GuestUid, InvalidValue};

/// Grows with each change of a spec; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Generation(u64);

impl Generation {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Generation {
    type Error = InvalidValue;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        match number {
            0 => Err(InvalidValue::new("must not be 0: the first generation is 1")),
            _ => Ok(Self(number)),
        }
    }
}

impl From<Generation> for u64 {
    fn from(generation: Generation) -> Self {
        generation.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A number of bytes, shown to people in binary units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

impl ByteSize {
    /// One MiB.
    pub const MIB: Self = Self(1 << 20);
    /// One GiB.
    pub const GIB: Self = Self(1 << 30);

    /// So many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many MiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// In bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// In whole MiB, rounded up.
    pub const fn to_mib(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.into_iter().find(|(_, shift)| self.0 >> shift > 0) {
            // Precision for people: what is lost beyond 2^52 is far below what is shown.
            #[allow(clippy::cast_precision_loss)]
            Some((unit, shift)) => {
                let value = format!("{:.1}", self.0 as f64 / (1_u64 << shift) as f64);
                write!(formatter, "{} {unit}", value.trim_end_matches(".0"))
            }
            None => write!(formatter, "{} B", self.0),
        }
    }
}

/// A VXLAN network identifier, 1 to 2^24 - 1 (RFC 7348 has 24 bits; 0 is not used).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidValue;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        match number {
            1..=0x00ff_ffff => Ok(Self(number)),
            _ => Err(InvalidValue::new(format!("is {number}: a VNI is 1 to 16777215"))),
        }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The largest packet of a link, in bytes. IPv4 guests need 576 at the least; jumbo frames end at 9216.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u16);

impl Mtu {
    /// The largest there is.
    pub const LARGEST: Self = Self(9216);

    /// In bytes.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Mtu {
    type Error = InvalidValue;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        match u16::try_from(number) {
            Ok(mtu @ 576..=9216) => Ok(Self(mtu)),
            _ => Err(InvalidValue::new(format!("is {number}: an MTU is 576 to 9216"))),
        }
    }
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> Self {
        u32::from(mtu.0)
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A unicast Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// Separates addresses derived for guests from those derived for hosts.
const MAC_NAMESPACE: Uuid = Uuid::from_u128(0x6f3c_8a52_1d0e_4b6f_9a41_7e25_c8d3_b017);

impl MacAddress {
    /// The shared gateway's, the same on every host of every cluster. Guests and hosts never get it: derived addresses
    /// start with 06.
    pub const GATEWAY: Self = Self([0x02, 0, 0, 0, 0, 0x01]);

    /// The address a guest has for life: locally administered, from its uid.
    pub fn of_guest(uid: GuestUid) -> Self {
        Self::derived(uid.as_uuid().as_bytes())
    }

    /// A host's own in a cluster's overlay: from its overlay address, which no other host has.
    pub fn of_host(address: std::net::Ipv4Addr) -> Self {
        Self::derived(&address.octets())
    }

    fn derived(name: &[u8]) -> Self {
        let hash = *Uuid::new_v5(&MAC_NAMESPACE, name).as_bytes();
        Self([0x06, hash[0], hash[1], hash[2], hash[3], hash[4]])
    }

    /// The bytes, as on the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<[u8; 6]> for MacAddress {
    type Error = InvalidValue;

    fn try_from(octets: [u8; 6]) -> Result<Self, Self::Error> {
        if octets[0] & 1 == 1 {
            return Err(InvalidValue::new("is a group address: a guest needs a unicast one"));
        }
        if octets == [0; 6] {
            return Err(InvalidValue::new("must not be all zeros"));
        }
        Ok(Self(octets))
    }
}

impl FromStr for MacAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || InvalidValue::new(format!("{text:?} is not a MAC address like 06:12:34:56:78:9a"));
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(malformed)?;
            *octet = hex_octet(part).ok_or_else(malformed)?;
        }
        match parts.next() {
            Some(_) => Err(malformed()),
            None => octets.try_into(),
        }
    }
}

/// Two hex digits; `from_str_radix` alone would take a sign.
fn hex_octet(text: &str) -> Option<u8> {
    let two_digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if two_digits { u8::from_str_radix(text, 16).ok() } else { None }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_vni_has_24_bits_and_is_not_zero() {
        assert_eq!(Vni::try_from(1).unwrap().get(), 1);
        assert_eq!(Vni::try_from(0x00ff_ffff).unwrap().get(), 0x00ff_ffff);
        assert!(Vni::try_from(0).is_err());
        assert!(Vni::try_from(1 << 24).is_err());
    }

    #[test]
    fn a_size_is_shown_as_people_say_it() {
        let shown = |bytes| ByteSize::bytes(bytes).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1 << 20), "1 MiB");
        assert_eq!(shown(3 << 29), "1.5 GiB");
    }

    #[test]
    fn a_mac_is_unicast_and_well_formed() {
        assert_eq!("06:12:34:56:78:9A".parse::<MacAddress>().unwrap().to_string(), "06:12:34:56:78:9a");
        for bad in [
            "",
            "06:12:34:56:78",
            "06:12:34:56:78:9a:bc",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "zz:0:0:0:0:0",
            "+6:12:34:56:78:9a",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_derived_mac_is_local_unicast_the_same_every_time_and_never_the_gateways(bytes: [u8; 16]) {
            let Ok(uid) = Uuid::from_bytes(bytes).to_string().parse::<GuestUid>() else { return Ok(()) };
            let mac = MacAddress::of_guest(uid);
            prop_assert_eq!(mac.octets()[0] & 0b11, 0b10);
            prop_assert_eq!(mac, MacAddress::of_guest(uid));
            prop_assert_ne!(mac, MacAddress::GATEWAY);
        }

        #[test]
        fn a_mac_reads_back_as_it_was_shown(octets: [u8; 6]) {
            if let Ok(mac) = MacAddress::try_from(octets) {
                prop_assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
            }
        }
    }
}
