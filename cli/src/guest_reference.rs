//! Which guest a person means: `cluster/name`, a name that only one has, or a uid.

use goliath_proto::agent::v1::{GetGuestRequest, Guest, ListGuestsRequest};
use tonic::Code;

use crate::{
    connection::Agent,
    failure::{ExitCode, Failure},
    refusal::Refusal,
};

/// Why no single thing is meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ReferenceError {
    #[error("there is no {kind} `{name}` on this host")]
    NotFound { kind: &'static str, name: String, closest: Option<String> },
    #[error("`{name}` is not a kind: there are {}", known.join(", "))]
    NoKind { name: String, known: Vec<String>, closest: Option<String> },
    #[error("`{name}` could be any of {}", candidates.join(", "))]
    Ambiguous { name: String, candidates: Vec<String> },
}

impl ReferenceError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotFound { .. } => ExitCode::NotFound,
            Self::Ambiguous { .. } | Self::NoKind { .. } => ExitCode::Usage,
        }
    }

    pub(crate) fn hint(&self) -> String {
        match self {
            Self::NotFound { closest: Some(closest), .. } | Self::NoKind { closest: Some(closest), .. } => {
                format!("did you mean {closest}?")
            }
            Self::NoKind { .. } => "the kind comes before the name: goliath get cluster acme".to_owned(),
            Self::NotFound { kind, .. } => format!("goliath get {kind}s shows what there is"),
            Self::Ambiguous { .. } => "give the cluster too: cluster/name".to_owned(),
        }
    }

    /// Nothing of that name, and what comes closest.
    pub(crate) fn not_found(kind: &'static str, name: &str, known: impl IntoIterator<Item = String>) -> Self {
        Self::NotFound { kind, name: name.to_owned(), closest: closest(name, known) }
    }

    /// No kind of that name, and what comes closest.
    pub(crate) fn no_kind(name: &str, known: impl IntoIterator<Item = String>) -> Self {
        let known: Vec<String> = known.into_iter().collect();
        Self::NoKind { name: name.to_owned(), closest: closest(name, known.clone()), known }
    }
}

fn closest(name: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(name, &known), known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// `cluster/name`.
pub(crate) fn full_name(guest: &Guest) -> String {
    guest.spec.as_ref().map(|spec| format!("{}/{}", spec.cluster, spec.name)).unwrap_or_default()
}

/// The guest's uid.
pub(crate) fn uid(guest: &Guest) -> &str {
    guest.spec.as_ref().map_or("", |spec| &spec.uid)
}

/// The one that is meant.
pub(crate) fn choose(mut guests: Vec<Guest>, reference: &str) -> Result<Guest, ReferenceError> {
    let meant = |guest: &Guest| match reference.split_once('/') {
        Some(_) => full_name(guest) == reference,
        None => {
            uid(guest).eq_ignore_ascii_case(reference) || guest.spec.as_ref().is_some_and(|spec| spec.name == reference)
        }
    };
    let found: Vec<usize> = guests.iter().enumerate().filter(|(_, guest)| meant(guest)).map(|(at, _)| at).collect();
    match found.as_slice() {
        [one] => Ok(guests.swap_remove(*one)),
        [] => {
            let names = guests.iter().map(full_name);
            // A name without its cluster is compared with names, and told in full.
            let bare = |name: &String| name.rsplit('/').next().unwrap_or_default().to_owned();
            if reference.contains('/') {
                return Err(ReferenceError::not_found("guest", reference, names));
            }
            let error = ReferenceError::not_found("guest", reference, names.map(|name| bare(&name)));
            Err(with_cluster(error, &guests))
        }
        several => {
            let candidates = several.iter().filter_map(|at| guests.get(*at)).map(full_name).collect();
            Err(ReferenceError::Ambiguous { name: reference.to_owned(), candidates })
        }
    }
}

fn with_cluster(error: ReferenceError, guests: &[Guest]) -> ReferenceError {
    match error {
        ReferenceError::NotFound { kind, name, closest: Some(closest) } => {
            let named = guests.iter().find(|guest| guest.spec.as_ref().is_some_and(|spec| spec.name == closest));
            ReferenceError::NotFound { kind, name, closest: named.map(full_name) }
        }
        error => error,
    }
}

/// Asks the agent.
pub(crate) async fn find(agent: &Agent, reference: &str) -> Result<Guest, Failure> {
    Ok(choose(list(agent).await?, reference)?)
}

/// All guests of the host, by cluster and name.
pub(crate) async fn list(agent: &Agent) -> Result<Vec<Guest>, Failure> {
    let response = agent
        .guests()
        .list_guests(ListGuestsRequest { cluster: String::new() })
        .await
        .map_err(|status| Refusal::new("list the guests", &status))?;
    let mut guests = response.into_inner().guests;
    guests.sort_by_key(full_name);
    Ok(guests)
}

/// With the documents of its seed, which lists and watches leave out; none where it is gone meanwhile.
pub(crate) async fn in_full(agent: &Agent, guest: &Guest) -> Result<Option<Guest>, Failure> {
    match agent.guests().get_guest(GetGuestRequest { uid: uid(guest).to_owned() }).await {
        Ok(response) => Ok(response.into_inner().guest),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(Refusal::new(format!("get guest {}", full_name(guest)), &status).into()),
    }
}

#[cfg(test)]
mod tests {
    use goliath_proto::agent::v1::GuestSpec;

    use super::*;

    fn guests() -> Vec<Guest> {
        let guest = |uid: &str, cluster: &str, name: &str| Guest {
            spec: Some(GuestSpec {
                uid: uid.to_owned(),
                cluster: cluster.to_owned(),
                name: name.to_owned(),
                ..GuestSpec::default()
            }),
            ..Guest::default()
        };
        vec![
            guest("11111111-2222-3333-4444-555555555555", "acme", "worker-0"),
            guest("21111111-2222-3333-4444-555555555555", "acme", "master-0"),
            guest("31111111-2222-3333-4444-555555555555", "umbrella", "worker-0"),
        ]
    }

    #[test]
    fn a_guest_is_named_in_three_ways() {
        for (reference, name) in [
            ("umbrella/worker-0", "umbrella/worker-0"),
            ("master-0", "acme/master-0"),
            ("11111111-2222-3333-4444-555555555555", "acme/worker-0"),
        ] {
            assert_eq!(choose(guests(), reference).map(|guest| full_name(&guest)), Ok(name.to_owned()));
        }
    }

    #[test]
    fn a_name_that_two_have_is_not_guessed() {
        let error = choose(guests(), "worker-0").unwrap_err();
        assert_eq!(error.to_string(), "`worker-0` could be any of acme/worker-0, umbrella/worker-0");
        assert_eq!(error.exit_code(), ExitCode::Usage);
    }

    #[test]
    fn a_name_that_nobody_has_brings_the_closest() {
        for (reference, hint) in [
            ("acme/worker-O", "did you mean acme/worker-0?"),
            ("mastre-0", "did you mean acme/master-0?"),
            ("zzz", "goliath get guests shows what there is"),
        ] {
            let error = choose(guests(), reference).unwrap_err();
            assert_eq!((error.hint().as_str(), error.exit_code()), (hint, ExitCode::NotFound));
        }
    }
}
