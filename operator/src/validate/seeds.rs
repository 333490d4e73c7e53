//! Whether the seeds of all groups can be rendered: tried with the first guest of each, as it would be.

use std::net::Ipv4Addr;

use goliath_proto::values::OverlayCidr;

use super::{Problems, disks::path_of};
use crate::{
    controllers::cluster::group::Group,
    objects::{Cluster, GuestIndex, ResourceExt as _, SeedTemplate},
    render::{Inputs, Member, Node, Templates},
};

pub(super) fn check(problems: &mut Problems, cluster: &Cluster, templates: &Templates) {
    let Ok(overlay) = cluster.spec.network.cidr.to_string().parse::<OverlayCidr>() else { return };
    let address = |number: u32| Ipv4Addr::from_bits(overlay.first().to_bits().saturating_add(number));
    let groups = Group::all(&cluster.spec);
    let masters: Vec<Member> = groups
        .iter()
        .take(1)
        .flat_map(|masters| masters.indexes().map(|index| masters.hostname(index)))
        .zip(1..)
        .map(|(name, number)| Member { name, address: address(number) })
        .collect();
    let name = cluster.name_any();
    for (number, group) in groups.iter().enumerate() {
        let hostname = group.hostname(GuestIndex::SMALLEST);
        let node = Node {
            name: &hostname,
            address: address(1),
            role: group.role,
            pool: group.pool,
            index: GuestIndex::SMALLEST,
            labels: group.labels,
        };
        let inputs =
            Inputs { cluster: &name, spec: &cluster.spec, gateway_address: overlay.first(), masters: &masters, node };
        if let Err(error) = templates.seed(group.seed, &inputs) {
            let language = match group.seed {
                SeedTemplate::Ignition(_) => "ignition",
                SeedTemplate::CloudInit(_) => "cloudInit",
            };
            problems.add(format!("{}.seed.{language}.template", path_of(number)), error.to_string());
        }
    }
}
