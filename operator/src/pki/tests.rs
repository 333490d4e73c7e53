//! A model of Vault that only knows what a change does: from any state that it can be left in, the changes lead to what
//! is desired, and then there are none.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::{
    cluster::{GUEST_ROLES, policy_mark, policy_name},
    host::{ObservedAlias, ObservedEntity},
    *,
};
use crate::objects::{CertificateAuthoritySpec, GuestRole, NamePattern, TimeSpan};

const ACCESSOR: &str = "auth_approle_1";

fn uid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// The authority of a Kubernetes cluster.
fn authority(certificate_hours: u64) -> CertificateAuthoritySpec {
    let machine = json!({ "vcpus": 2, "memory": "2GiB" });
    let cluster = json!({
        "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
        "network": { "cidr": "10.7.0.0/24" },
        "masters": { "replicas": 1, "machine": machine, "image": "a:b" },
        "workers": [{ "name": "worker", "replicas": 3, "machine": machine, "image": "a:b" }],
        "pki": { "certificateTtl": format!("{certificate_hours}h"), "allowedDomains": ["acme.example"] }
    });
    kubernetes::authority(&"acme".parse().unwrap(), &serde_json::from_value(cluster).unwrap()).unwrap()
}

fn cluster() -> ClusterPki {
    ClusterPki { uid: uid(1), spec: authority(720) }
}

fn host(clusters: &[&str]) -> HostLogin {
    let grant = |name: &&str| Grant { cluster: name.parse().unwrap(), role: GuestRole::Worker };
    HostLogin { host: "host-1.rack-a".parse().unwrap(), uid: uid(7), grants: clusters.iter().map(grant).collect() }
}

fn nothing() -> ObservedHost {
    ObservedHost { accessor: ACCESSOR.to_owned(), app_role: None, entity: None }
}

#[derive(Debug, Clone)]
struct Model {
    cluster: ObservedCluster,
    host: ObservedHost,
    roots: u64,
    /// The last that was made.
    root: Option<RootCertificate>,
}

impl Model {
    fn empty() -> Self {
        Self { cluster: ObservedCluster::default(), host: nothing(), roots: 0, root: None }
    }

    fn carry_out(&mut self, change: &Change) {
        let (cluster, host) = (&mut self.cluster, &mut self.host);
        match change.clone() {
            Change::EnableMount { owner, max_lease_ttl, .. } => {
                assert!(cluster.mount.is_none());
                cluster.mount = Some((Mark::read(&owner.to_string()), max_lease_ttl));
            }
            Change::TuneMount { max_lease_ttl, .. } => cluster.mount.as_mut().unwrap().1 = max_lease_ttl,
            Change::GenerateRoot { common_name, .. } => {
                assert!(cluster.mount.is_some() && !cluster.has_issuer);
                self.roots += 1;
                let certificate = format!("{common_name} {}", self.roots);
                self.root = Some(RootCertificate { certificate, not_after: Timestamp::UNIX_EPOCH });
                cluster.root.clone_from(&self.root);
                cluster.has_issuer = true;
            }
            Change::MakeRootDefault { .. } => cluster.root.clone_from(&self.root),
            Change::WriteRole { role, settings, .. } => {
                cluster.roles.insert(role, Some(*settings));
            }
            Change::DeleteRole { role, .. } => assert!(cluster.roles.remove(&role).is_some()),
            Change::WritePolicy { name, text } => {
                let cluster_name = "acme".parse().unwrap();
                let role = GUEST_ROLES.into_iter().find(|role| policy_name(&cluster_name, *role) == name).unwrap();
                cluster.policies.insert(role, text);
            }
            Change::CreateEntity { owner, .. } => {
                assert!(host.entity.is_none());
                let (mark, policies) = (Mark::read(&owner.to_string()), BTreeSet::new());
                host.entity = Some(ObservedEntity { mark, policies, disabled: false, aliases: Vec::new() });
            }
            Change::SetPolicies { policies, .. } => host.entity.as_mut().unwrap().policies = policies,
            Change::WriteAppRole { role_id, settings, .. } => host.app_role = Some((role_id, Some(settings))),
            Change::LinkEntity { role_id, accessor, .. } => {
                let alias = ObservedAlias { id: format!("alias of {role_id}"), accessor, name: role_id };
                host.entity.as_mut().unwrap().aliases.push(alias);
            }
            Change::UnlinkEntity { alias, .. } => {
                host.entity.as_mut().unwrap().aliases.retain(|found| found.id != alias);
            }
        }
    }

    fn changes(&self, cluster: &ClusterPki, host: &HostLogin) -> Vec<Change> {
        let mut changes = cluster.changes(&self.cluster).unwrap();
        changes.extend(host.changes(&self.host).unwrap());
        changes
    }
}

#[derive(Debug, Clone)]
struct Wanted {
    cluster: ClusterPki,
    host: HostLogin,
}

prop_compose! {
    fn wanted()(
        kept in proptest::collection::vec(any::<bool>(), 9),
        certificate_hours in 1..1000_u64,
        authority_hours in 1..100_000_u64,
        clusters in proptest::collection::btree_set("[a-z]{1,3}", 0..4),
    ) -> Wanted {
        let mut keep = kept.into_iter();
        let mut spec = authority(certificate_hours);
        spec.roles.retain(|_| keep.next().unwrap());
        spec.ttl = TimeSpan::hours(authority_hours);
        let clusters: Vec<_> = clusters.iter().map(String::as_str).collect();
        Wanted { cluster: ClusterPki { uid: uid(1), spec }, host: host(&clusters) }
    }
}

proptest! {
    #[test]
    fn killed_anywhere_and_whatever_was_wanted_before_the_end_is_the_same(
        steps in proptest::collection::vec((wanted(), 0..40_usize), 0..4),
        last in wanted(),
        half_a_root in any::<bool>(),
        strange in any::<bool>(),
    ) {
        let mut vault = Model::empty();
        for (wanted, killed_after) in steps {
            for change in vault.changes(&wanted.cluster, &wanted.host).iter().take(killed_after) {
                vault.carry_out(change);
            }
        }
        if strange && let (Some(entity), Some(_)) = (&mut vault.host.entity, &vault.cluster.mount) {
            // What people may have done by hand.
            let (id, accessor, name) = ("by hand".to_owned(), "auth_userpass_1".to_owned(), "mallory".to_owned());
            entity.aliases.push(ObservedAlias { id, accessor, name });
            entity.policies.insert("goliath-pki-other".to_owned());
            vault.cluster.roles.insert("open".to_owned(), None);
        }
        if half_a_root {
            // Killed while Vault made it.
            vault.cluster.root = None;
        }
        let root = vault.root.clone();
        for change in vault.changes(&last.cluster, &last.host) {
            vault.carry_out(&change);
        }
        prop_assert_eq!(vault.changes(&last.cluster, &last.host), vec![]);
        prop_assert!(root.is_none() || root == vault.cluster.root, "the root was replaced");
        prop_assert_eq!(vault.roots, 1);
        let policy = |grant: &Grant| format!("goliath-pki-{}.worker", grant.cluster);
        let policies: BTreeSet<_> = last.host.grants.iter().map(policy).collect();
        prop_assert_eq!(&vault.host.entity.as_ref().unwrap().policies, &policies);
        prop_assert_eq!(vault.cluster.roles.len(), last.cluster.spec.roles.len());
    }

    #[test]
    fn what_vault_tells_of_a_role_is_read_as_it_was_written(wanted in wanted()) {
        for role in &wanted.cluster.spec.roles {
            let settings = RoleSettings::new(role, &wanted.cluster.spec.allowed_domains);
            let told = serde_json::to_value(&settings).unwrap();
            prop_assert_eq!(serde_json::from_value::<RoleSettings>(told).unwrap(), settings);
        }
    }
}

#[test]
fn what_is_in_the_way_is_refused_and_nothing_is_changed() {
    let (wanted, other) = (cluster(), ClusterPki { uid: uid(2), ..cluster() });
    let mount = |text: &str| ObservedCluster { mount: Some((Mark::read(text), 0)), ..ObservedCluster::default() };
    assert_eq!(
        wanted.changes(&mount("PKI of the shop")).unwrap_err().to_string(),
        "Vault has the mount pki-acme that Goliath did not make: remove or rename it, or choose another name for cluster \
         acme"
    );
    let mut model = Model::empty();
    for change in other.changes(&ObservedCluster::default()).unwrap() {
        model.carry_out(&change);
    }
    let refusal = wanted.changes(&model.cluster).unwrap_err();
    assert!(matches!(&refusal, Conflict::Another { what, .. } if what == "the mount pki-acme"), "{refusal}");
    let policy = ObservedCluster { mount: None, ..model.cluster };
    assert!(matches!(wanted.changes(&policy).unwrap_err(), Conflict::Another { what, .. } if what.contains("policy")));

    let wanted = host(&["acme"]);
    let entity = |mark| ObservedHost {
        entity: Some(ObservedEntity { mark, policies: BTreeSet::new(), disabled: false, aliases: Vec::new() }),
        ..nothing()
    };
    assert!(matches!(wanted.changes(&entity(Mark::None)).unwrap_err(), Conflict::Unowned { .. }));
    let app_role = |role_id: String| ObservedHost { app_role: Some((role_id, None)), ..nothing() };
    let by_hand = app_role(uid(9).to_string());
    assert!(matches!(wanted.changes(&by_hand).unwrap_err(), Conflict::Unowned { .. }));
    let another = app_role(host::role_id(&wanted.host, uid(8)));
    assert!(matches!(wanted.changes(&another).unwrap_err(), Conflict::Another { .. }));
}

#[test]
fn a_mark_is_of_one_object_only() {
    let owner = |cluster: &str, number| cluster::owner(&cluster.parse().unwrap(), uid(number));
    let mark = Mark::read(&owner("acme", 1).to_string());
    assert!(mark.is_of(&owner("acme", 1)));
    assert!(!mark.is_of(&owner("acme", 2)) && !mark.is_of(&owner("acm", 1)));
    for text in ["", "PKI", "owned-by=goliath2 cluster=acme", " owned-by=goliath"] {
        assert_eq!(Mark::read(text), Mark::None, "{text:?}");
    }
    assert_eq!(policy_mark("path \"x\" {}\n# owned-by=goliath cluster=acme"), Mark::None);
}

#[test]
fn the_policy_of_a_cluster_allows_signing_by_name_and_nothing_else() {
    let mut wanted = cluster();
    wanted.spec.roles.retain(|role| ["admin", "kubelet", "scheduler"].contains(&role.name.as_str()));
    wanted
        .spec
        .roles
        .push(serde_json::from_value(json!({ "name": "web", "maxTtl": "1h", "usage": "server" })).unwrap());
    let policies = wanted.changes(&ObservedCluster::default()).unwrap().into_iter().filter_map(|change| match change {
        Change::WritePolicy { name, text } => Some(format!("{name}:\n{text}")),
        _ => None,
    });
    insta::assert_snapshot!(policies.collect::<String>(), @r#"
    goliath-pki-acme.master:
    # owned-by=goliath cluster=acme uid=00000000-0000-0000-0000-000000000001
    path "pki-acme/sign/scheduler" {
      capabilities = ["update"]
      allowed_parameters = { "common_name" = ["system:kube-scheduler"], "*" = [] }
      denied_parameters = { "not_after" = [] }
    }
    path "pki-acme/sign/web" {
      capabilities = ["update"]
      denied_parameters = { "not_after" = [] }
    }
    goliath-pki-acme.worker:
    # owned-by=goliath cluster=acme uid=00000000-0000-0000-0000-000000000001
    path "pki-acme/sign/kubelet" {
      capabilities = ["update"]
      allowed_parameters = { "common_name" = ["system:node:*"], "*" = [] }
      denied_parameters = { "not_after" = [] }
    }
    path "pki-acme/sign/web" {
      capabilities = ["update"]
      denied_parameters = { "not_after" = [] }
    }
    "#);
}

#[test]
fn a_pattern_is_no_way_out_of_a_policy() {
    for good in ["system:node:*", "*.acme.example", "master-*", "localhost"] {
        assert_eq!(good.parse::<NamePattern>().unwrap().as_str(), good);
    }
    for bad in ["", "*", "**", "a\"b", "a b", "a*b", "a\n", "${x}", "é*"] {
        assert!(bad.parse::<NamePattern>().is_err(), "{bad:?}");
    }
}

#[test]
fn the_documentation_shows_the_policy_of_the_operator() {
    let documentation = include_str!("../../../docs/certificates.md");
    assert!(documentation.contains(OPERATOR_POLICY));
}
