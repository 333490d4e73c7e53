//! A cluster as the operator sees it: one network over some hosts, and the guests in it.
//!
//! It does what the operator does: it hands out addresses, and tells every host of the network about the others.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result};
use goliath_proto::agent::v1::{
    ApplyNetworkRequest, DeleteNetworkRequest, GetNetworkRequest, ListGuestsRequest, Network, NetworkSpec, Peer,
    PeerEndpoint, PeerList,
};
use tokio::sync::Mutex;

use crate::{
    guest::{Guest, GuestPlan},
    host::Host,
};

/// What a cluster's network shall be like; [`ClusterPlan::over`] makes it so.
#[derive(Debug)]
pub struct ClusterPlan {
    name: String,
    vni: u32,
    network: [u8; 3],
    egress: bool,
}

/// A cluster whose network was asked for.
#[derive(Debug, Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    plan: ClusterPlan,
    hosts: Vec<Host>,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    generation: u64,
    next: u8,
    guests: Vec<Member>,
}

/// A guest, as the other hosts must know it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) uid: String,
    pub(crate) host: String,
    pub(crate) endpoint: PeerEndpoint,
}

impl ClusterPlan {
    pub(crate) fn new(name: &str, vni: u32) -> Self {
        // The same addresses in every cluster: they do not meet.
        Self { name: name.to_owned(), vni, network: [10, 7, 0], egress: false }
    }

    /// The first three numbers of its /24.
    #[must_use]
    pub fn network(mut self, network: [u8; 3]) -> Self {
        self.network = network;
        self
    }

    /// Guests reach the world through their host.
    #[must_use]
    pub fn with_egress(mut self) -> Self {
        self.egress = true;
        self
    }

    /// For hosts on which somebody else asks for its network, and for its guests, with the command line for example.
    pub fn on(self, hosts: &[&Host]) -> Cluster {
        let hosts = hosts.iter().map(|host| (*host).clone()).collect();
        Cluster { inner: Arc::new(Inner { plan: self, hosts, members: Mutex::default() }) }
    }

    /// Asks for its network on these hosts, each told of the others.
    pub async fn over(self, hosts: &[&Host]) -> Result<Cluster> {
        let cluster = self.on(hosts);
        for host in &cluster.inner.hosts {
            let request = ApplyNetworkRequest { spec: Some(cluster.network_on(host)), ..Default::default() };
            host.operator().await?.networks().apply_network(request).await?;
        }
        cluster.tell_peers().await?;
        Ok(cluster)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, last)
    }
}

impl Cluster {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.plan.name
    }

    /// Where it is.
    pub fn hosts(&self) -> &[Host] {
        &self.inner.hosts
    }

    /// The gateway that all of its hosts share.
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.plan.address(1)
    }

    /// A guest of it, to be placed and applied.
    pub fn guest(&self, name: &str) -> GuestPlan {
        GuestPlan::new(self.clone(), name)
    }

    /// A guest of it that somebody else applied on a host.
    pub async fn guest_on(&self, host: &Host, name: &str) -> Result<Guest> {
        let request = ListGuestsRequest { cluster: self.name().to_owned() };
        let listed = host.client().await?.guests().list_guests(request).await?.into_inner().guests;
        let spec = listed.into_iter().filter_map(|guest| guest.spec).find(|spec| spec.name == name);
        Guest::new(self.clone(), host.clone(), spec.with_context(|| format!("{} has no guest {name}", host.name()))?)
    }

    /// Its network as a host is told of it.
    pub fn network_on(&self, host: &Host) -> NetworkSpec {
        let plan = &self.inner.plan;
        NetworkSpec {
            cluster: plan.name.clone(),
            generation: 1,
            vni: plan.vni,
            cidr: format!("{}/24", plan.address(0)),
            gateway_address: plan.address(1).to_string(),
            host_address: self.host_address(host).to_string(),
            egress: plan.egress,
            ..Default::default()
        }
    }

    /// A host's own address in the overlay.
    pub fn host_address(&self, host: &Host) -> Ipv4Addr {
        let [.., last] = host.address().octets();
        self.inner.plan.address(200 + last)
    }

    /// What a host says of the network.
    pub async fn network_of(&self, host: &Host) -> Result<Network> {
        let request = GetNetworkRequest { cluster: self.name().to_owned() };
        let reply = host.client().await?.networks().get_network(request).await?.into_inner();
        reply.network.context("an answer without a network")
    }

    /// Removes the network from all of its hosts.
    pub async fn delete(&self) -> Result<()> {
        for host in &self.inner.hosts {
            let request = DeleteNetworkRequest { cluster: self.name().to_owned() };
            host.operator().await?.networks().delete_network(request).await?;
        }
        Ok(())
    }

    pub(crate) async fn next_address(&self) -> Ipv4Addr {
        let mut members = self.inner.members.lock().await;
        members.next += 1;
        self.inner.plan.address(10 + members.next)
    }

    /// Tells the other hosts of a new guest, or of one that has moved.
    pub(crate) async fn add(&self, member: Member) -> Result<()> {
        {
            let mut members = self.inner.members.lock().await;
            members.guests.retain(|known| known.uid != member.uid);
            members.guests.push(member);
        }
        self.tell_peers().await
    }

    pub(crate) async fn remove(&self, uid: &str) -> Result<()> {
        self.inner.members.lock().await.guests.retain(|known| known.uid != uid);
        self.tell_peers().await
    }

    async fn tell_peers(&self) -> Result<()> {
        let (generation, guests) = {
            let mut members = self.inner.members.lock().await;
            members.generation += 1;
            (members.generation, members.guests.clone())
        };
        let tell = self.inner.hosts.iter().map(async |host| {
            let others = self.inner.hosts.iter().filter(|other| other.name() != host.name());
            let peers = others.map(|other| self.peer(other, &guests)).collect();
            let request = ApplyNetworkRequest {
                cluster: self.name().to_owned(),
                peers: Some(PeerList { generation, peers }),
                ..Default::default()
            };
            host.operator().await?.networks().apply_network(request).await?;
            anyhow::Ok(())
        });
        futures::future::try_join_all(tell).await?;
        Ok(())
    }

    fn peer(&self, host: &Host, guests: &[Member]) -> Peer {
        let own = PeerEndpoint { ipv4_address: self.host_address(host).to_string(), ..Default::default() };
        let on_it = guests.iter().filter(|guest| guest.host == host.name());
        Peer {
            host: host.name().to_owned(),
            underlay_address: host.address().to_string(),
            host_endpoint: Some(own),
            guests: on_it.map(|guest| guest.endpoint.clone()).collect(),
        }
    }
}
