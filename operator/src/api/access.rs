//! Who may call what: one table of all methods, and a guard in front of every service that reads it. What is not in the
//! table nobody may call.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::Either;
use goliath_server::{status, tls::Peer};
use serde::Deserialize;
use tonic::{Code, Request, Status, body::Body, codegen::http, server::NamedService};
use tower::Service;

/// What a caller may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Applies, scales, drains.
    Operator,
    /// Says which machines belong to the fleet, and which are lost.
    Administrator,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
        })
    }
}

/// Every method, by service, and who may call it at least.
const METHODS: &[(&str, &[(&str, Role)])] = &[
    (
        "goliath.operator.v1.ObjectService",
        &[
            ("ListKinds", Role::Viewer),
            ("ApplyObjects", Role::Operator),
            ("GetObject", Role::Viewer),
            ("ListObjects", Role::Viewer),
            ("WatchObjects", Role::Viewer),
            ("DeleteObject", Role::Operator),
        ],
    ),
    ("goliath.operator.v1.EventService", &[("ListEvents", Role::Viewer), ("WatchEvents", Role::Viewer)]),
    (
        "goliath.operator.v1.FleetService",
        &[
            ("GetTree", Role::Viewer),
            ("ExplainGuest", Role::Viewer),
            ("ScalePool", Role::Operator),
            ("CordonHost", Role::Operator),
            ("DrainHost", Role::Operator),
            ("AddHost", Role::Administrator),
            ("IssueHostCredentials", Role::Administrator),
            ("ForgetHost", Role::Administrator),
        ],
    ),
];

/// Who may call the method at this path, `/package.Service/Method`; nobody where it is not known.
fn least(path: &str) -> Option<Role> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, methods) = METHODS.iter().find(|(name, _)| *name == service)?;
    methods.iter().find(|(name, _)| *name == method).map(|(_, role)| *role)
}

/// Which organisations of client certificates have which role.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Look.
    pub viewer: Vec<String>,
    /// Apply, scale, drain.
    pub operator: Vec<String>,
    /// Add and forget hosts too.
    pub administrator: Vec<String>,
}

impl Default for Roles {
    fn default() -> Self {
        Self {
            viewer: vec!["goliath:viewers".to_owned()],
            operator: vec!["goliath:operators".to_owned()],
            administrator: vec!["goliath:administrators".to_owned()],
        }
    }
}

impl Roles {
    /// The highest role of any of these organisations.
    fn of(&self, organizations: &[String]) -> Option<Role> {
        let of = |names: &[String]| organizations.iter().any(|organization| names.contains(organization));
        [(Role::Administrator, &self.administrator), (Role::Operator, &self.operator), (Role::Viewer, &self.viewer)]
            .into_iter()
            .find_map(|(role, names)| of(names).then_some(role))
    }

    /// Organisations by role, and which of them have two.
    pub(crate) fn twice(&self) -> Vec<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.viewer.iter().chain(&self.operator).chain(&self.administrator) {
            *counts.entry(name).or_default() += 1;
        }
        counts.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name.to_owned()).collect()
    }
}

/// Who calls, and what he may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    pub(super) role: Role,
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.role, self.peer)
    }
}

/// Who calls; the guard let nobody through without.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::unauthenticated("the connection does not say who calls"))
}

/// A service behind its guard.
#[derive(Debug, Clone)]
pub(super) struct Guarded<S> {
    service: S,
    roles: Arc<Roles>,
}

impl<S> Guarded<S> {
    pub(super) fn new(service: S, roles: &Arc<Roles>) -> Self {
        Self { service, roles: Arc::clone(roles) }
    }

    fn permit(&self, request: &http::Request<Body>) -> Result<Caller, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("the connection does not say who calls"))?;
        let refused = |message: String| {
            tracing::info!(%peer, path = request.uri().path(), "refused a call: {message}");
            status::other(Code::PermissionDenied, "NOT_PERMITTED", message)
        };
        let Some(role) = self.roles.of(&peer.organizations) else {
            let organizations = &peer.organizations;
            return Err(refused(format!(
                "the certificate of {:?} has organisations {organizations:?}: none of them has a role here ([roles] in operator.toml)",
                peer.common_name
            )));
        };
        match least(request.uri().path()) {
            Some(least) if role >= least => Ok(Caller { peer, role }),
            Some(least) => Err(refused(format!("{:?} is {role}: this takes {least} at least", peer.common_name))),
            None => Err(Status::unimplemented("this operator knows no such method")),
        }
    }
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Self::Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.permit(&request) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.service.call(request))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_method_has_a_row_and_every_row_a_method() {
        let files = prost_types::FileDescriptorSet::decode(goliath_proto::operator::FILE_DESCRIPTOR_SET).unwrap();
        let mut served = Vec::new();
        for file in files.file {
            for service in &file.service {
                for method in &service.method {
                    served.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        for path in &served {
            assert!(least(path).is_some(), "{path} has no row");
        }
        let rows: usize = METHODS.iter().map(|(_, methods)| methods.len()).sum();
        assert_eq!(rows, served.len());
        assert_eq!(least("/goliath.operator.v1.ObjectService/"), None);
        assert_eq!(least("/goliath.operator.v1.ObjectService/ApplyObjects/x"), None);
    }

    #[test]
    fn what_changes_something_is_not_for_viewers() {
        for (_, methods) in METHODS {
            for (method, role) in *methods {
                let looks = ["Get", "List", "Watch", "Explain"].iter().any(|verb| method.starts_with(verb));
                assert_eq!(*role == Role::Viewer, looks, "{method}");
            }
        }
    }

    #[test]
    fn the_highest_role_of_any_organisation_counts() {
        let roles = Roles::default();
        let of = |names: &[&str]| roles.of(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["system:masters"]), None);
        assert_eq!(of(&["goliath:viewers"]), Some(Role::Viewer));
        assert_eq!(of(&["goliath:viewers", "goliath:administrators"]), Some(Role::Administrator));
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Administrator);
    }
}
