//! Joins guests to their network.
//!
//! Guests that come at once are joined by one batch of netlink messages and one nftables transaction. Where that fails
//! they are tried one by one, so that no guest fails because of another.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use tokio::time::Instant;

use super::{
    Attach, AttachError, Readiness, Tap,
    task::{Task, present, sentence},
};
use crate::{
    network::{Change, Device, DeviceKind, Port, Role, State, TapError, WorkerGone, desired_port, kernel::Failure},
    spec::{GuestUid, Mtu},
};

/// A guest that may be joined, and what that takes.
struct Planned {
    guest: Attach,
    changes: Vec<Change>,
}

type Opened = Result<OwnedFd, TapError>;

impl Task {
    /// Joins all, and answers each.
    pub(super) async fn attach(&mut self, guests: Vec<Attach>) {
        let (mtu, believed) = match self.ready_to_attach() {
            Ok(ready) => ready,
            Err(reason) => {
                for guest in guests {
                    let error = AttachError::NotReady { cluster: self.cluster.clone(), reason: reason.clone() };
                    answer(guest, Err(error));
                }
                return;
            }
        };
        let (planned, mut believed) = self.plan(guests, mtu, believed);
        if planned.is_empty() {
            self.believed = Some(believed);
            return;
        }
        let done = self.carry_out(&planned).await;
        self.changed_by_us();
        match done {
            Ok((failures, files)) if failures.is_empty() => {
                let all_opened = files.iter().all(Result::is_ok);
                for (Planned { guest, changes }, file) in planned.into_iter().zip(files) {
                    let port = guest.port;
                    let result = match file {
                        Ok(file) => {
                            believed = changes.iter().fold(believed, State::after);
                            self.ports.insert(port.uid, port);
                            Ok(Tap { file, mtu, device: Role::Tap(port.uid).device() })
                        }
                        Err(TapError::Held { .. }) => Err(AttachError::Held),
                        Err(error) => Err(AttachError::Tap(error)),
                    };
                    answer(guest, result);
                }
                if all_opened {
                    self.believed = Some(believed);
                } else {
                    // What is there of the others is not known.
                    self.look_at = Instant::now();
                }
                self.publish();
            }
            Ok((failures, files)) => {
                // A tap that is not whole goes with its file.
                drop(files);
                self.failed_to_attach(planned, &failures).await;
            }
            Err(gone) => {
                self.kernel = None;
                self.look_at = Instant::now();
                for Planned { guest, .. } in planned {
                    answer(guest, Err(AttachError::Kernel(gone.to_string())));
                }
            }
        }
    }

    /// What is known to be there, taken out: it is put back when what happens next is known.
    fn ready_to_attach(&mut self) -> Result<(Mtu, State), String> {
        if let Readiness::NotReady { reason } = self.readiness() {
            return Err(reason);
        }
        let (Some(_), Some(mtu)) = (&self.kernel, self.mtu) else {
            return Err("its namespace is being opened".to_owned());
        };
        let believed = self.believed.take().ok_or_else(|| "it is being repaired".to_owned())?;
        Ok((mtu, believed))
    }

    /// Refuses those who cannot be joined.
    fn plan(&self, guests: Vec<Attach>, mtu: Mtu, mut believed: State) -> (Vec<Planned>, State) {
        let mut present = present(&self.ports, &believed);
        let mut planned = Vec::new();
        for guest in guests {
            let port = guest.port;
            if let Err(refused) = self.check_place(&port, &present) {
                answer(guest, Err(refused));
                continue;
            }
            let fresh = Device {
                kind: DeviceKind::Tap,
                mac_address: None,
                mtu: 1500,
                alias: String::new(),
                port: None,
                up: false,
            };
            believed = believed.without(Role::Tap(port.uid));
            believed.devices.insert(Role::Tap(port.uid), fresh);
            present.insert(port.uid, port);
            let wanted = desired_port(&self.wanted(mtu, &self.ports), &port);
            let changes = believed.part_of(port.uid, port.mac, port.address).changes_to(&wanted);
            planned.push(Planned { guest, changes });
        }
        (planned, believed)
    }

    /// The last line of defence: whoever asked was to see to it.
    fn check_place(&self, port: &Port, present: &BTreeMap<GuestUid, Port>) -> Result<(), AttachError> {
        let spec = &self.record.spec;
        let refused = |reason: String| Err(AttachError::Refused(reason));
        if !spec.cidr.contains(port.address) {
            return refused(format!("{} is not in the network {}", port.address, spec.cidr));
        }
        if port.address == spec.gateway || port.address == spec.host_address {
            return refused(format!("{} is the gateway's or this host's", port.address));
        }
        for other in present.values().filter(|other| other.uid != port.uid) {
            if other.address == port.address || other.mac == port.mac {
                return refused(format!("guest {} has {} or {} already", other.uid, port.address, port.mac));
            }
        }
        Ok(())
    }

    async fn carry_out(&self, planned: &[Planned]) -> Result<(Vec<Failure>, Vec<Opened>), WorkerGone> {
        let Some(kernel) = &self.kernel else { return Err(WorkerGone) };
        let steps: Vec<(GuestUid, Vec<Change>)> =
            planned.iter().map(|planned| (planned.guest.port.uid, planned.changes.clone())).collect();
        kernel
            .worker
            .run(move |kernel| {
                let mut files = Vec::new();
                let mut changes = Vec::new();
                for (uid, of_guest) in steps {
                    let file = kernel.open_tap(uid);
                    if file.is_ok() {
                        changes.extend(of_guest);
                    }
                    files.push(file);
                }
                (kernel.apply(&changes), files)
            })
            .await
    }

    async fn failed_to_attach(&mut self, planned: Vec<Planned>, failures: &[Failure]) {
        match <[Planned; 1]>::try_from(planned) {
            Ok([Planned { guest, .. }]) => {
                self.look_at = Instant::now();
                answer(guest, Err(AttachError::Kernel(sentence(failures))));
            }
            Err(planned) => {
                for Planned { guest, .. } in planned {
                    if self.believed.is_none() {
                        self.look().await;
                    }
                    Box::pin(self.attach(vec![guest])).await;
                }
            }
        }
    }
}

fn answer(guest: Attach, result: Result<Tap, AttachError>) {
    // A caller who went away drops the tap, and with it the device.
    let _ = guest.answer.send(result);
}
