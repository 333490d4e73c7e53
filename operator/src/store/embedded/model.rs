//! Random operations by several writers, each with what it last read, against a model that fits on a page.

use std::collections::BTreeMap;

use kube::Resource as _;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    objects::{Host, HostSpec, HostStatus, ResourceExt as _},
    store::ResourceVersion,
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const WRITERS: usize = 3;
const FINALIZER: &str = "goliath.dev/test";

#[derive(Debug, Clone)]
enum Step {
    /// Owned by what the writer holds, maybe.
    Create {
        name: usize,
        held: bool,
        owned: bool,
    },
    Read {
        name: usize,
    },
    Spec {
        cordoned: bool,
    },
    Status {
        guests: u32,
    },
    Finalizer {
        there: bool,
    },
    Delete {
        name: usize,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        4 => (name.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(name, held, owned)| Step::Create { name, held, owned }),
        4 => name.clone().prop_map(|name| Step::Read { name }),
        4 => any::<bool>().prop_map(|cordoned| Step::Spec { cordoned }),
        3 => (0..3_u32).prop_map(|guests| Step::Status { guests }),
        3 => any::<bool>().prop_map(|there| Step::Finalizer { there }),
        3 => name.prop_map(|name| Step::Delete { name }),
        1 => Just(Step::Reopen),
    ]
}

/// What an object is, as far as the steps can change it.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    uid: String,
    version: Option<String>,
    generation: i64,
    cordoned: bool,
    guests: Option<u32>,
    held: bool,
    deleting: bool,
    owner: Option<String>,
}

fn known(host: &Host) -> Known {
    Known {
        uid: host.uid().unwrap_or_default(),
        version: host.resource_version(),
        generation: host.metadata.generation.unwrap_or_default(),
        cordoned: host.spec.cordoned,
        guests: host.status.as_ref().map(|status| status.guests),
        held: !host.finalizers().is_empty(),
        deleting: host.metadata.deletion_timestamp.is_some(),
        owner: host.owner_references().first().map(|owner| owner.uid.clone()),
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Done,
    NotFound,
    AlreadyExists,
    Conflict,
    Invalid,
}

fn verdict<T>(result: &Result<T, StoreError>) -> Verdict {
    match result {
        Ok(_) => Verdict::Done,
        Err(StoreError::NotFound { .. }) => Verdict::NotFound,
        Err(StoreError::AlreadyExists { .. }) => Verdict::AlreadyExists,
        Err(StoreError::Conflict { .. }) => Verdict::Conflict,
        Err(StoreError::Invalid { .. }) => Verdict::Invalid,
        Err(error) => panic!("{error}"),
    }
}

#[derive(Default)]
struct Model(BTreeMap<String, Known>);

impl Model {
    fn create(&mut self, name: &str, held: bool, owner: Option<String>) -> Verdict {
        if self.0.contains_key(name) {
            return Verdict::AlreadyExists;
        }
        let orphan = owner.as_ref().is_some_and(|owner| self.0.values().all(|known| known.uid != *owner));
        let new = Known {
            // Which uid it got is the store's to say.
            uid: String::new(),
            version: None,
            generation: 1,
            cordoned: false,
            guests: None,
            held,
            deleting: false,
            owner,
        };
        self.0.insert(name.to_owned(), new);
        if orphan {
            self.delete(name);
        }
        Verdict::Done
    }

    /// The writer's copy is of another object, or an older one.
    fn stale(&self, name: &str, copy: &Known) -> Option<Verdict> {
        match self.0.get(name) {
            None => Some(Verdict::NotFound),
            Some(known) if known.uid != copy.uid || known.version != copy.version => Some(Verdict::Conflict),
            Some(_) => None,
        }
    }

    fn replace(&mut self, name: &str, copy: &Known, change: impl FnOnce(&mut Known)) -> Verdict {
        if let Some(refusal) = self.stale(name, copy) {
            return refusal;
        }
        let Some(known) = self.0.get_mut(name) else { return Verdict::NotFound };
        let was = known.clone();
        change(known);
        if known.deleting && known.held && !was.held {
            *known = was;
            return Verdict::Invalid;
        }
        known.generation += i64::from(known.cordoned != was.cordoned);
        if known.deleting && !known.held {
            self.remove(name);
        }
        Verdict::Done
    }

    fn delete(&mut self, name: &str) -> Verdict {
        match self.0.get_mut(name) {
            None => return Verdict::NotFound,
            Some(known) if known.held && known.deleting => {}
            Some(known) if known.held => {
                known.deleting = true;
                known.generation += 1;
            }
            Some(_) => self.remove(name),
        }
        Verdict::Done
    }

    fn remove(&mut self, name: &str) {
        let Some(removed) = self.0.remove(name) else { return };
        let owned = |known: &Known| known.owner.as_ref() == Some(&removed.uid);
        let dependents: Vec<_> =
            self.0.iter().filter(|(_, known)| owned(known)).map(|(name, _)| name.clone()).collect();
        for dependent in dependents {
            self.delete(&dependent);
        }
    }

    /// Uids and versions are the store's to give; all else must be as the model has it.
    fn compare(&mut self, hosts: &[Host]) -> Result<(), TestCaseError> {
        let there: BTreeMap<String, Known> = hosts.iter().map(|host| (host.name_any(), known(host))).collect();
        for (name, known) in &mut self.0 {
            if let Some(found) = there.get(name) {
                prop_assert!(known.uid.is_empty() || known.uid == found.uid, "{} has another uid", name);
                known.uid.clone_from(&found.uid);
                known.version.clone_from(&found.version);
            }
        }
        prop_assert_eq!(&self.0, &there);
        Ok(())
    }
}

async fn run(steps: Vec<(usize, Step)>) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let open = || EmbeddedStore::open(&path, &Options::default()).unwrap();
    let mut store = open();
    let mut model = Model::default();
    let mut copies: [Option<Host>; WRITERS] = Default::default();
    let mut replay = Replay { objects: BTreeMap::new(), version: ResourceVersion::new(0) };
    for (writer, step) in steps {
        let copy = &mut copies[writer];
        match step {
            Step::Create { name, held, owned } => {
                let mut host = new_host(NAMES[name]);
                host.metadata.finalizers = held.then(|| vec![FINALIZER.to_owned()]);
                host.metadata.owner_references =
                    copy.as_ref().filter(|_| owned).and_then(|owner| Some(vec![owner.owner_ref(&())?]));
                let owner = known(&host).owner;
                let created = store.create(&host).await;
                prop_assert_eq!(verdict(&created), model.create(NAMES[name], held, owner));
            }
            Step::Read { name } => *copy = store.get::<Host>(NAMES[name]).await.ok(),
            Step::Spec { cordoned } => {
                let Some(host) = copy else { continue };
                let read = known(host);
                host.spec.cordoned = cordoned;
                let replaced = store.replace(host).await;
                // A copy that was refused keeps what its writer wanted: the next try says it again.
                let wanted = known(host);
                let expected = model.replace(&host.name_any(), &read, |known| {
                    known.cordoned = cordoned;
                    known.held = wanted.held;
                });
                prop_assert_eq!(verdict(&replaced), expected);
                *copy = replaced.ok();
            }
            Step::Status { guests } => {
                let Some(host) = copy else { continue };
                host.status = Some(HostStatus { guests, ..HostStatus::default() });
                let replaced = store.replace_status(host).await;
                let expected = model.stale(&host.name_any(), &known(host)).unwrap_or(Verdict::Done);
                if let (Verdict::Done, Some(known)) = (&expected, model.0.get_mut(&host.name_any())) {
                    known.guests = Some(guests);
                }
                prop_assert_eq!(verdict(&replaced), expected);
                *copy = replaced.ok();
            }
            Step::Finalizer { there } => {
                let Some(host) = copy else { continue };
                host.metadata.finalizers = there.then(|| vec![FINALIZER.to_owned()]);
                let replaced = store.replace(host).await;
                let expected = model.replace(&host.name_any(), &known(host), |known| known.held = there);
                prop_assert_eq!(verdict(&replaced), expected);
                *copy = replaced.ok();
            }
            Step::Delete { name } => {
                let deleted = store.delete::<Host>(NAMES[name], Preconditions::default()).await;
                prop_assert_eq!(verdict(&deleted), model.delete(NAMES[name]));
            }
            Step::Reopen => {
                // What came before is told first: a new life of the store knows no history.
                replay.catch_up(&store).await?;
                drop(store);
                store = open();
            }
        }
        model.compare(&store.list::<Host>(&Selector::everything()).await.unwrap().items)?;
    }
    replay.catch_up(&store).await
}

/// What a watcher knows that resumes again and again.
struct Replay {
    objects: BTreeMap<String, Host>,
    version: ResourceVersion,
}

impl Replay {
    async fn catch_up(&mut self, store: &EmbeddedStore) -> Result<(), TestCaseError> {
        let List { items, resource_version } = store.list::<Host>(&Selector::everything()).await.unwrap();
        let options = WatchOptions {
            bookmark_interval: std::time::Duration::from_millis(1),
            ..WatchOptions::after(self.version)
        };
        let mut watch = store.watch::<Host>(options).await.unwrap();
        while self.version < resource_version {
            let (host, known_before, there) = match watch.next().await.unwrap().unwrap() {
                WatchEvent::Added(host) => (host, false, true),
                WatchEvent::Modified(host) => (host, true, true),
                WatchEvent::Deleted(host) => (host, true, false),
                WatchEvent::Bookmark(version) => panic!("a bookmark at {version} before all was told"),
            };
            let version: ResourceVersion = host.resource_version().unwrap().parse().unwrap();
            prop_assert!(version > self.version, "{} was told after {}", version, self.version);
            self.version = version;
            let before =
                if there { self.objects.insert(host.name_any(), host) } else { self.objects.remove(&host.name_any()) };
            prop_assert_eq!(before.is_some(), known_before);
        }
        prop_assert_eq!(self.objects.values().cloned().collect::<Vec<_>>(), items);
        Ok(())
    }
}

fn new_host(name: &str) -> Host {
    let address = "192.0.2.1:7411".parse().unwrap();
    Host::new(name, HostSpec { address, server_name: None, zone: None, roles: Vec::new(), cordoned: false })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in vec((0..WRITERS, step()), 1..60)) {
        tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap().block_on(run(steps))?;
    }
}
