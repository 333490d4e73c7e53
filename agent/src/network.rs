//! A cluster's network on this host: a namespace with bridge, VXLAN, taps and rules.
//!
//! What shall be there is computed ([`desired`]), compared with what is there ([`State::changes_to`]), and only the
//! difference is written, in batches. These decisions are pure; [`kernel`] carries them out and [`host`] does what
//! belongs to the host's own namespace. Who decides when is [`crate::reconcile::network`].

pub mod admission;
mod change;
mod desired;
mod egress;
pub mod host;
pub mod kernel;
mod link;
pub mod monitor;
pub mod namespace;
mod netlink;
mod nftables;
mod observe;
mod rules;
mod state;
mod sysctl;
pub mod tap;

pub use change::Change;
pub use desired::{Port, Wanted, desired, desired_port, overlay_mtu, settings};
pub use egress::EgressSlot;
pub use host::{HostDevice, HostFacts, Underlay};
pub use namespace::{Namespace, Worker, WorkerGone};
pub use netlink::NetlinkError;
pub use nftables::NftError;
pub use state::{Device, DeviceKind, Neighbour, PortFlags, Role, Route, Sender, State};
pub use sysctl::Sysctl;
pub use tap::TapError;

/// What VXLAN adds to a packet over IPv4: the inner Ethernet header, VXLAN's, UDP's and IPv4's.
pub const VXLAN_OVERHEAD: u16 = 50;
