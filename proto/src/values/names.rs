//! Names: each its own type, so that a guest's cannot stand where a cluster's is meant.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::InvalidValue;

/// A guest's identity for life: one uid, one QEMU, one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuestUid(Uuid);

impl GuestUid {
    /// The UUID itself, as QEMU and SMBIOS get it.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl FromStr for GuestUid {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidValue::new("must not be empty: give the guest a UUID"));
        }
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.is_nil() => Err(InvalidValue::new("must not be the nil UUID")),
            Ok(uuid) => Ok(Self(uuid)),
            Err(reason) => Err(InvalidValue::new(format!("is not a UUID: {reason}"))),
        }
    }
}

impl fmt::Display for GuestUid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Declares a type for a text that was checked: `parse`, `as_str`, `Display`, and serde by way of the check. Copies
/// share the text: it is the key of many maps.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> Result<(), InvalidValue> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                (*name.0).to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// A guest's name within its cluster; becomes its hostname.
    GuestName,
    dns_label
);
checked_text!(
    /// A guest cluster's name; names its network too.
    ClusterName,
    dns_label
);
checked_text!(
    /// A certificate's name: its directory in the guest's volume.
    CertificateName,
    dns_label
);
checked_text!(
    /// The name of a certificate issuer of the host's configuration.
    IssuerName,
    dns_label
);
checked_text!(
    /// The name of a pool of a cluster's workers.
    PoolName,
    dns_label
);
checked_text!(
    /// A machine that runs an agent, as the operator names it.
    HostName,
    dns_name
);
checked_text!(
    /// What a host is for; pools ask for it.
    HostRole,
    dns_label
);
checked_text!(
    /// Where hosts fail together: a room, a rack.
    ZoneName,
    dns_name
);
checked_text!(
    /// By this a guest finds a data disk: `/dev/disk/by-id/virtio-<serial>`. virtio-blk carries 20 bytes.
    DiskSerial,
    |text| {
        if text.is_empty() || text.len() > 20 {
            return Err(InvalidValue::new(format!("has {} characters: virtio carries 1 to 20", text.len())));
        }
        only(text, |c| c.is_ascii_alphanumeric() || c == '-' || c == '_', "letters, digits, `-` and `_`")
    }
);

/// RFC 1123: 1 to 63 of `[a-z0-9-]`, with a letter or digit at both ends.
fn dns_label(text: &str) -> Result<(), InvalidValue> {
    if text.is_empty() {
        return Err(InvalidValue::new("must not be empty"));
    }
    if text.len() > 63 {
        return Err(InvalidValue::new(format!("has {} characters: a DNS label has at most 63", text.len())));
    }
    only(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-', "lower-case letters, digits and `-`")?;
    if text.starts_with('-') || text.ends_with('-') {
        return Err(InvalidValue::new("must start and end with a letter or a digit"));
    }
    Ok(())
}

/// RFC 1123: labels with dots between, 253 characters at most.
fn dns_name(text: &str) -> Result<(), InvalidValue> {
    if text.len() > 253 {
        return Err(InvalidValue::new(format!("has {} characters: a DNS name has at most 253", text.len())));
    }
    text.split('.').try_for_each(dns_label)
}

fn only(text: &str, allowed: impl Fn(char) -> bool, what: &str) -> Result<(), InvalidValue> {
    match text.chars().find(|c| !allowed(*c)) {
        Some(stranger) => Err(InvalidValue::new(format!("contains {stranger:?}: only {what} may stand here"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_a_dns_label() {
        for good in ["a", "acme", "worker-0", "0", &"x".repeat(63)] {
            assert!(good.parse::<GuestName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "../etc", "a b", "é", &"x".repeat(64), &"n".repeat(200)] {
            assert!(bad.parse::<GuestName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_may_have_a_name_with_dots() {
        let long = format!("{0}.{0}.{0}.{0}", "x".repeat(63));
        for good in ["rack-3.example", "a", "10.0.0.1", &long[..253]] {
            assert!(good.parse::<HostName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "a.", ".a", "A.b", "a/b", &long[..254]] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_what_is_allowed() {
        let refusal = |text: &str| text.parse::<CertificateName>().unwrap_err().to_string();
        assert_eq!(refusal("../etc"), "contains '.': only lower-case letters, digits and `-` may stand here");
        assert_eq!(refusal(&"n".repeat(200)), "has 200 characters: a DNS label has at most 63");
    }

    #[test]
    fn a_uid_is_a_uuid_and_not_the_nil_one() {
        assert!("11111111-2222-3333-4444-555555555555".parse::<GuestUid>().is_ok());
        for bad in ["", "guest-1", "00000000-0000-0000-0000-000000000000"] {
            assert!(bad.parse::<GuestUid>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_name_that_leaves_its_directory(text in ".*") {
            if let Ok(name) = text.parse::<ClusterName>() {
                prop_assert!(!name.as_str().contains(['/', '.', '\0']));
                prop_assert!((1..=63).contains(&name.as_str().len()));
            }
        }
    }
}
