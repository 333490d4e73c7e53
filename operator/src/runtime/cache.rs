//! The objects of a kind as the store has them, followed by a watch.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tracing::{debug, warn};

use super::{Backoff, Indexed, Tasks};
use crate::{
    objects::ResourceExt as _,
    store::{List, ResourceVersion, Selector, Store, WatchError, WatchEvent, WatchOptions},
};

#[cfg(test)]
mod tests;

/// How long a store may be asked for a list.
const LIST_LIMIT: Duration = Duration::from_mins(1);
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(30) };

/// A local copy of all objects of a kind. Clones are the same copy; reading costs no more than a lookup.
///
/// It follows the store a moment behind: whoever writes by what it says names the resource version that it read, and a
/// conflict tells when that was too old.
#[derive(Debug)]
pub struct Cache<T: Indexed>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T: Indexed> {
    state: RwLock<State<T>>,
    progress: watch::Sender<Progress>,
}

/// How far a cache came.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Of the store's history; none before the first list.
    version: Option<ResourceVersion>,
    /// It was stopped, and will not come further.
    ended: bool,
}

#[derive(Debug)]
struct State<T: Indexed> {
    objects: BTreeMap<Arc<str>, Arc<T>>,
    indexes: HashMap<T::Index, HashMap<String, BTreeSet<Arc<str>>>>,
    readers: HashMap<u64, Reader<T>>,
    next_reader: u64,
}

/// What one reader of changes has not been told yet: at most one entry for an object, however often it changed.
#[derive(Debug)]
struct Reader<T> {
    order: VecDeque<Arc<str>>,
    /// As the reader was last told; none: it does not know the object.
    pending: HashMap<Arc<str>, Option<Arc<T>>>,
    wake: Arc<Notify>,
}

/// What became of an object since the reader was last told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Change<T> {
    /// As the reader knows it; none: it is new.
    pub old: Option<Arc<T>>,
    /// As it is now; none: it is gone. One of the two is there.
    pub new: Option<Arc<T>>,
}

impl<T> Change<T> {
    /// The object before and after, as far as they are there.
    pub fn both(&self) -> impl Iterator<Item = &Arc<T>> {
        self.old.iter().chain(&self.new)
    }
}

/// Changes as they happen, first of all those that make what is there already. Nothing is lost on a slow reader: of an
/// object that changed often it is told once, with all that happened in between in one step. So what waits for it is
/// bounded by the number of objects.
#[derive(Debug)]
pub struct Changes<T: Indexed> {
    cache: Cache<T>,
    reader: u64,
    wake: Arc<Notify>,
}

impl<T: Indexed> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Indexed> Cache<T> {
    /// Begins to follow a store, until the tasks are stopped.
    pub fn start<S: Store>(store: Arc<S>, tasks: &Tasks) -> Self {
        let cache = Self::empty();
        let (followed, stop) = (cache.clone(), tasks.stop());
        tasks.spawn("cache", async move {
            let _ = stop.run_until_cancelled(followed.follow(store)).await;
            followed.0.progress.send_modify(|progress| progress.ended = true);
        });
        cache
    }

    fn empty() -> Self {
        let state = State {
            objects: BTreeMap::new(),
            indexes: T::INDEXES.iter().map(|index| (*index, HashMap::new())).collect(),
            readers: HashMap::new(),
            next_reader: 0,
        };
        Self(Arc::new(Shared { state: RwLock::new(state), progress: watch::Sender::new(Progress::default()) }))
    }

    /// Returns once it has been filled, or was stopped. Before that it holds nothing.
    pub async fn synced(&self) {
        self.wait_for(|version| version.is_some()).await;
    }

    /// Returns once it holds what was written at this version, or later: a controller that reads its own writes cannot
    /// decide the same twice. The version is that of an object of this kind. Returns too when the cache was stopped.
    pub async fn reached(&self, version: ResourceVersion) {
        self.wait_for(|seen| seen.is_some_and(|seen| seen >= version)).await;
    }

    async fn wait_for(&self, enough: impl Fn(Option<ResourceVersion>) -> bool) {
        // The sender lives as long as this cache.
        let _ = self.0.progress.subscribe().wait_for(|progress| progress.ended || enough(progress.version)).await;
    }

    /// The object of this name.
    pub fn get(&self, name: &str) -> Option<Arc<T>> {
        self.read().objects.get(name).cloned()
    }

    /// All objects, by name.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.read().objects.values().cloned().collect()
    }

    /// The objects that an index finds under a key, by name.
    pub fn by(&self, index: T::Index, key: &str) -> Vec<Arc<T>> {
        let state = self.read();
        let names = state.indexes.get(&index).and_then(|keys| keys.get(key));
        names.into_iter().flatten().filter_map(|name| state.objects.get(name)).cloned().collect()
    }

    /// Everything that changes from now on, beginning with what is there.
    pub fn changes(&self) -> Changes<T> {
        let wake = Arc::new(Notify::new());
        let mut state = self.write();
        let reader = state.next_reader;
        state.next_reader += 1;
        let order: VecDeque<_> = state.objects.keys().cloned().collect();
        let pending = order.iter().map(|name| (Arc::clone(name), None)).collect();
        state.readers.insert(reader, Reader { order, pending, wake: Arc::clone(&wake) });
        drop(state);
        Changes { cache: self.clone(), reader, wake }
    }

    /// Lists and watches, again and again: a watch ends when it fell behind, or when the store has trouble.
    async fn follow<S: Store>(&self, store: Arc<S>) {
        let mut failures = 0;
        loop {
            let kind = T::KIND;
            match self.list_and_watch(&*store, &mut failures).await {
                WatchError::Expired(version) => debug!(%kind, %version, "a watch fell behind and lists again"),
                WatchError::Closed => return,
                WatchError::Store(error) => {
                    failures += 1;
                    let delay = BACKOFF.delay(failures);
                    warn!(%kind, ?delay, error = %crate::runtime::Chain(&error), "objects cannot be followed");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn list_and_watch<S: Store>(&self, store: &S, failures: &mut u32) -> WatchError {
        let everything = Selector::everything();
        let list = match tokio::time::timeout(LIST_LIMIT, store.list::<T>(&everything)).await {
            Ok(Ok(list)) => list,
            Ok(Err(error)) => return error.into(),
            Err(_) => return crate::store::StoreError::slow().into(),
        };
        let version = list.resource_version;
        self.replace(list);
        let mut watch = match store.watch::<T>(WatchOptions::after(version)).await {
            Ok(watch) => watch,
            Err(error) if error.is_expired() => return WatchError::Expired(version),
            Err(error) => return error.into(),
        };
        loop {
            match watch.next().await {
                Some(Ok(event)) => {
                    *failures = 0;
                    self.apply(event);
                }
                Some(Err(error)) => return error,
                None => return WatchError::Closed,
            }
        }
    }

    /// Takes over a list: what is not in it is gone.
    fn replace(&self, list: List<T>) {
        let mut state = self.write();
        let mut gone: BTreeSet<Arc<str>> = state.objects.keys().cloned().collect();
        for object in list.items {
            let name = object.name_any();
            gone.remove(name.as_str());
            let known = state.objects.get(name.as_str());
            if known.is_none_or(|known| known.meta().resource_version != object.meta().resource_version) {
                state.put(&name.into(), object);
            }
        }
        for name in gone {
            state.remove(&name);
        }
        drop(state);
        self.advance(list.resource_version);
    }

    fn apply(&self, event: WatchEvent<T>) {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = version_of(&object);
                self.write().put(&object.name_any().into(), object);
                version
            }
            WatchEvent::Deleted(object) => {
                self.write().remove(&object.name_any());
                version_of(&object)
            }
            WatchEvent::Bookmark(version) => Some(version),
        };
        if let Some(version) = version {
            self.advance(version);
        }
    }

    fn advance(&self, version: ResourceVersion) {
        self.0.progress.send_modify(|progress| progress.version = Some(version));
    }

    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version_of<T: Indexed>(object: &T) -> Option<ResourceVersion> {
    object.meta().resource_version.as_ref().and_then(|version| version.parse().ok())
}

impl<T: Indexed> State<T> {
    fn put(&mut self, name: &Arc<str>, object: T) {
        let object = Arc::new(object);
        for index in T::INDEXES {
            let keys = self.indexes.entry(*index).or_default();
            for key in object.keys(*index) {
                keys.entry(key).or_default().insert(Arc::clone(name));
            }
        }
        let old = self.objects.insert(Arc::clone(name), Arc::clone(&object));
        if let Some(old) = &old {
            self.forget_keys(name, old, Some(&object));
        }
        self.tell(name, old.as_ref());
    }

    fn remove(&mut self, name: &str) {
        if let Some((name, old)) = self.objects.remove_entry(name) {
            self.forget_keys(&name, &old, None);
            self.tell(&name, Some(&old));
        }
    }

    /// Takes the object out of the keys that it had and has no more.
    fn forget_keys(&mut self, name: &str, old: &T, new: Option<&T>) {
        for index in T::INDEXES {
            let kept = new.map(|new| new.keys(*index)).unwrap_or_default();
            let Some(keys) = self.indexes.get_mut(index) else { continue };
            for key in old.keys(*index).into_iter().filter(|key| !kept.contains(key)) {
                if let Entry::Occupied(mut names) = keys.entry(key) {
                    names.get_mut().remove(name);
                    if names.get().is_empty() {
                        names.remove();
                    }
                }
            }
        }
    }

    fn tell(&mut self, name: &Arc<str>, old: Option<&Arc<T>>) {
        for reader in self.readers.values_mut() {
            if let Entry::Vacant(entry) = reader.pending.entry(Arc::clone(name)) {
                entry.insert(old.cloned());
                reader.order.push_back(Arc::clone(name));
            }
            reader.wake.notify_one();
        }
    }
}

impl<T: Indexed> Changes<T> {
    /// Waits for the next change. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Change<T> {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.wake.notified().await;
        }
    }

    /// The next change, if there is one already.
    pub fn try_next(&mut self) -> Option<Change<T>> {
        let mut state = self.cache.write();
        let State { objects, readers, .. } = &mut *state;
        let reader = readers.get_mut(&self.reader)?;
        loop {
            let name = reader.order.pop_front()?;
            let old = reader.pending.remove(&name).flatten();
            let new = objects.get::<str>(name.borrow()).cloned();
            // What came and went unseen is nothing.
            if old.is_some() || new.is_some() {
                return Some(Change { old, new });
            }
        }
    }
}

impl<T: Indexed> Drop for Changes<T> {
    fn drop(&mut self) {
        self.cache.write().readers.remove(&self.reader);
    }
}
