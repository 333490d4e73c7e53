//! The real virtiofsd, without a guest: that it serves, is found again, and never outlives its connection.

use std::{fs, io::Read as _, os::unix::net::UnixStream, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use goliath_agent::{
    certs::{Virtiofsd, VirtiofsdConfig, VirtiofsdError},
    qemu::ProcessExit,
};
use goliath_lab::program;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getsid},
};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(10);

struct Place {
    memory: TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        program::require_root()?;
        let memory = tempfile::Builder::new().prefix("goliath-virtiofs-").tempdir_in("/dev/shm")?;
        fs::create_dir(memory.path().join("certificates"))?;
        Ok(Self { memory })
    }

    fn config(&self) -> Result<VirtiofsdConfig> {
        Ok(VirtiofsdConfig {
            program: program::virtiofsd()?,
            directory: self.memory.path().join("certificates"),
            runtime: self.memory.path().to_owned(),
        })
    }

    fn found(&self) -> Option<i32> {
        Virtiofsd::find(self.memory.path()).unwrap().map(|virtiofsd| virtiofsd.pid())
    }
}

/// The process that serves: the only child of the one that waits.
fn inner(outer: i32) -> Result<i32> {
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
    children.split_whitespace().next().context("virtiofsd has no inner process")?.parse().context("read its pid")
}

fn status_line(pid: i32, field: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    Ok(line.trim_start_matches(':').trim().to_owned())
}

#[tokio::test]
async fn it_serves_until_its_connection_closes_and_a_later_agent_finds_it() -> Result<()> {
    let place = Place::new()?;
    let (virtiofsd, connection) = Virtiofsd::launch(place.config()?).await?;
    let pid = virtiofsd.pid();
    drop(virtiofsd);
    assert_eq!(place.found(), Some(pid), "it does not need the agent that started it");
    assert_eq!(getsid(Some(Pid::from_raw(pid)))?.as_raw(), pid, "it has a session of its own");
    assert!(!place.memory.path().join("virtiofsd.sock").exists(), "no path leads to it");

    let found = Virtiofsd::find(place.memory.path())?.context("it is there")?;
    drop(connection);
    assert_eq!(tokio::time::timeout(SOON, found.ended()).await?, ProcessExit::Code(0));
    assert_eq!(place.found(), None);
    Ok(())
}

#[tokio::test]
async fn it_is_confined() -> Result<()> {
    let place = Place::new()?;
    let (virtiofsd, _connection) = Virtiofsd::launch(place.config()?).await?;
    let (outer, inner) = (virtiofsd.pid(), inner(virtiofsd.pid())?);
    assert_eq!(status_line(outer, "CapEff")?, "0000000000000000");
    // CAP_SETGID and CAP_SETUID.
    assert_eq!(status_line(inner, "CapEff")?, "00000000000000c0");
    assert_eq!(status_line(inner, "Seccomp")?, "2");
    assert_eq!(status_line(inner, "NoNewPrivs")?, "1");
    for namespace in ["net", "mnt", "pid"] {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}"));
        assert_ne!(of(&inner.to_string())?, of("self")?, "{namespace}");
    }
    assert!(fs::read_to_string(format!("/proc/{inner}/limits"))?.contains("Max core file size        0"));
    assert_eq!(fs::read(format!("/proc/{outer}/environ"))?, Vec::<u8>::new());
    Ok(())
}

#[tokio::test]
async fn a_killed_one_is_seen_and_another_can_be_started() -> Result<()> {
    let place = Place::new()?;
    for inner_dies in [true, false] {
        let (virtiofsd, connection) = Virtiofsd::launch(place.config()?).await?;
        let victim = if inner_dies { inner(virtiofsd.pid())? } else { virtiofsd.pid() };
        kill(Pid::from_raw(victim), Signal::SIGKILL)?;
        let exit = tokio::time::timeout(SOON, virtiofsd.ended()).await?;
        assert_ne!(exit, ProcessExit::Code(0));
        let mut connection = UnixStream::from(connection);
        connection.set_read_timeout(Some(SOON))?;
        assert_eq!(connection.read(&mut [0; 1])?, 0, "nobody serves any more");
        assert_eq!(place.found(), None);
    }
    let (again, _connection) = Virtiofsd::launch(place.config()?).await?;
    assert_eq!(place.found(), Some(again.pid()));
    Ok(())
}

#[tokio::test]
async fn one_that_is_left_of_an_earlier_launch_is_ended_by_the_next() -> Result<()> {
    let place = Place::new()?;
    let (first, _held_open) = Virtiofsd::launch(place.config()?).await?;
    let (second, _connection) = Virtiofsd::launch(place.config()?).await?;
    assert_ne!(first.pid(), second.pid());
    tokio::time::timeout(SOON, first.ended()).await?;
    assert_eq!(place.found(), Some(second.pid()));
    Ok(())
}

#[tokio::test]
async fn what_cannot_start_says_why() -> Result<()> {
    let place = Place::new()?;
    let missing = VirtiofsdConfig { program: PathBuf::from("/no/such/virtiofsd"), ..place.config()? };
    let refusal = Virtiofsd::launch(missing).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "/no/such/virtiofsd cannot be run: install virtiofsd, or set qemu.virtiofsd to where it is"
    );

    let nowhere = VirtiofsdConfig { directory: PathBuf::from("/no/such/directory"), ..place.config()? };
    let refusal = Virtiofsd::launch(nowhere).await.unwrap_err();
    assert!(matches!(&refusal, VirtiofsdError::Ended { said, .. } if said.contains("/no/such/directory")), "{refusal}");
    assert_eq!(place.found(), None);
    Ok(())
}

#[tokio::test]
async fn another_boots_record_is_nobodys() -> Result<()> {
    let place = Place::new()?;
    let own = std::process::id();
    let record = format!("{{\"boot_id\":\"another\",\"pid\":{own},\"start_time\":1}}");
    fs::write(place.memory.path().join("virtiofsd.json"), record)?;
    assert_eq!(place.found(), None);
    Ok(())
}
