use std::{
    net::Ipv4Addr,
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::FutureExt as _;

use crate::{
    cluster::ClusterPlan,
    host::HostPlan,
    pki::{Authority, Identity, Purpose},
    program,
    scratch::Scratch,
    underlay::Underlay,
};

/// No test may take longer than this; a wait inside it has a limit of its own.
const TEST_LIMIT: Duration = Duration::from_mins(6);
/// How much of each agent's log a failed test shows.
const SHOWN_LINES: usize = 120;

/// A few machines in one underlay.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
}

/// What all hosts of a lab have in common. Fields are dropped in this order.
pub(crate) struct Shared {
    pub(crate) underlay: Underlay,
    pub(crate) authority: Authority,
    pub(crate) operator: Identity,
    pub(crate) issuer: Authority,
    pub(crate) scratch: Scratch,
    hosts: AtomicU8,
    clusters: AtomicU8,
    logs: Mutex<Vec<(String, PathBuf)>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("scratch", &self.scratch).finish_non_exhaustive()
    }
}

impl Lab {
    /// A new lab, with nothing in it but the underlay's switch.
    pub fn new() -> Result<Self> {
        program::require_root()?;
        Self::in_scratch(Scratch::new()?)
    }

    /// A lab that is found again by its name.
    pub fn named(name: &str) -> Result<Self> {
        program::require_root()?;
        Self::in_scratch(Scratch::named(name)?)
    }

    fn in_scratch(scratch: Scratch) -> Result<Self> {
        let underlay = Underlay::new(&scratch.name())?;
        let authority = Authority::new("lab hosts")?;
        let operator = authority.issue("operator", Purpose::Operator)?;
        let shared = Shared {
            underlay,
            authority,
            operator,
            issuer: Authority::new("lab guests")?,
            scratch,
            hosts: AtomicU8::new(0),
            clusters: AtomicU8::new(0),
            logs: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A host, to be started.
    pub fn host(&self, name: &str) -> HostPlan {
        HostPlan::new(Arc::clone(&self.shared), name)
    }

    /// A cluster, to be spread over hosts.
    pub fn cluster(&self, name: &str) -> ClusterPlan {
        let number = self.shared.clusters.fetch_add(1, Ordering::Relaxed);
        ClusterPlan::new(name, 100 + u32::from(number))
    }

    /// Everything of the lab is below it.
    pub fn directory(&self) -> &Path {
        self.shared.scratch.path()
    }

    /// The switch that joins the hosts; what all of them shall reach runs in its namespace.
    pub fn underlay(&self) -> &Underlay {
        &self.shared.underlay
    }

    /// Who vouches for hosts and operators.
    pub fn authority(&self) -> &Authority {
        &self.shared.authority
    }

    /// The operator's certificate.
    pub fn operator(&self) -> &Identity {
        &self.shared.operator
    }

    /// Who signs in the agents' issuer `local`.
    pub fn issuer(&self) -> &Authority {
        &self.shared.issuer
    }

    /// What all hosts of it have in common.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The ends of all logs.
    pub fn log_ends(&self) -> String {
        let logs = self.shared.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.iter().map(|(host, path)| log_end(host, path)).collect()
    }
}

impl Shared {
    pub(crate) fn next_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.hosts.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn remember_log(&self, host: &str, path: &Path) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.push((host.to_owned(), path.to_owned()));
    }
}

fn log_end(host: &str, path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(SHOWN_LINES);
    format!("--- what {host} said last:\n{}\n", lines.get(from..).unwrap_or_default().join("\n"))
}

/// Runs a test in a lab of its own. When it fails, the daemons' logs are shown; in any case nothing is left behind.
///
/// # Panics
/// When the test fails.
#[allow(clippy::panic, reason = "this is how a test fails")]
pub fn run<F>(test: F)
where
    F: AsyncFnOnce(&Lab) -> Result<()>,
{
    let prepared = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| Ok((runtime, Lab::new()?)));
    let (runtime, lab) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => panic!("{error:#}"),
    };
    let limited = async { tokio::time::timeout(TEST_LIMIT, test(&lab)).await };
    let outcome = runtime.block_on(AssertUnwindSafe(limited).catch_unwind());
    let failure = match outcome {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => format!("{error:#}"),
        Ok(Err(_)) => format!("the test took longer than {TEST_LIMIT:?}"),
        Err(panic) => {
            eprintln!("{}", lab.log_ends());
            drop(lab);
            resume_unwind(panic)
        }
    };
    eprintln!("{}", lab.log_ends());
    drop(lab);
    panic!("{failure}");
}
