//! One cluster's network in the kernel: reads what is there and carries changes out.
//!
//! Lives on a thread in the cluster's namespace.

mod apply;
mod messages;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{
    Namespace, NetlinkError, NftError, TapError,
    desired::Port,
    link,
    namespace::NamespaceError,
    netlink::Netlink,
    nftables::{self, Nft},
    observe, rules,
    state::{Role, Sender, State},
    sysctl::Sysctl,
    tap,
};
use crate::{
    errors::with_causes,
    spec::{ClusterName, GuestUid},
};

/// The cluster's namespace could not be made ready or looked at.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// nftables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A setting of the kernel's.
    #[error("cannot read the kernel's setting {0}")]
    Sysctl(String, #[source] io::Error),
    /// Somebody else's device.
    #[error("device {0} in the cluster's namespace is not the agent's: rename or delete it")]
    NameTaken(String),
    /// The thread.
    #[error("cannot start a thread for the network")]
    Thread(#[from] io::Error),
}

/// One change that did not happen.
#[derive(Debug)]
pub struct Failure {
    /// As a sentence: what was tried and what the kernel said.
    pub message: String,
}

/// What is there.
#[derive(Debug)]
pub struct Observation {
    /// As far as it is looked after.
    pub state: State,
    /// The guests whose taps are there.
    pub ports: BTreeMap<GuestUid, Port>,
    /// The binding of the namespace was gone, and is there again.
    pub rebound: bool,
}

/// One cluster's network in the kernel.
pub struct ClusterKernel {
    cluster: ClusterName,
    path: PathBuf,
    namespace: Namespace,
    inside: Netlink,
    /// A socket of the host's namespace, from which tunnels come.
    host: Netlink,
    nft: Nft,
    indexes: BTreeMap<Role, u32>,
    /// The rules as they were listed after we loaded them.
    fingerprint: Option<String>,
    /// What the last look at the rules found; None: they may have changed since.
    seen_rules: Option<SeenRules>,
}

#[derive(Debug, Clone)]
struct SeenRules {
    rules: bool,
    senders: BTreeSet<Sender>,
}

impl ClusterKernel {
    /// Enters the cluster's namespace, which is made if it is not there. The calling thread stays in it.
    pub fn open(cluster: ClusterName, path: PathBuf, host: &Namespace, nft: PathBuf) -> Result<Self, KernelError> {
        host.enter()?;
        let host = Netlink::open()?;
        let namespace = if let Some(namespace) = Namespace::bound_at(&path)? {
            namespace.enter()?;
            namespace
        } else {
            let namespace = Namespace::enter_new()?;
            Namespace::bind_current(&path)?;
            namespace
        };
        Ok(Self {
            cluster,
            path,
            namespace,
            inside: Netlink::open()?,
            host,
            nft: Nft::new(nft),
            indexes: BTreeMap::new(),
            fingerprint: None,
            seen_rules: None,
        })
    }

    /// A second handle on the namespace.
    pub fn namespace(&self) -> io::Result<OwnedFd> {
        self.namespace.as_fd().try_clone_to_owned()
    }

    /// Whether a device of that name is there.
    pub fn has_device(&self, role: Role) -> bool {
        if_nametoindex(role.device().as_str()).is_ok()
    }

    /// The guests whose taps are there.
    pub fn taps(&mut self, known: &BTreeMap<GuestUid, Port>) -> Result<Vec<GuestUid>, KernelError> {
        Ok(observe::observe(&mut self.inside, &self.cluster, known)?.ports.into_keys().collect())
    }

    /// The rules may have been changed by somebody.
    pub fn look_at_rules_again(&mut self) {
        self.seen_rules = None;
    }

    /// Reads what is there. `known` are the ports the caller knows; of `sysctls` the values are read.
    pub fn observe(
        &mut self,
        known: &BTreeMap<GuestUid, Port>,
        sysctls: &BTreeMap<Sysctl, String>,
    ) -> Result<Observation, KernelError> {
        let rebound = self.bind_again()?;
        let found = observe::observe(&mut self.inside, &self.cluster, known)?;
        if let Some(name) = found.squatters.into_iter().next() {
            return Err(KernelError::NameTaken(name));
        }
        self.indexes = found.indexes;
        let mut state = found.state;
        for (sysctl, wanted) in sysctls {
            match sysctl.read().map_err(|source| KernelError::Sysctl(sysctl.to_string(), source))? {
                Some(value) => {
                    state.sysctls.insert(sysctl.clone(), value);
                }
                // Where the kernel has no such part, there is nothing to be put right.
                None if sysctl.is_optional() => {
                    state.sysctls.insert(sysctl.clone(), wanted.clone());
                }
                None => {}
            }
        }
        let uids: Vec<GuestUid> = found.ports.keys().chain(known.keys()).copied().collect();
        let seen = self.rules(&uids)?;
        state.rules = seen.rules;
        state.senders = seen.senders;
        Ok(Observation { state, ports: found.ports, rebound })
    }

    /// `ip netns del` takes only the name away while guests are in the namespace; it gets it back.
    fn bind_again(&self) -> Result<bool, KernelError> {
        match Namespace::bound_at(&self.path)? {
            Some(bound) if bound.is_same_as(&self.namespace) => Ok(false),
            // Somebody else's namespace by our name: not ours to remove, and ours stays reachable by the next agent only
            // by this name.
            Some(_) => {
                tracing::warn!(path = %self.path.display(), "another network namespace is bound here");
                Ok(false)
            }
            None => {
                Namespace::bind_current(&self.path)?;
                Ok(true)
            }
        }
    }

    fn rules(&mut self, uids: &[GuestUid]) -> Result<SeenRules, KernelError> {
        if let Some(seen) = &self.seen_rules {
            return Ok(seen.clone());
        }
        let objects = self.nft.list(&["ruleset"])?.unwrap_or_default();
        let unchanged = self.fingerprint.as_deref().is_some_and(|known| known == nftables::fingerprint(&objects));
        let senders = rules::senders(&objects, uids);
        let seen = SeenRules { rules: unchanged && senders.is_some(), senders: senders.unwrap_or_default() };
        self.seen_rules = Some(seen.clone());
        Ok(seen)
    }

    /// Opens a guest's tap: a new device without anything yet.
    pub fn open_tap(&mut self, uid: GuestUid) -> Result<OwnedFd, TapError> {
        let role = Role::Tap(uid);
        let device = role.device();
        let file = tap::open(&device)?;
        let index =
            if_nametoindex(device.as_str()).map_err(|reason| TapError::Driver { device, source: reason.into() })?;
        self.indexes.insert(role, index);
        Ok(file)
    }

    /// Removes a guest's tap if it is still there.
    pub fn delete_tap(&mut self, uid: GuestUid) -> Result<(), Failure> {
        let role = Role::Tap(uid);
        self.indexes.remove(&role);
        let Ok(index) = if_nametoindex(role.device().as_str()) else { return Ok(()) };
        match self.inside.batch(&[link::delete(index)]) {
            Ok(refusals) => match refusals.into_iter().find(|refusal| !is_gone(refusal.code)) {
                Some(refusal) => Err(failure(&format!("delete device {role}"), &refusal.reason)),
                None => Ok(()),
            },
            Err(error) => Err(failure(&format!("delete device {role}"), &error)),
        }
    }

    /// The path at which the namespace is bound.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes everything, as far as it can, and tells what it could not. The namespace goes when this does.
    pub fn tear_down(&mut self) -> Vec<Failure> {
        let mut failures = Vec::new();
        match link::list(&mut self.inside) {
            // The tunnel first: its VNI is free for another network when we return. The rest would go with the
            // namespace, but the namespace lives on while some process is in it.
            Ok(links) => {
                let ours = |role: Role| links.iter().find(move |link| link.name == role.device());
                for role in [Role::Vxlan, Role::Egress, Role::Gateway, Role::Bridge] {
                    let Some(link) = ours(role) else { continue };
                    match self.inside.batch(&[link::delete(link.index)]) {
                        Ok(refusals) => failures.extend(
                            refusals
                                .into_iter()
                                .filter(|refusal| !is_gone(refusal.code))
                                .map(|refusal| failure(&format!("delete device {role}"), &refusal.reason)),
                        ),
                        Err(error) => failures.push(failure(&format!("delete device {role}"), &error)),
                    }
                }
            }
            Err(error) => failures.push(failure("list devices", &error)),
        }
        let foreign = matches!(Namespace::bound_at(&self.path), Ok(Some(bound)) if !bound.is_same_as(&self.namespace));
        if !foreign && let Err(error) = Namespace::unbind(&self.path) {
            failures.push(failure("remove the namespace", &error));
        }
        self.indexes.clear();
        self.seen_rules = None;
        failures
    }
}

/// What was to be deleted is not there: as wanted.
fn is_gone(code: i32) -> bool {
    matches!(Errno::from_raw(code), Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL)
}

/// A failure with all of its causes.
fn failure(what: &str, reason: &(dyn std::error::Error + 'static)) -> Failure {
    Failure { message: format!("cannot {what}: {}", with_causes(reason)) }
}
