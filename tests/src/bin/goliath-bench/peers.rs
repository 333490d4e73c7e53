//! 10,000 guests of peers, written into a cluster's network: what the agent's network layer does when it is told of
//! them, beside `bridge -batch` and `ip -batch` with the same entries.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use goliath_agent::{
    network::{Namespace, State, Wanted, Worker, desired, kernel::ClusterKernel, kernel::KernelError, settings},
    spec::{ClusterName, GuestEndpoint, HostEndpoint, MacAddress, NetworkSpec, Peer, PeerList},
};
use goliath_lab::{
    namespace::{Machine, run},
    program,
};

use crate::figure::{Figure, Plan};

const GUESTS: u16 = 10_000;
const PEERS: u16 = 50;
const ROUNDS: usize = 5;
const UNDERLAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

const PLAN: Plan = Plan {
    name: "10,000 peers' FDB and neighbour entries",
    unit: "ms",
    baseline_name: "bridge -batch, ip -batch",
    goal: Some(1.0),
    cost: "The agent also reads what the kernel has, and works out the difference.",
};

pub(crate) async fn measure() -> Result<Figure> {
    let host = Machine::new("bench")?;
    let directory = tempfile::Builder::new().prefix("goliath-bench.").tempdir()?;
    let peers = peers()?;
    let batches = Batches::write(directory.path(), &peers)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let network = Network::make(&host, &directory.path().join(format!("a{round}"))).await?;
        ours.push(network.tell(&peers).await?);
        network.check_and_remove(&peers).await?;

        let network = Network::make(&host, &directory.path().join(format!("b{round}"))).await?;
        theirs.push(batches.load(&network.path)?);
        network.check_and_remove(&peers).await?;
    }
    Ok(PLAN.timed(&ours, &theirs))
}

/// One cluster's network without peers, on the agent's thread for it.
struct Network {
    worker: Worker<ClusterKernel>,
    path: PathBuf,
}

impl Network {
    async fn make(host: &Machine, path: &Path) -> Result<Self> {
        let host = Namespace::bound_at(host.path())?.context("the host's namespace is gone")?;
        let (nft, cluster): (PathBuf, ClusterName) = (program::installed("nft")?, "bench".parse()?);
        let bound = path.to_owned();
        let (worker, started) = Worker::start("bench", move || ClusterKernel::open(cluster, bound, &host, nft))
            .map_err(KernelError::Thread)?;
        started.await??;
        let network = Self { worker, path: path.to_owned() };
        network.reach(state(None)?).await?;
        Ok(network)
    }

    /// As the agent does it: looks, compares, writes the difference.
    async fn reach(&self, wanted: State) -> Result<()> {
        let failures = self
            .worker
            .run(move |kernel| {
                let seen = kernel.observe(&BTreeMap::new(), &settings(false))?;
                anyhow::Ok(kernel.apply(&seen.state.changes_to(&wanted)))
            })
            .await??;
        ensure!(failures.is_empty(), "the kernel refused: {failures:?}");
        Ok(())
    }

    async fn tell(&self, peers: &PeerList) -> Result<Duration> {
        let begin = Instant::now();
        self.reach(state(Some(peers))?).await?;
        Ok(begin.elapsed())
    }

    async fn check_and_remove(self, peers: &PeerList) -> Result<()> {
        let seen = self.worker.run(|kernel| kernel.observe(&BTreeMap::new(), &settings(false))).await??.state;
        let wanted = state(Some(peers))?;
        let all = seen.tunnel_entries == wanted.tunnel_entries
            && seen.bridge_entries == wanted.bridge_entries
            && seen.neighbours == wanted.neighbours;
        let failures = self.worker.run(ClusterKernel::tear_down).await?;
        ensure!(all, "not all entries are in the kernel");
        ensure!(failures.is_empty(), "the network cannot be removed: {failures:?}");
        Ok(())
    }
}

fn state(peers: Option<&PeerList>) -> Result<State> {
    let spec = NetworkSpec {
        cluster: "bench".parse()?,
        generation: 1.try_into()?,
        vni: 4242.try_into()?,
        cidr: "10.8.0.0/16".parse()?,
        gateway: Ipv4Addr::new(10, 8, 255, 1),
        host_address: Ipv4Addr::new(10, 8, 255, 2),
        mtu: None,
        egress: false,
        dns_servers: Vec::new(),
    };
    Ok(desired(&Wanted {
        spec: &spec,
        peers,
        ports: &BTreeMap::new(),
        underlay_address: UNDERLAY,
        vxlan_port: 4789,
        mtu: 1450.try_into()?,
        egress: None,
    }))
}

fn peers() -> Result<PeerList> {
    let each = GUESTS / PEERS;
    let peer = |number: u16| {
        let [high, low] = (number + 16).to_be_bytes();
        let address = Ipv4Addr::new(10, 8, 254, low);
        let guests = (0..each).map(|guest| endpoint(number * each + guest)).collect::<Result<Vec<_>>>()?;
        anyhow::Ok(Peer {
            host: format!("peer-{number}"),
            underlay_address: Ipv4Addr::new(198, 51, 100 + high, low),
            host_endpoint: HostEndpoint { address, mac_address: MacAddress::of_host(address) },
            guests,
        })
    };
    Ok(PeerList { generation: 1.try_into()?, peers: (0..PEERS).map(peer).collect::<Result<_>>()? })
}

fn endpoint(number: u16) -> Result<GuestEndpoint> {
    let [high, low] = (number + 16).to_be_bytes();
    let mac_address = MacAddress::try_from([0x02, 0, 0, 1, high, low])?;
    Ok(GuestEndpoint { address: Ipv4Addr::new(10, 8, high, low), mac_address })
}

/// The same entries as files for iproute2.
struct Batches {
    bridge: PathBuf,
    ip: PathBuf,
}

impl Batches {
    fn write(directory: &Path, peers: &PeerList) -> Result<Self> {
        let (mut bridge, mut ip) = (String::new(), String::new());
        for peer in &peers.peers {
            let vtep = peer.underlay_address;
            writeln!(bridge, "fdb append 00:00:00:00:00:00 dev vxlan dst {vtep} self permanent")?;
            let host = (peer.host_endpoint.address, peer.host_endpoint.mac_address);
            let guests = peer.guests.iter().map(|guest| (guest.address, guest.mac_address));
            for (address, mac) in std::iter::once(host).chain(guests) {
                writeln!(bridge, "fdb replace {mac} dev vxlan dst {vtep} self permanent")?;
                writeln!(bridge, "fdb replace {mac} dev vxlan master static")?;
                writeln!(ip, "neighbour replace {address} lladdr {mac} dev bridge nud permanent")?;
            }
        }
        let batches = Self { bridge: directory.join("bridge.batch"), ip: directory.join("ip.batch") };
        std::fs::write(&batches.bridge, bridge)?;
        std::fs::write(&batches.ip, ip)?;
        Ok(batches)
    }

    fn load(&self, namespace: &Path) -> Result<Duration> {
        let command = |name: &str, file: &Path| {
            let mut command = Command::new(program::installed("nsenter")?);
            command.arg(format!("--net={}", namespace.display())).arg(program::installed(name)?);
            command.arg("-batch").arg(file);
            anyhow::Ok(command)
        };
        let (mut bridge, mut ip) = (command("bridge", &self.bridge)?, command("ip", &self.ip)?);
        let begin = Instant::now();
        run(&mut bridge)?;
        run(&mut ip)?;
        Ok(begin.elapsed())
    }
}
