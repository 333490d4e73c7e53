//! Where objects are kept, with the semantics of the Kubernetes API: optimistic concurrency by resource version,
//! generations, finalizers, owner references, watches. [`conformance`] writes them down as rules that any store must
//! pass; [`EmbeddedStore`] keeps a single file.
//!
//! Every write is durable when its call returns.

use std::future::Future;

use crate::objects::{Kind, Object};

pub mod conformance;
mod embedded;
mod error;
mod history;
mod object;
mod selector;
mod semantics;
mod version;
mod watch;

pub use embedded::{EmbeddedStore, OpenError, Options, Statistics};
pub use error::{FieldProblem, StoreError, Unavailable};
pub use object::AnyObject;
pub use selector::Selector;
pub(crate) use semantics::check_label;
pub use version::ResourceVersion;
pub use watch::{Watch, WatchError, WatchEvent, WatchFrom, WatchOptions};

/// What a list gives: the objects, in the order of their names, and from where to watch for what changes after.
#[derive(Debug, Clone)]
pub struct List<T> {
    /// As they all were at one instant.
    pub items: Vec<T>,
    /// That instant.
    pub resource_version: ResourceVersion,
}

/// What a deletion did.
#[derive(Debug, Clone, PartialEq)]
pub enum Deletion<T> {
    /// It is gone; this is its last state.
    Removed(T),
    /// It has finalizers: `metadata.deletionTimestamp` is set, and it goes with the last of them.
    Pending(T),
}

/// What must hold for a deletion to happen; what is not given is not asked.
#[derive(Debug, Clone, Default)]
pub struct Preconditions {
    /// It is still this object, not another of the same name.
    pub uid: Option<String>,
    /// Nobody changed it since.
    pub resource_version: Option<ResourceVersion>,
}

/// A store of all kinds. The methods in `_any` serve callers that learn the kind at run time; the others are typed.
pub trait Store: Send + Sync + 'static {
    /// Writes a new object. The store gives it uid, creation time, generation 1 and a resource version; its status is
    /// left out, as with every kind that has a status subresource.
    ///
    /// Errors: `AlreadyExists`, `Invalid`.
    fn create_any(&self, object: AnyObject) -> impl Future<Output = Result<AnyObject, StoreError>> + Send;

    /// Reads one object. Errors: `NotFound`.
    fn get_any(&self, kind: Kind, name: &str) -> impl Future<Output = Result<AnyObject, StoreError>> + Send;

    /// Reads all objects of a kind that the selector takes.
    fn list_any(
        &self,
        kind: Kind,
        selector: &Selector,
    ) -> impl Future<Output = Result<List<AnyObject>, StoreError>> + Send;

    /// Writes spec and metadata of an object as it was read; its status is not touched. Where nothing differs nothing is
    /// written. Taking away the last finalizer of an object that is being deleted removes it.
    ///
    /// Errors: `NotFound`, `Conflict` when somebody wrote it since, `Invalid`.
    fn replace_any(&self, object: AnyObject) -> impl Future<Output = Result<AnyObject, StoreError>> + Send;

    /// Writes the status of an object as it was read; nothing else is touched. Errors: as `replace_any`.
    fn replace_status_any(&self, object: AnyObject) -> impl Future<Output = Result<AnyObject, StoreError>> + Send;

    /// Removes an object, or marks it where it has finalizers. What it owns alone goes with it.
    ///
    /// Errors: `NotFound`, `Conflict` when a precondition does not hold.
    fn delete_any(
        &self,
        kind: Kind,
        name: &str,
        preconditions: Preconditions,
    ) -> impl Future<Output = Result<Deletion<AnyObject>, StoreError>> + Send;

    /// Tells of every change of a kind, each once and in order. Errors: `Expired`: list again, and watch from there.
    fn watch_any(
        &self,
        kind: Kind,
        options: WatchOptions,
    ) -> impl Future<Output = Result<Watch<AnyObject>, StoreError>> + Send;

    /// As [`Store::create_any`].
    fn create<T: Object>(&self, object: &T) -> impl Future<Output = Result<T, StoreError>> + Send {
        async { self.create_any(AnyObject::encode(object)?).await?.decode() }
    }

    /// As [`Store::get_any`].
    fn get<T: Object>(&self, name: &str) -> impl Future<Output = Result<T, StoreError>> + Send {
        async { self.get_any(T::KIND, name).await?.decode() }
    }

    /// As [`Store::list_any`].
    fn list<T: Object>(&self, selector: &Selector) -> impl Future<Output = Result<List<T>, StoreError>> + Send {
        async {
            let List { items, resource_version } = self.list_any(T::KIND, selector).await?;
            Ok(List { items: items.iter().map(AnyObject::decode).collect::<Result<_, _>>()?, resource_version })
        }
    }

    /// As [`Store::replace_any`].
    fn replace<T: Object>(&self, object: &T) -> impl Future<Output = Result<T, StoreError>> + Send {
        async { self.replace_any(AnyObject::encode(object)?).await?.decode() }
    }

    /// As [`Store::replace_status_any`].
    fn replace_status<T: Object>(&self, object: &T) -> impl Future<Output = Result<T, StoreError>> + Send {
        async { self.replace_status_any(AnyObject::encode(object)?).await?.decode() }
    }

    /// As [`Store::delete_any`].
    fn delete<T: Object>(
        &self,
        name: &str,
        preconditions: Preconditions,
    ) -> impl Future<Output = Result<Deletion<T>, StoreError>> + Send {
        async {
            Ok(match self.delete_any(T::KIND, name, preconditions).await? {
                Deletion::Removed(object) => Deletion::Removed(object.decode()?),
                Deletion::Pending(object) => Deletion::Pending(object.decode()?),
            })
        }
    }

    /// As [`Store::watch_any`].
    fn watch<T: Object>(&self, options: WatchOptions) -> impl Future<Output = Result<Watch<T>, StoreError>> + Send {
        async { Ok(self.watch_any(T::KIND, options).await?.typed()) }
    }
}
