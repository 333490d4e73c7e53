//! The host.

use goliath_proto::agent::v1 as pb;

use crate::{
    doctor::{Check, Verdict},
    observed::ChosenAccelerator,
};

pub(in crate::api) fn accelerator(chosen: Option<ChosenAccelerator>) -> pb::Accelerator {
    match chosen {
        None => pb::Accelerator::Unspecified,
        Some(ChosenAccelerator::Kvm) => pb::Accelerator::Kvm,
        Some(ChosenAccelerator::Tcg) => pb::Accelerator::Tcg,
    }
}

pub(in crate::api) fn check(check: Check) -> pb::DoctorCheck {
    let verdict = match check.verdict {
        Verdict::Pass => pb::doctor_check::Verdict::Pass,
        Verdict::Warning => pb::doctor_check::Verdict::Warning,
        Verdict::Fail => pb::doctor_check::Verdict::Fail,
    };
    pb::DoctorCheck { name: check.name, verdict: verdict.into(), message: check.message, hint: check.hint }
}
