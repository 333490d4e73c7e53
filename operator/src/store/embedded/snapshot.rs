//! The file at one instant.

use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase};

use super::tables::{self, Key, LABELS, METADATA, NUMBERS, SPECS, STATUSES, VERSION_KEY};
use crate::{
    objects::Kind,
    store::{AnyObject, List, ResourceVersion, Selector, StoreError},
};

pub(super) struct Snapshot {
    transaction: ReadTransaction,
    metadata: ReadOnlyTable<Key, &'static str>,
    specs: ReadOnlyTable<Key, &'static str>,
    statuses: ReadOnlyTable<Key, &'static str>,
}

impl Snapshot {
    pub(super) fn of(database: &Database) -> Result<Self, redb::Error> {
        let transaction = database.begin_read()?;
        Ok(Self {
            metadata: transaction.open_table(METADATA)?,
            specs: transaction.open_table(SPECS)?,
            statuses: transaction.open_table(STATUSES)?,
            transaction,
        })
    }

    /// The version of the last write in it.
    pub(super) fn version(&self) -> Result<u64, redb::Error> {
        Ok(self.transaction.open_table(NUMBERS)?.get(VERSION_KEY)?.map_or(0, |version| version.value()))
    }

    pub(super) fn object(&self, kind: Kind, name: &str) -> Result<Option<AnyObject>, redb::Error> {
        tables::load((&self.metadata, &self.specs, &self.statuses), kind, name)
    }

    pub(super) fn list(&self, kind: Kind, selector: &Selector) -> Result<List<AnyObject>, StoreError> {
        let resource_version = ResourceVersion::new(self.version()?);
        let items = match selector.equality() {
            Some((label, value)) => self.labelled(kind, label, value, selector)?,
            None => self.all(kind, selector)?,
        };
        Ok(List { items, resource_version })
    }

    /// By the index, so that it costs what it gives.
    fn labelled(
        &self,
        kind: Kind,
        label: &str,
        value: &str,
        selector: &Selector,
    ) -> Result<Vec<AnyObject>, redb::Error> {
        let labels = self.transaction.open_table(LABELS)?;
        let mut items = Vec::new();
        for entry in labels.range((kind.as_str(), label, value, "")..)? {
            let (key, ()) = entry.map(|(key, unit)| (key, unit.value()))?;
            let (found_kind, found_label, found_value, name) = key.value();
            if (found_kind, found_label, found_value) != (kind.as_str(), label, value) {
                break;
            }
            items.extend(self.object(kind, name)?.filter(|object| selector.matches(object.metadata().labels.as_ref())));
        }
        Ok(items)
    }

    /// The tables have the same keys in the same order, but for absent statuses: they are read side by side.
    fn all(&self, kind: Kind, selector: &Selector) -> Result<Vec<AnyObject>, redb::Error> {
        let from = (kind.as_str(), "");
        let mut specs = self.specs.range(from..)?;
        let mut statuses = self.statuses.range(from..)?;
        let mut next_status = statuses.next().transpose()?;
        let mut items = Vec::new();
        for entry in self.metadata.range(from..)? {
            let (key, metadata) = entry?;
            let (found_kind, name) = key.value();
            if found_kind != kind.as_str() {
                break;
            }
            let spec = match specs.next().transpose()? {
                Some((spec_key, spec)) if spec_key.value() == key.value() => spec,
                _ => return Err(redb::Error::Corrupted(format!("{kind} {name} has no spec"))),
            };
            let status = match &next_status {
                Some((status_key, _)) if status_key.value() == key.value() => {
                    std::mem::replace(&mut next_status, statuses.next().transpose()?).map(|(_, status)| status)
                }
                _ => None,
            };
            let status = status.as_ref().map(redb::AccessGuard::value);
            let object = tables::object(kind, metadata.value(), spec.value(), status)?;
            if selector.matches(object.metadata().labels.as_ref()) {
                items.push(object);
            }
        }
        Ok(items)
    }
}
