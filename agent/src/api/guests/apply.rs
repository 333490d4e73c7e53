use std::sync::Arc;

use goliath_proto::agent::v1 as pb;
use tonic::{Request, Status};

use super::render_guest;
use crate::{
    admission::{Outcome, Room, admit_guest},
    api::{Context, caller, errors, parse},
    image::ImageSelector,
    ledger::{Change, GuestRecord},
};

pub(super) async fn apply(
    context: &Context,
    request: Request<pb::ApplyGuestRequest>,
) -> Result<pb::ApplyGuestResponse, Status> {
    let caller = caller(&request)?;
    let pb::ApplyGuestRequest { spec, dry_run } = request.into_inner();
    let spec = parse::guest(spec, &context.config).map_err(|violations| errors::invalid(&violations))?;
    let record = Arc::new(GuestRecord { spec, deleting: false });
    let (deciding, wanted) = (context.clone(), Arc::clone(&record));
    let decided = context.ledger.update(move |snapshot| {
        let room = Room::measure(&deciding.config, (deciding.questions.overheads)())
            .map_err(|error| errors::internal(&error))?;
        let image_disk = |image: &_| {
            let image = deciding.images.find(&ImageSelector::Reference(Clone::clone(image)))?;
            image.disk.as_ref().map(|disk| disk.virtual_size)
        };
        let outcome =
            admit_guest(snapshot, &room, &image_disk, &wanted.spec).map_err(|refusal| deciding.refused(refusal))?;
        let held = snapshot.guests.get(&wanted.spec.uid);
        let differs = held.map(|held| held.spec.restart_required_by(&wanted.spec)).unwrap_or_default();
        let writes = outcome != Outcome::Unchanged && !dry_run;
        Ok((if writes { vec![Change::PutGuest(wanted)] } else { Vec::new() }, (outcome, differs)))
    });
    let (outcome, differs) = decided.await.map_err(errors::update_failed)?;
    let spec = &record.spec;
    if outcome != Outcome::Unchanged && !dry_run {
        tracing::info!(%caller, guest = %spec.uid, generation = %spec.generation, ?outcome, "a guest was applied");
    }
    let seen = context.observed.guest(spec.uid);
    // Where no QEMU is there, nothing needs a restart.
    let runs = seen.as_ref().is_some_and(|seen| seen.status.process.is_some());
    let restart_required_by = if runs { differs } else { Vec::new() };
    Ok(pb::ApplyGuestResponse {
        outcome: match outcome {
            Outcome::Created => pb::ApplyOutcome::Created,
            Outcome::Updated => pb::ApplyOutcome::Updated,
            Outcome::Unchanged => pb::ApplyOutcome::Unchanged,
        }
        .into(),
        guest: Some(render_guest(&record, seen)),
        restart_required_by: restart_required_by.into_iter().map(str::to_owned).collect(),
    })
}
