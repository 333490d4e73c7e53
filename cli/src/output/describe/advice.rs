//! What the engineer on call can do next. The agent's own messages say what is wrong; this says which command helps.

use goliath_proto::agent::v1::{Certificate, ConditionStatus, ExitReason, GuestPhase, GuestSpec, GuestStatus};
use jiff::Timestamp;

use crate::output::text::until;

pub(super) fn guest(
    spec: &GuestSpec,
    status: &GuestStatus,
    certificates: &[Certificate],
    now: Timestamp,
) -> Vec<String> {
    let name = format!("{}/{}", spec.cluster, spec.name);
    let is = |kind: &str, state: ConditionStatus| {
        status.conditions.iter().any(|condition| condition.r#type == kind && condition.status() == state)
    };
    let mut advice = Vec::new();
    match status.phase() {
        GuestPhase::Backoff => {
            let next = status.next_attempt_time.map_or_else(|| "soon".to_owned(), |time| until(time, now));
            advice.push(format!("it is tried again {next}; its last words: goliath logs {name} --tail 4KiB"));
        }
        GuestPhase::Failed => {
            advice.push(format!("it ended and its restart policy leaves it so; its last words: goliath logs {name} --tail 4KiB"));
        }
        GuestPhase::Quarantined => advice.push(
            "a QEMU of this uid runs that the agent did not start: find it on the host (pgrep -af qemu) and decide; the agent leaves it alone".to_owned(),
        ),
        _ => {}
    }
    if status.last_exit.as_ref().is_some_and(|exit| exit.reason() == ExitReason::LaunchFailed) {
        advice.push("QEMU refused to start: goliath doctor tries what guests need".to_owned());
    }
    if is("ImageReady", ConditionStatus::False) {
        advice.push(format!("the image is not here yet: goliath image pull {} shows why", spec.image));
    }
    if is("NetworkReady", ConditionStatus::False) {
        advice.push(format!("its network is not ready: goliath describe network {}", spec.cluster));
    }
    if is("RestartRequired", ConditionStatus::True) {
        advice.push(
            "a new spec waits for a restart: apply it with lifecycle.restartOnChange: true when that suits".to_owned(),
        );
    }
    if status.phase() == GuestPhase::Running && is("Booted", ConditionStatus::False) {
        advice.push(format!("QEMU runs and the guest has not reported its boot: goliath logs {name} -f"));
    }
    let troubled: Vec<&str> = certificates
        .iter()
        .filter(|certificate| !certificate.last_error.is_empty())
        .map(|certificate| certificate.name.as_str())
        .collect();
    if !troubled.is_empty() {
        let names = troubled.join(", ");
        advice.push(format!("renewal of {names} fails; when the issuer is well again: goliath certs {name} --rotate"));
    }
    advice
}
