//! Addresses in a cluster's overlay: one for the gateway, one for each guest, one for each host.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    net::Ipv4Addr,
};

use goliath_proto::values::{GuestUid, HostName, OverlayCidr};

use super::free::FreeNumbers;

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// Of the cluster: the source of what the host itself says in the overlay.
    Host(HostName),
    /// For life.
    Guest(GuestUid),
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(formatter, "host {name}"),
            Self::Guest(uid) => write!(formatter, "guest {uid}"),
        }
    }
}

/// Who has which address of one cluster. Made from what is written in objects, so that a restarted operator gives the
/// same. Guests get the lowest that is free, hosts the highest: an address tells whose it is.
#[derive(Debug, Clone)]
pub struct Addresses {
    cidr: OverlayCidr,
    free: FreeNumbers,
    held: HashMap<Holder, Ipv4Addr>,
    holders: HashMap<Ipv4Addr, Holder>,
    hosts: u32,
}

/// Why nobody gets an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Every address is held.
    #[error(
        "{cidr} has {size} addresses: 1 of the gateway, {hosts} of hosts, {guests} of guests, none is free: \
         delete guests, or make a new cluster with a larger network"
    )]
    Exhausted {
        /// The network.
        cidr: OverlayCidr,
        /// How many there are.
        size: u32,
        /// Held by hosts.
        hosts: u32,
        /// Held by guests.
        guests: u32,
    },
    /// Two would answer.
    #[error("{address} is the address of {holder}")]
    Taken {
        /// Which.
        address: Ipv4Addr,
        /// Whose it is.
        holder: Holder,
    },
    /// All hosts of the cluster share it.
    #[error("{address} is the gateway's")]
    Gateway {
        /// Which.
        address: Ipv4Addr,
    },
    /// Not in the network, or its first or last.
    #[error("{address} is not for machines of {cidr}, which have {} to {}", cidr.first(), cidr.last())]
    Unusable {
        /// Which.
        address: Ipv4Addr,
        /// The network.
        cidr: OverlayCidr,
    },
    /// It is kept for life.
    #[error("{holder} has the address {held}, which cannot become {wanted}")]
    Other {
        /// Whose.
        holder: Holder,
        /// What it has.
        held: Ipv4Addr,
        /// Asked for.
        wanted: Ipv4Addr,
    },
}

impl Addresses {
    /// The gateway has the first address, and nobody else has any.
    pub fn new(cidr: OverlayCidr) -> Self {
        let mut free = FreeNumbers::new(cidr.first().to_bits()..=cidr.last().to_bits());
        free.take(cidr.first().to_bits());
        Self { cidr, free, held: HashMap::new(), holders: HashMap::new(), hosts: 0 }
    }

    /// The address that all hosts of the cluster share.
    pub fn gateway(&self) -> Ipv4Addr {
        self.cidr.first()
    }

    /// The address is written down as the holder's.
    pub fn hold(&mut self, holder: &Holder, address: Ipv4Addr) -> Result<(), AddressError> {
        match self.held.get(holder) {
            Some(held) if *held == address => return Ok(()),
            Some(held) => return Err(AddressError::Other { holder: holder.clone(), held: *held, wanted: address }),
            None => {}
        }
        if !(self.cidr.first()..=self.cidr.last()).contains(&address) {
            return Err(AddressError::Unusable { address, cidr: self.cidr });
        }
        if address == self.gateway() {
            return Err(AddressError::Gateway { address });
        }
        match self.holders.entry(address) {
            Entry::Occupied(entry) => Err(AddressError::Taken { address, holder: entry.get().clone() }),
            Entry::Vacant(entry) => {
                entry.insert(holder.clone());
                self.held.insert(holder.clone(), address);
                self.free.take(address.to_bits());
                self.hosts += u32::from(matches!(holder, Holder::Host(_)));
                Ok(())
            }
        }
    }

    /// The holder's address: the one it has, or a free one.
    pub fn allocate(&mut self, holder: &Holder) -> Result<Ipv4Addr, AddressError> {
        if let Some(held) = self.held.get(holder) {
            return Ok(*held);
        }
        let number = match holder {
            Holder::Guest(_) => self.free.first(),
            Holder::Host(_) => self.free.last(),
        };
        let address = Ipv4Addr::from_bits(number.ok_or_else(|| self.exhausted())?);
        self.hold(holder, address)?;
        Ok(address)
    }

    /// The guest, or the cluster's network on the host, is gone.
    pub fn release(&mut self, holder: &Holder) {
        if let Some(address) = self.held.remove(holder) {
            self.holders.remove(&address);
            self.free.give_back(address.to_bits());
            self.hosts -= u32::from(matches!(holder, Holder::Host(_)));
        }
    }

    /// The address that a holder has.
    pub fn get(&self, holder: &Holder) -> Option<Ipv4Addr> {
        self.held.get(holder).copied()
    }

    /// Whose an address is.
    pub fn holder(&self, address: Ipv4Addr) -> Option<&Holder> {
        self.holders.get(&address)
    }

    fn exhausted(&self) -> AddressError {
        let held = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        AddressError::Exhausted {
            cidr: self.cidr,
            size: self.cidr.size(),
            hosts: self.hosts,
            guests: held.saturating_sub(self.hosts),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn holder(number: u8) -> Holder {
        if number.is_multiple_of(3) {
            Holder::Host(format!("host-{number}").parse().unwrap())
        } else {
            Holder::Guest(Uuid::from_u128(u128::from(number) + 1).to_string().parse().unwrap())
        }
    }

    fn addresses(cidr: &str) -> Addresses {
        Addresses::new(cidr.parse().unwrap())
    }

    #[test]
    fn guests_are_counted_from_below_and_hosts_from_above() {
        let mut addresses = addresses("10.7.0.0/24");
        assert_eq!(addresses.gateway(), Ipv4Addr::new(10, 7, 0, 1));
        assert_eq!(addresses.allocate(&holder(1)), Ok(Ipv4Addr::new(10, 7, 0, 2)));
        assert_eq!(addresses.allocate(&holder(3)), Ok(Ipv4Addr::new(10, 7, 0, 254)));
        assert_eq!(addresses.allocate(&holder(2)), Ok(Ipv4Addr::new(10, 7, 0, 3)));
    }

    #[test]
    fn a_network_that_is_full_says_how_many_addresses_it_has() {
        let mut addresses = addresses("10.7.0.0/29");
        for number in 0..5 {
            addresses.allocate(&holder(number)).unwrap();
        }
        assert_eq!(
            addresses.allocate(&holder(5)).unwrap_err().to_string(),
            "10.7.0.0/29 has 6 addresses: 1 of the gateway, 2 of hosts, 3 of guests, none is free: \
             delete guests, or make a new cluster with a larger network"
        );
        addresses.release(&holder(1));
        assert!(addresses.allocate(&holder(5)).is_ok());
    }

    #[test]
    fn what_was_written_is_held_only_where_it_can_be() {
        let mut addresses = addresses("10.7.0.0/29");
        addresses.hold(&holder(1), Ipv4Addr::new(10, 7, 0, 2)).unwrap();
        let mut refusal = |number, last| {
            let error = addresses.hold(&holder(number), Ipv4Addr::new(10, 7, 0, last)).unwrap_err();
            error.to_string()
        };
        assert_eq!(refusal(2, 1), "10.7.0.1 is the gateway's");
        assert_eq!(refusal(2, 0), "10.7.0.0 is not for machines of 10.7.0.0/29, which have 10.7.0.1 to 10.7.0.6");
        assert_eq!(refusal(2, 9), "10.7.0.9 is not for machines of 10.7.0.0/29, which have 10.7.0.1 to 10.7.0.6");
        assert_eq!(refusal(0, 2), "10.7.0.2 is the address of guest 00000000-0000-0000-0000-000000000002");
        assert_eq!(
            refusal(1, 3),
            "guest 00000000-0000-0000-0000-000000000002 has the address 10.7.0.2, which cannot become 10.7.0.3"
        );
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice_and_none_changes_for_life(
            steps in prop::collection::vec((any::<bool>(), 0_u8..20), 0..100),
        ) {
            let mut addresses = addresses("10.7.0.0/28");
            let mut model: BTreeMap<u8, Ipv4Addr> = BTreeMap::new();
            for (allocate, number) in steps {
                if !allocate {
                    addresses.release(&holder(number));
                    model.remove(&number);
                    continue;
                }
                match addresses.allocate(&holder(number)) {
                    Ok(address) => {
                        prop_assert!(model.get(&number).is_none_or(|held| *held == address));
                        prop_assert!(model.iter().all(|(other, held)| *other == number || *held != address));
                        prop_assert!(address > addresses.gateway() && address <= Ipv4Addr::new(10, 7, 0, 14));
                        model.insert(number, address);
                    }
                    Err(_) => prop_assert_eq!(model.len(), 13),
                }
            }
            // A restart: in another order, from what was written.
            let mut again = Addresses::new("10.7.0.0/28".parse().unwrap());
            for (number, address) in model.iter().rev() {
                again.hold(&holder(*number), *address).unwrap();
            }
            for number in 0..20 {
                prop_assert_eq!(addresses.allocate(&holder(number)), again.allocate(&holder(number)));
            }
        }
    }
}
