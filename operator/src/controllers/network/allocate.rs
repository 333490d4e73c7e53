//! What a cluster's network is allocated. Pure.

use std::{collections::BTreeMap, net::Ipv4Addr};

use goliath_proto::values::{GuestUid, HostName, OverlayCidr};

use crate::network::{AddressError, Addresses, Holder};

/// What a cluster's addresses depend on.
#[derive(Debug, Clone)]
pub(super) struct Demand<'a> {
    pub(super) cidr: OverlayCidr,
    /// What hosts have, as it is written.
    pub(super) held: &'a BTreeMap<HostName, Ipv4Addr>,
    /// What guests have.
    pub(super) guests: &'a [(GuestUid, Ipv4Addr)],
    /// Those that guests are bound to.
    pub(super) wanted: &'a [HostName],
}

/// The addresses that hosts shall have from now on, and why one of them has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostAddresses {
    pub(super) addresses: BTreeMap<HostName, Ipv4Addr>,
    pub(super) problem: Option<AddressError>,
}

/// Each wanted host has an address, and each that may still have the network keeps its own. Guests' addresses are for
/// life, so where a host and a guest got the same the host gets another.
pub(super) fn host_addresses(demand: &Demand<'_>, may_have_it: impl Fn(&HostName) -> bool) -> HostAddresses {
    let mut all = Addresses::new(demand.cidr);
    for (uid, address) in demand.guests {
        // Two guests with one address, or one outside: refused where guests are made, and no reason to stop here.
        let _ = all.hold(&Holder::Guest(*uid), *address);
    }
    let stays = |host: &HostName| demand.wanted.contains(host) || may_have_it(host);
    let mut addresses = BTreeMap::new();
    let mut without = Vec::new();
    for (host, address) in demand.held.iter().filter(|(host, _)| stays(host)) {
        match all.hold(&Holder::Host(host.clone()), *address) {
            Ok(()) => {
                addresses.insert(host.clone(), *address);
            }
            Err(_) => without.push(host),
        }
    }
    without.extend(demand.wanted.iter().filter(|host| !demand.held.contains_key(*host)));
    let mut problem = None;
    for host in without {
        match all.allocate(&Holder::Host(host.clone())) {
            Ok(address) => {
                addresses.insert(host.clone(), address);
            }
            Err(error) => problem = Some(error),
        }
    }
    HostAddresses { addresses, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn uid(number: u128) -> GuestUid {
        uuid::Uuid::from_u128(number).to_string().parse().unwrap()
    }

    const fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 7, 0, last)
    }

    #[test]
    fn wanted_hosts_get_addresses_and_others_keep_theirs_while_they_may_have_the_network() {
        let held = BTreeMap::from([(host("a"), address(14)), (host("b"), address(13)), (host("c"), address(12))]);
        let demand = Demand {
            cidr: "10.7.0.0/28".parse().unwrap(),
            held: &held,
            guests: &[(uid(1), address(2))],
            wanted: &[host("a"), host("d")],
        };
        let found = host_addresses(&demand, |name| *name == host("b"));
        assert_eq!(
            found.addresses,
            BTreeMap::from([(host("a"), address(14)), (host("b"), address(13)), (host("d"), address(12))])
        );
        assert_eq!(found.problem, None);
    }

    #[test]
    fn a_host_yields_to_a_guest_that_has_its_address() {
        let held = BTreeMap::from([(host("a"), address(14))]);
        let demand = Demand {
            cidr: "10.7.0.0/28".parse().unwrap(),
            held: &held,
            guests: &[(uid(1), address(14))],
            wanted: &[host("a")],
        };
        let found = host_addresses(&demand, |_| true);
        assert_eq!(found.addresses, BTreeMap::from([(host("a"), address(13))]));
    }

    #[test]
    fn a_network_that_is_full_leaves_a_host_out_and_says_so() {
        let guests: Vec<_> = (2..=6).map(|last| (uid(u128::from(last)), address(last))).collect();
        let demand = Demand {
            cidr: "10.7.0.0/29".parse().unwrap(),
            held: &BTreeMap::new(),
            guests: &guests,
            wanted: &[host("a")],
        };
        let found = host_addresses(&demand, |_| true);
        assert!(found.addresses.is_empty());
        assert!(matches!(found.problem, Some(AddressError::Exhausted { .. })));
    }
}
