use super::{Broken, Outcome, ensure, host, refused};
use crate::{
    objects::Host,
    store::{Deletion, Preconditions, Store, StoreError},
};

const FINALIZER: &str = "goliath.dev/test";

async fn held<S: Store>(store: &S, finalizers: &[&str]) -> Result<Host, Broken> {
    let mut object = host("a")?;
    object.metadata.finalizers = Some(finalizers.iter().map(|finalizer| (*finalizer).to_owned()).collect());
    Ok(store.create(&object).await?)
}

/// The object, marked.
async fn marked<S: Store>(store: &S) -> Result<Host, Broken> {
    match store.delete::<Host>("a", Preconditions::default()).await? {
        Deletion::Pending(object) => Ok(object),
        Deletion::Removed(_) => Err(Broken("it was removed although it has a finalizer".to_owned())),
    }
}

pub(super) async fn what_is_deleted_is_gone<S: Store>(store: &S) -> Outcome {
    let created = store.create(&host("a")?).await?;
    let deletion = store.delete::<Host>("a", Preconditions::default()).await?;
    let Deletion::Removed(last) = deletion else { return Err(Broken("it is still there".to_owned())) };
    ensure!(last.metadata.uid == created.metadata.uid, "another object was removed");
    refused(store.get::<Host>("a").await, StoreError::is_not_found, "reading")?;
    refused(store.replace(&created).await, StoreError::is_not_found, "replacing")
}

pub(super) async fn a_name_is_free_again_and_means_another_object<S: Store>(store: &S) -> Outcome {
    let first = store.create(&host("a")?).await?;
    store.delete::<Host>("a", Preconditions::default()).await?;
    let second = store.create(&host("a")?).await?;
    ensure!(first.metadata.uid != second.metadata.uid, "both have one uid");
    ensure!(second.metadata.generation == Some(1), "its generation is not 1");
    refused(store.replace(&first).await, StoreError::is_conflict, "a replacement of the object that is gone")?;
    let uid = first.metadata.uid;
    let deleted = store.delete::<Host>("a", Preconditions { uid, resource_version: None }).await;
    refused(deleted, StoreError::is_conflict, "a deletion of the object that is gone")
}

pub(super) async fn finalizers_hold_an_object<S: Store>(store: &S) -> Outcome {
    let created = held(store, &[FINALIZER]).await?;
    let object = marked(store).await?;
    ensure!(object.metadata.deletion_timestamp.is_some(), "it is not marked");
    ensure!(object.metadata.resource_version != created.metadata.resource_version, "the mark made no version");
    ensure!(object.metadata.generation == Some(2), "as in Kubernetes, the mark makes a generation");
    ensure!(store.get::<Host>("a").await? == object, "what is read differs from what was answered");
    // It may still be changed.
    let mut object = object;
    object.spec.cordoned = true;
    let object = store.replace(&object).await?;
    ensure!(object.metadata.deletion_timestamp.is_some() && object.spec.cordoned, "the change was not written");
    Ok(())
}

pub(super) async fn the_last_finalizer_lets_it_go<S: Store>(store: &S) -> Outcome {
    held(store, &[FINALIZER, "goliath.dev/other"]).await?;
    let mut object = marked(store).await?;
    object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    let mut object = store.replace(&object).await?;
    ensure!(store.get::<Host>("a").await.is_ok(), "it went before its last finalizer");
    object.metadata.finalizers = None;
    store.replace(&object).await?;
    refused(store.get::<Host>("a").await, StoreError::is_not_found, "reading")
}

pub(super) async fn no_finalizer_is_added_while_deleting<S: Store>(store: &S) -> Outcome {
    held(store, &[FINALIZER]).await?;
    let object = marked(store).await?;
    for finalizers in [vec![FINALIZER, "goliath.dev/other"], vec!["goliath.dev/other"]] {
        let mut object = object.clone();
        object.metadata.finalizers = Some(finalizers.into_iter().map(str::to_owned).collect());
        refused(store.replace(&object).await, StoreError::is_invalid, "a new finalizer")?;
    }
    Ok(())
}

pub(super) async fn deleting_twice_is_deleting_once<S: Store>(store: &S) -> Outcome {
    held(store, &[FINALIZER]).await?;
    let first = marked(store).await?;
    ensure!(marked(store).await? == first, "the second deletion changed it");
    Ok(())
}

pub(super) async fn deletions_have_preconditions<S: Store>(store: &S) -> Outcome {
    let created = store.create(&host("a")?).await?;
    let mut object = created.clone();
    object.spec.cordoned = true;
    let changed = store.replace(&object).await?;
    let delete = async |uid: Option<&str>, of: &Host| {
        let resource_version = of.metadata.resource_version.as_ref().and_then(|version| version.parse().ok());
        store.delete::<Host>("a", Preconditions { uid: uid.map(str::to_owned), resource_version }).await
    };
    refused(delete(None, &created).await, StoreError::is_conflict, "a deletion of what has changed")?;
    refused(delete(Some("another"), &changed).await, StoreError::is_conflict, "a deletion of another uid")?;
    ensure!(store.get::<Host>("a").await? == changed, "a refused deletion changed it");
    delete(changed.metadata.uid.as_deref(), &changed).await?;
    refused(store.get::<Host>("a").await, StoreError::is_not_found, "reading")
}
