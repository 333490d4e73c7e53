//! Whether a network can be on this host: refused when it is asked for, with all reasons. Pure.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::{VXLAN_OVERHEAD, desired::overlay_mtu, host::HostFacts};
use crate::spec::NetworkSpec;

/// Why a network cannot be as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The field of `NetworkSpec`, as the API names it.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Below this there is no room for the gateway, two hosts and three guests.
const LONGEST_PREFIX: u8 = 29;

/// Networks that no overlay can have: this network, loopback, link-local (the way out), multicast and beyond.
const RESERVED: [(&str, &str); 4] = [
    ("0.0.0.0/8", "this network"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, by which clusters reach the world"),
    ("224.0.0.0/3", "multicast and reserved"),
];

/// All that speaks against a network on this host.
pub fn refusals<'n>(
    spec: &NetworkSpec,
    others: impl Iterator<Item = &'n NetworkSpec>,
    facts: &HostFacts,
    underlay_address: Ipv4Addr,
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for other in others.filter(|other| other.cluster != spec.cluster && other.vni == spec.vni) {
        let reason =
            format!("{} is the VNI of cluster {} on this host: clusters need different ones", spec.vni, other.cluster);
        refusals.push(Refusal { field: "vni", reason });
    }
    let mut cidr = |reason| refusals.push(Refusal { field: "cidr", reason });
    if spec.cidr.prefix() > LONGEST_PREFIX {
        cidr(format!(
            "{} has no room for a gateway, hosts and guests: at least a /{LONGEST_PREFIX} is needed",
            spec.cidr
        ));
    } else if spec.cidr.prefix() == 0 {
        cidr("0.0.0.0/0 is everything: give the overlay a network of its own".to_owned());
    }
    for (network, what) in RESERVED {
        if spec.cidr.prefix() > 0 && network.parse().is_ok_and(|network| overlap(spec.cidr, network)) {
            cidr(format!("{} overlaps {network}, which is {what}", spec.cidr));
        }
    }
    for device in facts.devices.iter().filter(|device| !device.loopback) {
        for network in device.networks.iter().filter(|network| overlap(spec.cidr, **network)) {
            cidr(format!("{} overlaps {network}, the host's own network on {}", spec.cidr, device.name));
        }
    }
    host_addresses(spec, &mut refusals);
    mtu(spec, facts, underlay_address, &mut refusals);
    refusals
}

fn host_addresses(spec: &NetworkSpec, refusals: &mut Vec<Refusal>) {
    for (field, address) in [("gateway_address", spec.gateway), ("host_address", spec.host_address)] {
        let reason = if !spec.cidr.contains(address) {
            format!("{address} is not in {}", spec.cidr)
        } else if address == spec.cidr.network() {
            format!("{address} is the network's own address")
        } else if address == spec.cidr.broadcast() {
            format!("{address} is the broadcast address")
        } else {
            continue;
        };
        refusals.push(Refusal { field, reason });
    }
    if spec.gateway == spec.host_address {
        let reason = format!("{} is the gateway's, which all hosts share: a host needs one of its own", spec.gateway);
        refusals.push(Refusal { field: "host_address", reason });
    }
}

fn mtu(spec: &NetworkSpec, facts: &HostFacts, underlay_address: Ipv4Addr, refusals: &mut Vec<Refusal>) {
    match facts.underlay(underlay_address) {
        // It is not the caller's mistake, but here nothing can work.
        Err(reason) => refusals.push(Refusal { field: "cluster", reason: reason.to_string() }),
        Ok(underlay) => match (spec.mtu, overlay_mtu(underlay.mtu)) {
            (_, None) => {
                let reason = format!(
                    "the underlay {} has an MTU of {}: with {VXLAN_OVERHEAD} bytes for VXLAN too little is left",
                    underlay.device, underlay.mtu
                );
                refusals.push(Refusal { field: "mtu", reason });
            }
            (Some(asked), Some(largest)) if asked > largest => {
                let reason = format!(
                    "is {asked}: the underlay {} has an MTU of {}, less {VXLAN_OVERHEAD} for VXLAN is {largest}",
                    underlay.device, underlay.mtu
                );
                refusals.push(Refusal { field: "mtu", reason });
            }
            _ => {}
        },
    }
}

fn overlap(one: Ipv4Network, other: Ipv4Network) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

#[cfg(test)]
mod tests;
