//! What a store answered for is there after `kill -9` at any instant, and nothing is torn.
//!
//! The program starts itself as the process that writes and is killed. Each of its writers has one object, whose label
//! and spec carry the same number, one more with each write; every fifth number it has a child of that name instead of
//! the one before. It prints each number that the store answered for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use goliath_operator::{
    objects::{Host, HostSpec, Resource as _, ResourceExt as _},
    store::{EmbeddedStore, Options, Preconditions, Selector, Store, StoreError},
};

const TEST: &str = "what_was_answered_for_survives_kill_9";
const WRITERS: u64 = 8;
const ROUNDS: usize = 25;
const ROLE: &str = "--write-until-killed";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.as_slice() {
        [role, path] if role == ROLE => runtime.block_on(write(Path::new(path))),
        [filter, ..] if !filter.starts_with('-') && !TEST.contains(filter.as_str()) => Ok(()),
        arguments if arguments.iter().any(|argument| argument == "--list") => {
            println!("{TEST}: test");
            Ok(())
        }
        _ => {
            runtime.block_on(survive())?;
            println!("test {TEST} ... ok");
            Ok(())
        }
    }
}

fn host(name: &str, number: u64) -> Result<Host, Failure> {
    let spec = HostSpec {
        address: "192.0.2.1:7411".parse()?,
        server_name: None,
        zone: Some(format!("zone-{number}").parse()?),
        roles: Vec::new(),
        cordoned: false,
    };
    let mut host = Host::new(name, spec);
    host.labels_mut().insert("number".to_owned(), number.to_string());
    Ok(host)
}

fn number(host: &Host) -> Result<u64, Failure> {
    Ok(host.labels().get("number").ok_or("an object without a number")?.parse()?)
}

/// The newest child that a writer has at a number.
fn child(writer: u64, number: u64) -> String {
    format!("writer-{writer}.child-{}", number / 5 * 5)
}

async fn write(path: &Path) -> Result<(), Failure> {
    let store = EmbeddedStore::open(path, &Options::default())?;
    println!("ready");
    futures::future::try_join_all((0..WRITERS).map(|writer| write_numbers(&store, writer))).await?;
    Ok(())
}

async fn write_numbers(store: &EmbeddedStore, writer: u64) -> Result<(), Failure> {
    let name = format!("writer-{writer}");
    let mut current = match store.get::<Host>(&name).await {
        Err(StoreError::NotFound { .. }) => store.create(&host(&name, 0)?).await?,
        found => found?,
    };
    for next in number(&current)? + 1.. {
        let mut wanted = host(&name, next)?;
        wanted.metadata.resource_version = current.resource_version();
        wanted.metadata.owner_references = current.metadata.owner_references.clone();
        if next % 5 == 0 {
            let mut newest = host(&child(writer, next), next)?;
            newest.metadata.owner_references = Some(vec![current.owner_ref(&()).ok_or("an owner without a uid")?]);
            match store.create(&newest).await {
                // A life before this one was killed after it.
                Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        current = store.replace(&wanted).await?;
        if next % 5 == 0 && next > 5 {
            match store.delete::<Host>(&child(writer, next - 5), Preconditions::default()).await {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        writeln!(std::io::stdout(), "{writer} {next}")?;
    }
    Ok(())
}

async fn survive() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store");
    let mut known = Known::default();
    for round in 0..ROUNDS {
        let before = known.answered.len();
        // Some are killed while they open the file.
        let pause = Duration::from_micros(u64::from(uuid::Uuid::new_v4().as_fields().0) % 250_000);
        let mut process = Command::new(std::env::current_exe()?)
            .arg(ROLE)
            .arg(&path)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("no pipe")?).lines();
        if round % 5 != 0 {
            let ready = lines.next().ok_or("the writer ended before it was ready")??;
            assert_eq!(ready, "ready");
        }
        std::thread::sleep(pause);
        let ended = process.try_wait()?;
        assert!(ended.is_none(), "the writer ended by itself: {ended:?}");
        process.kill()?;
        process.wait()?;
        for line in lines {
            let line = line?;
            if let Some((writer, number)) = line.split_once(' ') {
                // The last line may have been cut off in the middle; a whole number is one that was answered for.
                known.answered.insert((writer.parse()?, number.parse()?));
            }
        }
        check(&path, &mut known).await.map_err(|error| format!("round {round}, {pause:?}: {error}"))?;
        println!("round {round}: killed after {pause:?}, {} numbers", known.answered.len() - before);
    }
    assert!(!known.answered.is_empty(), "nothing was written in {ROUNDS} rounds");
    Ok(())
}

/// What must still be so after the next crash.
#[derive(Default)]
struct Known {
    /// Writer and number.
    answered: BTreeSet<(u64, u64)>,
    /// Where each writer was when the file was last read.
    seen: BTreeMap<u64, u64>,
    version: u64,
}

async fn check(path: &Path, known: &mut Known) -> Result<(), Failure> {
    let store = EmbeddedStore::open(path, &Options::default())?;
    let list = store.list::<Host>(&Selector::everything()).await?;
    let now: u64 = list.resource_version.to_string().parse()?;
    if now < known.version {
        return Err(format!("the version went back from {} to {now}", known.version).into());
    }
    known.version = now;
    for host in &list.items {
        let name = host.name_any();
        let number = number(host)?;
        if host.spec.zone.as_ref().map(AsRef::as_ref) != Some(format!("zone-{number}").as_str()) {
            return Err(format!("{name} is torn: number {number}, spec {:?}", host.spec.zone).into());
        }
        let version: u64 = host.resource_version().ok_or("an object without a version")?.parse()?;
        if version > now {
            return Err(format!("{name} has version {version}, the store {now}").into());
        }
        let selector = Selector::everything().and_equals("number", number.to_string());
        if !store.list::<Host>(&selector).await?.items.contains(host) {
            return Err(format!("{name} is not found by its label").into());
        }
    }
    for writer in 0..WRITERS {
        let answered = known.answered.range((writer, 0)..=(writer, u64::MAX)).next_back().map_or(0, |last| last.1);
        let least = answered.max(known.seen.get(&writer).copied().unwrap_or(0));
        let found = match store.get::<Host>(&format!("writer-{writer}")).await {
            Err(StoreError::NotFound { .. }) if least == 0 => continue,
            found => number(&found?)?,
        };
        // One more may have been written and not answered for.
        if !(least..=least + 1).contains(&found) {
            return Err(format!("writer {writer} had {least}, and has {found}").into());
        }
        known.seen.insert(writer, found);
        if found >= 5 {
            store.get::<Host>(&child(writer, found)).await?;
        }
    }
    for (writer, number) in known.answered.iter().filter(|(_, number)| number % 5 == 0 && *number > 5) {
        if store.get::<Host>(&child(*writer, number - 5)).await.is_ok() {
            return Err(format!("writer {writer} has a child {} that was deleted", number - 5).into());
        }
    }
    Ok(())
}
