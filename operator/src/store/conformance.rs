//! The semantics of a store, as rules that any store must pass: what controllers rely on. Each rule wants a store of its
//! own with nothing in it.

use std::{fmt, pin::Pin, time::Duration};

use super::{Store, StoreError, Watch, WatchError, WatchEvent, WatchOptions};
use crate::objects::{Host, HostSpec, InvalidValue, Object, ResourceExt as _};

mod deleting;
mod owning;
mod watching;
mod writing;

/// A rule that does not hold, and how it was seen.
#[derive(Debug)]
pub struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self(format!("refused: {error}"))
    }
}

impl From<WatchError> for Broken {
    fn from(error: WatchError) -> Self {
        Self(format!("the watch ended: {error}"))
    }
}

impl From<InvalidValue> for Broken {
    fn from(error: InvalidValue) -> Self {
        Self(error.to_string())
    }
}

type Outcome = Result<(), Broken>;
type Check<S> = for<'store> fn(&'store S) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'store>>;

/// One rule.
pub struct Rule<S> {
    /// What must hold, with underscores.
    pub name: &'static str,
    check: Check<S>,
}

impl<S> Rule<S> {
    /// Tries it on a store with nothing in it.
    pub async fn check(&self, store: &S) -> Result<(), Broken> {
        (self.check)(store).await
    }
}

macro_rules! list {
    ($($module:ident: $($rule:ident),+ $(,)?);+ $(;)?) => {
        /// All of them.
        pub fn rules<S: Store>() -> Vec<Rule<S>> {
            vec![$($(Rule { name: stringify!($rule), check: |store| Box::pin($module::$rule(store)) },)+)+]
        }
    };
}

list! {
    writing:
        a_new_object_gets_an_identity,
        a_name_is_taken_once,
        a_new_object_has_no_resource_version,
        a_new_object_has_no_status,
        bad_metadata_is_refused,
        what_is_not_there_is_not_found,
        versions_grow_over_all_kinds,
        a_replacement_says_what_it_read,
        of_two_writers_with_one_version_one_wins,
        another_uid_is_another_object,
        a_replacement_that_changes_nothing_is_not_written,
        only_the_spec_makes_a_generation,
        a_replacement_leaves_the_status,
        a_status_leaves_the_rest,
        identity_stays,
        a_list_takes_by_labels,
        a_list_is_in_order_of_names,
        no_update_of_many_writers_is_lost;
    deleting:
        what_is_deleted_is_gone,
        a_name_is_free_again_and_means_another_object,
        finalizers_hold_an_object,
        the_last_finalizer_lets_it_go,
        no_finalizer_is_added_while_deleting,
        deleting_twice_is_deleting_once,
        deletions_have_preconditions;
    owning:
        what_is_owned_goes_with_its_owner,
        finalizers_hold_what_is_owned,
        what_has_another_owner_stays,
        what_has_no_owner_left_when_it_is_written_goes,
        an_owner_is_who_has_its_uid;
    watching:
        a_watch_goes_on_where_a_list_ended,
        a_watch_resumes_from_any_version_without_gap_or_double,
        a_watch_can_begin_with_the_state,
        a_watch_sees_one_kind,
        a_watch_sees_through_its_selector,
        what_was_not_written_is_not_told,
        a_quiet_watch_gets_bookmarks,
        a_version_of_the_future_is_expired,
}

/// Ends the rule unless something holds.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err($crate::store::conformance::Broken(format!($($message)+)));
        }
    };
}
use ensure;

/// Whether somebody was refused for the right reason.
fn refused<T: fmt::Debug>(
    result: Result<T, StoreError>,
    right: impl Fn(&StoreError) -> bool,
    what: &str,
) -> Result<(), Broken> {
    match result {
        Err(error) if right(&error) => Ok(()),
        Err(error) => Err(Broken(format!("{what} was refused for the wrong reason: {error}"))),
        Ok(value) => Err(Broken(format!("{what} was accepted: {value:?}"))),
    }
}

/// A host as a person would write it.
fn host(name: &str) -> Result<Host, Broken> {
    let address = format!("{name}.example:7411").parse()?;
    Ok(Host::new(name, HostSpec { address, server_name: None, zone: None, roles: Vec::new(), cordoned: false }))
}

fn labelled(name: &str, label: &str, value: &str) -> Result<Host, Broken> {
    let mut host = host(name)?;
    host.labels_mut().insert(label.to_owned(), value.to_owned());
    Ok(host)
}

/// The next event, or an error instead of waiting for ever.
async fn next<T: Object>(watch: &mut Watch<T>) -> Result<WatchEvent<T>, Broken> {
    let event = tokio::time::timeout(Duration::from_secs(30), watch.next())
        .await
        .map_err(|_| Broken("the watch is silent: nothing came for 30 s".to_owned()))?;
    Ok(event.ok_or_else(|| Broken("the watch ended".to_owned()))??)
}

/// The next event that is no bookmark, in short: `+name`, `~name` or `-name`.
async fn next_change<T: Object>(watch: &mut Watch<T>) -> Result<String, Broken> {
    loop {
        match next(watch).await? {
            WatchEvent::Added(object) => return Ok(format!("+{}", object.name_any())),
            WatchEvent::Modified(object) => return Ok(format!("~{}", object.name_any())),
            WatchEvent::Deleted(object) => return Ok(format!("-{}", object.name_any())),
            WatchEvent::Bookmark(_) => {}
        }
    }
}

/// A store may take its time to collect what nobody owns.
async fn until_gone<T: Object>(store: &impl Store, name: &str) -> Result<(), Broken> {
    let mut watch = store.watch::<T>(WatchOptions::state()).await?;
    let mut there = false;
    loop {
        match next(&mut watch).await? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) if object.name_any() == name => there = true,
            WatchEvent::Deleted(object) if object.name_any() == name => return Ok(()),
            WatchEvent::Bookmark(_) if !there => return Ok(()),
            _ => {}
        }
    }
}
