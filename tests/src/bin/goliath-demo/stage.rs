//! What the demo plays with: a registry, an issuer, two hosts, two clusters, four guests.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use goliath_lab::{
    Cluster, Guest, Host, Lab, program,
    registry::{Registry, RegistryOptions},
    underlay::Underlay,
    vault::{PkiRole, Vault, VaultOptions},
};
use goliath_proto::agent::v1::GetHostRequest;

use crate::report::Report;

const CERTIFICATE_LIFE: Duration = Duration::from_hours(1);

/// Everything that is up. Dropping it and the lab removes it.
pub(crate) struct Stage {
    pub(crate) issuer: Issuer,
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) blue: Cluster,
    pub(crate) green: Cluster,
    pub(crate) image: String,
    /// Of blue, on both hosts.
    pub(crate) master: Guest,
    pub(crate) worker: Guest,
    /// Of green, on both hosts.
    pub(crate) green_master: Guest,
    pub(crate) green_worker: Guest,
    _registry: Registry,
}

/// Who issues the guests' certificates.
pub(crate) enum Issuer {
    Vault(Box<Vault>),
    /// The PEM of the local authority.
    Local(String),
}

impl Issuer {
    fn name(&self) -> &'static str {
        match self {
            Self::Vault(_) => "vault",
            Self::Local(_) => "local",
        }
    }

    /// Who vouches for the certificates of a cluster.
    pub(crate) async fn authority(&self, cluster: &str) -> Result<String> {
        match self {
            Self::Vault(vault) => vault.root_certificate(cluster).await,
            Self::Local(authority) => Ok(authority.clone()),
        }
    }
}

impl Stage {
    /// Builds it; the guests are asked for and not waited for.
    pub(crate) async fn set_up(lab: &Lab, report: &mut Report) -> Result<Self> {
        report.chapter("A registry, an issuer of certificates, two hosts");
        let (registry, image) = fill_registry(lab, report)?;
        let issuer = find_issuer(lab, report).await?;
        let (a, b) = (start_host(lab, "a", &registry, &issuer).await?, start_host(lab, "b", &registry, &issuer).await?);
        for host in [&a, &b] {
            let told = host.operator().await?.host().get_host(GetHostRequest {}).await?.into_inner();
            let versions = told.host.context("an answer without a host")?.versions.unwrap_or_default();
            let name = format!("host {}", host.name());
            let result = format!(
                "agent {} with QEMU {} answers at {} by mutual TLS",
                versions.agent,
                versions.qemu,
                host.api_address()
            );
            report.proved(&name, &result);
        }

        report.chapter("Two clusters with the same addresses over both hosts, two guests in each");
        let (blue, green) = (lab.cluster("blue").over(&[&a, &b]).await?, lab.cluster("green").over(&[&a, &b]).await?);
        report.note("blue and green are both 10.7.0.0/24, each over both hosts by a VXLAN of its own");
        let guest = |cluster: &Cluster, name: &str, last: u8| {
            let plan = cluster.guest(name).address([10, 7, 0, last].into()).image(&image);
            plan.certificate(issuer.name(), CERTIFICATE_LIFE)
        };
        // The masters have one address; what has .77 is there in green alone.
        let master = guest(&blue, "master-0", 11).on(&a).apply().await?;
        let worker = guest(&blue, "worker-0", 12).on(&b).apply().await?;
        let green_master = guest(&green, "master-0", 11).on(&a).apply().await?;
        let green_worker = guest(&green, "worker-0", 77).on(&b).apply().await?;
        Ok(Self { issuer, a, b, blue, green, image, master, worker, green_master, green_worker, _registry: registry })
    }

    pub(crate) fn guests(&self) -> [&Guest; 4] {
        [&self.master, &self.worker, &self.green_master, &self.green_worker]
    }

    /// How to look around.
    pub(crate) fn guide(&self) -> Result<()> {
        let goliath = program::command_line()?;
        let (goliath, demo) = (goliath.display(), std::env::current_exe()?);
        let namespace = self.a.cluster_namespaces().join("blue");
        println!("\nEverything is left running. To look around:");
        println!(
            "  export GOLIATH_AGENT=unix:{}   # host a; host b: {}",
            self.a.socket().display(),
            self.b.socket().display()
        );
        println!("  {goliath} get guests");
        println!("  {goliath} describe guest blue/master-0");
        println!(
            "  {goliath} console blue/master-0      # try: status, ping {}, fetch {}",
            self.worker.address(),
            self.worker.address()
        );
        println!("  {goliath} logs -f green/master-0");
        println!("  {goliath} certs blue/master-0 --rotate");
        println!("  nsenter --net={} ip address  # a cluster's network on host a", self.namespace_or(&namespace));
        println!("  less {}/agent.log", self.a.directory().display());
        println!("To remove it all:\n  {} clean", demo.display());
        Ok(())
    }

    fn namespace_or(&self, guess: &std::path::Path) -> String {
        let found =
            std::fs::read_dir(self.a.cluster_namespaces()).into_iter().flatten().flatten().map(|entry| entry.path());
        found
            .filter(|path| path.to_string_lossy().contains("blue"))
            .min()
            .as_deref()
            .unwrap_or(guess)
            .display()
            .to_string()
    }
}

/// Runs the real command line against a host's agent.
pub(crate) fn goliath(host: &Host, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program::command_line()?)
        .arg("--agent")
        .arg(format!("unix:{}", host.socket().display()))
        .args(arguments)
        .output()?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "`goliath {}` failed: {complained}{said}", arguments.join(" "));
    Ok(said.into_owned())
}

fn fill_registry(lab: &Lab, report: &mut Report) -> Result<(Registry, String)> {
    let layout = program::image_layout("tiny")?;
    let namespace = Some((lab.underlay().namespace(), Underlay::ADDRESS.into()));
    let registry = Registry::start_with(&RegistryOptions { namespace, ..Default::default() })?;
    let reference = registry.push_layout("goliath/tiny", "latest", &layout)?;
    report.proved("a registry", &format!("holds {reference}"));
    Ok((registry, reference))
}

async fn find_issuer(lab: &Lab, report: &mut Report) -> Result<Issuer> {
    let vault = match Vault::start(VaultOptions::default()).await {
        Ok(vault) => vault,
        Err(error) => {
            report.note(&format!("There is no Vault here ({error:#}): a local CA issues the certificates instead."));
            return Ok(Issuer::Local(lab.issuer().certificate().to_owned()));
        }
    };
    for cluster in ["blue", "green"] {
        vault.enable_pki(cluster).await?;
        vault.write_role(cluster, &PkiRole::new("node")).await?;
    }
    report.proved("Vault", &format!("unsealed at {}, with a PKI for each cluster", vault.address()));
    Ok(Issuer::Vault(Box::new(vault)))
}

async fn start_host(lab: &Lab, name: &str, registry: &Registry, issuer: &Issuer) -> Result<Host> {
    let plan = lab.host(name).pulling_from(registry.address());
    match issuer {
        Issuer::Vault(vault) => plan.trusting(vault, &["blue", "green"]).await?.start().await,
        Issuer::Local(_) => plan.start().await,
    }
}
