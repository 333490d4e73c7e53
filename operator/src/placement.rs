//! Which host runs a guest. Pure: drivers bring hosts, guests and bindings in, and write down what was chosen.
//!
//! # The rule
//! Of the hosts that pass every filter, a guest gets the least by, in this order:
//! 1. guests of its group (a cluster's masters, or one pool) in the host's zone;
//! 2. guests of its group on the host;
//! 3. 255 less the points: the percentage of the scarcest resource that is left after placing, and
//!    [`score::IMAGE_POINTS`] where the image is there already;
//! 4. the way from the guest to the host on a ring of hashes of the uid and the hosts' names.
//!
//! [`Fleet::choose`] finds it by an index, [`Fleet::choose_by_scan`] by looking at every host; both give the same
//! answer, whatever order hosts and bindings came in. A guest that is bound stays where it is.
//!
//! # What it costs
//! Guests with equal needs share a [`shape::Shape`]: the hosts that fit, in the order of the rule. A host that changed
//! is put right in a shape when the shape is next asked, in logarithmic time. Beyond that a choice costs a look at each
//! zone, and at each host passed over: those with guests of the same group, or where the cluster's network cannot be.
//! A shape that was never asked, or not for long, is built from all hosts once.

mod account;
mod batch;
mod choose;
mod explain;
mod filter;
mod fleet;
mod guest;
mod host;
mod score;
mod shape;
mod spread;
#[cfg(test)]
mod tests;

pub use batch::Outcome;
pub use choose::Decision;
pub use explain::{Explanation, HostVerdict, NoRoom, ReasonCount, Remedy, Verdict};
pub use filter::{Rejection, RejectionKind};
pub use fleet::{Fleet, HostUse};
pub use guest::{Accelerator, Group, Guest, Needs, OverlayNeed};
pub use host::{Accelerators, Condition, Held, Host, Inventory, Resource, Resources};
pub use score::{Choice, IMAGE_POINTS, Score};
