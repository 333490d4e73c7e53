use std::time::Duration;

use super::{Broken, Outcome, ensure, host, labelled, next, next_change, refused};
use crate::{
    objects::{CertificateAuthority, Host, HostStatus, ResourceExt as _},
    store::{Preconditions, ResourceVersion, Selector, Store, StoreError, Watch, WatchEvent, WatchFrom, WatchOptions},
};

/// Creates, changes and deletes; what a watch must tell of it, with the version after each.
async fn some_history<S: Store>(store: &S) -> Result<Vec<(String, ResourceVersion)>, Broken> {
    let mut told = Vec::new();
    for name in ["a", "b"] {
        let mut object = store.create(&host(name)?).await?;
        told.push((format!("+{name}"), latest(store).await?));
        object.spec.cordoned = true;
        object = store.replace(&object).await?;
        told.push((format!("~{name}"), latest(store).await?));
        object.status = Some(HostStatus::default());
        store.replace_status(&object).await?;
        told.push((format!("~{name}"), latest(store).await?));
    }
    store.delete::<Host>("a", Preconditions::default()).await?;
    told.push(("-a".to_owned(), latest(store).await?));
    store.create(&host("a")?).await?;
    told.push(("+a".to_owned(), latest(store).await?));
    Ok(told)
}

async fn latest<S: Store>(store: &S) -> Result<ResourceVersion, Broken> {
    Ok(store.list::<Host>(&Selector::everything()).await?.resource_version)
}

async fn expect(watch: &mut Watch<Host>, expected: &[&str]) -> Outcome {
    for expected in expected {
        let seen = next_change(watch).await?;
        ensure!(seen == *expected, "seen was {seen} instead of {expected}");
    }
    Ok(())
}

pub(super) async fn a_watch_goes_on_where_a_list_ended<S: Store>(store: &S) -> Outcome {
    store.create(&host("before")?).await?;
    let list = store.list::<Host>(&Selector::everything()).await?;
    ensure!(list.items.len() == 1, "the list has {} objects", list.items.len());
    let between = store.create(&host("between")?).await?;
    let mut watch = store.watch::<Host>(WatchOptions::after(list.resource_version)).await?;
    let event = next(&mut watch).await?;
    ensure!(event == WatchEvent::Added(between.clone()), "the first event is {event:?}");
    let deletion = store.delete::<Host>("between", Preconditions::default()).await?;
    ensure!(matches!(deletion, crate::store::Deletion::Removed(_)), "it is still there");
    let WatchEvent::Deleted(last) = next(&mut watch).await? else { return Err(Broken("no deletion".to_owned())) };
    ensure!(last.spec == between.spec && last.metadata.uid == between.metadata.uid, "it is not the last state");
    ensure!(
        last.metadata.resource_version == Some(latest(store).await?.to_string()),
        "a deleted object does not tell the version of its end"
    );
    Ok(())
}

pub(super) async fn a_watch_resumes_from_any_version_without_gap_or_double<S: Store>(store: &S) -> Outcome {
    let start = latest(store).await?;
    let told = some_history(store).await?;
    let versions = std::iter::once(start).chain(told.iter().map(|(_, version)| *version));
    for (index, version) in versions.enumerate() {
        let mut watch = store.watch::<Host>(WatchOptions::after(version)).await?;
        for (change, _) in told.iter().skip(index) {
            expect(&mut watch, &[change]).await?;
        }
        let name = format!("end-{index}");
        store.create(&host(&name)?).await?;
        // What the rounds before this one left behind comes first.
        for earlier in 0..=index {
            expect(&mut watch, &[&format!("+end-{earlier}")]).await?;
        }
    }
    Ok(())
}

pub(super) async fn a_watch_can_begin_with_the_state<S: Store>(store: &S) -> Outcome {
    some_history(store).await?;
    let version = latest(store).await?;
    let mut watch = store.watch::<Host>(WatchOptions::state()).await?;
    expect(&mut watch, &["+a", "+b"]).await?;
    let event = next(&mut watch).await?;
    ensure!(event == WatchEvent::Bookmark(version), "the state ended with {event:?}, not a bookmark at {version}");
    store.delete::<Host>("b", Preconditions::default()).await?;
    expect(&mut watch, &["-b"]).await
}

pub(super) async fn a_watch_sees_one_kind<S: Store>(store: &S) -> Outcome {
    let mut watch = store.watch::<CertificateAuthority>(WatchOptions::after(latest(store).await?)).await?;
    store.create(&host("a")?).await?;
    let authority = CertificateAuthority::new(
        "acme",
        crate::objects::CertificateAuthoritySpec {
            cluster: "acme".parse()?,
            issuer: "vault".parse()?,
            ttl: crate::objects::TimeSpan::hours(1),
            common_name: None,
            allowed_domains: Vec::new(),
            roles: Vec::new(),
        },
    );
    store.create(&authority).await?;
    let seen = next_change(&mut watch).await?;
    ensure!(seen == "+acme", "seen was {seen}");
    Ok(())
}

pub(super) async fn a_watch_sees_through_its_selector<S: Store>(store: &S) -> Outcome {
    let selector = Selector::everything().and_equals("zone", "one");
    let options = WatchOptions::after(latest(store).await?).with_selector(selector);
    let mut watch = store.watch::<Host>(options).await?;
    store.create(&labelled("other", "zone", "two")?).await?;
    let mut object = store.create(&labelled("a", "zone", "one")?).await?;
    expect(&mut watch, &["+a"]).await?;
    object.spec.cordoned = true;
    object = store.replace(&object).await?;
    expect(&mut watch, &["~a"]).await?;
    object.labels_mut().insert("zone".to_owned(), "two".to_owned());
    object = store.replace(&object).await?;
    let WatchEvent::Deleted(last) = next(&mut watch).await? else { return Err(Broken("no deletion".to_owned())) };
    ensure!(last.metadata.resource_version == object.metadata.resource_version, "it tells another version");
    ensure!(last.labels().get("zone").is_some_and(|zone| zone == "one"), "it is not as it was seen last");
    object.spec.cordoned = false;
    object = store.replace(&object).await?;
    object.labels_mut().insert("zone".to_owned(), "one".to_owned());
    store.replace(&object).await?;
    expect(&mut watch, &["+a"]).await?;
    store.delete::<Host>("other", Preconditions::default()).await?;
    store.delete::<Host>("a", Preconditions::default()).await?;
    expect(&mut watch, &["-a"]).await
}

pub(super) async fn what_was_not_written_is_not_told<S: Store>(store: &S) -> Outcome {
    let created = store.create(&host("a")?).await?;
    let mut watch = store.watch::<Host>(WatchOptions::after(latest(store).await?)).await?;
    store.replace(&created).await?;
    refused(store.create(&host("a")?).await, StoreError::is_already_exists, "a second object of a name")?;
    store.create(&host("b")?).await?;
    expect(&mut watch, &["+b"]).await
}

pub(super) async fn a_quiet_watch_gets_bookmarks<S: Store>(store: &S) -> Outcome {
    let options =
        WatchOptions { bookmark_interval: Duration::from_millis(10), ..WatchOptions::after(latest(store).await?) };
    let mut watch = store.watch::<CertificateAuthority>(options).await?;
    store.create(&host("a")?).await?;
    let version = latest(store).await?;
    loop {
        match next(&mut watch).await? {
            WatchEvent::Bookmark(seen) if seen == version => break,
            // A store may tell of those on the way.
            WatchEvent::Bookmark(_) => {}
            event => return Err(Broken(format!("a quiet watch told {event:?}"))),
        }
    }
    Ok(())
}

pub(super) async fn a_version_of_the_future_is_expired<S: Store>(store: &S) -> Outcome {
    store.create(&host("a")?).await?;
    let future: ResourceVersion = u64::MAX.to_string().parse().map_err(|error| Broken(format!("{error}")))?;
    let options = WatchOptions { from: WatchFrom::After(future), ..WatchOptions::state() };
    match store.watch::<Host>(options).await {
        Err(error) if error.is_expired() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(Broken("it was accepted".to_owned())),
    }
}
