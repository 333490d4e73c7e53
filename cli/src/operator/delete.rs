//! `goliath delete` of an operator.

use std::time::Duration;

use goliath_proto::operator::v1::DeleteObjectRequest;

use super::{
    Object, full_name, kinds,
    object_watch::{Change, ObjectWatch},
    title,
};
use crate::{
    failure::Failure,
    output::print,
    refusal::Refusal,
    verbs::{Session, apply::WaitError},
};

pub(crate) async fn run(
    session: &Session,
    kind: &str,
    names: &[String],
    wait: Option<Duration>,
) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let kind = kinds::find(&operator, kind).await?.kind;
    let mut pending = Vec::new();
    for name in names.iter().map(|name| full_name(name)) {
        let request = DeleteObjectRequest { kind: kind.clone(), name: name.clone(), ..DeleteObjectRequest::default() };
        let response = operator.objects().delete_object(request).await;
        let response =
            response.map_err(|status| Refusal::by_operator(format!("delete {}", title(&kind, &name)), &status))?;
        let response = response.into_inner();
        if response.removed {
            print(&format!("{} deleted\n", title(&kind, &name)))?;
        } else if wait.is_none() {
            print(&format!("{} is being deleted\n", title(&kind, &name)))?;
        } else {
            pending.push(Object::parse(&response.object));
        }
    }
    let Some(timeout) = wait.filter(|_| !pending.is_empty()) else { return Ok(()) };
    let gone = async {
        let mut watch = ObjectWatch::start(&operator, &kind, "");
        let mut there = std::collections::BTreeSet::new();
        let mut told = false;
        while !pending.is_empty() {
            let gone = match watch.next().await? {
                Some(Change::Present(object)) => {
                    there.insert(object.uid().to_owned());
                    continue;
                }
                Some(Change::Gone(object)) => vec![object.uid().to_owned()],
                // What was not told of as being there went before the watch began.
                None if !std::mem::replace(&mut told, true) => {
                    pending.iter().map(|object| object.uid().to_owned()).filter(|uid| !there.contains(uid)).collect()
                }
                None => continue,
            };
            for object in pending.extract_if(.., |object| gone.iter().any(|uid| uid == object.uid())) {
                print(&format!("{} deleted\n", object.title()))?;
            }
        }
        Ok::<(), Failure>(())
    };
    match tokio::time::timeout(timeout, gone).await {
        Ok(ended) => ended,
        Err(_) => Err(WaitError::TimedOut {
            after: timeout,
            waiting: pending.iter().map(Object::title).collect(),
            follow: "goliath events -w",
        }
        .into()),
    }
}
