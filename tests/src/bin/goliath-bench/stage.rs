//! One host with the real agent, and a cluster on it whose network and image are there already.

use std::{
    collections::HashSet,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use goliath_lab::{
    Cluster, Host, Lab,
    agent::Client,
    guest::{describe, is_true},
    program,
};
use goliath_proto::agent::v1::{
    ApplyGuestRequest, DeleteGuestRequest, DesiredState, GetGuestRequest, GuestPhase, GuestSpec, GuestStatus,
    ListGuestsRequest, RestartPolicy, WatchGuestsRequest, watch_guests_response::Kind,
};

/// More than the slowest machine needs for 50 guests.
const LIMIT: Duration = Duration::from_mins(2);
const MIB: u64 = 1 << 20;

/// Where guests are measured. Fields are dropped in this order.
pub(crate) struct Stage {
    client: Client,
    cluster: Cluster,
    host: Host,
    lab: Lab,
    image: String,
}

impl Stage {
    /// Returns when a first guest has run and is gone: network and image are there.
    pub(crate) async fn set_up() -> Result<Self> {
        let lab = Lab::new()?;
        // Guests are counted by their memory, and 50 of them do next to nothing.
        let capacity =
            "reserved_memory_mib = 256\nreserved_disk_mib = 64\nvcpu_ratio = 64.0\nguest_overhead_mib = 48\n";
        let host = lab.host("bench").capacity(capacity).start().await.with_context(|| lab.log_ends())?;
        let cluster = lab.cluster("bench").over(&[&host]).await?;
        let client = host.client().await?;
        let image = format!("oci-layout:{}", program::image_layout("tiny")?.display());
        let mut stage = Self { client, cluster, host, lab, image };
        let first = stage.guest(0, DesiredState::Running).await?;
        let ready = stage.start(std::slice::from_ref(&first)).await;
        ready.with_context(|| stage.agent_log_end())?;
        // Pinned, as an operator would: then nobody is asked what the name means.
        let digest = stage.status(&first).await?.image_digest;
        stage.image = format!("{}@{digest}", stage.image);
        stage.remove(&[first]).await?;
        Ok(stage)
    }

    /// A small guest that ends at once when it is deleted.
    pub(crate) async fn guest(&self, number: u8, state: DesiredState) -> Result<GuestSpec> {
        let plan = self.cluster.guest(&format!("guest-{number}")).address(Ipv4Addr::new(10, 7, 0, 10 + number));
        let plan = plan.image(self.image.clone()).with(|spec| {
            if let Some(machine) = &mut spec.machine {
                machine.memory_bytes = 96 * MIB;
            }
        });
        let plan = plan.lifecycle(|lifecycle| {
            lifecycle.desired_state = state.into();
            lifecycle.restart_policy = RestartPolicy::Never.into();
            lifecycle.shutdown_grace = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        });
        plan.on(&self.host).spec().await
    }

    /// As many of them, all different.
    pub(crate) async fn guests(&self, count: u8, state: DesiredState) -> Result<Vec<GuestSpec>> {
        let mut specs = Vec::new();
        for number in 0..count {
            specs.push(self.guest(number, state).await?);
        }
        Ok(specs)
    }

    /// Applies all at once; the time until the agent has told of each that QEMU says what was asked for.
    pub(crate) async fn start(&self, specs: &[GuestSpec]) -> Result<Duration> {
        let mut waiting: HashSet<&str> = specs.iter().map(|spec| spec.uid.as_str()).collect();
        let mut changes = self.watch().await?;
        let begin = Instant::now();
        let apply = futures::future::try_join_all(specs.iter().map(async |spec| {
            let request = ApplyGuestRequest { spec: Some(spec.clone()), dry_run: false };
            self.client.guests().apply_guest(request).await.with_context(|| format!("{} was refused", spec.name))
        }));
        let seen = async {
            let mut last = String::new();
            let all = async {
                while !waiting.is_empty() {
                    let change = changes.message().await?.context("the agent ended the watch")?;
                    let Some(guest) = change.guest else { continue };
                    let status = guest.status.unwrap_or_default();
                    if is_as_asked(&status) {
                        waiting.remove(guest.spec.unwrap_or_default().uid.as_str());
                    } else {
                        last = describe(&status);
                    }
                }
                anyhow::Ok(begin.elapsed())
            };
            match tokio::time::timeout(LIMIT, all).await {
                Ok(time) => time,
                Err(_) => bail!("not all guests started within {LIMIT:?}; one of them: {last}"),
            }
        };
        let (_, time) = futures::try_join!(apply, seen)?;
        Ok(time)
    }

    /// Deletes all, and returns when the agent has told that they are gone.
    pub(crate) async fn remove(&self, specs: &[GuestSpec]) -> Result<()> {
        let mut waiting: HashSet<&str> = specs.iter().map(|spec| spec.uid.as_str()).collect();
        let mut changes = self.watch().await?;
        futures::future::try_join_all(
            specs.iter().map(async |spec| {
                self.client.guests().delete_guest(DeleteGuestRequest { uid: spec.uid.clone() }).await
            }),
        )
        .await?;
        let gone = async {
            while !waiting.is_empty() {
                let change = changes.message().await?.context("the agent ended the watch")?;
                if change.kind == i32::from(Kind::Deleted) {
                    waiting.remove(change.guest.and_then(|guest| guest.spec).unwrap_or_default().uid.as_str());
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(LIMIT, gone).await.with_context(|| format!("guests were not gone within {LIMIT:?}"))?
    }

    /// What was seen of a guest.
    pub(crate) async fn status(&self, spec: &GuestSpec) -> Result<GuestStatus> {
        let request = GetGuestRequest { uid: spec.uid.clone() };
        let reply = self.client.guests().get_guest(request).await?.into_inner();
        reply.guest.and_then(|guest| guest.status).context("a guest without a status")
    }

    /// The number of a guest's QEMU.
    pub(crate) async fn qemu(&self, spec: &GuestSpec) -> Result<i32> {
        Ok(self.status(spec).await?.process.context("a guest that runs without a process")?.pid)
    }

    /// The number of the agent's process.
    pub(crate) async fn agent(&self) -> Result<u32> {
        self.host.agent_pid().await.context("the agent does not run")
    }

    /// The lab that everything is in.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// For errors.
    pub(crate) fn agent_log_end(&self) -> String {
        self.lab.log_ends()
    }

    /// What changes from now on.
    async fn watch(&self) -> Result<tonic::Streaming<goliath_proto::agent::v1::WatchGuestsResponse>> {
        let mut guests = self.client.guests();
        let revision = guests.list_guests(ListGuestsRequest::default()).await?.into_inner().revision;
        let request = WatchGuestsRequest { revision, cluster: String::new() };
        Ok(guests.watch_guests(request).await?.into_inner())
    }
}

fn is_as_asked(status: &GuestStatus) -> bool {
    is_true(status, "Running") || status.phase() == GuestPhase::Paused
}
