use goliath_lab::{Guest, Lab, run};
use goliath_proto::agent::v1::{ApplyGuestRequest, ApplyOutcome, GuestPhase, ListGuestsRequest};

#[test]
fn guests_of_one_cluster_reach_each_other_across_hosts_and_nobody_else() {
    run(async |lab: &Lab| {
        let (a, b) = (lab.host("a").start().await?, lab.host("b").start().await?);
        // The same addresses in both clusters, on the same hosts.
        let (blue, green) = (lab.cluster("blue").over(&[&a, &b]).await?, lab.cluster("green").over(&[&a, &b]).await?);
        let master = blue.guest("master-0").on(&a).apply().await?;
        let worker = blue.guest("worker-0").on(&b).apply().await?;
        let alone = green.guest("alone-0").address([10, 7, 0, 77].into()).on(&b).apply().await?;
        for guest in [&master, &worker, &alone] {
            guest.until_booted().await?;
        }

        assert!(master.pings(worker.address()).await?);
        assert!(worker.pings(master.address()).await?);
        assert!(master.pings(blue.gateway()).await?);
        assert!(alone.pings(green.gateway()).await?);
        assert!(!worker.pings(alone.address()).await?, "a guest of one cluster answered one of another");
        assert!(!alone.pings(worker.address()).await?, "a guest of one cluster answered one of another");

        let report = master.report().await?;
        assert_eq!(report.hostname, "master-0");
        let interface = &report.interfaces[0];
        assert_eq!(interface.addresses, [format!("{}/24", master.address())]);
        assert_eq!(interface.mac_address, master.status().await?.mac_address);
        assert_eq!(interface.mtu, 1450, "the MTU of the underlay less the header of VXLAN");
        Ok(())
    });
}

#[test]
fn the_same_again_changes_nothing_and_an_older_generation_is_refused() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let mut guest = lab.cluster("blue").over(&[&host]).await?.guest("worker-0").on(&host).apply().await?;
        let before = guest.until_booted().await?;

        let same = ApplyGuestRequest { spec: Some(guest.spec().clone()), dry_run: false };
        let reply = host.operator().await?.guests().apply_guest(same).await?.into_inner();
        assert_eq!(reply.outcome(), ApplyOutcome::Unchanged);

        let mut other = guest.spec().clone();
        other.labels.insert("team".to_owned(), "blue".to_owned());
        let differs = ApplyGuestRequest { spec: Some(other), dry_run: false };
        let refused = host.client().await?.guests().apply_guest(differs).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");

        let old = guest.spec().clone();
        let reply = guest.change(|spec| drop(spec.labels.insert("team".to_owned(), "blue".to_owned()))).await?;
        assert_eq!(reply.outcome(), ApplyOutcome::Updated);
        assert_eq!(reply.restart_required_by, Vec::<String>::new());
        let stale = ApplyGuestRequest { spec: Some(old), dry_run: false };
        let refused = host.client().await?.guests().apply_guest(stale).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");

        let reply = guest.change(|spec| spec.machine.as_mut().unwrap().memory_bytes *= 2).await?;
        assert!(!reply.restart_required_by.is_empty(), "memory changed under a running QEMU without a word");
        let after = guest
            .until("told that it needs a restart", |status| {
                goliath_lab::guest::is_true(status, "RestartRequired") && status.observed_generation == 3
            })
            .await?;
        assert_eq!(after.running_generation, 1);
        assert_eq!(after.process.unwrap().pid, before.process.unwrap().pid, "it was restarted without being asked");
        assert_eq!(host.qemus_of(guest.uid()).await?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_change_that_may_restart_the_guest_does_it_once() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let plan = cluster.guest("worker-0").lifecycle(|lifecycle| lifecycle.restart_on_change = true);
        let mut guest = plan.on(&host).apply().await?;
        guest.until_booted().await?;
        let before = guest.report().await?;
        guest.change(|spec| spec.machine.as_mut().unwrap().memory_bytes *= 2).await?;
        guest
            .until("booted from its new spec", |status| {
                status.running_generation == 2 && goliath_lab::guest::is_true(status, "Booted")
            })
            .await?;
        assert_ne!(guest.report().await?.boot_id, before.boot_id);
        assert_eq!(host.qemus_of(guest.uid()).await?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_guest_that_shall_be_paused_starts_paused_and_runs_when_told() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let paused = goliath_proto::agent::v1::DesiredState::Paused;
        let plan = cluster.guest("worker-0").lifecycle(|lifecycle| lifecycle.set_desired_state(paused));
        let mut guest = plan.on(&host).apply().await?;
        let status = guest.until_phase(GuestPhase::Paused).await?;
        assert!(!goliath_lab::guest::is_true(&status, "Running"));
        assert_eq!(guest.log().await?, "", "a vCPU has run");
        let running = goliath_proto::agent::v1::DesiredState::Running;
        guest.change(|spec| spec.lifecycle.as_mut().unwrap().set_desired_state(running)).await?;
        let booted = guest.until_booted().await?;
        assert_eq!(booted.process.unwrap().pid, status.process.unwrap().pid, "it was started anew");
        Ok(())
    });
}

#[test]
fn after_a_delete_nothing_is_left() {
    run(async |lab: &Lab| {
        let (a, b) = (lab.host("a").start().await?, lab.host("b").start().await?);
        let cluster = lab.cluster("blue").over(&[&a, &b]).await?;
        let plan = cluster.guest("worker-0").certificate("local", std::time::Duration::from_hours(1));
        let guest = plan.with(add_data_disk).on(&a).apply().await?;
        let survivor = cluster.guest("worker-1").on(&b).apply().await?;
        guest.until_booted().await?;
        survivor.until_booted().await?;
        assert_ne!(a.traces_of(guest.uid()).await?, Vec::<String>::new(), "the search for traces finds none at all");

        guest.delete().await?;
        assert_eq!(a.traces_of(guest.uid()).await?, Vec::<String>::new());
        assert!(guest.is_unknown().await?);
        assert!(survivor.pings(cluster.host_address(&b)).await?);

        survivor.delete().await?;
        cluster.delete().await?;
        for host in [&a, &b] {
            host.until_no_networks().await?;
            let left: Vec<String> = host.guest_processes().await?.into_iter().map(|process| process.command).collect();
            assert_eq!(left, Vec::<String>::new());
            let listed = host.client().await?.guests().list_guests(ListGuestsRequest::default()).await?.into_inner();
            assert_eq!(listed.guests, []);
        }
        Ok(())
    });
}

fn add_data_disk(spec: &mut goliath_proto::agent::v1::GuestSpec) {
    use goliath_proto::agent::v1::{DataDisk, Disk, disk::Kind};
    let data = DataDisk { serial: "data".to_owned(), size_bytes: 64 << 20 };
    spec.disks.push(Disk { kind: Some(Kind::Data(data)) });
}

#[test]
fn guests_start_side_by_side() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let mut guests: Vec<Guest> = Vec::new();
        for number in 0..4 {
            guests.push(cluster.guest(&format!("worker-{number}")).on(&host).apply().await?);
        }
        for guest in &guests {
            guest.until_booted().await?;
        }
        for other in &guests[1..] {
            assert!(guests[0].pings(other.address()).await?);
        }
        Ok(())
    });
}
