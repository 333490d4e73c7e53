//! Which address each new guest gets.

use std::{net::Ipv4Addr, sync::Arc};

use goliath_proto::values::OverlayCidr;
use uuid::Uuid;

use super::group::{Group, name_of, object_name};
use crate::{
    network::{Addresses, Holder},
    objects::{Cluster, Guest, NetworkAllocation, ResourceExt as _},
    render::Member,
};

/// The cluster's addresses, some of which it gives out.
///
/// Masters have those behind the gateway's, in the order of their indexes: each is told at its first start where the
/// others are, also those that are still to come. Others get the lowest that is free. A guest that is made again gets
/// what it had.
pub(super) struct AddressPlan {
    addresses: Addresses,
    masters: Vec<Master>,
}

struct Master {
    hostname: String,
    /// Of its object.
    name: String,
    /// Of the guest that is there.
    address: Option<Ipv4Addr>,
}

impl AddressPlan {
    /// With what guests and hosts have.
    pub(super) fn new(cluster: &Cluster, network: &NetworkAllocation, guests: &[Arc<Guest>]) -> Result<Self, String> {
        let cidr: Result<OverlayCidr, _> = cluster.spec.network.cidr.to_string().parse();
        let mut addresses = Addresses::new(cidr.map_err(|reason| format!("the cluster's network {reason}"))?);
        // What cannot be held was written by hand: it is nobody's to give out, and others are told of it elsewhere.
        for guest in guests {
            if let (Some(interface), Some(uid)) = (&guest.spec.network, &guest.metadata.uid) {
                let _ = uid.parse().map(|uid| addresses.hold(&Holder::Guest(uid), interface.ipv4_address));
            }
        }
        for (host, address) in &network.host_addresses {
            let _ = host.as_str().parse().map(|host| addresses.hold(&Holder::Host(host), *address));
        }
        for (name, address) in cluster.status.iter().flat_map(|status| &status.reserved_addresses) {
            let _ = addresses.hold(&to_come(name.as_str())?, *address);
        }
        let masters = masters(cluster, guests);
        let first = addresses.gateway().to_bits().saturating_add(1);
        for (meant, master) in (first..).map(Ipv4Addr::from_bits).zip(&masters) {
            if master.address.is_none() {
                // Where somebody has it already, the master gets another one when it is made.
                let _ = addresses.hold(&to_come(&master.name)?, meant);
            }
        }
        Ok(Self { addresses, masters })
    }

    /// The address of a guest that is not there yet, by the name of its object.
    pub(super) fn give(&mut self, name: &str) -> Result<Ipv4Addr, String> {
        self.addresses.allocate(&to_come(name)?).map_err(|error| error.to_string())
    }

    /// All masters, as their own and each other's seeds have them.
    pub(super) fn members(&mut self) -> Result<Vec<Member>, String> {
        let Self { addresses, masters } = self;
        let members = masters.iter().map(|Master { hostname, name, address }| {
            let address = match address {
                Some(address) => *address,
                None => addresses.allocate(&to_come(name)?).map_err(|error| error.to_string())?,
            };
            Ok(Member { name: hostname.clone(), address })
        });
        members.collect()
    }
}

fn masters(cluster: &Cluster, guests: &[Arc<Guest>]) -> Vec<Master> {
    let groups = Group::all(&cluster.spec);
    let hostnames = groups.iter().take(1).flat_map(|masters| masters.indexes().map(|index| masters.hostname(index)));
    let master = |hostname: String| {
        let name = object_name(name_of(cluster), &hostname);
        let there = guests.iter().find(|guest| guest.name_any() == name);
        let address = there.and_then(|guest| guest.spec.network.as_ref()).map(|interface| interface.ipv4_address);
        Master { hostname, name, address }
    };
    hostnames.map(master).collect()
}

/// Stands for a guest whose uid is not known yet.
fn to_come(name: &str) -> Result<Holder, String> {
    let uid = Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string();
    uid.parse().map(Holder::Guest).map_err(|reason| format!("guest {name} cannot be told from others: {reason}"))
}
