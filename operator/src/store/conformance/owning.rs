use kube::Resource as _;

use super::{Broken, Outcome, ensure, host, next_change, until_gone};
use crate::{
    objects::{Host, OwnerReference},
    store::{Preconditions, Selector, Store, WatchOptions},
};

fn owner_reference(owner: &Host) -> Result<OwnerReference, Broken> {
    owner.owner_ref(&()).ok_or_else(|| Broken("an object was written without a uid".to_owned()))
}

fn owned(name: &str, owners: &[&Host]) -> Result<Host, Broken> {
    let mut object = host(name)?;
    object.metadata.owner_references =
        Some(owners.iter().map(|owner| owner_reference(owner)).collect::<Result<_, _>>()?);
    Ok(object)
}

pub(super) async fn what_is_owned_goes_with_its_owner<S: Store>(store: &S) -> Outcome {
    let owner = store.create(&host("owner")?).await?;
    let child = store.create(&owned("child", &[&owner])?).await?;
    store.create(&owned("grandchild", &[&child])?).await?;
    store.create(&host("stranger")?).await?;
    store.delete::<Host>("owner", Preconditions::default()).await?;
    until_gone::<Host>(store, "child").await?;
    until_gone::<Host>(store, "grandchild").await?;
    ensure!(store.get::<Host>("stranger").await.is_ok(), "it took a stranger with it");
    Ok(())
}

pub(super) async fn finalizers_hold_what_is_owned<S: Store>(store: &S) -> Outcome {
    let owner = store.create(&host("owner")?).await?;
    let mut child = owned("child", &[&owner])?;
    child.metadata.finalizers = Some(vec!["goliath.dev/test".to_owned()]);
    store.create(&child).await?;
    let from = store.list::<Host>(&Selector::everything()).await?.resource_version;
    let mut watch = store.watch::<Host>(WatchOptions::after(from)).await?;
    store.delete::<Host>("owner", Preconditions::default()).await?;
    let seen = [next_change(&mut watch).await?, next_change(&mut watch).await?];
    ensure!(seen == ["-owner", "~child"], "seen was {seen:?}");
    let mut child = store.get::<Host>("child").await?;
    ensure!(child.metadata.deletion_timestamp.is_some(), "it is not being deleted");
    child.metadata.finalizers = None;
    store.replace(&child).await?;
    until_gone::<Host>(store, "child").await
}

pub(super) async fn what_has_another_owner_stays<S: Store>(store: &S) -> Outcome {
    let (one, two) = (store.create(&host("one")?).await?, store.create(&host("two")?).await?);
    store.create(&owned("child", &[&one, &two])?).await?;
    let from = store.list::<Host>(&Selector::everything()).await?.resource_version;
    let mut watch = store.watch::<Host>(WatchOptions::after(from)).await?;
    store.delete::<Host>("one", Preconditions::default()).await?;
    let seen = [next_change(&mut watch).await?, next_change(&mut watch).await?];
    ensure!(seen == ["-one", "~child"], "seen was {seen:?}");
    let owners = store.get::<Host>("child").await?.metadata.owner_references.unwrap_or_default();
    ensure!(owners == [owner_reference(&two)?], "its owners are {owners:?}");
    store.delete::<Host>("two", Preconditions::default()).await?;
    until_gone::<Host>(store, "child").await
}

pub(super) async fn what_has_no_owner_left_when_it_is_written_goes<S: Store>(store: &S) -> Outcome {
    let owner = store.create(&host("owner")?).await?;
    store.delete::<Host>("owner", Preconditions::default()).await?;
    store.create(&owned("child", &[&owner])?).await?;
    until_gone::<Host>(store, "child").await
}

pub(super) async fn an_owner_is_who_has_its_uid<S: Store>(store: &S) -> Outcome {
    let first = store.create(&host("owner")?).await?;
    store.create(&owned("child", &[&first])?).await?;
    store.delete::<Host>("owner", Preconditions::default()).await?;
    let second = store.create(&host("owner")?).await?;
    until_gone::<Host>(store, "child").await?;
    store.create(&owned("child", &[&second])?).await?;
    // Who comes after the owner's end in the order of things would be seen before this.
    let from = store.list::<Host>(&Selector::everything()).await?.resource_version;
    let mut watch = store.watch::<Host>(WatchOptions::after(from)).await?;
    store.create(&host("last")?).await?;
    let seen = next_change(&mut watch).await?;
    ensure!(seen == "+last", "seen was {seen}");
    Ok(())
}
