//! A guest, in words that a test reads like prose.

use std::{collections::HashMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, bail};
use goliath_proto::agent::v1::{
    self as api, ApplyGuestRequest, ApplyGuestResponse, ConditionStatus, ConsoleLogRequest, DeleteGuestRequest,
    GetGuestRequest, GuestPhase, GuestSpec, ListCertificatesRequest, ListGuestsRequest, PeerEndpoint,
    RotateCertificatesRequest, WatchGuestsRequest, boot, seed, watch_guests_response,
};
use tonic::Code;

use crate::{
    cluster::{Cluster, Member},
    console::Console,
    host::Host,
    https::{self, GuestReport, Served},
    program,
};

const MIB: u64 = 1 << 20;
/// A tiny guest boots in 3 to 4 s under TCG; several at once on two processors take longer.
const LIMIT: Duration = Duration::from_secs(90);

/// What a guest shall be like; [`GuestPlan::on`] says where.
#[derive(Debug, Clone)]
pub struct GuestPlan {
    cluster: Cluster,
    spec: GuestSpec,
    address: Option<Ipv4Addr>,
}

/// A guest that has a place and was perhaps not applied yet.
#[derive(Debug, Clone)]
pub struct PlacedGuest {
    plan: GuestPlan,
    host: Host,
}

/// A guest that was applied.
#[derive(Debug, Clone)]
pub struct Guest {
    cluster: Cluster,
    host: Host,
    spec: GuestSpec,
    address: Ipv4Addr,
}

impl GuestPlan {
    pub(crate) fn new(cluster: Cluster, name: &str) -> Self {
        let spec = GuestSpec {
            uid: uuid::Uuid::new_v4().to_string(),
            generation: 1,
            name: name.to_owned(),
            cluster: cluster.name().to_owned(),
            machine: Some(api::Machine {
                vcpus: 1,
                memory_bytes: 192 * MIB,
                accelerator: api::Accelerator::Tcg.into(),
                cpu_model: String::new(),
            }),
            boot: Some(api::Boot { method: Some(boot::Method::Kernel(api::KernelBoot::default())) }),
            seed: Some(api::Seed {
                kind: Some(seed::Kind::CloudInit(api::CloudInit::default())),
                ntp_servers: Vec::new(),
            }),
            lifecycle: Some(api::Lifecycle::default()),
            labels: HashMap::new(),
            ..Default::default()
        };
        Self { cluster, spec, address: None }
    }

    /// Changes the spec as the API takes it.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut GuestSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    /// An image other than the tiny one.
    #[must_use]
    pub fn image(self, reference: impl Into<String>) -> Self {
        self.with(|spec| spec.image = reference.into())
    }

    /// Its address, instead of the next free one.
    #[must_use]
    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.address = Some(address);
        self
    }

    /// Words for the kernel's command line.
    #[must_use]
    pub fn kernel_words(self, words: &str) -> Self {
        let method = boot::Method::Kernel(api::KernelBoot { command_line: words.to_owned() });
        self.with(|spec| spec.boot = Some(api::Boot { method: Some(method) }))
    }

    /// Changes how it is started and stopped.
    #[must_use]
    pub fn lifecycle(self, change: impl FnOnce(&mut api::Lifecycle)) -> Self {
        self.with(|spec| change(spec.lifecycle.get_or_insert_default()))
    }

    /// A certificate `node` of an issuer, for `<guest>.<cluster>.test`.
    #[must_use]
    pub fn certificate(self, issuer: &str, ttl: Duration) -> Self {
        let (cluster, address) = (self.cluster.name().to_owned(), self.address);
        self.with(|spec| {
            let name = format!("{}.{cluster}.test", spec.name);
            spec.certificates.push(api::CertificateRequest {
                name: "node".to_owned(),
                issuer: issuer.to_owned(),
                common_name: name.clone(),
                dns_names: vec![name],
                ip_addresses: address.iter().map(ToString::to_string).collect(),
                ttl: prost_types::Duration::try_from(ttl).ok(),
                ..Default::default()
            });
        })
    }

    /// Its certificates come on a disk, not by virtiofs.
    #[must_use]
    pub fn certificates_on_disk(self) -> Self {
        self.with(|spec| spec.certificate_volume = api::CertificateVolume::Disk.into())
    }

    /// Where it shall run.
    pub fn on(self, host: &Host) -> PlacedGuest {
        PlacedGuest { plan: self, host: host.clone() }
    }
}

impl PlacedGuest {
    /// The spec, complete; the image is the tiny one unless another was named.
    pub async fn spec(&mut self) -> Result<GuestSpec> {
        let plan = &mut self.plan;
        let address = match plan.address {
            Some(address) => address,
            None => *plan.address.insert(plan.cluster.next_address().await),
        };
        if plan.spec.image.is_empty() {
            plan.spec.image = format!("oci-layout:{}", program::image_layout("tiny")?.display());
        }
        plan.spec.network.get_or_insert_with(|| api::NetworkInterface {
            ipv4_address: address.to_string(),
            mac_address: mac_address(&plan.spec.uid),
        });
        Ok(plan.spec.clone())
    }

    /// Asks the agent for it as it is, whatever the answer.
    pub async fn try_apply(&mut self) -> Result<Result<ApplyGuestResponse, tonic::Status>> {
        let spec = self.spec().await?;
        let request = ApplyGuestRequest { spec: Some(spec), dry_run: false };
        let reply = self.host.operator().await?.guests().apply_guest(request).await;
        Ok(reply.map(tonic::Response::into_inner))
    }

    /// Applies it, and tells the cluster's other hosts of it.
    pub async fn apply(mut self) -> Result<Guest> {
        let spec = self.spec().await?;
        self.try_apply().await?.with_context(|| format!("{} was refused", spec.name))?;
        let guest = Guest::new(self.plan.cluster, self.host, spec)?;
        guest.join().await?;
        Ok(guest)
    }
}

impl Guest {
    pub(crate) fn new(cluster: Cluster, host: Host, spec: GuestSpec) -> Result<Self> {
        let interface = spec.network.as_ref().context("a guest without a network")?;
        let address = interface.ipv4_address.parse()?;
        Ok(Self { cluster, host, spec, address })
    }

    /// For life.
    pub fn uid(&self) -> &str {
        &self.spec.uid
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its address in the overlay.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The spec that was applied last.
    pub fn spec(&self) -> &GuestSpec {
        &self.spec
    }

    /// The name in the certificate that it serves, the first by name.
    pub fn dns_name(&self) -> String {
        let served = self.spec.certificates.iter().min_by_key(|request| &request.name);
        served.and_then(|request| request.dns_names.first()).cloned().unwrap_or_default()
    }

    async fn join(&self) -> Result<()> {
        let interface = self.spec.network.clone().unwrap_or_default();
        let endpoint = PeerEndpoint { ipv4_address: interface.ipv4_address, mac_address: interface.mac_address };
        let member = Member { uid: self.spec.uid.clone(), host: self.host.name().to_owned(), endpoint };
        self.cluster.add(member).await
    }

    /// Applies the spec once more with a change, under the next generation.
    pub async fn change(&mut self, change: impl FnOnce(&mut GuestSpec)) -> Result<ApplyGuestResponse> {
        let mut spec = self.spec.clone();
        spec.generation += 1;
        change(&mut spec);
        let request = ApplyGuestRequest { spec: Some(spec.clone()), dry_run: false };
        let reply = self.host.operator().await?.guests().apply_guest(request).await?.into_inner();
        self.spec = spec;
        Ok(reply)
    }

    /// The guest as its agent sees it.
    pub async fn get(&self) -> Result<api::Guest> {
        let request = GetGuestRequest { uid: self.spec.uid.clone() };
        let reply = self.host.client().await?.guests().get_guest(request).await?.into_inner();
        reply.guest.context("an answer without a guest")
    }

    /// What was seen of it.
    pub async fn status(&self) -> Result<api::GuestStatus> {
        self.get().await?.status.context("a guest without a status")
    }

    /// Waits until what is seen of it is as `wanted` says; `what` is for people.
    pub async fn until(&self, what: &str, wanted: impl Fn(&api::GuestStatus) -> bool) -> Result<api::GuestStatus> {
        self.until_within(LIMIT, what, wanted).await
    }

    /// As [`Guest::until`], with a time limit of its own.
    pub async fn until_within(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&api::GuestStatus) -> bool,
    ) -> Result<api::GuestStatus> {
        match tokio::time::timeout(limit, self.watch(wanted)).await {
            Ok(seen) => seen.with_context(|| format!("{} was not seen {what}", self.name())),
            Err(_) => bail!(
                "{} was not seen {what} within {limit:?}: {}\n--- its console said last:\n{}",
                self.name(),
                describe(&self.status().await?),
                self.log_end().await
            ),
        }
    }

    async fn watch(&self, wanted: impl Fn(&api::GuestStatus) -> bool) -> Result<api::GuestStatus> {
        let request = WatchGuestsRequest { revision: 0, cluster: self.cluster.name().to_owned() };
        let mut changes = self.host.client().await?.guests().watch_guests(request).await?.into_inner();
        while let Some(change) = changes.message().await? {
            let of_mine =
                change.guest.filter(|guest| guest.spec.as_ref().is_some_and(|spec| spec.uid == self.spec.uid));
            let Some(guest) = of_mine else { continue };
            if change.kind == i32::from(watch_guests_response::Kind::Deleted) {
                bail!("it was deleted");
            }
            let status = guest.status.unwrap_or_default();
            if wanted(&status) {
                return Ok(status);
            }
        }
        bail!("the agent ended the watch")
    }

    /// Waits until QEMU says that it runs.
    pub async fn until_running(&self) -> Result<api::GuestStatus> {
        self.until("running", |status| is_true(status, "Running")).await
    }

    /// Waits until the guest says that it has booted.
    pub async fn until_booted(&self) -> Result<api::GuestStatus> {
        self.until("booted", |status| is_true(status, "Booted")).await
    }

    /// Waits until it is in a phase.
    pub async fn until_phase(&self, phase: GuestPhase) -> Result<api::GuestStatus> {
        self.until(phase.as_str_name(), |status| status.phase() == phase).await
    }

    /// Waits until its QEMU was started again so often.
    pub async fn until_restarted(&self, times: u32) -> Result<api::GuestStatus> {
        let what = format!("restarted {times} times and booted");
        self.until(&what, |status| status.restart_count >= times && is_true(status, "Booted")).await
    }

    /// Asks for its end, and waits until nothing is told of it any more.
    pub async fn delete(&self) -> Result<()> {
        let request = DeleteGuestRequest { uid: self.spec.uid.clone() };
        self.host.client().await?.guests().delete_guest(request).await?;
        self.until_gone().await
    }

    /// Waits for the end of a delete that was asked for, and tells the other hosts.
    pub async fn until_gone(&self) -> Result<()> {
        match tokio::time::timeout(LIMIT, self.watch_end()).await {
            Ok(outcome) => outcome?,
            Err(_) => bail!("{} was not gone within {LIMIT:?}: {}", self.name(), describe(&self.status().await?)),
        }
        self.cluster.remove(self.uid()).await
    }

    async fn watch_end(&self) -> Result<()> {
        let mut client = self.host.client().await?.guests();
        let cluster = self.cluster.name().to_owned();
        let listed = client.list_guests(ListGuestsRequest { cluster: cluster.clone() }).await?.into_inner();
        let is_mine = |guest: &api::Guest| guest.spec.as_ref().is_some_and(|spec| spec.uid == self.spec.uid);
        if !listed.guests.iter().any(is_mine) {
            return Ok(());
        }
        let request = WatchGuestsRequest { revision: listed.revision, cluster };
        let mut changes = client.watch_guests(request).await?.into_inner();
        while let Some(change) = changes.message().await? {
            let deleted = change.kind == i32::from(watch_guests_response::Kind::Deleted);
            if deleted && change.guest.as_ref().is_some_and(is_mine) {
                return Ok(());
            }
        }
        bail!("the agent ended the watch")
    }

    /// Whether its agent has never heard of it, or has forgotten it.
    pub async fn is_unknown(&self) -> Result<bool> {
        let request = GetGuestRequest { uid: self.spec.uid.clone() };
        match self.host.client().await?.guests().get_guest(request).await {
            Ok(_) => Ok(false),
            Err(status) if status.code() == Code::NotFound => Ok(true),
            Err(status) => Err(status.into()),
        }
    }

    /// Its serial console.
    pub async fn console(&self) -> Result<Console> {
        Console::open(&self.host.client().await?, self.uid()).await
    }

    /// What its console has said so far.
    pub async fn log(&self) -> Result<String> {
        let request = ConsoleLogRequest { uid: self.spec.uid.clone(), ..Default::default() };
        let mut parts = self.host.client().await?.inspect().console_log(request).await?.into_inner();
        let mut log = Vec::new();
        while let Some(part) = parts.message().await? {
            log.extend(part.data);
        }
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    async fn log_end(&self) -> String {
        match self.log().await {
            Ok(log) => {
                let lines: Vec<&str> = log.lines().collect();
                lines.get(lines.len().saturating_sub(25)..).unwrap_or_default().join("\n")
            }
            Err(error) => format!("{error:#}"),
        }
    }

    /// Follows its console until it says something, from the beginning of what is kept.
    pub async fn until_it_says(&self, text: &str) -> Result<()> {
        let request = ConsoleLogRequest { uid: self.spec.uid.clone(), follow: true, tail_bytes: 0 };
        let mut parts = self.host.client().await?.inspect().console_log(request).await?.into_inner();
        let mut log = String::new();
        let said = tokio::time::timeout(LIMIT, async {
            while let Some(part) = parts.message().await? {
                log.push_str(&String::from_utf8_lossy(&part.data));
                if log.contains(text) {
                    return Ok(());
                }
            }
            bail!("its console log ended")
        });
        match said.await {
            Ok(outcome) => outcome,
            Err(_) => bail!("{} did not say {text:?} within {LIMIT:?}; it said:\n{log}", self.name()),
        }
    }

    /// Whether an address answers its pings.
    pub async fn pings(&self, address: Ipv4Addr) -> Result<bool> {
        let answer = self.console().await?.command(&format!("ping {address}")).await?;
        match (answer.contains("answered in"), answer.contains("no answer")) {
            (true, false) => Ok(true),
            (false, true) => Ok(false),
            _ => bail!("{} said of its ping: {answer:?}", self.name()),
        }
    }

    /// Asks it over HTTP from its cluster's network on its host.
    pub async fn report(&self) -> Result<GuestReport> {
        https::get_http(&self.network_namespace().await?, self.address).await
    }

    /// Asks it over TLS; `authority` must vouch for its certificate.
    pub async fn serves(&self, authority: &str) -> Result<Served> {
        let namespace = self.network_namespace().await?;
        let (_, served) = https::get_https(&namespace, self.address, authority, &self.dns_name()).await?;
        Ok(served)
    }

    /// Asks over TLS, again and again, until it serves what is wanted. A certificate that changes tells nobody.
    pub async fn until_it_serves(&self, authority: &str, wanted: impl Fn(&Served) -> bool) -> Result<Served> {
        let mut attempts = tokio::time::interval(Duration::from_millis(200));
        let asked = tokio::time::timeout(LIMIT, async {
            loop {
                attempts.tick().await;
                let served = self.serves(authority).await?;
                if wanted(&served) {
                    return anyhow::Ok(served);
                }
            }
        });
        asked.await.with_context(|| format!("{} did not serve another certificate within {LIMIT:?}", self.name()))?
    }

    async fn network_namespace(&self) -> Result<std::path::PathBuf> {
        let network = self.cluster.network_of(&self.host).await?;
        Ok(network.status.context("a network without a status")?.namespace.into())
    }

    /// What the agent says of its certificates.
    pub async fn certificates(&self) -> Result<Vec<api::Certificate>> {
        let request = ListCertificatesRequest { uid: self.spec.uid.clone() };
        Ok(self.host.client().await?.inspect().list_certificates(request).await?.into_inner().certificates)
    }

    /// Renews all of its certificates now.
    pub async fn rotate_certificates(&self) -> Result<Vec<api::Certificate>> {
        let request = RotateCertificatesRequest { uid: self.spec.uid.clone(), ..Default::default() };
        Ok(self.host.client().await?.inspect().rotate_certificates(request).await?.into_inner().certificates)
    }
}

/// Whether a condition was seen to be so.
pub fn is_true(status: &api::GuestStatus, condition: &str) -> bool {
    self::condition(status, condition).is_some_and(|found| found.status() == ConditionStatus::True)
}

/// A condition, if it is told.
pub fn condition<'s>(status: &'s api::GuestStatus, name: &str) -> Option<&'s api::Condition> {
    status.conditions.iter().find(|condition| condition.r#type == name)
}

/// A status in one line.
pub fn describe(status: &api::GuestStatus) -> String {
    let conditions = status.conditions.iter().map(|condition| {
        let state = condition.status().as_str_name().trim_start_matches("CONDITION_STATUS_");
        format!("{}={state} ({}: {})", condition.r#type, condition.reason, condition.message)
    });
    let exit =
        status.last_exit.as_ref().map(|exit| format!("last exit {}: {}", exit.reason().as_str_name(), exit.message));
    let parts: Vec<String> =
        std::iter::once(status.phase().as_str_name().to_owned()).chain(conditions).chain(exit).collect();
    parts.join("; ")
}

/// The operator's choice: from the uid, so that it is unique; locally administered, and not a group's.
fn mac_address(uid: &str) -> String {
    let digits: String = uid.chars().filter(char::is_ascii_hexdigit).take(10).collect();
    let pairs = digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned());
    std::iter::once("02".to_owned()).chain(pairs).collect::<Vec<_>>().join(":")
}
