//! From Apply to QMP's `running`, beside bare QEMU with the same arguments, and libvirt with the same machine.

use std::time::Duration;

use anyhow::Result;
use goliath_lab::namespace::Machine;
use goliath_proto::agent::v1::{DesiredState, GuestSpec};

use crate::{bare::Blueprint, figure::Figure, figure::Plan, libvirt::Libvirt, stage::Stage};

const ROUNDS: usize = 9;

const COST: &str = "Before QEMU runs, the agent writes a record to disk and syncs it, makes a seed, attaches a tap by \
                    netlink and one run of nft, and runs its own program once, which confines itself and becomes QEMU.";
const BESIDE_BARE: Plan =
    Plan { name: "Apply to running", unit: "ms", baseline_name: "bare QEMU", goal: Some(1.25), cost: COST };
const BESIDE_LIBVIRT: Plan = Plan {
    name: "Apply to running, against libvirt",
    unit: "ms",
    baseline_name: "virsh create",
    goal: Some(0.2),
    cost: COST,
};

pub(crate) async fn measure(stage: &Stage) -> Result<Vec<Figure>> {
    let directory = stage.lab().directory().join("start");
    std::fs::create_dir_all(&directory)?;
    let network = Machine::new("bench")?;
    let first = stage.guest(1, DesiredState::Running).await?;
    stage.start(std::slice::from_ref(&first)).await?;
    let blueprint = Blueprint::of(stage.qemu(&first).await?, &directory)?;
    stage.remove(&[first]).await?;
    let libvirt = Libvirt::start(stage.lab().directory(), &network, &blueprint)?;
    // libvirt asks QEMU what it can do when it sees it first.
    libvirt.create()?;

    let (mut ours, mut bare, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let guest = stage.guest(1, DesiredState::Running).await?;
        ours.push(one(stage, guest).await?);
        let prepared = blueprint.prepare(&format!("bare{round}"), &directory, &network)?;
        bare.push(prepared.start()?.0);
        peer.push(libvirt.create()?);
    }
    Ok(vec![BESIDE_BARE.timed(&ours, &bare), BESIDE_LIBVIRT.timed(&ours, &peer)])
}

async fn one(stage: &Stage, guest: GuestSpec) -> Result<Duration> {
    let time = stage.start(std::slice::from_ref(&guest)).await?;
    stage.remove(&[guest]).await?;
    Ok(time)
}
