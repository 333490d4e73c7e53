//! What runs vCPUs on this host: chosen by what was tried, not by what is there.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::Semaphore;

use crate::{
    errors::with_causes,
    observed::ChosenAccelerator,
    qemu::{KvmProbeError, KvmVerdict, Launcher, VcpuAccelerator, host_kernel},
    spec::Accelerator,
};

/// What runs vCPUs on this host.
#[derive(Debug, Clone)]
pub struct Accelerators {
    allow_tcg: bool,
    launcher: Launcher,
    /// Guests that start together wait for one trial.
    trial: Arc<Semaphore>,
}

/// What is known of this host, as the doctor and the host's conditions tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Whether anything was tried yet.
    pub tried: bool,
    /// What a guest that leaves the choice to the host gets; none: nothing runs guests here, or it is not known yet.
    pub automatic: Option<ChosenAccelerator>,
    /// A sentence.
    pub message: String,
}

/// A guest asked for what this host does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {hint}")]
pub struct NoAccelerator {
    reason: String,
    hint: &'static str,
}

impl Accelerators {
    /// `launcher` tries KVM, and remembers what came of it.
    pub fn new(allow_tcg: bool, launcher: Launcher) -> Self {
        Self { allow_tcg, launcher, trial: Arc::new(Semaphore::new(1)) }
    }

    /// What is known of this host.
    pub fn known(&self) -> Known {
        known(self.launcher.known_kvm().as_ref(), self.allow_tcg)
    }

    /// Tries KVM with the machine's own kernel, so that the first guest need not wait for it.
    pub async fn warm_up(&self) {
        match self.try_kvm(host_kernel()).await {
            Ok(verdict) => tracing::info!(%verdict, "tried KVM"),
            Err(error) => tracing::warn!(error = with_causes(&error), "cannot try KVM"),
        }
    }

    async fn try_kvm(&self, kernel: Option<PathBuf>) -> Result<KvmVerdict, KvmProbeError> {
        // It is never closed, so there always comes a turn.
        let _turn = self.trial.acquire().await;
        self.launcher.try_kvm(kernel.as_deref()).await
    }

    /// What a guest gets. Where KVM decides and was not tried yet, it is tried first, with the kernel of the guest's
    /// image or the machine's own.
    pub async fn choose(&self, wanted: Accelerator, kernel: Option<&Path>) -> Result<VcpuAccelerator, NoAccelerator> {
        if wanted == Accelerator::Tcg {
            return choose(wanted, self.allow_tcg, &KvmVerdict::Untried);
        }
        let kernel: Option<PathBuf> = kernel.map(Path::to_owned).or_else(host_kernel);
        match self.try_kvm(kernel).await {
            Ok(verdict) => choose(wanted, self.allow_tcg, &verdict),
            Err(error) => Err(NoAccelerator {
                reason: format!("KVM could not be tried ({})", with_causes(&error)),
                hint: "ask for `tcg`, or mend the host",
            }),
        }
    }
}

fn known(verdict: Option<&KvmVerdict>, allow_tcg: bool) -> Known {
    let Some(verdict) = verdict else {
        return Known { tried: false, automatic: None, message: "KVM was not tried yet".to_owned() };
    };
    let (automatic, message) = match choose(Accelerator::Auto, allow_tcg, verdict) {
        Ok(VcpuAccelerator::Kvm { .. }) => (Some(ChosenAccelerator::Kvm), verdict.to_string()),
        Ok(VcpuAccelerator::Tcg) => {
            (Some(ChosenAccelerator::Tcg), format!("{verdict}; guests run emulated, many times slower"))
        }
        Err(_) => (None, format!("{verdict}; guests may not run emulated here, so none can run")),
    };
    Known { tried: true, automatic, message }
}

fn choose(wanted: Accelerator, allow_tcg: bool, verdict: &KvmVerdict) -> Result<VcpuAccelerator, NoAccelerator> {
    let tcg = if allow_tcg {
        Ok(VcpuAccelerator::Tcg)
    } else {
        Err("set qemu.allow_tcg to let guests run emulated on this host")
    };
    match (wanted, verdict.accelerator()) {
        (Accelerator::Tcg, _) => {
            tcg.map_err(|hint| NoAccelerator { reason: "emulation is not allowed here".to_owned(), hint })
        }
        (Accelerator::Auto | Accelerator::Kvm, Some(kvm)) => Ok(kvm),
        (Accelerator::Auto, None) => tcg.map_err(|hint| NoAccelerator { reason: verdict.to_string(), hint }),
        (Accelerator::Kvm, None) => Err(NoAccelerator {
            reason: verdict.to_string(),
            hint: "ask for `auto`, or place the guest on another host",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KVM: VcpuAccelerator = VcpuAccelerator::Kvm { hide_arch_capabilities: true };

    #[test]
    fn a_guest_gets_what_it_asks_for_or_a_reason() {
        let works = KvmVerdict::Works { hide_arch_capabilities: true, kernel: "/boot/vmlinuz".into() };
        let fails = KvmVerdict::Fails { how: "it hung".to_owned(), kernel: "/boot/vmlinuz".into() };
        let table = [
            (Accelerator::Auto, false, &works, Some(KVM)),
            (Accelerator::Auto, true, &fails, Some(VcpuAccelerator::Tcg)),
            (Accelerator::Auto, true, &KvmVerdict::Untried, Some(VcpuAccelerator::Tcg)),
            (Accelerator::Auto, false, &fails, None),
            (Accelerator::Kvm, true, &works, Some(KVM)),
            (Accelerator::Kvm, true, &fails, None),
            (Accelerator::Tcg, true, &works, Some(VcpuAccelerator::Tcg)),
            (Accelerator::Tcg, false, &works, None),
        ];
        for (wanted, allow_tcg, verdict, chosen) in table {
            assert_eq!(choose(wanted, allow_tcg, verdict).ok(), chosen, "{wanted:?} {allow_tcg} {verdict:?}");
        }
    }

    #[test]
    fn what_is_known_is_told_as_it_was_seen() {
        let works = KvmVerdict::Works { hide_arch_capabilities: false, kernel: "/boot/vmlinuz".into() };
        let absent = KvmVerdict::Absent { how: "no such device".to_owned() };
        let table = [
            (None, true, None, "KVM was not tried yet"),
            (Some(&works), false, Some(ChosenAccelerator::Kvm), "/boot/vmlinuz ran under KVM"),
            (
                Some(&absent),
                true,
                Some(ChosenAccelerator::Tcg),
                "/dev/kvm cannot be opened: no such device; guests run emulated, many times slower",
            ),
            (
                Some(&absent),
                false,
                None,
                "/dev/kvm cannot be opened: no such device; guests may not run emulated here, so none can run",
            ),
        ];
        for (verdict, allow_tcg, automatic, message) in table {
            let told = known(verdict, allow_tcg);
            assert_eq!((told.automatic, told.message.as_str()), (automatic, message));
            assert_eq!(told.tried, verdict.is_some());
        }
    }

    #[test]
    fn a_refusal_says_what_was_seen_and_what_to_do() {
        let absent = KvmVerdict::Absent { how: "no such device".to_owned() };
        let refusal = choose(Accelerator::Kvm, true, &absent).unwrap_err().to_string();
        assert_eq!(
            refusal,
            "/dev/kvm cannot be opened: no such device: ask for `auto`, or place the guest on another host"
        );
    }
}
