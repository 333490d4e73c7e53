//! Networks as rows.

use goliath_proto::agent::v1::{Condition, ConditionStatus, Network};

use super::{
    table::{Cell, Table},
    text::or_dash,
};
use crate::style::Tone;

pub(crate) fn table(networks: &[Network], wide: bool) -> Table {
    let mut heading = vec!["NAME", "READY", "VNI", "CIDR", "GATEWAY", "HOST ADDRESS", "MTU", "PEERS", "PORTS"];
    if wide {
        heading.extend(["EGRESS", "GENERATION", "PEERS GENERATION", "REPAIRS", "NAMESPACE"]);
    }
    heading.push("NOTE");
    let mut table = Table::new(heading);
    for network in networks {
        table.row(row(network, wide));
    }
    table
}

fn row(network: &Network, wide: bool) -> Vec<Cell> {
    let spec = network.spec.clone().unwrap_or_default();
    let status = network.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready");
    let peers = network.peers.clone().unwrap_or_default();
    let mut row: Vec<Cell> = vec![
        spec.cluster.into(),
        match ready.map(Condition::status) {
            Some(ConditionStatus::True) => Cell::new("yes", Tone::Good),
            Some(ConditionStatus::False) => Cell::new("no", Tone::Bad),
            _ => Cell::new("?", Tone::Dim),
        },
        spec.vni.to_string().into(),
        spec.cidr.into(),
        spec.gateway_address.into(),
        spec.host_address.into(),
        if status.mtu == 0 { "-".into() } else { status.mtu.to_string().into() },
        peers.peers.len().to_string().into(),
        status.ports.to_string().into(),
    ];
    if wide {
        row.extend([
            Cell::from(if spec.egress { "yes" } else { "no" }),
            generation(spec.generation, status.observed_generation),
            generation(peers.generation, status.observed_peers_generation),
            status.repairs.to_string().into(),
            or_dash(&status.namespace).into(),
        ]);
    }
    row.push(match ready {
        Some(condition) if condition.status() != ConditionStatus::True => {
            Cell::new(condition.reason.clone(), Tone::Warn)
        }
        _ => "".into(),
    });
    row
}

/// What was asked for, and what is there where that is another.
fn generation(asked: u64, observed: u64) -> Cell {
    if asked == observed { asked.to_string().into() } else { Cell::new(format!("{asked} (at {observed})"), Tone::Warn) }
}
