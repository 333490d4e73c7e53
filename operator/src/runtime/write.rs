//! Writes that happen only where something differs. An object is written as it was read, so that whoever came first
//! wins; the other is told by a conflict.

use crate::{
    objects::Object,
    store::{Store, StoreError},
};

/// Changes the status of an object as it was read; writes and returns it where it differs.
pub async fn status<S: Store, T: Object>(
    store: &S,
    object: &T,
    change: impl FnOnce(&mut T::Status) + Send,
) -> Result<Option<T>, StoreError>
where
    T::Status: Default,
{
    let mut wanted = object.clone();
    change(wanted.status_mut().get_or_insert_default());
    if wanted.status() == object.status() {
        return Ok(None);
    }
    store.replace_status(&wanted).await.map(Some)
}

/// Changes spec or metadata of an object as it was read; writes and returns it where it differs.
pub async fn object<S: Store, T: Object>(
    store: &S,
    object: &T,
    change: impl FnOnce(&mut T) + Send,
) -> Result<Option<T>, StoreError> {
    let mut wanted = object.clone();
    change(&mut wanted);
    if wanted.spec() == object.spec() && wanted.meta() == object.meta() {
        return Ok(None);
    }
    store.replace(&wanted).await.map(Some)
}

/// Keeps an object from going before this finalizer is taken away. One that is being deleted already stays as it is.
pub async fn add_finalizer<S: Store, T: Object>(
    store: &S,
    target: &T,
    finalizer: &str,
) -> Result<Option<T>, StoreError> {
    if has_finalizer(target, finalizer) || target.meta().deletion_timestamp.is_some() {
        return Ok(None);
    }
    object(store, target, |wanted| wanted.meta_mut().finalizers.get_or_insert_default().push(finalizer.to_owned()))
        .await
}

/// Lets an object go as far as this finalizer is concerned.
pub async fn remove_finalizer<S: Store, T: Object>(
    store: &S,
    target: &T,
    finalizer: &str,
) -> Result<Option<T>, StoreError> {
    object(store, target, |wanted| {
        wanted.meta_mut().finalizers.iter_mut().for_each(|finalizers| finalizers.retain(|other| other != finalizer));
    })
    .await
}

/// Whether the object has this finalizer.
pub fn has_finalizer<T: Object>(object: &T, finalizer: &str) -> bool {
    object.meta().finalizers.iter().flatten().any(|other| other == finalizer)
}
