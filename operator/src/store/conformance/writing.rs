use super::{Broken, Outcome, ensure, host, labelled, refused};
use crate::{
    objects::{CertificateAuthority, Host, HostStatus, ObjectMeta, OwnerReference, ResourceExt},
    store::{Preconditions, Selector, Store, StoreError},
};

pub(super) async fn a_new_object_gets_an_identity<S: Store>(store: &S) -> Outcome {
    let mut given = host("a")?;
    given.metadata.uid = Some("mine".to_owned());
    given.metadata.generation = Some(7);
    let ObjectMeta { uid, generation, creation_timestamp, resource_version, deletion_timestamp, .. } =
        store.create(&given).await?.metadata;
    ensure!(uid.as_ref().is_some_and(|uid| uid != "mine" && !uid.is_empty()), "uid is {uid:?}");
    ensure!(generation == Some(1), "generation is {generation:?}");
    ensure!(creation_timestamp.is_some() && resource_version.is_some(), "time or version is missing");
    ensure!(deletion_timestamp.is_none(), "it is being deleted");
    let other = store.create(&host("b")?).await?;
    ensure!(other.metadata.uid != uid, "two objects have one uid");
    Ok(())
}

pub(super) async fn a_name_is_taken_once<S: Store>(store: &S) -> Outcome {
    let first = store.create(&host("a")?).await?;
    refused(store.create(&host("a")?).await, StoreError::is_already_exists, "a second object of a name")?;
    ensure!(store.get::<Host>("a").await? == first, "the first object changed");
    Ok(())
}

pub(super) async fn a_new_object_has_no_resource_version<S: Store>(store: &S) -> Outcome {
    let mut given = host("a")?;
    given.metadata.resource_version = Some("1".to_owned());
    refused(store.create(&given).await, StoreError::is_invalid, "a new object with a resource version")
}

pub(super) async fn a_new_object_has_no_status<S: Store>(store: &S) -> Outcome {
    let mut given = host("a")?;
    given.status = Some(HostStatus { guests: 3, ..HostStatus::default() });
    let created = store.create(&given).await?;
    ensure!(created.status.is_none(), "it has the status {:?}", created.status);
    Ok(())
}

type Spoil = fn(&mut ObjectMeta);

pub(super) async fn bad_metadata_is_refused<S: Store>(store: &S) -> Outcome {
    let owner = |uid: &str| OwnerReference {
        api_version: crate::objects::API_VERSION.to_owned(),
        kind: "Host".to_owned(),
        name: "owner".to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let bad: [(&str, Spoil); 5] = [
        ("no name", |metadata| metadata.name = None),
        ("a bad name", |metadata| metadata.name = Some("A_b".to_owned())),
        ("a bad label", |metadata| {
            metadata.labels = Some([("role".to_owned(), "not a value".to_owned())].into());
        }),
        ("a bad annotation", |metadata| metadata.annotations = Some([(String::new(), String::new())].into())),
        ("a bad finalizer", |metadata| metadata.finalizers = Some(vec!["not a name".to_owned()])),
    ];
    for (what, spoil) in bad {
        let mut given = host("a")?;
        spoil(&mut given.metadata);
        refused(store.create(&given).await, StoreError::is_invalid, what)?;
    }
    for owners in [vec![owner("")], vec![owner("1"), owner("2")]] {
        let mut given = host("a")?;
        given.metadata.owner_references = Some(owners);
        refused(store.create(&given).await, StoreError::is_invalid, "a bad owner, or two controllers")?;
    }
    ensure!(store.list::<Host>(&Selector::everything()).await?.items.is_empty(), "something was written");
    Ok(())
}

pub(super) async fn what_is_not_there_is_not_found<S: Store>(store: &S) -> Outcome {
    refused(store.get::<Host>("a").await, StoreError::is_not_found, "reading")?;
    let mut absent = host("a")?;
    absent.metadata.resource_version = Some("1".to_owned());
    refused(store.replace(&absent).await, StoreError::is_not_found, "replacing")?;
    refused(store.replace_status(&absent).await, StoreError::is_not_found, "replacing the status")?;
    refused(store.delete::<Host>("a", Preconditions::default()).await, StoreError::is_not_found, "deleting")?;
    store.create(&host("a")?).await?;
    refused(store.get::<CertificateAuthority>("a").await, StoreError::is_not_found, "reading another kind")
}

pub(super) async fn versions_grow_over_all_kinds<S: Store>(store: &S) -> Outcome {
    let before = store.list::<CertificateAuthority>(&Selector::everything()).await?.resource_version;
    store.create(&host("a")?).await?;
    let after = store.list::<CertificateAuthority>(&Selector::everything()).await?.resource_version;
    ensure!(before != after, "the version stayed {before} although something was written");
    Ok(())
}

pub(super) async fn a_replacement_says_what_it_read<S: Store>(store: &S) -> Outcome {
    store.create(&host("a")?).await?;
    refused(store.replace(&host("a")?).await, StoreError::is_invalid, "a replacement without a version")
}

pub(super) async fn of_two_writers_with_one_version_one_wins<S: Store>(store: &S) -> Outcome {
    let read = store.create(&host("a")?).await?;
    let mut first = read.clone();
    first.spec.cordoned = true;
    let first = store.replace(&first).await?;
    let mut second = read.clone();
    second.spec.zone = Some("z".parse()?);
    refused(store.replace(&second).await, StoreError::is_conflict, "a replacement of what has changed")?;
    second.status = Some(HostStatus::default());
    refused(store.replace_status(&second).await, StoreError::is_conflict, "a status of what has changed")?;
    // Even where it asks for nothing else than what it read.
    refused(store.replace(&read).await, StoreError::is_conflict, "a replacement with an old version")?;
    ensure!(store.get::<Host>("a").await? == first, "the loser changed something");
    Ok(())
}

pub(super) async fn another_uid_is_another_object<S: Store>(store: &S) -> Outcome {
    let mut read = store.create(&host("a")?).await?;
    read.metadata.uid = Some("another".to_owned());
    read.spec.cordoned = true;
    refused(store.replace(&read).await, StoreError::is_conflict, "a replacement with another uid")
}

pub(super) async fn a_replacement_that_changes_nothing_is_not_written<S: Store>(store: &S) -> Outcome {
    let mut given = host("a")?;
    given.status = None;
    let created = store.create(&given).await?;
    let before = store.list::<Host>(&Selector::everything()).await?.resource_version;
    let mut same = created.clone();
    // None and nothing in it are the same.
    same.metadata.labels = Some([].into());
    same.metadata.finalizers = Some(Vec::new());
    ensure!(store.replace(&same).await? == created, "the object changed");
    let mut with_status = created.clone();
    with_status.status = Some(HostStatus { guests: 1, ..HostStatus::default() });
    let with_status = store.replace_status(&with_status).await?;
    ensure!(store.replace_status(&with_status).await? == with_status, "the status changed");
    let after = store.list::<Host>(&Selector::everything()).await?.resource_version;
    ensure!(with_status.metadata.resource_version == Some(after.to_string()), "a write of nothing made a version");
    ensure!(before != after, "the status made no version");
    Ok(())
}

pub(super) async fn only_the_spec_makes_a_generation<S: Store>(store: &S) -> Outcome {
    let mut object = store.create(&host("a")?).await?;
    object.labels_mut().insert("role".to_owned(), "storage".to_owned());
    object.metadata.finalizers = Some(vec!["goliath.dev/test".to_owned()]);
    object = store.replace(&object).await?;
    ensure!(object.metadata.generation == Some(1), "metadata made a generation");
    object.status = Some(HostStatus { guests: 1, ..HostStatus::default() });
    object = store.replace_status(&object).await?;
    ensure!(object.metadata.generation == Some(1), "a status made a generation");
    object.spec.cordoned = true;
    object.metadata.generation = Some(40);
    object = store.replace(&object).await?;
    ensure!(object.metadata.generation == Some(2), "a spec made generation {:?}", object.metadata.generation);
    Ok(())
}

pub(super) async fn a_replacement_leaves_the_status<S: Store>(store: &S) -> Outcome {
    let mut object = store.create(&host("a")?).await?;
    object.status = Some(HostStatus { guests: 1, ..HostStatus::default() });
    let mut object = store.replace_status(&object).await?;
    object.status = Some(HostStatus { guests: 2, ..HostStatus::default() });
    object.spec.cordoned = true;
    let replaced = store.replace(&object).await?;
    ensure!(replaced.spec.cordoned, "the spec was not written");
    ensure!(replaced.status.as_ref().is_some_and(|status| status.guests == 1), "the status is {:?}", replaced.status);
    ensure!(store.get::<Host>("a").await? == replaced, "what is read differs from what was answered");
    Ok(())
}

pub(super) async fn a_status_leaves_the_rest<S: Store>(store: &S) -> Outcome {
    let created = store.create(&host("a")?).await?;
    let mut object = created.clone();
    object.spec.cordoned = true;
    object.labels_mut().insert("role".to_owned(), "storage".to_owned());
    object.status = Some(HostStatus { guests: 1, ..HostStatus::default() });
    let replaced = store.replace_status(&object).await?;
    ensure!(replaced.spec == created.spec, "the spec was written");
    ensure!(replaced.metadata.labels.is_none(), "labels were written");
    ensure!(replaced.status == object.status, "the status is {:?}", replaced.status);
    ensure!(replaced.metadata.resource_version != created.metadata.resource_version, "the version stayed");
    Ok(())
}

pub(super) async fn identity_stays<S: Store>(store: &S) -> Outcome {
    let created = store.create(&host("a")?).await?;
    let mut object = created.clone();
    object.metadata.creation_timestamp = None;
    object.metadata.uid = None;
    object.spec.cordoned = true;
    let replaced = store.replace(&object).await?;
    ensure!(replaced.metadata.uid == created.metadata.uid, "the uid changed");
    ensure!(replaced.metadata.creation_timestamp == created.metadata.creation_timestamp, "the time changed");
    let mut object = replaced.clone();
    object.metadata.creation_timestamp = Some(crate::objects::Time(jiff::Timestamp::UNIX_EPOCH));
    refused(store.replace(&object).await, StoreError::is_invalid, "another time of creation")?;
    let mut object = replaced;
    object.metadata.deletion_timestamp = object.metadata.creation_timestamp.clone();
    refused(store.replace(&object).await, StoreError::is_invalid, "a deletion by replacement")
}

pub(super) async fn a_list_takes_by_labels<S: Store>(store: &S) -> Outcome {
    for (name, zone) in [("a", "one"), ("b", "two"), ("c", "one")] {
        store.create(&labelled(name, "zone", zone)?).await?;
    }
    store.create(&host("d")?).await?;
    let names = async |selector: &str| -> Result<String, Broken> {
        let selector = selector.parse().map_err(|error| Broken(format!("{error}")))?;
        let hosts = store.list::<Host>(&selector).await?.items;
        Ok(hosts.iter().map(ResourceExt::name_any).collect())
    };
    for (selector, expected) in
        [("", "abcd"), ("zone=one", "ac"), ("zone in (two)", "b"), ("!zone", "d"), ("zone!=one", "bd"), ("zone=x", "")]
    {
        let found = names(selector).await?;
        ensure!(found == expected, "{selector:?} gives {found:?}, not {expected:?}");
    }
    let mut moved = store.get::<Host>("a").await?;
    moved.labels_mut().insert("zone".to_owned(), "two".to_owned());
    store.replace(&moved).await?;
    store.delete::<Host>("b", Preconditions::default()).await?;
    let found = (names("zone=one").await?, names("zone=two").await?);
    ensure!(found == ("c".to_owned(), "a".to_owned()), "after changes it gives {found:?}");
    Ok(())
}

pub(super) async fn a_list_is_in_order_of_names<S: Store>(store: &S) -> Outcome {
    for name in ["c", "a", "b.x", "b"] {
        let mut object = store.create(&host(name)?).await?;
        // Some with a status and some without.
        if name.starts_with('b') {
            object.status =
                Some(HostStatus { guests: u32::try_from(name.len()).unwrap_or(0), ..HostStatus::default() });
            store.replace_status(&object).await?;
        }
    }
    let hosts = store.list::<Host>(&Selector::everything()).await?.items;
    let found: Vec<_> = hosts.iter().map(|host| (host.name_any(), host.status.as_ref().map(|s| s.guests))).collect();
    let expected = [("a", None), ("b", Some(1)), ("b.x", Some(3)), ("c", None)];
    let expected = expected.map(|(name, guests)| (name.to_owned(), guests));
    ensure!(found == expected, "it gives {found:?}");
    Ok(())
}

pub(super) async fn no_update_of_many_writers_is_lost<S: Store>(store: &S) -> Outcome {
    const WRITERS: usize = 8;
    const UPDATES: usize = 10;
    store.create(&host("a")?).await?;
    let count = async || -> Outcome {
        for _ in 0..UPDATES {
            loop {
                let mut object = store.get::<Host>("a").await?;
                let mut status = object.status.unwrap_or_default();
                status.guests += 1;
                object.status = Some(status);
                match store.replace_status(&object).await {
                    Ok(_) => break,
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    };
    futures::future::try_join_all((0..WRITERS).map(|_| count())).await?;
    let guests = store.get::<Host>("a").await?.status.map_or(0, |status| status.guests);
    ensure!(usize::try_from(guests) == Ok(WRITERS * UPDATES), "{guests} updates were kept");
    Ok(())
}
