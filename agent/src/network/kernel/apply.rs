//! Carries changes out.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{ClusterKernel, Failure, SeenRules, failure, is_gone};
use crate::{
    network::{
        Change, NetlinkError, NftError,
        link::{self, NewVxlan},
        netlink::Request,
        nftables::{self, Transaction},
        rules,
        state::{Device, DeviceKind, Role, Sender},
    },
    spec::MacAddress,
};

impl ClusterKernel {
    /// Carries changes out, in their order; goes on after failures and tells of all.
    pub fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let mut failures = Vec::new();
        // nft works while we do the rest: its part of attaching a guest takes about as long as netlink's.
        let transaction = self.begin_rules(changes, &mut failures);
        let mut pending = Pending::default();
        for change in changes {
            match change {
                Change::LoadRules(_) | Change::AddSender(_) | Change::DeleteSender(_) => {}
                Change::DeleteStray(_) | Change::DeleteDevice(_) | Change::CreateDevice(..) | Change::SetSysctl(..) => {
                    self.flush(&mut pending, &mut failures);
                    if let Err(failed) = self.apply_now(change) {
                        failures.push(failed);
                    }
                }
                other => match self.requests(other) {
                    Ok(requests) => {
                        pending.changes.extend(requests.iter().map(|_| other));
                        pending.requests.extend(requests);
                    }
                    Err(failed) => failures.push(failed),
                },
            }
        }
        self.flush(&mut pending, &mut failures);
        if let Some(Err(error)) = transaction.map(Transaction::finish) {
            failures.push(failure("change nftables' sets", &error));
            self.seen_rules = None;
        }
        failures
    }

    /// Loads rules at once where asked; begins the change of sets.
    fn begin_rules(&mut self, changes: &[Change], failures: &mut Vec<Failure>) -> Option<Transaction> {
        let mut script = String::new();
        for change in changes {
            match change {
                Change::LoadRules(senders) => match self.load_rules(senders) {
                    Ok(()) => {}
                    Err(error) => failures.push(failure(&change.to_string(), &error)),
                },
                Change::AddSender(sender) => {
                    rules::change_senders(&mut script, "add", [sender]);
                    if let Some(seen) = &mut self.seen_rules {
                        seen.senders.insert(*sender);
                    }
                }
                Change::DeleteSender(sender) => {
                    rules::change_senders(&mut script, "delete", [sender]);
                    if let Some(seen) = &mut self.seen_rules {
                        seen.senders.remove(sender);
                    }
                }
                _ => {}
            }
        }
        if script.is_empty() {
            return None;
        }
        match self.nft.begin(&script) {
            Ok(transaction) => Some(transaction),
            Err(error) => {
                failures.push(failure("change nftables' sets", &error));
                self.seen_rules = None;
                None
            }
        }
    }

    fn load_rules(&mut self, senders: &BTreeSet<Sender>) -> Result<(), NftError> {
        self.seen_rules = None;
        self.nft.run(&rules::cluster(senders))?;
        let objects = self.nft.list(&["ruleset"])?.unwrap_or_default();
        self.fingerprint = Some(nftables::fingerprint(&objects));
        self.seen_rules = Some(SeenRules { rules: true, senders: senders.clone() });
        Ok(())
    }

    fn apply_now(&mut self, change: &Change) -> Result<(), Failure> {
        let failed = |reason: &(dyn std::error::Error + 'static)| failure(&change.to_string(), reason);
        let refused = |result: Result<Result<(), io::Error>, NetlinkError>| match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(failed(&reason)),
            Err(error) => Err(failed(&error)),
        };
        match change {
            Change::SetSysctl(sysctl, value) => sysctl.write(value).map_err(|reason| failed(&reason)),
            Change::DeleteStray(name) => match if_nametoindex(name.as_str()) {
                Ok(index) => refused(self.inside.request(link::delete(index))),
                Err(_) => Ok(()),
            },
            Change::DeleteDevice(role) => {
                self.indexes.remove(role);
                match if_nametoindex(role.device().as_str()) {
                    Ok(index) => refused(self.inside.request(link::delete(index))),
                    Err(_) => Ok(()),
                }
            }
            Change::CreateDevice(role, device) => {
                refused(self.create(*role, device))?;
                let index = if_nametoindex(role.device().as_str()).map_err(|reason| failed(&reason))?;
                self.indexes.insert(*role, index);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn create(&mut self, role: Role, device: &Device) -> Result<Result<(), io::Error>, NetlinkError> {
        let name = role.device();
        match device.kind {
            DeviceKind::Bridge => self.inside.request(link::create_bridge(&name, &device.alias)),
            DeviceKind::Vxlan { vni, port, local } => self.host.request(link::create_vxlan(&NewVxlan {
                name: &name,
                alias: &device.alias,
                vni,
                port,
                local,
                namespace: self.namespace.as_fd().as_raw_fd(),
            })),
            DeviceKind::Gateway => match self.indexes.get(&Role::Bridge) {
                Some(bridge) => {
                    let mac = device.mac_address.unwrap_or(MacAddress::GATEWAY);
                    self.inside.request(link::create_gateway(&name, &device.alias, *bridge, mac))
                }
                None => Ok(Err(io::Error::other("there is no bridge to put it on"))),
            },
            DeviceKind::Egress => Ok(Err(io::Error::other("its other end in the host's namespace went away"))),
            DeviceKind::Tap => Ok(Err(io::Error::other("only the QEMU that holds it can bring it back"))),
            DeviceKind::Other => Ok(Err(io::Error::other("its kind is not known"))),
        }
    }

    fn flush(&mut self, pending: &mut Pending<'_>, failures: &mut Vec<Failure>) {
        if pending.requests.is_empty() {
            return;
        }
        match self.inside.batch(&pending.requests) {
            Ok(refusals) => {
                for refusal in refusals {
                    let change = pending.changes[refusal.request];
                    if !is_harmless(change, refusal.code) {
                        failures.push(failure(&change.to_string(), &refusal.reason));
                    }
                }
            }
            Err(error) => failures.push(failure("write a batch", &error)),
        }
        *pending = Pending::default();
    }
}

#[derive(Default)]
struct Pending<'c> {
    requests: Vec<Request>,
    /// For each request, what it is part of.
    changes: Vec<&'c Change>,
}

fn is_harmless(change: &Change, code: i32) -> bool {
    match change {
        Change::DeleteAddress(..)
        | Change::DeleteRoute(_)
        | Change::DeleteBridgeEntry(..)
        | Change::DeleteTunnelEntry(..)
        | Change::DeleteFlood(_)
        | Change::DeleteNeighbour(_) => is_gone(code),
        Change::AddFlood(_) => Errno::from_raw(code) == Errno::EEXIST,
        _ => false,
    }
}
