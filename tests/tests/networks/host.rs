//! A host with the agent's network part, and guests without a QEMU.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use goliath_agent::{
    config::NetworkConfig,
    ledger::{Change, Ledger, NetworkRecord},
    network::{self, Namespace},
    observed::{NetworkStatus, Observed},
    reconcile::network::{AttachError, NetworkReconciler, Port, Tap},
    spec::{ClusterName, GuestEndpoint, GuestUid, HostEndpoint, MacAddress, NetworkSpec, Peer, PeerList, Vni},
};
use goliath_lab::{
    namespace::{Cable, Machine, NamespaceDirectory, unique_prefix},
    underlay::Underlay,
};
use ipnetwork::Ipv4Network;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A cluster, as its operator sees it: the same on every host but for the hosts' own addresses.
pub(crate) struct Plan {
    pub(crate) cluster: ClusterName,
    pub(crate) vni: Vni,
    pub(crate) cidr: Ipv4Network,
    pub(crate) egress: bool,
    pub(crate) generation: u64,
}

impl Plan {
    pub(crate) fn new(cluster: &str, vni: u32, cidr: &str) -> Result<Self> {
        Ok(Self { cluster: cluster.parse()?, vni: vni.try_into()?, cidr: cidr.parse()?, egress: false, generation: 1 })
    }

    pub(crate) fn with_egress(self) -> Self {
        Self { egress: true, ..self }
    }

    /// The address with this last byte.
    pub(crate) fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.cidr.network().octets();
        Ipv4Addr::new(a, b, c, last)
    }

    /// What is asked of one host.
    pub(crate) fn spec(&self, host: u8) -> Result<NetworkSpec> {
        Ok(NetworkSpec {
            cluster: self.cluster.clone(),
            generation: self.generation.try_into()?,
            vni: self.vni,
            cidr: self.cidr,
            gateway: self.address(1),
            host_address: self.address(250 + host),
            mtu: None,
            egress: self.egress,
            dns_servers: Vec::new(),
        })
    }
}

/// A machine with the agent's network part on it.
pub(crate) struct Host {
    pub(crate) machine: Machine,
    pub(crate) number: u8,
    pub(crate) directory: NamespaceDirectory,
    state: TempDir,
    agent: Option<Agent>,
}

struct Agent {
    runtime: Runtime,
    ledger: Ledger,
    observed: Observed,
    networks: NetworkReconciler,
}

impl Host {
    pub(crate) fn start(number: u8, machine: Machine) -> Result<Self> {
        let mut host =
            Self { machine, number, directory: NamespaceDirectory::new()?, state: TempDir::new()?, agent: None };
        host.start_agent()?;
        Ok(host)
    }

    fn start_agent(&mut self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let ledger = Ledger::open(self.state.path())?;
        let observed = Observed::new();
        let config = NetworkConfig {
            underlay_address: underlay_address(self.number),
            namespaces: self.directory.path().to_owned(),
            ..NetworkConfig::default()
        };
        let namespace = Namespace::bound_at(self.machine.path())?.context("the machine is not there")?;
        let networks =
            runtime.block_on(NetworkReconciler::start_in(namespace, config, ledger.clone(), observed.clone()))?;
        self.agent = Some(Agent { runtime, ledger, observed, networks });
        Ok(())
    }

    /// As a crash would: nothing is finished, nothing is cleaned up. Then a new agent on the same ledger.
    pub(crate) fn restart_agent(&mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            agent.runtime.shutdown_background();
        }
        self.start_agent()
    }

    /// A new agent that was told nothing yet.
    pub(crate) fn restart_agent_without_ledger(&mut self) -> Result<()> {
        self.state = TempDir::new()?;
        self.restart_agent()
    }

    fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("the agent does not run")
    }

    pub(crate) fn networks(&self) -> Result<&NetworkReconciler> {
        Ok(&self.agent()?.networks)
    }

    pub(crate) fn status(&self, plan: &Plan) -> Result<NetworkStatus> {
        let status = self.agent()?.observed.network(&plan.cluster).context("the network has no status")?;
        Ok(status.as_ref().clone())
    }

    /// Asks for a network and waits until it is ready.
    pub(crate) fn apply(&self, plan: &Plan, peers: &[Peer]) -> Result<()> {
        let peers = PeerList { generation: 1.try_into()?, peers: peers.to_vec() };
        self.put(NetworkRecord { spec: plan.spec(self.number)?, peers: Some(peers), deleting: false })?;
        self.wait_until_ready(plan)
    }

    /// Asks for a network.
    pub(crate) fn ask(&self, plan: &Plan) -> Result<()> {
        self.put(NetworkRecord { spec: plan.spec(self.number)?, peers: None, deleting: false })
    }

    /// Asks for another form of a network and waits until it is so.
    pub(crate) fn change(&self, plan: &Plan) -> Result<()> {
        let spec = plan.spec(self.number)?;
        let generation = spec.generation;
        self.put(NetworkRecord { spec, ..self.record(plan)? })?;
        eventually("the new spec is in force", || Ok(self.status(plan)?.observed_generation == Some(generation)))
    }

    pub(crate) fn wait_until_ready(&self, plan: &Plan) -> Result<()> {
        let agent = self.agent()?;
        let ready = agent.networks.ready(&plan.cluster);
        let waited = agent.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), ready).await });
        waited.with_context(|| {
            let status = agent.observed.network(&plan.cluster);
            format!("the network did not become ready: {status:#?}")
        })
    }

    fn put(&self, record: NetworkRecord) -> Result<()> {
        let agent = self.agent()?;
        agent.runtime.block_on(
            agent
                .ledger
                .update(move |_| Ok::<_, std::convert::Infallible>((vec![Change::PutNetwork(record.into())], ()))),
        )?;
        Ok(())
    }

    fn record(&self, plan: &Plan) -> Result<NetworkRecord> {
        let networks = self.agent()?.ledger.networks();
        let record = networks.borrow().get(&plan.cluster).cloned().context("there is no such network")?;
        Ok(record.as_ref().clone())
    }

    /// Tells which guests are on which other hosts, and waits until it is so.
    pub(crate) fn tell_peers(&self, plan: &Plan, generation: u64, peers: &[(u8, &[&Guest])]) -> Result<()> {
        let peers = peers.iter().map(|(host, guests)| peer(plan, *host, guests)).collect();
        self.tell_peer_list(plan, PeerList { generation: generation.try_into()?, peers })
    }

    pub(crate) fn tell_peer_list(&self, plan: &Plan, peers: PeerList) -> Result<()> {
        let generation = peers.generation;
        self.put(NetworkRecord { peers: Some(peers), ..self.record(plan)? })?;
        eventually("the peer list is in force", || Ok(self.status(plan)?.observed_peers_generation == Some(generation)))
    }

    pub(crate) fn delete(&self, plan: &Plan) -> Result<()> {
        self.put(NetworkRecord { deleting: true, ..self.record(plan)? })
    }

    pub(crate) fn knows(&self, plan: &Plan) -> Result<bool> {
        Ok(self.agent()?.ledger.networks().borrow().contains_key(&plan.cluster))
    }

    pub(crate) fn attach(&self, plan: &Plan, port: Port) -> Result<Tap, AttachError> {
        let Ok(agent) = self.agent() else { return Err(AttachError::Held) };
        agent.runtime.block_on(agent.networks.attach(&plan.cluster, port))
    }

    /// All at the same time.
    pub(crate) fn attach_all(&self, plan: &Plan, ports: &[Port]) -> Result<Vec<Result<Tap, AttachError>>> {
        let agent = self.agent()?;
        let all = ports.iter().map(|port| agent.networks.attach(&plan.cluster, *port));
        Ok(agent.runtime.block_on(futures::future::join_all(all)))
    }

    pub(crate) fn detach(&self, plan: &Plan, uid: GuestUid) -> Result<()> {
        let agent = self.agent()?;
        agent.runtime.block_on(agent.networks.detach(&plan.cluster, uid));
        Ok(())
    }

    pub(crate) fn adopt(&self, plan: &Plan, port: Port) -> Result<()> {
        let agent = self.agent()?;
        agent.runtime.block_on(agent.networks.adopt(&plan.cluster, port));
        Ok(())
    }

    /// A guest with the address with this last byte, attached.
    pub(crate) fn guest(&self, plan: &Plan, last: u8) -> Result<Guest> {
        Guest::new(self, plan, port(plan, last)?)
    }

    /// Where a cluster's namespace is bound.
    pub(crate) fn namespace_of(&self, plan: &Plan) -> PathBuf {
        self.directory.path().join(format!("goliath-{}", plan.cluster))
    }

    /// Runs a command line in a cluster's namespace.
    pub(crate) fn run_in(&self, plan: &Plan, line: &str) -> Result<String> {
        let net = format!("--net={}", self.namespace_of(plan).display());
        goliath_lab::namespace::run(std::process::Command::new("nsenter").arg(net).arg("--").args(line.split(' ')))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.runtime.shutdown_background();
        }
    }
}

/// What other hosts are told of one.
pub(crate) fn peer(plan: &Plan, host: u8, guests: &[&Guest]) -> Peer {
    let address = plan.address(250 + host);
    Peer {
        host: format!("host{host}"),
        underlay_address: underlay_address(host),
        host_endpoint: HostEndpoint { address, mac_address: MacAddress::of_host(address) },
        guests: guests
            .iter()
            .map(|guest| GuestEndpoint { address: guest.port.address, mac_address: guest.port.mac })
            .collect(),
    }
}

/// Two hosts, and a cluster `acme` with a guest on each: 10.7.0.11 and 10.7.0.12.
pub(crate) struct Pair {
    pub(crate) a: Guest,
    pub(crate) b: Guest,
    pub(crate) hosts: [Host; 2],
    pub(crate) acme: Plan,
    pub(crate) underlay: Underlay,
}

impl Pair {
    pub(crate) fn new() -> Result<Self> {
        Self::of(Plan::new("acme", 7, "10.7.0.0/24")?)
    }

    pub(crate) fn of(acme: Plan) -> Result<Self> {
        let (hosts, underlay) = two_hosts()?;
        for host in &hosts {
            host.apply(&acme, &[])?;
        }
        let a = hosts[0].guest(&acme, 11)?;
        let b = hosts[1].guest(&acme, 12)?;
        introduce(&acme, &hosts, &[&a], &[&b], 2)?;
        Ok(Self { a, b, hosts, acme, underlay })
    }
}

/// Two hosts without any network, and the switch between them.
pub(crate) fn two_hosts() -> Result<([Host; 2], Underlay)> {
    let underlay = Underlay::new(&unique_prefix())?;
    let host = |number| Host::start(number, underlay.plug(&format!("host{number}"), underlay_address(number))?);
    let hosts = [host(0)?, host(1)?];
    Ok((hosts, underlay))
}

fn underlay_address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, host + 1)
}

/// Tells each of two hosts what the other has.
pub(crate) fn introduce(
    plan: &Plan,
    hosts: &[Host; 2],
    first: &[&Guest],
    second: &[&Guest],
    generation: u64,
) -> Result<()> {
    hosts[0].tell_peers(plan, generation, &[(1, second)])?;
    hosts[1].tell_peers(plan, generation, &[(0, first)])
}

/// A place for a guest with the address with this last byte.
pub(crate) fn port(plan: &Plan, last: u8) -> Result<Port> {
    let uid: GuestUid = uuid::Uuid::new_v4().to_string().parse()?;
    Ok(Port { uid, address: plan.address(last), mac: MacAddress::of_guest(uid) })
}

/// A machine whose `eth0` hangs on a tap of the agent's, as a QEMU's would.
pub(crate) struct Guest {
    pub(crate) machine: Machine,
    pub(crate) port: Port,
    pub(crate) device: String,
    pub(crate) mtu: u16,
    _cable: Cable,
}

impl Guest {
    pub(crate) fn new(host: &Host, plan: &Plan, port: Port) -> Result<Self> {
        let machine = Machine::new(&format!("{}-{}", plan.cluster, port.address.octets()[3]))?;
        let tap = host.attach(plan, port)?;
        let own = machine.inside(|| Ok(network::tap::open("eth0")?))?;
        machine.run(&format!("ip link set eth0 address {} mtu {} up", port.mac, tap.mtu))?;
        machine.run(&format!("ip address add {}/{} dev eth0", port.address, plan.cidr.prefix()))?;
        machine.run(&format!("ip route add default via {}", plan.address(1)))?;
        let cable = Cable::between(tap.file, own)?;
        Ok(Self { machine, port, device: tap.device, mtu: tap.mtu.get(), _cable: cable })
    }

    pub(crate) fn reaches(&self, address: &str) -> Result<()> {
        self.machine.run(&format!("ping -c 3 -i 0.05 -W 2 {address}")).map(drop)
    }

    pub(crate) fn does_not_reach(&self, address: &str) -> Result<()> {
        let answered = self.machine.succeeds(&format!("ping -c 3 -i 0.05 -W 1 {address}"))?;
        ensure!(!answered, "{} reached {address}", self.port.address);
        Ok(())
    }
}

/// Looks until something is so; a test fails when it is not after ten seconds.
pub(crate) fn eventually(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match look() {
            Ok(true) => return Ok(()),
            Ok(false) | Err(_) if Instant::now() < deadline => {}
            Ok(false) => bail!("not within ten seconds: {what}"),
            Err(error) => return Err(error.context(format!("not within ten seconds: {what}"))),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
