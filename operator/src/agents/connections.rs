//! The agents that can be asked now, and what each was last heard to have.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use goliath_proto::{
    agent::v1 as pb,
    values::{GuestUid, HostName},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Agent, AgentError,
    held::{HeldGuest, HeldGuests},
};

/// What changed about what can be asked, or about what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// An agent can be asked from now on, and what it has is known.
    Connected(HostName),
    /// It cannot be asked any more.
    Lost(HostName),
    /// What it has of a guest is not what it was.
    Guest(HostName, GuestUid),
}

type Listener = Box<dyn Fn(&Heard) + Send + Sync>;

/// The agents that can be asked now, one connection for each host. Clones are the same.
pub struct Connections<A>(Arc<Shared<A>>);

struct Shared<A> {
    links: RwLock<HashMap<HostName, Arc<Link<A>>>>,
    listeners: RwLock<Vec<Listener>>,
}

impl<A> Clone for Connections<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A> fmt::Debug for Connections<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connections").field("hosts", &self.read().len()).finish_non_exhaustive()
    }
}

impl<A> Default for Connections<A> {
    fn default() -> Self {
        Self(Arc::new(Shared { links: RwLock::default(), listeners: RwLock::default() }))
    }
}

impl<A> Connections<A> {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<HostName, Arc<Link<A>>>> {
        self.0.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<HostName, Arc<Link<A>>>> {
        self.0.links.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: Agent> Connections<A> {
    /// The connection to a host's agent, if there is one.
    pub fn get(&self, host: &str) -> Option<Arc<Link<A>>> {
        let host: HostName = host.parse().ok()?;
        self.read().get(&host).cloned()
    }

    /// All connections, in no order.
    pub fn all(&self) -> Vec<Arc<Link<A>>> {
        self.read().values().cloned().collect()
    }

    /// Has something called with everything that changes from now on, and once for each agent that is connected already.
    /// It is called where the change happens, so it has to be quick: it pushes a key to a queue.
    pub fn listen(&self, listener: impl Fn(&Heard) + Send + Sync + 'static) {
        let listener: Listener = Box::new(listener);
        // Registered first: what happens between the two is told twice rather than never.
        let mut listeners = self.0.listeners.write().unwrap_or_else(PoisonError::into_inner);
        let connected: Vec<_> = self.read().keys().cloned().collect();
        for host in connected {
            listener(&Heard::Connected(host));
        }
        listeners.push(listener);
    }

    /// Tells all who listen.
    pub fn tell(&self, heard: &Heard) {
        let listeners = self.0.listeners.read().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.iter() {
            listener(heard);
        }
    }

    /// Offers a connection to everybody.
    pub fn publish(&self, link: &Arc<Link<A>>) {
        self.write().insert(link.host.clone(), Arc::clone(link));
        self.tell(&Heard::Connected(link.host.clone()));
    }

    /// Takes a connection back; another one to the same host stays.
    pub fn withdraw(&self, link: &Arc<Link<A>>) {
        let mut links = self.write();
        let is_there = links.get(&link.host).is_some_and(|there| there.number == link.number);
        if is_there {
            links.remove(&link.host);
        }
        drop(links);
        if is_there {
            self.tell(&Heard::Lost(link.host.clone()));
        }
    }
}

/// One connection to an agent, and the guests that it was heard to have.
pub struct Link<A> {
    host: HostName,
    number: u64,
    /// None once it ended: then nobody can use it any more, and the connection is closed.
    agent: Mutex<Option<A>>,
    life: CancellationToken,
    calls: TaskTracker,
    reason: OnceLock<AgentError>,
    guests: Mutex<HeldGuests>,
}

impl<A> fmt::Debug for Link<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").field("host", &self.host).field("number", &self.number).finish_non_exhaustive()
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl<A: Agent> Link<A> {
    /// A connection to the agent of a host that said what it has.
    pub fn new(host: HostName, agent: A, list: pb::ListGuestsResponse) -> Self {
        let mut guests = HeldGuests::default();
        guests.replace(list);
        Self {
            host,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            agent: Mutex::new(Some(agent)),
            life: CancellationToken::new(),
            calls: TaskTracker::new(),
            reason: OnceLock::new(),
            guests: Mutex::new(guests),
        }
    }

    /// Whose agent.
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// Asks the agent. The question is given up when the connection ends, and an error after which nothing more can be
    /// believed ends the connection for all who use it.
    pub async fn call<T, F>(&self, ask: impl FnOnce(A) -> F) -> Result<T, AgentError>
    where
        F: Future<Output = Result<T, AgentError>>,
    {
        // Before the agent is taken: whoever waits for the end of all calls sees this one.
        let _call = self.calls.token();
        let agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(agent) = agent else { return Err(self.reason()) };
        match self.life.run_until_cancelled(ask(agent)).await {
            Some(Err(error)) if error.ends_connection() => {
                self.end(error.clone());
                Err(error)
            }
            Some(answer) => answer,
            None => Err(self.reason()),
        }
    }

    /// Ends the connection, for a reason; the first counts.
    pub fn end(&self, reason: AgentError) {
        let _ = self.reason.set(reason);
        self.life.cancel();
        drop(self.agent.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Returns once it ended: why.
    pub async fn ended(&self) -> AgentError {
        self.life.cancelled().await;
        self.reason()
    }

    /// Returns once it ended and nobody uses it any more: what was asked is then done, or will never be.
    pub async fn closed(&self) {
        self.life.cancelled().await;
        self.calls.close();
        self.calls.wait().await;
    }

    fn reason(&self) -> AgentError {
        self.reason.get().cloned().unwrap_or_else(|| AgentError::lost("the connection was closed"))
    }

    fn guests(&self) -> MutexGuard<'_, HeldGuests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the agent has of a guest.
    pub fn guest(&self, uid: GuestUid) -> Option<Arc<HeldGuest>> {
        self.guests().get(uid)
    }

    /// All that it has.
    pub fn held(&self) -> Vec<(GuestUid, Arc<HeldGuest>)> {
        self.guests().all()
    }

    /// How far its watch came.
    pub fn revision(&self) -> u64 {
        self.guests().revision()
    }

    /// The agent was asked for all guests; tells which are not as they were known.
    pub fn listed(&self, list: pb::ListGuestsResponse) -> Vec<GuestUid> {
        self.guests().replace(list)
    }

    /// The watch told something; tells of which guest, if anything is new.
    pub fn saw(&self, event: pb::WatchGuestsResponse) -> Option<GuestUid> {
        self.guests().saw(event)
    }

    /// The agent answered with a guest as it is. Tells whether that is news.
    pub fn answered(&self, guest: pb::Guest) -> bool {
        self.guests().answered(guest)
    }
}
