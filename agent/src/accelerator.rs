//! What runs vCPUs on this host: chosen by what was tried, not by what is there.

use tokio::sync::watch;

use crate::{observed::ChosenAccelerator, qemu::VcpuAccelerator, spec::Accelerator};

/// What came of trying KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmVerdict {
    /// A kernel booted under it.
    Works {
        /// Some nested kinds of KVM offer `arch-capabilities` and then refuse to set it.
        hide_arch_capabilities: bool,
    },
    /// It is there and does not do; how.
    Fails(String),
    /// There is none.
    Absent(String),
}

/// What runs vCPUs on this host. A handle: clones share it.
#[derive(Debug, Clone)]
pub struct Accelerators {
    allow_tcg: bool,
    verdict: watch::Receiver<Option<KvmVerdict>>,
}

/// A guest asked for what this host does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {hint}")]
pub struct NoAccelerator {
    reason: String,
    hint: &'static str,
}

impl Accelerators {
    /// `verdict` is none until KVM was tried.
    pub fn new(allow_tcg: bool, verdict: watch::Receiver<Option<KvmVerdict>>) -> Self {
        Self { allow_tcg, verdict }
    }

    /// What came of trying KVM; none: it is being tried.
    pub fn verdict(&self) -> Option<KvmVerdict> {
        self.verdict.borrow().clone()
    }

    /// What a guest that leaves the choice to the host would get; none: nothing, or it is not known yet.
    pub fn automatic(&self) -> Option<ChosenAccelerator> {
        let chosen = choose(Accelerator::Auto, self.allow_tcg, &self.verdict()?).ok()?;
        Some(match chosen {
            VcpuAccelerator::Kvm { .. } => ChosenAccelerator::Kvm,
            VcpuAccelerator::Tcg => ChosenAccelerator::Tcg,
        })
    }

    /// What a guest gets; waits for the trial of KVM where that decides.
    pub async fn choose(&self, wanted: Accelerator) -> Result<VcpuAccelerator, NoAccelerator> {
        if wanted == Accelerator::Tcg {
            return choose(wanted, self.allow_tcg, &KvmVerdict::Absent(String::new()));
        }
        let mut verdict = self.verdict.clone();
        let tried = verdict.wait_for(Option::is_some).await.ok().and_then(|verdict| verdict.clone());
        let tried = tried.unwrap_or_else(|| KvmVerdict::Fails("the trial was cut off".to_owned()));
        choose(wanted, self.allow_tcg, &tried)
    }
}

fn choose(wanted: Accelerator, allow_tcg: bool, verdict: &KvmVerdict) -> Result<VcpuAccelerator, NoAccelerator> {
    let tcg = if allow_tcg {
        Ok(VcpuAccelerator::Tcg)
    } else {
        Err("set qemu.allow_tcg to let guests run emulated on this host")
    };
    match (wanted, verdict) {
        (Accelerator::Tcg, _) => {
            tcg.map_err(|hint| NoAccelerator { reason: "emulation is not allowed here".to_owned(), hint })
        }
        (Accelerator::Auto | Accelerator::Kvm, KvmVerdict::Works { hide_arch_capabilities }) => {
            Ok(VcpuAccelerator::Kvm { hide_arch_capabilities: *hide_arch_capabilities })
        }
        (Accelerator::Auto, KvmVerdict::Fails(how) | KvmVerdict::Absent(how)) => {
            tcg.map_err(|hint| NoAccelerator { reason: format!("KVM does not work here ({how})"), hint })
        }
        (Accelerator::Kvm, KvmVerdict::Fails(how) | KvmVerdict::Absent(how)) => Err(NoAccelerator {
            reason: format!("KVM does not work here ({how})"),
            hint: "ask for `auto`, or place the guest on another host",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKS: KvmVerdict = KvmVerdict::Works { hide_arch_capabilities: false };
    const KVM: VcpuAccelerator = VcpuAccelerator::Kvm { hide_arch_capabilities: false };

    #[test]
    fn a_guest_gets_what_it_asks_for_or_a_reason() {
        let fails = KvmVerdict::Fails("no kernel boots".to_owned());
        let table = [
            (Accelerator::Auto, false, &WORKS, Some(KVM)),
            (Accelerator::Auto, true, &fails, Some(VcpuAccelerator::Tcg)),
            (Accelerator::Auto, false, &fails, None),
            (Accelerator::Kvm, true, &WORKS, Some(KVM)),
            (Accelerator::Kvm, true, &fails, None),
            (Accelerator::Tcg, true, &WORKS, Some(VcpuAccelerator::Tcg)),
            (Accelerator::Tcg, false, &WORKS, None),
        ];
        for (wanted, allow_tcg, verdict, chosen) in table {
            assert_eq!(choose(wanted, allow_tcg, verdict).ok(), chosen, "{wanted:?} {allow_tcg} {verdict:?}");
        }
    }

    #[tokio::test]
    async fn a_guest_that_wants_emulation_does_not_wait_for_the_trial() {
        let (_trial, verdict) = watch::channel(None);
        let accelerators = Accelerators::new(true, verdict);
        assert_eq!(accelerators.choose(Accelerator::Tcg).await, Ok(VcpuAccelerator::Tcg));
    }
}
