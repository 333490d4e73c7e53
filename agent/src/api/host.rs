//! `HostService`.

mod versions;

use std::sync::PoisonError;

use goliath_proto::agent::v1::{self as pb, host_service_server::HostService};
use tonic::{Request, Response, Status};

use super::{Context, caller, errors, render};
use crate::{
    accelerator,
    admission::{Capacity, Demand, Room},
    errors::and_more,
    image::ImageSelector,
    ledger::{Change, HostRecord, Snapshot},
    observed::{
        ChosenAccelerator,
        ConditionStatus::{False, True, Unknown},
    },
};

#[derive(Debug)]
pub(super) struct Hosts {
    context: Context,
    qemu: versions::QemuVersion,
}

impl Hosts {
    pub(super) fn new(context: Context) -> Self {
        let qemu = versions::QemuVersion::of(context.config.qemu.binary.clone());
        Self { context, qemu }
    }

    async fn host(&self) -> Result<pb::Host, Status> {
        let context = &self.context;
        let snapshot = context.ledger.snapshot();
        let config = context.config.clone();
        let overheads = (context.questions.overheads)();
        let room = tokio::task::spawn_blocking(move || Room::measure(&config, overheads)).await;
        let room = room.map_err(|_| errors::shutting_down())?.map_err(|error| errors::internal(&error))?;
        let demands: Vec<Demand> = snapshot
            .guests
            .values()
            .map(|guest| {
                let image = context.images.find(&ImageSelector::Reference(guest.spec.image.clone()));
                Demand::of(&guest.spec, image.and_then(|image| image.disk.as_ref().map(|disk| disk.virtual_size)))
            })
            .collect();
        let accelerator = (context.questions.accelerator)();
        let facts = (context.questions.host_facts)();
        Ok(pb::Host {
            name: context.host_name.clone(),
            boot_id: versions::of_kernel("/proc/sys/kernel/random/boot_id").await,
            capacity: Some(capacity(room.capacity)),
            available: Some(capacity(room.available(&demands))),
            conditions: self.conditions(&snapshot, &accelerator),
            versions: Some(pb::Versions {
                agent: env!("CARGO_PKG_VERSION").to_owned(),
                qemu: self.qemu.get().await,
                kernel: versions::of_kernel("/proc/sys/kernel/osrelease").await,
            }),
            cordoned: snapshot.host.cordoned,
            accelerator: render::accelerator(accelerator.automatic).into(),
            underlay_address: context.config.network.underlay_address.to_string(),
            guests: u32::try_from(snapshot.guests.len()).unwrap_or(u32::MAX),
            guest_overhead_bytes: room.overheads.largest().get(),
            networks: facts.networks().iter().map(ToString::to_string).collect(),
            foreign_vnis: facts.vnis.iter().copied().collect(),
            tcg_allowed: context.config.qemu.allow_tcg,
        })
    }

    fn conditions(&self, snapshot: &Snapshot, accelerator: &accelerator::Known) -> Vec<pb::Condition> {
        let mut conditions = self.context.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        if snapshot.host.cordoned {
            conditions.set("AcceptsGuests", False, "Cordoned", "no new guest is taken until the cordon is lifted");
        } else {
            conditions.set("AcceptsGuests", True, "Uncordoned", "");
        }
        let (status, reason) = match accelerator.automatic {
            Some(ChosenAccelerator::Kvm) => (True, "Kvm"),
            Some(ChosenAccelerator::Tcg) => (True, "Tcg"),
            None if accelerator.tried => (False, "None"),
            None => (Unknown, "Untried"),
        };
        conditions.set("AcceleratorReady", status, reason, accelerator.message.clone());
        match self.context.ledger.unreadable() {
            [] => conditions.set("LedgerReadable", True, "Read", ""),
            [first, rest @ ..] => {
                let what = format_args!("{} is unreadable: {}", first.path.display(), first.reason);
                let message = format!("{}; what it is about is left alone", and_more(what, rest.len()));
                conditions.set("LedgerReadable", False, "UnreadableRecord", message);
            }
        }
        render::conditions(&conditions)
    }
}

#[tonic::async_trait]
impl HostService for Hosts {
    async fn get_host(&self, _: Request<pb::GetHostRequest>) -> Result<Response<pb::GetHostResponse>, Status> {
        Ok(Response::new(pb::GetHostResponse { host: Some(self.host().await?) }))
    }

    async fn cordon_host(
        &self,
        request: Request<pb::CordonHostRequest>,
    ) -> Result<Response<pb::CordonHostResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = HostRecord { cordoned: request.get_ref().cordoned };
        let written = self.context.ledger.update(move |snapshot| {
            let differs = snapshot.host != wanted;
            Ok((if differs { vec![Change::PutHost(wanted)] } else { Vec::new() }, differs))
        });
        if written.await.map_err(errors::update_failed)? {
            tracing::info!(%caller, cordoned = wanted.cordoned, "the host's cordon was changed");
        }
        Ok(Response::new(pb::CordonHostResponse { host: Some(self.host().await?) }))
    }

    async fn doctor(&self, _: Request<pb::DoctorRequest>) -> Result<Response<pb::DoctorResponse>, Status> {
        let checks = tokio::select! {
            checks = (self.context.questions.doctor)() => checks,
            () = self.context.shutdown.cancelled() => return Err(errors::shutting_down()),
        };
        Ok(Response::new(pb::DoctorResponse { checks: checks.into_iter().map(render::check).collect() }))
    }
}

fn capacity(capacity: Capacity) -> pb::Capacity {
    pb::Capacity {
        vcpus: u32::try_from(capacity.vcpus).unwrap_or(u32::MAX),
        memory_bytes: capacity.memory.get(),
        disk_bytes: capacity.disk.get(),
    }
}
