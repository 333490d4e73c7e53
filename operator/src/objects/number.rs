//! Numbers with a meaning.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::InvalidValue;

/// Declares a type for a number within bounds: `get`, `Display`, serde by way of the check, and a schema.
macro_rules! bounded_number {
    ($(#[$doc:meta])* $name:ident($number:ty) { from: $smallest:literal, to: $largest:literal, is: $is:literal }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name($number);

        impl $name {
            /// The smallest there is.
            pub const SMALLEST: Self = Self($smallest);
            /// The largest there is.
            pub const LARGEST: Self = Self($largest);

            /// The number.
            pub const fn get(self) -> $number {
                self.0
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidValue;

            fn try_from(number: u64) -> Result<Self, Self::Error> {
                match <$number>::try_from(number) {
                    Ok(number @ $smallest..=$largest) => Ok(Self(number)),
                    _ => Err(InvalidValue::new(format!(
                        concat!("is {}: ", $is, " is ", $smallest, " to ", $largest),
                        number
                    ))),
                }
            }
        }

        impl From<$name> for u64 {
            fn from(number: $name) -> Self {
                number.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
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
                schemars::json_schema!({ "type": "integer", "minimum": $smallest, "maximum": $largest })
            }
        }
    };
}

bounded_number!(
    /// A VXLAN network identifier (RFC 7348 has 24 bits; 0 is not used).
    Vni(u32) { from: 1, to: 16_777_215, is: "a VNI" }
);
bounded_number!(
    /// The largest packet of a link, in bytes. IPv4 guests need 576 at the least; jumbo frames end at 9216.
    Mtu(u16) { from: 576, to: 9216, is: "an MTU" }
);
bounded_number!(
    /// A TCP port.
    Port(u16) { from: 1, to: 65535, is: "a port" }
);
bounded_number!(
    /// Virtual processors of a guest.
    Vcpus(u8) { from: 1, to: 255, is: "a number of vCPUs" }
);
bounded_number!(
    /// Guests of one worker pool.
    Replicas(u16) { from: 0, to: 5000, is: "a number of replicas" }
);
bounded_number!(
    /// The place of a guest among its like: `master-0`, `default-4`. A number is free again when its guest is gone.
    GuestIndex(u16) { from: 0, to: 4999, is: "an index" }
);

impl Port {
    /// A port known when this is compiled; 0 becomes 1.
    pub(super) const fn new(port: u16) -> Self {
        Self(if port == 0 { 1 } else { port })
    }
}

/// How many masters a cluster has. etcd needs a majority, so even numbers only add what can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub enum MasterCount {
    /// No redundancy.
    One,
    /// Goes on without one of them.
    Three,
    /// Goes on without two of them.
    Five,
}

impl MasterCount {
    /// The number.
    pub const fn get(self) -> u16 {
        match self {
            Self::One => 1,
            Self::Three => 3,
            Self::Five => 5,
        }
    }
}

impl TryFrom<u64> for MasterCount {
    type Error = InvalidValue;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        match number {
            1 => Ok(Self::One),
            3 => Ok(Self::Three),
            5 => Ok(Self::Five),
            _ => Err(InvalidValue::new(format!("is {number}: a cluster has 1, 3 or 5 masters"))),
        }
    }
}

impl From<MasterCount> for u64 {
    fn from(count: MasterCount) -> Self {
        count.get().into()
    }
}

impl schemars::JsonSchema for MasterCount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MasterCount".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "enum": [1, 3, 5] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_its_bounds_is_refused_with_them() {
        assert_eq!(Vni::try_from(0).unwrap_err().to_string(), "is 0: a VNI is 1 to 16777215");
        assert!(Vni::try_from(1 << 24).is_err());
        assert!(Mtu::try_from(575).is_err());
        assert!(Port::try_from(65536).is_err());
        assert_eq!(Replicas::try_from(0).unwrap(), Replicas::SMALLEST);
    }

    #[test]
    fn a_cluster_has_one_three_or_five_masters() {
        for (number, good) in [(0, false), (1, true), (2, false), (3, true), (4, false), (5, true), (7, false)] {
            assert_eq!(MasterCount::try_from(number).is_ok(), good, "{number}");
        }
        assert_eq!(MasterCount::try_from(2).unwrap_err().to_string(), "is 2: a cluster has 1, 3 or 5 masters");
    }
}
