//! What the demo plays with: a registry, an issuer, two hosts, two clusters, four guests.

use anyhow::{Context as _, Result};
use goliath_lab::{
    Cluster, Guest, Host, Lab,
    host::HostPlan,
    program,
    registry::{Registry, RegistryOptions},
    underlay::Underlay,
    vault::{PkiRole, Vault, VaultOptions},
};
use goliath_proto::agent::v1::GetHostRequest;

use crate::{
    client::Client,
    manifests::{self, GuestPlan},
    report::Report,
};

/// Everything that is up. Dropping it and the lab removes it.
pub(crate) struct Stage {
    pub(crate) client: Client,
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

/// Who shall issue the guests' certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum IssuerChoice {
    /// Vault where it can be had, else the local CA
    Auto,
    /// Vault: the one on the PATH, else one that is built with Go
    Vault,
    /// A CA in a file of each host: no Vault is looked for
    Local,
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
    pub(crate) async fn set_up(lab: &Lab, choice: IssuerChoice, report: &mut Report) -> Result<Self> {
        report.chapter("A registry, an issuer of certificates, two hosts");
        let (registry, image) = fill_registry(lab, report)?;
        let issuer = find_issuer(lab, choice, report).await?;
        let client = Client::new(lab)?;
        let a = start_host(lab.host("a"), "a", &client, &registry, &issuer, report).await?;
        let b = start_host(lab.host("b"), "b", &client, &registry, &issuer, report).await?;
        client.configure(&[&a, &b])?;

        report.chapter("Two clusters with the same addresses over both hosts, two guests in each");
        report.note("blue and green are both 10.7.0.0/24, each over both hosts by a VXLAN of its own");
        let (blue, green) = (lab.cluster("blue").on(&[&a, &b]), lab.cluster("green").on(&[&a, &b]));
        let plan =
            |name, host: &Host, last: u8| GuestPlan { name, host: host.clone(), address: [10, 7, 0, last].into() };
        // The masters have one address; what has .77 is there in green alone.
        for (cluster, master, worker) in [
            (&blue, plan("master-0", &a, 11), plan("worker-0", &b, 12)),
            (&green, plan("master-0", &a, 11), plan("worker-0", &b, 77)),
        ] {
            for (guest, peer) in [(&master, &worker), (&worker, &master)] {
                let manifest = manifests::of_host(cluster, guest, peer, &image, issuer.name());
                let file = format!("{}-{}.yaml", cluster.name(), guest.host.name());
                client.write(&file, &manifest)?;
                if file == "blue-a.yaml" {
                    report.note(&format!("{file}; the other three are alike:"));
                    report.output(&manifest);
                }
            }
        }
        client.goliath(report, "--context a apply -f blue-a.yaml -f green-a.yaml")?;
        client.goliath(report, "--context b apply -f blue-b.yaml -f green-b.yaml")?;
        let (master, worker) = (blue.guest_on(&a, "master-0").await?, blue.guest_on(&b, "worker-0").await?);
        let green_master = green.guest_on(&a, "master-0").await?;
        let green_worker = green.guest_on(&b, "worker-0").await?;
        Ok(Self {
            client,
            issuer,
            a,
            b,
            blue,
            green,
            image,
            master,
            worker,
            green_master,
            green_worker,
            _registry: registry,
        })
    }

    pub(crate) fn guests(&self) -> [&Guest; 4] {
        [&self.master, &self.worker, &self.green_master, &self.green_worker]
    }

    /// How to look around.
    pub(crate) fn guide(&self) -> Result<()> {
        let demo = std::env::current_exe()?;
        let namespace = self.a.cluster_namespaces().join("blue");
        println!("\nEverything is left running. In a shell with");
        for line in self.client.shell().lines() {
            println!("  {line}");
        }
        println!("the commands above do the same again. To look around:");
        println!("  goliath --context a get guests        # host a; host b by --context b");
        println!("  goliath --context a describe guest blue/master-0");
        println!(
            "  goliath --context a console blue/master-0      # try: status, ping {}, fetch {}",
            self.worker.address(),
            self.worker.address()
        );
        println!("  goliath --context a logs -f green/master-0");
        println!("  goliath --context a certs blue/master-0 --rotate");
        println!("  goliath --context b delete guest green/worker-0 --wait, and apply it again");
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

fn fill_registry(lab: &Lab, report: &mut Report) -> Result<(Registry, String)> {
    let layout = program::image_layout("tiny")?;
    let namespace = Some((lab.underlay().namespace(), Underlay::ADDRESS.into()));
    let registry = Registry::start_with(&RegistryOptions { namespace, ..Default::default() })?;
    let reference = registry.push_layout("goliath/tiny", "latest", &layout)?;
    report.proved("a registry", &format!("holds {reference}"));
    Ok((registry, reference))
}

async fn find_issuer(lab: &Lab, choice: IssuerChoice, report: &mut Report) -> Result<Issuer> {
    let why_not = match choice {
        IssuerChoice::Local => Some("Vault is not wanted here".to_owned()),
        IssuerChoice::Vault => None,
        IssuerChoice::Auto => Vault::program().await.err().map(|error| format!("There is no Vault here ({error:#})")),
    };
    if let Some(reason) = why_not {
        report.note(&format!("{reason}: a local CA in a file issues the certificates instead."));
        return Ok(Issuer::Local(lab.issuer().certificate().to_owned()));
    }
    let vault = Vault::start(VaultOptions::default()).await?;
    for cluster in ["blue", "green"] {
        vault.enable_pki(cluster).await?;
        vault.write_role(cluster, &PkiRole::new("node")).await?;
    }
    report.proved("Vault", &format!("unsealed at {}, with a PKI for each cluster", vault.address()));
    Ok(Issuer::Vault(Box::new(vault)))
}

/// With certificates that the command line made.
async fn start_host(
    plan: HostPlan,
    name: &str,
    client: &Client,
    registry: &Registry,
    issuer: &Issuer,
    report: &mut Report,
) -> Result<Host> {
    let pki = client.pki(report, name, plan.address())?;
    let mut plan = plan.with_pki(&pki).pulling_from(registry.address());
    if let Issuer::Vault(vault) = issuer {
        plan = plan.trusting(vault, &["blue", "green"]).await?;
    }
    let host = plan.start().await?;
    let told = host.operator().await?.host().get_host(GetHostRequest {}).await?.into_inner();
    let versions = told.host.context("an answer without a host")?.versions.unwrap_or_default();
    let result =
        format!("agent {} with QEMU {} answers at {} by mutual TLS", versions.agent, versions.qemu, host.api_address());
    report.proved(&format!("host {name}"), &result);
    Ok(host)
}
