//! A client that keeps a view of all guests of a host by Watch, as an operator does.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use goliath_lab::{Host, Lab, guest::is_true, run};
use goliath_proto::agent::v1::{
    Guest, ListGuestsRequest, WatchGuestsRequest, WatchGuestsResponse, watch_guests_response::Kind,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const LIMIT: Duration = Duration::from_secs(90);

type Guests = BTreeMap<String, Guest>;

struct View {
    guests: Guests,
    /// Up to which everything was heard.
    revision: u64,
}

impl View {
    async fn list(host: &Host) -> Result<Self> {
        let reply = host.client().await?.guests().list_guests(ListGuestsRequest::default()).await?.into_inner();
        let guests = reply.guests.into_iter().map(|guest| (uid(&guest), guest)).collect();
        Ok(Self { guests, revision: reply.revision })
    }

    /// Goes on from where it is, until it is as wanted. The agent's refusal, or the end of the stream, is told.
    async fn follow(&mut self, host: &Host, wanted: impl Fn(&Guests) -> bool) -> Result<Result<(), Status>> {
        let request = WatchGuestsRequest { revision: self.revision, cluster: String::new() };
        let mut changes = match host.client().await?.guests().watch_guests(request).await {
            Ok(reply) => reply.into_inner(),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let followed = async {
            while !wanted(&self.guests) {
                match changes.message().await {
                    Ok(Some(change)) => self.take(change)?,
                    Ok(None) => bail!("the agent ended the watch without a word"),
                    Err(status) => return Ok(Err(status)),
                }
            }
            Ok(Ok(()))
        };
        tokio::time::timeout(LIMIT, followed).await.context("what was waited for did not come")?
    }

    /// Of all guests each change has the next revision: one that is left out, or told twice, is seen here.
    fn take(&mut self, change: WatchGuestsResponse) -> Result<()> {
        let (kind, revision) = (change.kind(), change.revision);
        if kind == Kind::Bookmark {
            assert_eq!(revision, self.revision, "a bookmark told of changes that were not");
            return Ok(());
        }
        assert_eq!(revision, self.revision + 1, "{kind:?} {:?}", change.guest);
        self.revision = revision;
        let guest = change.guest.context("a change of no guest")?;
        let uid = uid(&guest);
        let before = match kind {
            Kind::Deleted => self.guests.remove(&uid),
            _ => self.guests.insert(uid, guest),
        };
        assert_eq!(before.is_some(), kind != Kind::Added, "{kind:?} {before:?}");
        Ok(())
    }
}

fn uid(guest: &Guest) -> String {
    guest.spec.as_ref().map(|spec| spec.uid.clone()).unwrap_or_default()
}

fn is_booted(guests: &Guests, uid: &str, restarts: u32) -> bool {
    let status = guests.get(uid).and_then(|guest| guest.status.as_ref());
    status.is_some_and(|status| is_true(status, "Booted") && status.restart_count >= restarts)
}

#[test]
fn a_watch_goes_on_without_a_gap_after_its_connection_was_lost() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let mut view = View::list(&host).await?;
        let mut guest = cluster.guest("worker-0").on(&host).apply().await?;
        view.follow(&host, |guests| is_booted(guests, guest.uid(), 0)).await??;
        // Nobody listens meanwhile.
        guest.change(|spec| drop(spec.labels.insert("team".to_owned(), "blue".to_owned()))).await?;
        guest.until("seen as it is now", |status| status.observed_generation == 2).await?;
        guest.delete().await?;
        view.follow(&host, Guests::is_empty).await??;
        assert_eq!(view.revision, View::list(&host).await?.revision);
        Ok(())
    });
}

#[test]
fn a_watcher_of_a_killed_agent_is_told_to_list_again_and_misses_nothing() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let mut view = View::list(&host).await?;
        let guest = cluster.guest("worker-0").on(&host).apply().await?;
        view.follow(&host, |guests| is_booted(guests, guest.uid(), 0)).await??;

        let killed = async {
            host.kill_agent().await?;
            // What happens while no agent watches is among what must not be missed.
            for qemu in host.qemus_of(guest.uid()).await? {
                qemu.kill()?;
            }
            anyhow::Ok(())
        };
        let (ended, killed) = tokio::join!(view.follow(&host, |_| false), killed);
        killed?;
        assert!(ended.is_ok_and(|ended| ended.is_err()), "the stream of a killed agent did not end");

        host.start_agent().await?;
        let refusal = view.follow(&host, |_| false).await?.unwrap_err();
        assert_eq!(refusal.code(), Code::OutOfRange, "{refusal:?}");
        assert_eq!(refusal.get_details_error_info().unwrap().reason, "REVISION_GONE");

        let mut again = View::list(&host).await?;
        assert!(again.revision > view.revision, "revisions went back");
        assert!(again.guests.contains_key(guest.uid()));
        again.follow(&host, |guests| is_booted(guests, guest.uid(), 1)).await??;
        let other = cluster.guest("worker-1").on(&host).apply().await?;
        again.follow(&host, |guests| is_booted(guests, other.uid(), 0)).await??;
        guest.delete().await?;
        again.follow(&host, |guests| !guests.contains_key(guest.uid())).await??;
        let listed = View::list(&host).await?;
        assert_eq!(again.guests.keys().collect::<Vec<_>>(), listed.guests.keys().collect::<Vec<_>>());
        Ok(())
    });
}
