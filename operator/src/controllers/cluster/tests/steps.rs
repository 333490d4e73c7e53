//! Whatever happens, in whatever order, the cluster comes to be what the manifest says, and nothing forbidden is done on
//! the way.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::world::{World, manifest, pool, root_disk};
use crate::{
    controllers::cluster::DISCARD_MASTER_DATA,
    objects::{Cluster, MasterCount, ResourceExt as _, WorkerPool},
};

#[derive(Debug, Clone)]
enum Step {
    /// The operator dies after so many actions.
    Reconcile(usize),
    Network,
    Issuer,
    Progress(usize),
    Fault {
        guest: usize,
        silent: bool,
    },
    Edit(Edit),
    Delete,
}

#[derive(Debug, Clone)]
enum Edit {
    Masters(MasterCount),
    Replicas(usize, u16),
    Image(usize, u8),
    Memory(usize, u8),
    Labels(u8),
    Version(u8),
    AddPool(u8),
    RemovePool,
    Pause(bool),
}

fn edit() -> impl Strategy<Value = Edit> {
    let masters = prop_oneof![Just(MasterCount::One), Just(MasterCount::Three), Just(MasterCount::Five)];
    prop_oneof![
        1 => masters.prop_map(Edit::Masters),
        4 => (0_usize..3, 0_u16..5).prop_map(|(pool, replicas)| Edit::Replicas(pool, replicas)),
        3 => (0_usize..3, 1_u8..4).prop_map(|(group, tag)| Edit::Image(group, tag)),
        3 => (0_usize..3, 1_u8..4).prop_map(|(group, memory)| Edit::Memory(group, memory)),
        1 => (0_u8..3).prop_map(Edit::Labels),
        1 => (0_u8..3).prop_map(Edit::Version),
        1 => (0_u8..3).prop_map(Edit::AddPool),
        1 => Just(Edit::RemovePool),
        1 => any::<bool>().prop_map(Edit::Pause),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop_oneof![3 => Just(usize::MAX), 1 => 0_usize..4].prop_map(Step::Reconcile),
        2 => Just(Step::Network),
        3 => Just(Step::Issuer),
        24 => (0_usize..16).prop_map(Step::Progress),
        2 => (0_usize..16, any::<bool>()).prop_map(|(guest, silent)| Step::Fault { guest, silent }),
        4 => edit().prop_map(Step::Edit),
    ]
}

fn apply(edit: &Edit, cluster: &mut Cluster) {
    let spec = &mut cluster.spec;
    match *edit {
        Edit::Masters(count) => spec.masters.replicas = count,
        Edit::Replicas(pool, replicas) => {
            if let Some(pool) = spec.workers.get_mut(pool) {
                pool.replicas = u64::from(replicas).try_into().unwrap();
            }
        }
        Edit::Image(0, tag) => spec.masters.image = format!("registry.example/master:{tag}").parse().unwrap(),
        Edit::Image(group, tag) => {
            if let Some(pool) = spec.workers.get_mut(group - 1) {
                pool.image = format!("registry.example/worker:{tag}").parse().unwrap();
            }
        }
        Edit::Memory(group, memory) => {
            let memory = format!("{memory}GiB").parse().unwrap();
            match group.checked_sub(1) {
                None => spec.masters.machine.memory = memory,
                Some(pool) => spec.workers.get_mut(pool).into_iter().for_each(|pool| pool.machine.memory = memory),
            }
        }
        Edit::Labels(value) => {
            spec.masters.labels.insert("colour".to_owned(), value.to_string());
        }
        Edit::Version(patch) => spec.kubernetes.version = format!("1.35.{patch}").parse().unwrap(),
        Edit::AddPool(number) => {
            let name = format!("more-{number}");
            if spec.workers.iter().all(|pool| pool.name.as_str() != name) {
                let pool: WorkerPool = serde_json::from_value(pool(&name, 2, &json!([]))).unwrap();
                spec.workers.push(pool);
            }
        }
        Edit::RemovePool => drop(spec.workers.pop()),
        Edit::Pause(paused) => spec.paused = paused,
    }
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Reconcile(survives) => drop(world.reconcile(*survives)),
        Step::Network => world.network(),
        Step::Issuer => world.issuer(),
        Step::Progress(number) => world.progress(*number),
        Step::Fault { guest, silent } => world.fault(*guest, *silent),
        Step::Edit(edit) => world.edit(|cluster| apply(edit, cluster)),
        Step::Delete => world.delete(),
    }
}

/// The administrator means what the manifest says.
fn confirm(world: &mut World) {
    world.edit(|cluster| cluster.spec.paused = false);
    world.edit(|cluster| {
        let generation = cluster.metadata.generation.unwrap().to_string();
        cluster.metadata.annotations.get_or_insert_default().insert(DISCARD_MASTER_DATA.to_owned(), generation);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn it_comes_to_be_what_the_manifest_says(
        masters in prop_oneof![Just(1_u16), Just(3)],
        begun: bool,
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let manifest = manifest(masters, &[pool("default", 3, &root_disk()), pool("fast", 2, &json!([]))]);
        let mut world = if begun { World::settled(manifest) } else { World::new(manifest) };
        for step in &steps {
            take(&mut world, step);
        }
        confirm(&mut world);
        world.finish();
        prop_assert_eq!(world.guests.keys().cloned().collect::<BTreeSet<_>>(), world.wanted());
        let cluster = world.cluster.as_ref().unwrap();
        for guest in world.guests.values() {
            let (machine, image) = match &guest.spec.pool {
                None => (&cluster.spec.masters.machine, &cluster.spec.masters.image),
                Some(name) => {
                    let pool = cluster.spec.workers.iter().find(|pool| pool.name == *name).unwrap();
                    (&pool.machine, &pool.image)
                }
            };
            prop_assert_eq!((&guest.spec.machine, &guest.spec.image), (machine, image), "{}", guest.name_any());
        }
        let asked: usize = world.guests.values().map(|guest| guest.spec.certificates.len()).sum();
        prop_assert_eq!(world.certificates.len(), asked);
        let status = cluster.status.as_ref().unwrap();
        prop_assert_eq!(status.masters.ready, u32::from(cluster.spec.masters.replicas.get()));
        prop_assert!(status.reserved_addresses.is_empty());
        prop_assert!(world.decide().unwrap().actions.is_empty());
    }

    #[test]
    fn whenever_it_is_deleted_nothing_is_left(
        before in prop::collection::vec(step(), 0..60),
        after in prop::collection::vec(step(), 0..30),
    ) {
        let mut world = World::new(manifest(3, &[pool("default", 3, &root_disk())]));
        for step in before.iter().chain([&Step::Delete]).chain(&after) {
            take(&mut world, step);
        }
        world.edit(|cluster| cluster.spec.paused = false);
        world.finish();
        prop_assert!(world.cluster.is_none() && world.guests.is_empty() && world.authority.is_none());
        prop_assert!(world.certificates.is_empty());
    }
}
