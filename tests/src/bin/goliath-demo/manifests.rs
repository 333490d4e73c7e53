//! What the operator asks of the hosts, as he would write it.

use std::net::Ipv4Addr;

use goliath_lab::{Cluster, Host};

/// One guest: its cluster's only one on its host.
pub(crate) struct GuestPlan {
    pub(crate) name: &'static str,
    pub(crate) host: Host,
    pub(crate) address: Ipv4Addr,
}

impl GuestPlan {
    /// Unique within the cluster, as the address is.
    fn mac_address(&self) -> String {
        let [_, b, c, d] = self.address.octets();
        format!("06:d0:00:{b:02x}:{c:02x}:{d:02x}")
    }
}

/// A cluster's part on one host: the network with its peers, and the guest.
pub(crate) fn of_host(cluster: &Cluster, guest: &GuestPlan, peer: &GuestPlan, image: &str, issuer: &str) -> String {
    let GuestPlan { name, host, address } = guest;
    let network = cluster.network_on(host);
    let common_name = format!("{name}.{}.test", cluster.name());
    format!(
        "\
# The cluster {cluster} on host {host}.
apiVersion: goliath.dev/v1alpha1
kind: Network
metadata:
  name: {cluster}
spec:
  vni: {vni}
  cidr: {cidr}
  gatewayAddress: {gateway}
  hostAddress: {host_address}
  peers:
    - host: {peer}
      underlayAddress: {peer_underlay}
      hostEndpoint:
        ipv4Address: {peer_address}
      guests:
        - ipv4Address: {peer_guest}
          macAddress: {peer_mac}
---
apiVersion: goliath.dev/v1alpha1
kind: Guest
metadata:
  name: {name}
  cluster: {cluster}
  uid: {uid}
spec:
  image: {image}
  machine:
    vcpus: 1
    memory: 192MiB
  boot:
    kernel: {{}}
  network:
    ipv4Address: {address}
    macAddress: {mac}
  seed:
    cloudInit: {{}}
  certificates:
    - name: node
      issuer: {issuer}
      commonName: {common_name}
      dnsNames: [{common_name}]
      ipAddresses: [{address}]
      ttl: 1h
",
        cluster = cluster.name(),
        host = host.name(),
        vni = network.vni,
        cidr = network.cidr,
        gateway = network.gateway_address,
        host_address = network.host_address,
        peer = peer.host.name(),
        peer_underlay = peer.host.address(),
        peer_address = cluster.host_address(&peer.host),
        peer_guest = peer.address,
        peer_mac = peer.mac_address(),
        // Given, and not derived from the names: several demos may be up at once.
        uid = uuid::Uuid::new_v4(),
        mac = guest.mac_address(),
    )
}
