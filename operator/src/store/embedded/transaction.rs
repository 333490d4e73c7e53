//! One commit in the making: operations are applied one after the other, each sees those before it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use redb::{ReadableTable, Table, WriteTransaction};
use uuid::Uuid;

use super::{
    tables::{self, Key, LABELS, METADATA, NUMBERS, OWNED, SPECS, STATUSES, UIDS, VERSION_KEY},
    writer::Operation,
};
use crate::{
    objects::{API_VERSION, Kind, OwnerReference},
    store::{AnyObject, ResourceVersion, StoreError, history, semantics, semantics::Change},
};

pub(super) struct Transaction<'transaction> {
    metadata: Table<'transaction, Key, &'static str>,
    specs: Table<'transaction, Key, &'static str>,
    statuses: Table<'transaction, Key, &'static str>,
    uids: Table<'transaction, &'static str, (&'static str, &'static str)>,
    owned: Table<'transaction, (&'static str, &'static str, &'static str), ()>,
    labels: Table<'transaction, (&'static str, &'static str, &'static str, &'static str), ()>,
    numbers: Table<'transaction, &'static str, u64>,
    version: u64,
    now: Timestamp,
    changes: Vec<history::Change>,
}

impl<'transaction> Transaction<'transaction> {
    pub(super) fn begin(transaction: &'transaction WriteTransaction, now: Timestamp) -> Result<Self, redb::Error> {
        let numbers = transaction.open_table(NUMBERS)?;
        let version = numbers.get(VERSION_KEY)?.map_or(0, |version| version.value());
        Ok(Self {
            metadata: transaction.open_table(METADATA)?,
            specs: transaction.open_table(SPECS)?,
            statuses: transaction.open_table(STATUSES)?,
            uids: transaction.open_table(UIDS)?,
            owned: transaction.open_table(OWNED)?,
            labels: transaction.open_table(LABELS)?,
            numbers,
            version,
            now,
            changes: Vec::new(),
        })
    }

    /// Writes the version down; gives what was changed, and the version. The caller commits.
    pub(super) fn finish(mut self) -> Result<(Vec<history::Change>, u64), redb::Error> {
        if !self.changes.is_empty() {
            self.numbers.insert(VERSION_KEY, self.version)?;
        }
        Ok((self.changes, self.version))
    }

    /// What was done, with the object as it now is, and as it was before. A refusal has changed nothing; with
    /// `Unavailable` the whole transaction must be thrown away.
    pub(super) fn apply(&mut self, operation: Operation) -> Result<(Change, Option<AnyObject>), StoreError> {
        let (current, change) = match operation {
            Operation::Create(object) => {
                if self.load(object.kind(), object.name())?.is_some() {
                    return Err(StoreError::AlreadyExists { kind: object.kind(), name: object.name().to_owned() });
                }
                let object = semantics::create(object, Uuid::new_v4().to_string(), self.now)?;
                (None, Change::Write(object))
            }
            Operation::Replace(object) => {
                let current = self.existing(object.kind(), object.name())?;
                let change = semantics::replace(&current, object)?;
                (Some(current), change)
            }
            Operation::ReplaceStatus(object) => {
                let current = self.existing(object.kind(), object.name())?;
                let change = semantics::replace_status(&current, &object)?;
                (Some(current), change)
            }
            Operation::Delete { kind, name, preconditions } => {
                let current = self.existing(kind, &name)?;
                let change = semantics::delete(&current, &preconditions, self.now)?;
                (Some(current), change)
            }
        };
        let done = self.carry_out(current.as_ref(), change)?;
        match &done {
            Change::None => {}
            Change::Write(object) => self.collect_orphan(object)?,
            Change::Remove(object) => self.collect_dependents(object)?,
        }
        Ok((done, current))
    }

    fn load(&self, kind: Kind, name: &str) -> Result<Option<AnyObject>, redb::Error> {
        tables::load((&self.metadata, &self.specs, &self.statuses), kind, name)
    }

    fn existing(&self, kind: Kind, name: &str) -> Result<AnyObject, StoreError> {
        self.load(kind, name)?.ok_or_else(|| StoreError::NotFound { kind, name: name.to_owned() })
    }

    /// Gives the change as it was done: with its resource version.
    fn carry_out(&mut self, current: Option<&AnyObject>, change: Change) -> Result<Change, redb::Error> {
        let done = match change {
            Change::None => return Ok(Change::None),
            Change::Write(object) => {
                let object = self.stamp(object);
                self.put(current, &object)?;
                Change::Write(object)
            }
            Change::Remove(object) => {
                let object = self.stamp(object);
                if let Some(current) = current {
                    self.remove(current)?;
                }
                Change::Remove(object)
            }
        };
        let after = match &done {
            Change::Write(object) => Some(object.clone()),
            Change::None | Change::Remove(_) => None,
        };
        self.changes.push(history::Change { version: self.version, before: current.cloned(), after });
        Ok(done)
    }

    fn stamp(&mut self, object: AnyObject) -> AnyObject {
        self.version += 1;
        object.with_resource_version(ResourceVersion::new(self.version))
    }

    fn put(&mut self, current: Option<&AnyObject>, object: &AnyObject) -> Result<(), redb::Error> {
        let key = (object.kind().as_str(), object.name());
        let metadata = serde_json::to_string(object.metadata())
            .map_err(|error| redb::Error::Corrupted(format!("metadata cannot be written: {error}")))?;
        self.metadata.insert(key, metadata.as_str())?;
        if current.map(AnyObject::spec) != Some(object.spec()) {
            self.specs.insert(key, object.spec())?;
        }
        if current.and_then(AnyObject::status) != object.status() {
            match object.status() {
                Some(status) => drop(self.statuses.insert(key, status)?),
                None => drop(self.statuses.remove(key)?),
            }
        }
        if current.is_none() {
            self.uids.insert(uid(object), key)?;
        }
        self.index_owners(current, Some(object))?;
        self.index_labels(current, Some(object))
    }

    fn remove(&mut self, current: &AnyObject) -> Result<(), redb::Error> {
        let key = (current.kind().as_str(), current.name());
        self.metadata.remove(key)?;
        self.specs.remove(key)?;
        self.statuses.remove(key)?;
        self.uids.remove(uid(current))?;
        self.index_owners(Some(current), None)?;
        self.index_labels(Some(current), None)
    }

    fn index_owners(&mut self, before: Option<&AnyObject>, after: Option<&AnyObject>) -> Result<(), redb::Error> {
        let owners = |object: Option<&AnyObject>| {
            object.and_then(|object| object.metadata().owner_references.clone()).unwrap_or_default()
        };
        let (was, is) = (owners(before), owners(after));
        if was == is {
            return Ok(());
        }
        let Some(object) = before.or(after) else { return Ok(()) };
        for owner in &was {
            self.owned.remove((owner.uid.as_str(), object.kind().as_str(), object.name()))?;
        }
        for owner in &is {
            self.owned.insert((owner.uid.as_str(), object.kind().as_str(), object.name()), ())?;
        }
        Ok(())
    }

    fn index_labels(&mut self, before: Option<&AnyObject>, after: Option<&AnyObject>) -> Result<(), redb::Error> {
        let labels = |object: Option<&AnyObject>| -> BTreeMap<String, String> {
            object.and_then(|object| object.metadata().labels.clone()).unwrap_or_default()
        };
        let (was, is) = (labels(before), labels(after));
        let Some(object) = before.or(after) else { return Ok(()) };
        let (kind, name) = (object.kind().as_str(), object.name());
        for (label, value) in was.iter().filter(|(label, value)| is.get(*label) != Some(value)) {
            self.labels.remove((kind, label.as_str(), value.as_str(), name))?;
        }
        for (label, value) in is.iter().filter(|(label, value)| was.get(*label) != Some(value)) {
            self.labels.insert((kind, label.as_str(), value.as_str(), name), ())?;
        }
        Ok(())
    }

    /// An object whose owners were gone before it was written goes as well.
    fn collect_orphan(&mut self, object: &AnyObject) -> Result<(), StoreError> {
        if object.metadata().owner_references.is_none() {
            return Ok(());
        }
        let removed = self.lose_owners(object)?;
        removed.map_or(Ok(()), |removed| self.collect_dependents(&removed))
    }

    /// What an object owned goes with it, and so on; what has another owner forgets this one.
    fn collect_dependents(&mut self, removed: &AnyObject) -> Result<(), StoreError> {
        let mut gone = vec![uid(removed).to_owned()];
        while let Some(owner) = gone.pop() {
            for (kind, name) in self.owned_by(&owner)? {
                let Some(dependent) = self.load(kind, &name)? else { continue };
                gone.extend(self.lose_owners(&dependent)?.map(|removed| uid(&removed).to_owned()));
            }
        }
        Ok(())
    }

    /// Gives the object if that removed it.
    fn lose_owners(&mut self, object: &AnyObject) -> Result<Option<AnyObject>, StoreError> {
        let mut gone = Vec::new();
        for owner in object.metadata().owner_references.iter().flatten() {
            if !self.is_there(owner)? {
                gone.push(owner.uid.clone());
            }
        }
        let change = semantics::lose_owners(object, |owner| gone.contains(&owner.uid), self.now)?;
        match self.carry_out(Some(object), change)? {
            Change::Remove(removed) => Ok(Some(removed)),
            Change::None | Change::Write(_) => Ok(None),
        }
    }

    fn is_there(&self, owner: &OwnerReference) -> Result<bool, redb::Error> {
        let found = self.uids.get(owner.uid.as_str())?;
        Ok(owner.api_version == API_VERSION
            && found.is_some_and(|found| found.value() == (owner.kind.as_str(), owner.name.as_str())))
    }

    fn owned_by(&self, owner: &str) -> Result<Vec<(Kind, String)>, redb::Error> {
        let mut dependents = Vec::new();
        for entry in self.owned.range((owner, "", "")..)? {
            let (key, _) = entry?;
            let (found, kind, name) = key.value();
            if found != owner {
                break;
            }
            let kind = Kind::ALL.iter().copied().find(|known| known.as_str() == kind);
            dependents.extend(kind.map(|kind| (kind, name.to_owned())));
        }
        Ok(dependents)
    }
}

/// Every object that was written has one.
fn uid(object: &AnyObject) -> &str {
    object.metadata().uid.as_deref().unwrap_or_default()
}
