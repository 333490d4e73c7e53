//! Requests into domain types: whole, or with all that is wrong with them. No input makes it panic.

mod certificates;
mod disks;
mod guest;
mod network;
#[cfg(test)]
mod tests;
mod texts;

use std::{net::Ipv4Addr, time::Duration};

use goliath_server::violations::{Path, Violations};
use prost_types::Duration as ProtoDuration;

pub(super) use guest::guest;
pub(super) use network::{network, peers};

use crate::spec::InvalidValue;

fn ipv4(text: &str) -> Result<Ipv4Addr, InvalidValue> {
    let address: Ipv4Addr = match text {
        "" => return Err(InvalidValue::new("must not be empty: give an IPv4 address")),
        _ => text.parse().map_err(|_| InvalidValue::new(format!("{text:?} is not an IPv4 address")))?,
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast() {
        return Err(InvalidValue::new(format!("{address} is not an address that a machine can have")));
    }
    Ok(address)
}

/// A duration of whole seconds within bounds.
pub(super) fn seconds(duration: &ProtoDuration, least: Duration, most: Duration) -> Result<Duration, InvalidValue> {
    let seconds = u64::try_from(duration.seconds).ok().filter(|_| duration.nanos >= 0);
    let seconds = seconds.ok_or_else(|| InvalidValue::new("must not be negative"))?;
    if duration.nanos != 0 {
        return Err(InvalidValue::new("must be whole seconds"));
    }
    let duration = Duration::from_secs(seconds);
    if (least..=most).contains(&duration) {
        Ok(duration)
    } else {
        Err(InvalidValue::new(format!("is {seconds} s: {} to {} s are allowed", least.as_secs(), most.as_secs())))
    }
}

/// An enum's value; one that this version does not know is refused, not taken for another.
fn known<T: TryFrom<i32>>(violations: &mut Violations, field: &Path, number: i32) -> Option<T> {
    let value = T::try_from(number).ok();
    violations.check(field, value.is_some(), || format!("has the unknown value {number}: is the caller newer?"));
    value
}

/// No more than so many; more are not even looked at.
fn bounded<'s, T>(violations: &mut Violations, field: &Path, items: &'s [T], most: usize) -> &'s [T] {
    violations.check(field, items.len() <= most, || format!("has {} entries: {most} are allowed", items.len()));
    items.get(..most).unwrap_or(items)
}
