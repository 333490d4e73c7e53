use goliath_proto::agent::v1::{ConditionStatus, Network, PeerEndpoint};

use super::Page;
use crate::{
    output::{
        View,
        table::{Cell, Table},
        text::or_dash,
    },
    style::Tone,
};

/// All there is to know about a network.
pub(crate) fn network(network: &Network, view: &View) -> String {
    let spec = network.spec.clone().unwrap_or_default();
    let status = network.status.clone().unwrap_or_default();
    let peers = network.peers.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .any(|condition| condition.r#type == "Ready" && condition.status() == ConditionStatus::True);
    let (state, tone) = if ready { ("Ready", Tone::Good) } else { ("not ready", Tone::Bad) };
    let mut page = Page::new(view, &spec.cluster, state, tone);
    page.text.push('\n');
    page.fact("VNI", &spec.vni.to_string());
    page.fact("CIDR", &spec.cidr);
    page.fact("gateway", &spec.gateway_address);
    page.fact("host address", &spec.host_address);
    page.fact("MTU", &if status.mtu == 0 { String::new() } else { status.mtu.to_string() });
    page.fact("egress", if spec.egress { "by NAT through this host" } else { "none" });
    page.fact("DNS servers", &spec.dns_servers.join(", "));
    page.fact("namespace", &status.namespace);
    page.fact("generation", &generation(spec.generation, status.observed_generation));
    page.fact("peer list", &generation(peers.generation, status.observed_peers_generation));
    page.fact("guests here", &status.ports.to_string());
    page.fact("repairs", &status.repairs.to_string());
    page.conditions(&status.conditions);
    page.heading("Peers");
    if peers.peers.is_empty() {
        page.lines("none: this host is alone in the network");
    } else {
        let mut table = Table::new(["HOST", "UNDERLAY", "OVERLAY", "GUESTS"]);
        for peer in &peers.peers {
            let address = |endpoint: &PeerEndpoint| endpoint.ipv4_address.clone();
            let guests: Vec<String> = peer.guests.iter().map(address).collect();
            let overlay = peer.host_endpoint.as_ref().map(address).unwrap_or_default();
            table.row(vec![
                peer.host.clone().into(),
                peer.underlay_address.clone().into(),
                or_dash(&overlay).into(),
                Cell::from(or_dash(&guests.join(", "))),
            ]);
        }
        page.lines(&table.render(view));
    }
    page.text
}

fn generation(asked: u64, observed: u64) -> String {
    if asked == observed { asked.to_string() } else { format!("{asked}, the host is at {observed}") }
}
