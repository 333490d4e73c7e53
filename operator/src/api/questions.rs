//! What the API asks the rest of the operator.

use std::fmt;

use futures::future::BoxFuture;
use goliath_proto::operator::v1 as pb;
use uuid::Uuid;

use crate::{
    controllers::placement::Explained,
    objects::HostName,
    store::{AnyObject, FieldProblem},
};

/// Judges objects as they shall be, beside all that are there; each problem with the object's place.
pub type Judge = Box<dyn Fn(&[AnyObject]) -> Vec<(usize, FieldProblem)> + Send + Sync>;
/// How good each host is for a guest, by the guest's name; none: it cannot be placed as it is.
pub type Explain = Box<dyn Fn(&str) -> Option<Explained> + Send + Sync>;
/// Makes credentials for a host's agent.
pub type Issue = Box<dyn Fn(HostName, Uuid, Credentials) -> BoxFuture<'static, Issued> + Send + Sync>;

/// Which credentials of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// It has none yet.
    First,
    /// Others: the earlier ones end.
    New,
}

/// What issuers gave, also where another failed.
#[derive(Debug, Clone, Default)]
pub struct Issued {
    /// Each is told once.
    pub credentials: Vec<pb::HostCredential>,
    /// Those that failed, and why.
    pub failures: Vec<pb::IssuerFailure>,
}

/// What the API asks the rest of the operator.
pub struct Questions {
    /// What stands against objects.
    pub judge: Judge,
    /// Why a guest is where it is.
    pub explain: Explain,
    /// Makes credentials for a host's agent, at every issuer where it needs some.
    pub issue: Issue,
}

impl fmt::Debug for Questions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Questions").finish_non_exhaustive()
    }
}

impl Questions {
    pub(super) fn judge(&self, objects: &[AnyObject]) -> Vec<(usize, FieldProblem)> {
        (self.judge)(objects)
    }

    pub(super) fn explain(&self, guest: &str) -> Option<Explained> {
        (self.explain)(guest)
    }

    pub(super) async fn issue(&self, host: HostName, uid: Uuid, which: Credentials) -> Issued {
        (self.issue)(host, uid, which).await
    }
}
