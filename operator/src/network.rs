//! Networks of clusters as numbers: VNIs, overlay addresses, and which host must know of which others. Pure: drivers
//! bring in what is written in objects and what agents hold, and write down and send what comes out.

mod addresses;
mod check;
mod free;
mod peers;
mod vni;

pub use addresses::{AddressError, Addresses, Holder};
pub use check::{Networks, Overlap, TooSmall, Use};
pub use peers::{AgentHas, ContentHash, GuestPlace, HostPlace, Next, Peer, PeerEndpoint, PeerList, Peers};
pub use vni::{VniError, VniRange, Vnis};

use ipnetwork::Ipv4Network;

/// Whether two networks share an address.
pub fn overlap(one: Ipv4Network, other: Ipv4Network) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}
