use std::{net::Ipv4Addr, path::PathBuf};

use serde::Deserialize;

use crate::spec::ClusterName;

/// The underlay, and where clusters' namespaces are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// This host's VTEP: an address of one of its devices. Unspecified: no networks on this host.
    pub underlay_address: Ipv4Addr,
    /// VXLAN's UDP port.
    pub vxlan_port: u16,
    /// Where clusters' network namespaces are bound.
    pub namespaces: PathBuf,
    /// The tool that loads nftables rules.
    pub nft: PathBuf,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            underlay_address: Ipv4Addr::UNSPECIFIED,
            vxlan_port: 4789,
            namespaces: "/run/netns".into(),
            nft: "/usr/sbin/nft".into(),
        }
    }
}

impl NetworkConfig {
    /// Where a cluster's network namespace is bound.
    pub fn namespace_of(&self, cluster: &ClusterName) -> PathBuf {
        self.namespaces.join(format!("goliath-{cluster}"))
    }
}

impl super::Section for NetworkConfig {
    fn complaints(&self) -> Vec<(&'static str, String)> {
        if self.underlay_address.is_loopback() || self.underlay_address.is_multicast() {
            vec![("underlay_address", format!("{} is not an address that other hosts reach", self.underlay_address))]
        } else {
            Vec::new()
        }
    }
}
