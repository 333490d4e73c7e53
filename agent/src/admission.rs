//! Whether a guest or a network can be on this host as it is asked for: pure decisions over one moment of the ledger.
//!
//! What cannot work is refused when it is asked for, not later, and the refusal says what stands against it.

mod network;
mod overhead;
mod room;
#[cfg(test)]
mod tests;

use std::fmt;

pub use network::{NetworkDecision, admit_network};
pub use overhead::{MachineKind, Overhead, Overheads};
pub use room::{Capacity, Demand, Room, Shortage};

use crate::{
    ledger::{GuestRecord, NetworkRecord, Snapshot},
    spec::{ByteSize, Generation, GuestSpec, ImageReference},
};

/// What a spec does to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was none before.
    Created,
    /// It differs from the one before.
    Updated,
    /// It is so already: nothing is written.
    Unchanged,
}

/// Why a guest or a network is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// All that stands against it.
    Conflicts(Vec<Conflict>),
    /// Every number that is short.
    Full(Vec<Shortage>),
}

/// Something that stands against a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// For programs, such as `ADDRESS_TAKEN`.
    pub kind: ConflictKind,
    /// The field's path, or the resource.
    pub subject: String,
    /// A sentence.
    pub description: String,
}

/// What kind of thing stands against a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConflictKind {
    /// Its generation is older than the one held.
    StaleGeneration,
    /// Its generation is the one held, and it differs from what that one was.
    ReusedGeneration,
    /// It is being deleted.
    Deleting,
    /// The host takes no new guests.
    Cordoned,
    /// The field stays as it was for life.
    Immutable,
    /// A guest of the cluster has the name.
    NameTaken,
    /// A guest of the cluster has the address.
    AddressTaken,
    /// A guest of the cluster has the MAC address.
    MacAddressTaken,
    /// Nobody in the network can have the address.
    AddressUnusable,
    /// Something of the host stands against it.
    Host,
}

impl ConflictKind {
    /// As programs get it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::StaleGeneration => "STALE_GENERATION",
            Self::ReusedGeneration => "REUSED_GENERATION",
            Self::Deleting => "DELETING",
            Self::Cordoned => "HOST_CORDONED",
            Self::Immutable => "IMMUTABLE_FIELD",
            Self::NameTaken => "NAME_TAKEN",
            Self::AddressTaken => "ADDRESS_TAKEN",
            Self::MacAddressTaken => "MAC_ADDRESS_TAKEN",
            Self::AddressUnusable => "ADDRESS_UNUSABLE",
            Self::Host => "HOST_CONFLICT",
        }
    }
}

impl Conflict {
    /// A conflict.
    pub fn new(kind: ConflictKind, subject: impl Into<String>, description: impl Into<String>) -> Self {
        Self { kind, subject: subject.into(), description: description.into() }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.description)
    }
}

/// Whether a guest can be on this host as asked for, and what that does. `image_disk` is the size of an image's disk,
/// where the image is known.
pub fn admit_guest(
    snapshot: &Snapshot,
    room: &Room,
    image_disk: &dyn Fn(&ImageReference) -> Option<ByteSize>,
    new: &GuestSpec,
) -> Result<Outcome, Refusal> {
    let held = snapshot.guests.get(&new.uid).map(AsRef::as_ref);
    if let Some(held) = held
        && let Some(outcome) = succeeds(held, new)?
    {
        return Ok(outcome);
    }
    let mut conflicts = Vec::new();
    match held {
        Some(held) => conflicts.extend(changed_for_life(&held.spec, new)),
        None if snapshot.host.cordoned => conflicts.push(Conflict::new(
            ConflictKind::Cordoned,
            "host",
            "the host is cordoned: it takes no new guests until that is lifted",
        )),
        None => {}
    }
    let others =
        || snapshot.guests.values().map(AsRef::as_ref).filter(|other: &&GuestRecord| other.spec.uid != new.uid);
    for other in others().filter(|other| other.spec.cluster == new.cluster) {
        conflicts.extend(taken(&other.spec, new));
    }
    if let Some(network) = snapshot.networks.get(&new.cluster) {
        conflicts.extend(unusable_address(network, new));
    }
    if !conflicts.is_empty() {
        return Err(Refusal::Conflicts(conflicts));
    }
    let demand = |spec: &GuestSpec| Demand::of(spec, image_disk(&spec.image));
    let others: Vec<Demand> = others().map(|other| demand(&other.spec)).collect();
    let shortages = room.shortages(&others, held.map(|held| demand(&held.spec)), demand(new));
    if !shortages.is_empty() {
        return Err(Refusal::Full(shortages));
    }
    Ok(if held.is_some() { Outcome::Updated } else { Outcome::Created })
}

/// Whether a spec may follow the one held, by its generation; some outcome where there is nothing more to decide.
fn succeeds(held: &GuestRecord, new: &GuestSpec) -> Result<Option<Outcome>, Refusal> {
    let what = || format!("guest {}", new.uid);
    if held.deleting {
        return Err(Refusal::Conflicts(vec![deleting(what())]));
    }
    Ok(generation(held.spec.generation, new.generation, held.spec == *new, "spec.generation", &what())?
        .then_some(Outcome::Unchanged))
}

fn deleting(what: String) -> Conflict {
    let description = format!("{what} is being deleted: wait until it is gone");
    Conflict::new(ConflictKind::Deleting, what, description)
}

/// The rule of all generations: whether this one is held already, as it is.
fn generation(held: Generation, new: Generation, same: bool, field: &str, what: &str) -> Result<bool, Refusal> {
    if new > held {
        return Ok(false);
    }
    if new == held && same {
        return Ok(true);
    }
    let (kind, description) = if new == held {
        let description = format!(
            "{what} has generation {held} already, and differs from this one: a change needs a newer generation"
        );
        (ConflictKind::ReusedGeneration, description)
    } else {
        (ConflictKind::StaleGeneration, format!("{what} has generation {held} already, which is newer than {new}"))
    };
    Err(Refusal::Conflicts(vec![Conflict::new(kind, field, description)]))
}

/// What a guest keeps for life: who it is, and what its disks hold.
fn changed_for_life(held: &GuestSpec, new: &GuestSpec) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    let mut fixed = |field: &str, why: String| {
        conflicts.push(Conflict::new(ConflictKind::Immutable, field, format!("{field} {why}")));
    };
    if held.name != new.name {
        fixed("spec.name", format!("is {} for life", held.name));
    }
    if held.cluster != new.cluster {
        fixed("spec.cluster", format!("is {} for life", held.cluster));
    }
    match (&held.root_disk, &new.root_disk) {
        (Some(_), None) => fixed("spec.disks", "must keep the root disk: it lives as long as the guest".to_owned()),
        (Some(had), Some(wants)) => {
            // The overlay would lie on another base than it was made for.
            if held.image != new.image {
                fixed("spec.image", format!("is {} for life, since the root disk lies on it", held.image));
            }
            match (had.size, wants.size) {
                (Some(had), None) => fixed("spec.disks", format!("must keep the root disk's size of {had}")),
                (Some(had), Some(wants)) if wants < had => {
                    fixed("spec.disks", format!("must not shrink the root disk from {had} to {wants}"));
                }
                _ => {}
            }
        }
        (None, _) => {}
    }
    for had in &held.data_disks {
        match new.data_disks.iter().find(|disk| disk.serial == had.serial) {
            None => fixed("spec.disks", format!("must keep the disk {}: it lives as long as the guest", had.serial)),
            Some(wants) if wants.size < had.size => {
                fixed(
                    "spec.disks",
                    format!("must not shrink the disk {} from {} to {}", had.serial, had.size, wants.size),
                );
            }
            Some(_) => {}
        }
    }
    conflicts
}

/// What two guests of a cluster cannot both have.
fn taken(other: &GuestSpec, new: &GuestSpec) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    let mut taken = |kind, field: &str, what: String| {
        conflicts.push(Conflict::new(kind, field, format!("{field}: {what} is that of guest {}", other.uid)));
    };
    if other.name == new.name {
        taken(ConflictKind::NameTaken, "spec.name", new.name.to_string());
    }
    if let (Some(theirs), Some(ours)) = (&other.network, &new.network) {
        if theirs.address == ours.address {
            taken(ConflictKind::AddressTaken, "spec.network.ipv4_address", ours.address.to_string());
        }
        if other.mac_address() == new.mac_address() {
            taken(ConflictKind::MacAddressTaken, "spec.network.mac_address", new.mac_address().to_string());
        }
    }
    conflicts
}

/// What nobody in the cluster's network can have.
fn unusable_address(network: &NetworkRecord, new: &GuestSpec) -> Option<Conflict> {
    let address = new.network.as_ref()?.address;
    let spec = &network.spec;
    let why = network::unusable(spec, address)?;
    Some(Conflict::new(
        ConflictKind::AddressUnusable,
        "spec.network.ipv4_address",
        format!("spec.network.ipv4_address: {address} {why}"),
    ))
}
