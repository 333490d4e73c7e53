//! What the file holds. An object's three parts are apart, so that a change of its status does not write its spec.

use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{
    objects::{Kind, ObjectMeta},
    store::AnyObject,
};

/// Grows when an older version of the program could not read the file.
pub(super) const FORMAT: u64 = 1;

/// Kind and name.
pub(super) type Key = (&'static str, &'static str);

/// Metadata, JSON.
pub(super) const METADATA: TableDefinition<Key, &str> = TableDefinition::new("metadata");
/// Spec, JSON.
pub(super) const SPECS: TableDefinition<Key, &str> = TableDefinition::new("specs");
/// Status, JSON; absent where there is none.
pub(super) const STATUSES: TableDefinition<Key, &str> = TableDefinition::new("statuses");
/// Kind and name by uid.
pub(super) const UIDS: TableDefinition<&str, (&str, &str)> = TableDefinition::new("uids");
/// Owner's uid, kind and name of what it owns.
pub(super) const OWNED: TableDefinition<(&str, &str, &str), ()> = TableDefinition::new("owned");
/// Kind, label, its value, name.
pub(super) const LABELS: TableDefinition<(&str, &str, &str, &str), ()> = TableDefinition::new("labels");
/// Numbers of the store itself.
pub(super) const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");

pub(super) const FORMAT_KEY: &str = "format";
pub(super) const VERSION_KEY: &str = "resource_version";

/// Makes all tables, so that none is missing later.
pub(super) fn prepare(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(METADATA)?;
    transaction.open_table(SPECS)?;
    transaction.open_table(STATUSES)?;
    transaction.open_table(UIDS)?;
    transaction.open_table(OWNED)?;
    transaction.open_table(LABELS)?;
    let mut numbers = transaction.open_table(NUMBERS)?;
    numbers.insert(FORMAT_KEY, FORMAT)?;
    numbers.insert(VERSION_KEY, 0)?;
    drop(numbers);
    Ok(transaction.commit()?)
}

/// None: it is not a file of ours.
pub(super) fn format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(NUMBERS) {
        Ok(numbers) => Ok(numbers.get(FORMAT_KEY)?.map(|format| format.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An object of its three parts.
pub(super) fn object(kind: Kind, metadata: &str, spec: &str, status: Option<&str>) -> Result<AnyObject, redb::Error> {
    let metadata: ObjectMeta = serde_json::from_str(metadata)
        .map_err(|error| redb::Error::Corrupted(format!("metadata of a {kind} is not JSON: {error}")))?;
    Ok(AnyObject::from_texts(kind, metadata, Arc::from(spec), status.map(Arc::from)))
}

/// Reads one object from its three tables.
pub(super) fn load(
    tables: (
        &impl ReadableTable<Key, &'static str>,
        &impl ReadableTable<Key, &'static str>,
        &impl ReadableTable<Key, &'static str>,
    ),
    kind: Kind,
    name: &str,
) -> Result<Option<AnyObject>, redb::Error> {
    let key = (kind.as_str(), name);
    let Some(metadata) = tables.0.get(key)? else { return Ok(None) };
    let spec = tables.1.get(key)?.ok_or_else(|| redb::Error::Corrupted(format!("{kind} {name} has no spec")))?;
    let status = tables.2.get(key)?;
    object(kind, metadata.value(), spec.value(), status.as_ref().map(redb::AccessGuard::value)).map(Some)
}
