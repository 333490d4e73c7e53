use goliath_proto::agent::v1 as pb;
use goliath_server::violations::Violation;
use tonic::{Request, Status};

use super::render_network;
use crate::{
    admission::{Outcome, admit_network},
    api::{
        Context, caller,
        errors::{self, Resource},
        parse,
    },
    config::Config,
    ledger::Change,
    spec::{ClusterName, NetworkSpec, PeerList},
};

pub(super) async fn apply(
    context: &Context,
    request: Request<pb::ApplyNetworkRequest>,
) -> Result<pb::ApplyNetworkResponse, Status> {
    let caller = caller(&request)?;
    let request = request.into_inner();
    let dry_run = request.dry_run;
    let wanted = Wanted::read(request, &context.config).map_err(|violations| errors::invalid(&violations))?;
    let deciding = context.clone();
    let decided = context.ledger.update(move |snapshot| {
        let Wanted { cluster, spec, peers } = &wanted;
        let against = |spec: &NetworkSpec| {
            let others: Vec<&NetworkSpec> = snapshot
                .networks
                .values()
                .map(|record| &record.spec)
                .filter(|other| other.cluster != spec.cluster)
                .collect();
            (deciding.questions.against_network)(spec, &others)
        };
        let decision = admit_network(snapshot, cluster, spec.as_ref(), peers.as_ref(), &against)
            .ok_or_else(|| errors::not_found(Resource::Network, cluster))?
            .map_err(|refusal| deciding.refused(refusal))?;
        let writes = decision.outcome != Outcome::Unchanged && !dry_run;
        let changes = writes.then(|| Change::PutNetwork(decision.record.clone()));
        Ok((changes.into_iter().collect(), decision))
    });
    let decision = decided.await.map_err(errors::update_failed)?;
    let changed = decision.outcome != Outcome::Unchanged;
    let record = &decision.record;
    if changed && !dry_run {
        let (spec, peers) = (record.spec.generation, record.peers.as_ref().map(|peers| peers.generation.get()));
        tracing::info!(%caller, cluster = %record.spec.cluster, generation = %spec, peers, "a network was applied");
    }
    Ok(pb::ApplyNetworkResponse { network: Some(render_network(context, record)), changed })
}

/// A request as domain types.
struct Wanted {
    cluster: ClusterName,
    spec: Option<NetworkSpec>,
    peers: Option<PeerList>,
}

impl Wanted {
    /// All that is wrong with either part.
    fn read(request: pb::ApplyNetworkRequest, config: &Config) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let mut keep = |bad: Vec<Violation>| violations.extend(bad);
        let given = (!request.cluster.is_empty()).then_some(request.cluster);
        let has_spec = request.spec.is_some();
        if !has_spec && request.peers.is_none() {
            keep(vec![Violation::new("spec", "must be set, or peers, or both")]);
        }
        let spec = request.spec.and_then(|spec| parse::network(&spec).map_err(&mut keep).ok());
        let peers = request.peers.and_then(|peers| parse::peers(&peers, config).map_err(&mut keep).ok());
        let named = match given {
            Some(name) => name.parse::<ClusterName>().map(Some),
            None => Ok(None),
        };
        let named = named.unwrap_or_else(|reason| {
            keep(vec![Violation::new("cluster", reason.to_string())]);
            None
        });
        let cluster = match (named, &spec) {
            (Some(named), Some(spec)) if named != spec.cluster => {
                keep(vec![Violation::new("cluster", format!("is {named}, and spec.cluster is {}", spec.cluster))]);
                None
            }
            (_, Some(spec)) => Some(spec.cluster.clone()),
            (named, None) => {
                if named.is_none() && !has_spec && violations.is_empty() {
                    violations.push(Violation::new("cluster", "must be set where spec is not"));
                }
                named
            }
        };
        match cluster {
            Some(cluster) if violations.is_empty() => Ok(Self { cluster, spec, peers }),
            _ => Err(violations),
        }
    }
}
