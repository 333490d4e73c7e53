//! Whether a cluster's networks can be: apart from each other and from hosts' own, and large enough.

use std::fmt;

use goliath_proto::values::OverlayCidr;
use ipnetwork::Ipv4Network;

use super::overlap;

/// What a network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Use {
    /// The guests' own.
    Overlay,
    /// The guest cluster's pods.
    Pods,
    /// The guest cluster's services.
    Services,
    /// A host's own.
    Host,
}

impl fmt::Display for Use {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Overlay => "the cluster's network",
            Self::Pods => "the pods' network",
            Self::Services => "the services' network",
            Self::Host => "the host's own network",
        })
    }
}

/// The networks of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Networks {
    /// The guests' own.
    pub overlay: OverlayCidr,
    /// Of Kubernetes inside; guests' packets to them leave no guest.
    pub pods: Ipv4Network,
    /// Of Kubernetes inside.
    pub services: Ipv4Network,
}

/// Two networks share addresses: one of them could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} {} overlaps {} {}", .one.0, .one.1, .other.0, .other.1)]
pub struct Overlap {
    /// Of the cluster.
    pub one: (Use, Ipv4Network),
    /// Of the cluster too, or of a host.
    pub other: (Use, Ipv4Network),
}

impl Networks {
    fn all(&self) -> [(Use, Ipv4Network); 3] {
        [(Use::Overlay, self.overlay.network()), (Use::Pods, self.pods), (Use::Services, self.services)]
    }

    /// Those that overlap each other.
    pub fn overlaps(&self) -> Vec<Overlap> {
        let [overlay, pods, services] = self.all();
        let pairs = [(overlay, pods), (overlay, services), (pods, services)];
        let found = pairs.into_iter().filter(|(one, other)| overlap(one.1, other.1));
        found.map(|(one, other)| Overlap { one, other }).collect()
    }

    /// Those that overlap a host's own: with the overlay the host could not route, with pods and services guests could
    /// not reach what is in the host's network.
    pub fn overlaps_with_host(&self, host: &[Ipv4Network]) -> Vec<Overlap> {
        let pairs = self.all().into_iter().flat_map(|one| host.iter().map(move |other| (one, (Use::Host, *other))));
        let found = pairs.filter(|(one, other)| overlap(one.1, other.1));
        found.map(|(one, other)| Overlap { one, other }).collect()
    }
}

/// A cluster's network has fewer addresses than the cluster needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{cidr} has {} addresses, and the cluster needs {needed}: 1 for the gateway, {guests} for guests, {hosts} for their \
     hosts: at least a /{prefix} is needed",
    cidr.size()
)]
pub struct TooSmall {
    /// The network.
    pub cidr: OverlayCidr,
    /// How many addresses it should have.
    pub needed: u64,
    /// Of those for guests.
    pub guests: u32,
    /// Of those for hosts.
    pub hosts: u32,
    /// The longest prefix that has them.
    pub prefix: u8,
}

impl TooSmall {
    /// Whether so many guests fit, each on a host of its own as far as there are hosts.
    pub fn check(cidr: OverlayCidr, guests: u32, fleet: u32) -> Result<(), Self> {
        let hosts = guests.min(fleet);
        let needed = 1 + u64::from(guests) + u64::from(hosts);
        if needed <= u64::from(cidr.size()) {
            return Ok(());
        }
        // With the network's own and the broadcast address.
        let bits = (needed + 2).next_power_of_two().trailing_zeros();
        let prefix = u8::try_from(32_u32.saturating_sub(bits)).unwrap_or_default();
        Err(Self { cidr, needed, guests, hosts, prefix })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(overlay: &str, pods: &str, services: &str) -> Networks {
        let (pods, services) = (pods.parse().unwrap(), services.parse().unwrap());
        Networks { overlay: overlay.parse().unwrap(), pods, services }
    }

    #[test]
    fn networks_that_share_addresses_are_told_in_pairs() {
        let told = |networks: Networks| networks.overlaps().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(told(networks("10.7.0.0/24", "10.8.0.0/16", "10.9.0.0/16")).is_empty());
        assert_eq!(
            told(networks("10.7.0.0/24", "10.0.0.0/8", "10.9.0.0/16")),
            [
                "the cluster's network 10.7.0.0/24 overlaps the pods' network 10.0.0.0/8",
                "the pods' network 10.0.0.0/8 overlaps the services' network 10.9.0.0/16"
            ]
        );
    }

    #[test]
    fn a_hosts_own_network_is_told() {
        let host = ["192.0.2.0/24".parse().unwrap(), "10.8.3.0/24".parse().unwrap()];
        let found = networks("10.7.0.0/24", "10.8.0.0/16", "10.9.0.0/16").overlaps_with_host(&host);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "the pods' network 10.8.0.0/16 overlaps the host's own network 10.8.3.0/24");
    }

    #[test]
    fn a_network_that_is_too_small_says_which_would_do() {
        let cidr = "10.7.0.0/29".parse().unwrap();
        assert!(TooSmall::check(cidr, 3, 2).is_ok());
        assert_eq!(
            TooSmall::check(cidr, 5, 3).unwrap_err().to_string(),
            "10.7.0.0/29 has 6 addresses, and the cluster needs 9: 1 for the gateway, 5 for guests, 3 for their \
             hosts: at least a /28 is needed"
        );
    }

    proptest! {
        #[test]
        fn networks_overlap_if_they_share_an_address(one: u32, other: u32, a in 20_u8..=32, b in 20_u8..=32) {
            // Few bits that differ, or nothing would ever overlap.
            let network = |bits: u32, prefix| Ipv4Network::new((bits & 0x3fff).into(), prefix).unwrap();
            let (one, other) = (network(one, a), network(other, b));
            let shared = one.iter().any(|address| other.contains(address));
            prop_assert_eq!(overlap(one, other), shared);
            prop_assert_eq!(overlap(other, one), shared);
        }

        #[test]
        fn the_prefix_that_is_asked_for_is_the_longest_that_would_do(guests in 6_u32..100_000, fleet in 0_u32..20_000) {
            let Err(small) = TooSmall::check("10.0.0.0/29".parse().unwrap(), guests, fleet) else {
                return Err(TestCaseError::fail("six guests and a gateway are seven"));
            };
            let wide = |prefix: u8| format!("10.0.0.0/{prefix}").parse().unwrap();
            prop_assert!(TooSmall::check(wide(small.prefix), guests, fleet).is_ok());
            prop_assert!(TooSmall::check(wide(small.prefix + 1), guests, fleet).is_err());
        }
    }
}
