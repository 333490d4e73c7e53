//! The connection to one host's agent: made, kept, watched, and made again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Settings,
    report::{Contact, Report},
};
use crate::agents::{Agent, AgentConnector, AgentError, Connections, Heard, Link, Target, dial};

/// A connection that stood so long was no mistake: after its end the next is tried at once.
const STEADY: Duration = Duration::from_secs(30);
/// Before a question that failed, though the connection stands, is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of a host, shared with whoever writes it down.
pub(super) type SharedReport = Arc<Mutex<Report>>;

/// What a session works with.
pub(super) struct Session<C: AgentConnector> {
    pub(super) connector: Arc<C>,
    pub(super) connections: Connections<C::Agent>,
    pub(super) target: Target,
    pub(super) report: SharedReport,
    /// A fleet is not dialled all at once.
    pub(super) dials: Arc<Semaphore>,
    pub(super) settings: Settings,
    /// Called when the report says something new.
    pub(super) news: Box<dyn Fn() + Send + Sync>,
}

impl<C: AgentConnector> Session<C> {
    /// Keeps a connection until it is told to stop. Then nothing that was asked through it is under way any more.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut failures = 0;
        let host = &self.target.host;
        while let Some(connected) = stop.run_until_cancelled(self.connect()).await {
            let began = Instant::now();
            let error = match connected {
                Ok(link) => {
                    info!(%host, address = %self.target.address, "connected to the agent");
                    self.change(|report| report.contact = Contact::Connected);
                    self.connections.publish(&link);
                    let ended = stop.run_until_cancelled(self.serve(&link)).await;
                    let error = ended.unwrap_or_else(|| AgentError::lost("the operator closed the connection"));
                    self.connections.withdraw(&link);
                    link.end(error.clone());
                    link.closed().await;
                    error
                }
                Err(error) => error,
            };
            failures = if began.elapsed() >= STEADY { 1 } else { failures + 1 };
            let delay = self.settings.dial_again.delay(failures);
            debug!(%host, ?delay, error = error.told(), "the agent cannot be asked");
            self.change(|report| report.failed(error, Instant::now()));
            if stop.run_until_cancelled(sleep(delay)).await.is_none() {
                return;
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
        (self.news)();
    }

    async fn connect(&self) -> Result<Arc<Link<C::Agent>>, AgentError> {
        // It is never closed, so there always comes a turn.
        let _turn = self.dials.acquire().await;
        let (agent, host) = dial(&*self.connector, &self.target).await?;
        let (guests, images) = (agent.guests().await?, agent.images().await?);
        {
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.told(host, Timestamp::now());
            report.images = images.into();
        }
        Ok(Arc::new(Link::new(self.target.host.clone(), agent, guests)))
    }

    /// Returns when the connection is of no more use: why.
    async fn serve(&self, link: &Link<C::Agent>) -> AgentError {
        tokio::select! {
            error = link.ended() => error,
            error = self.watch(link) => error,
            error = self.beat(link) => error,
            error = self.examine(link) => error,
        }
    }

    async fn watch(&self, link: &Link<C::Agent>) -> AgentError {
        loop {
            let error = self.follow(link).await;
            match error {
                AgentError::RevisionGone => match link.call(|agent| async move { agent.guests().await }).await {
                    Ok(list) => {
                        debug!(host = %link.host(), "the watch fell behind and lists again");
                        for uid in link.listed(list) {
                            self.tell(link, uid);
                        }
                    }
                    Err(error) if error.ends_connection() => return error,
                    Err(error) => self.complain(link, "list its guests", &error).await,
                },
                error if error.ends_connection() => return error,
                error => self.complain(link, "watch its guests", &error).await,
            }
        }
    }

    async fn follow(&self, link: &Link<C::Agent>) -> AgentError {
        let revision = link.revision();
        let mut watch = match link.call(|agent| async move { agent.watch_guests(revision).await }).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        loop {
            match watch.next().await {
                Ok(event) => {
                    if let Some(uid) = link.saw(event) {
                        self.tell(link, uid);
                    }
                }
                Err(error) => return error,
            }
        }
    }

    fn tell(&self, link: &Link<C::Agent>, uid: goliath_proto::values::GuestUid) {
        self.connections.tell(&Heard::Guest(link.host().clone(), uid));
    }

    /// Asks for the host again and again: the answer is its heartbeat.
    async fn beat(&self, link: &Link<C::Agent>) -> AgentError {
        let mut images_due = Instant::now() + self.settings.images;
        loop {
            // Hosts that connected together need not be asked together for ever.
            sleep(self.settings.heartbeat.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            match link.call(|agent| async move { agent.host().await }).await {
                Ok(host) => self.change(|report| report.told(host, Timestamp::now())),
                Err(error) if error.ends_connection() => return error,
                Err(error) => self.complain(link, "tell of its host", &error).await,
            }
            if Instant::now() < images_due {
                continue;
            }
            images_due = Instant::now() + self.settings.images;
            match link.call(|agent| async move { agent.images().await }).await {
                Ok(images) => self.change(|report| report.images = images.into()),
                Err(error) if error.ends_connection() => return error,
                Err(error) => self.complain(link, "list its images", &error).await,
            }
        }
    }

    /// Has the host examined, now and then: it starts a virtual machine there.
    async fn examine(&self, link: &Link<C::Agent>) -> AgentError {
        loop {
            match link.call(|agent| async move { agent.doctor().await }).await {
                Ok(checks) => self.change(|report| report.checks = Some(checks.into())),
                Err(error) if error.ends_connection() => return error,
                Err(error) => self.complain(link, "examine its host", &error).await,
            }
            sleep(self.settings.doctor).await;
        }
    }

    async fn complain(&self, link: &Link<C::Agent>, what: &str, error: &AgentError) {
        warn!(host = %link.host(), error = error.told(), "the agent cannot {what}");
        sleep(PAUSE).await;
    }
}
