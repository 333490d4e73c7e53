//! The nftables rules themselves: of a cluster's namespace, and of the host's.

use std::{collections::BTreeSet, fmt::Write as _, net::Ipv4Addr};

use serde_json::Value;

use super::{
    egress::{ALL_SLOTS, HOST_DEVICE_PREFIX},
    nftables,
    state::{Role, Sender},
};
use crate::spec::{GuestUid, MacAddress};

/// What a guest may put into IPv4 packets.
const IP_SENDERS: &str = "ip_senders";
/// What it may say in ARP; a probe for an address comes from none.
const ARP_SENDERS: &str = "arp_senders";
/// The host's devices on which the agent turned forwarding on.
const UPLINKS: &str = "uplinks";

/// All rules of a cluster's namespace, replaced in one transaction: no packet passes in between.
pub(super) fn cluster(senders: &BTreeSet<Sender>) -> String {
    let gateway = MacAddress::GATEWAY;
    let mut script = format!(
        r#"table bridge goliath
delete table bridge goliath
table ip goliath
delete table ip goliath
table bridge goliath {{
  set {IP_SENDERS} {{ type ifname . ether_addr . ipv4_addr; }}
  set {ARP_SENDERS} {{ type ifname . ether_addr . ipv4_addr; }}
  chain guests {{
    type filter hook prerouting priority -300; policy accept;
    iifname "vxlan" ether saddr {gateway} drop
    iifname "vxlan" ether type arp drop
    iifname != "tap*" accept
    ether type ip iifname . ether saddr . ip saddr @{IP_SENDERS} accept
    ether type arp iifname . ether saddr . arp saddr ip @{ARP_SENDERS} iifname . arp saddr ether . arp saddr ip @{ARP_SENDERS} accept
    drop
  }}
  chain across {{
    type filter hook forward priority 0; policy accept;
    oifname "vxlan" ether type arp drop
    oifname "vxlan" ether daddr {gateway} drop
  }}
  chain outward {{
    type filter hook output priority 0; policy accept;
    oifname "vxlan" ether type arp drop
    oifname "vxlan" ether saddr {gateway} drop
  }}
}}
table ip goliath {{
  chain to_namespace {{
    type filter hook input priority 0; policy accept;
    iifname {{ "bridge", "gateway" }} ip daddr 169.254.0.0/16 drop
  }}
  chain routed {{
    type filter hook forward priority 0; policy drop;
    ip daddr 169.254.0.0/16 drop
    iifname {{ "bridge", "gateway" }} oifname {{ "bridge", "egress" }} accept
    iifname "egress" ct state established,related accept
  }}
  chain leaving {{
    type nat hook postrouting priority 100; policy accept;
    oifname "egress" masquerade
  }}
}}
"#
    );
    change_senders(&mut script, "add", senders);
    script
}

/// Adds or deletes what guests may say.
pub(super) fn change_senders<'s>(script: &mut String, verb: &str, senders: impl IntoIterator<Item = &'s Sender>) {
    for sender in senders {
        let tap = Role::Tap(sender.uid).device();
        let mac = sender.mac_address;
        let element = |address: Ipv4Addr| format!("\"{tap}\" . {mac} . {address}");
        let (own, probe) = (element(sender.address), element(Ipv4Addr::UNSPECIFIED));
        // Writing to a string does not fail.
        let _ = writeln!(script, "{verb} element bridge goliath {IP_SENDERS} {{ {own} }}");
        let _ = writeln!(script, "{verb} element bridge goliath {ARP_SENDERS} {{ {own}, {probe} }}");
    }
}

/// What the sets say of guests; None: they contradict each other or name a tap that nobody knows.
pub(super) fn senders(objects: &[Value], taps: &[GuestUid]) -> Option<BTreeSet<Sender>> {
    let uid_of = |device: &str| taps.iter().copied().find(|uid| Role::Tap(*uid).device() == device);
    let read = |set: &str| -> Option<BTreeSet<Sender>> {
        nftables::elements(objects, set)
            .into_iter()
            .map(|parts| match parts.as_slice() {
                [device, mac, address] => Some(Sender {
                    uid: uid_of(device)?,
                    mac_address: mac.parse().ok()?,
                    address: address.parse().ok()?,
                }),
                _ => None,
            })
            .collect()
    };
    let senders = read(IP_SENDERS)?;
    let probes = senders.iter().map(|sender| Sender { address: Ipv4Addr::UNSPECIFIED, ..*sender });
    let expected: BTreeSet<Sender> = senders.iter().copied().chain(probes).collect();
    (read(ARP_SENDERS)? == expected).then_some(senders)
}

/// All rules of the host's namespace.
///
/// Clusters do not reach each other, the host's own services, or any VTEP: with the host's address as its source, a
/// guest's packet to a VTEP would be taken for the host's own and open any network to it. Devices on which only the
/// agent turned forwarding on forward for clusters alone.
pub(super) fn host(vxlan_port: u16, uplinks: &BTreeSet<String>) -> String {
    let mut script = format!(
        r#"table ip goliath
delete table ip goliath
table ip goliath {{
  set {UPLINKS} {{ type ifname; }}
  chain to_host {{
    type filter hook input priority 0; policy accept;
    iifname "{HOST_DEVICE_PREFIX}*" ct state established,related accept
    iifname "{HOST_DEVICE_PREFIX}*" icmp type echo-request accept
    iifname "{HOST_DEVICE_PREFIX}*" drop
  }}
  chain routed {{
    type filter hook forward priority 0; policy accept;
    iifname "{HOST_DEVICE_PREFIX}*" oifname "{HOST_DEVICE_PREFIX}*" drop
    iifname "{HOST_DEVICE_PREFIX}*" udp dport {vxlan_port} drop
    oifname "{HOST_DEVICE_PREFIX}*" ct state established,related accept
    oifname "{HOST_DEVICE_PREFIX}*" drop
    iifname @{UPLINKS} oifname != "{HOST_DEVICE_PREFIX}*" drop
  }}
  chain leaving {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {ALL_SLOTS} oifname != "{HOST_DEVICE_PREFIX}*" masquerade
  }}
}}
"#
    );
    for uplink in uplinks {
        let _ = writeln!(script, "add element ip goliath {UPLINKS} {{ \"{uplink}\" }}");
    }
    script
}

/// The devices on which the agent turned forwarding on, as the host's rules remember them.
pub(super) fn uplinks(objects: &[Value]) -> BTreeSet<String> {
    nftables::elements(objects, UPLINKS).into_iter().flatten().collect()
}

/// Removes the host's rules.
pub(super) const REMOVE_HOST: &str = "table ip goliath\ndelete table ip goliath\n";
