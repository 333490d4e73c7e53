//! What the agent takes while nothing happens: with many guests that wait at their start, beside none.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use goliath_proto::agent::v1::DesiredState;

use crate::{
    figure::{Figure, Plan},
    stage::Stage,
};

const GUESTS: u8 = 50;
/// Long enough for a slow timer to tick, and for one hundredth of a second not to matter.
const WATCHED: Duration = Duration::from_secs(20);
/// What was begun before, such as console logs and the end of connections, is let come to its end.
const SETTLED: Duration = Duration::from_secs(3);

const MEMORY: Plan =
    Plan { name: "agent's memory with 50 guests", unit: "MiB", baseline_name: "no guests", goal: None, cost: "" };
const PROCESSOR: Plan = Plan {
    name: "agent's idle time with 50 guests",
    unit: "% of a processor",
    baseline_name: "no guests",
    goal: None,
    cost: "",
};

#[derive(Debug, Clone, Copy)]
struct Taken {
    memory_mib: f64,
    processor_percent: f64,
}

pub(crate) async fn measure(stage: &Stage) -> Result<Vec<Figure>> {
    let agent = stage.agent().await?;
    let alone = watch(agent).await?;
    let guests = stage.guests(GUESTS, DesiredState::Paused).await?;
    stage.start(&guests).await?;
    let crowded = watch(agent).await?;
    stage.remove(&guests).await?;
    Ok(vec![
        MEMORY.measured(crowded.memory_mib, alone.memory_mib),
        PROCESSOR.measured(crowded.processor_percent, alone.processor_percent),
    ])
}

async fn watch(pid: u32) -> Result<Taken> {
    tokio::time::sleep(SETTLED).await;
    let before = processor_time(pid)?;
    tokio::time::sleep(WATCHED).await;
    let used = processor_time(pid)?.saturating_sub(before);
    let processor_percent = used.as_secs_f64() / WATCHED.as_secs_f64() * 100.0;
    Ok(Taken { memory_mib: resident_mib(pid)?, processor_percent })
}

/// Fields 14 and 15 of proc_pid_stat(5): in hundredths of a second on every Linux there is.
fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent is not there any more")?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

pub(crate) fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process without memory")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
