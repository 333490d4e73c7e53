//! The words of manifests for the API's enumerations.

use goliath_proto::agent::v1::{Accelerator, CertificateVolume, DesiredState, RestartPolicy};

pub(crate) const ACCELERATORS: [(&str, Accelerator); 3] =
    [("auto", Accelerator::Auto), ("kvm", Accelerator::Kvm), ("tcg", Accelerator::Tcg)];

pub(crate) const CERTIFICATE_VOLUMES: [(&str, CertificateVolume); 2] =
    [("virtiofs", CertificateVolume::Virtiofs), ("disk", CertificateVolume::Disk)];

pub(crate) const DESIRED_STATES: [(&str, DesiredState); 3] =
    [("Running", DesiredState::Running), ("Paused", DesiredState::Paused), ("Stopped", DesiredState::Stopped)];

pub(crate) const RESTART_POLICIES: [(&str, RestartPolicy); 3] =
    [("Always", RestartPolicy::Always), ("OnFailure", RestartPolicy::OnFailure), ("Never", RestartPolicy::Never)];

/// The word for a value; none for one that says nothing.
pub(crate) fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> Option<&'static str> {
    words.iter().find(|(_, known)| *known == value).map(|(word, _)| *word)
}
