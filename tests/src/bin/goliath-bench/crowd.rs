//! Many guests at once, beside as many bare QEMUs. They wait at their start: else they would be measured, not we.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use goliath_lab::namespace::Machine;
use goliath_proto::agent::v1::DesiredState;

use crate::{
    bare::{Blueprint, Prepared, Qemu},
    figure::{Figure, Plan},
    stage::Stage,
};

const COUNT: u8 = 32;
const ROUNDS: usize = 3;

const PLAN: Plan = Plan {
    name: "32 guests at once",
    unit: "ms",
    baseline_name: "32 bare QEMUs",
    goal: Some(1.25),
    cost: "Each guest takes a synced record, a seed, a tap and a run of the agent's own program; those that come at the \
           same time are joined to their network together.",
};

pub(crate) async fn measure(stage: &Stage) -> Result<Figure> {
    let directory = stage.lab().directory().join("crowd");
    std::fs::create_dir_all(&directory)?;
    let network = Machine::new("bench")?;
    let mut blueprint = None;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let guests = stage.guests(COUNT, DesiredState::Paused).await?;
        ours.push(stage.start(&guests).await?);
        let blueprint = match &mut blueprint {
            Some(known) => known,
            none => none.insert(Blueprint::of(stage.qemu(guests.first().context("no guests")?).await?, &directory)?),
        };
        stage.remove(&guests).await?;
        let names = (0..COUNT).map(|number| format!("r{round}n{number}"));
        let prepared: Result<Vec<Prepared>> =
            names.map(|name| blueprint.prepare(&name, &directory, &network)).collect();
        bare.push(tokio::task::block_in_place(|| all_at_once(prepared?))?);
    }
    Ok(PLAN.timed(&ours, &bare))
}

fn all_at_once(prepared: Vec<Prepared>) -> Result<Duration> {
    let begin = Instant::now();
    let running: Result<Vec<(Duration, Qemu)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = prepared.into_iter().map(|one| scope.spawn(|| one.start())).collect();
        let ends = threads.into_iter().map(|thread| thread.join().ok().context("a thread panicked")?);
        ends.collect()
    });
    let time = begin.elapsed();
    running.map(|_| time)
}
