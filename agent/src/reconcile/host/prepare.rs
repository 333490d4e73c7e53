//! Makes ready what a guest needs before its QEMU can start: its image, then network, disks, seed and certificates side
//! by side.

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use super::{
    HostExecutor,
    certificates::{Places, all_there},
    machine_config::{Parts, machine_config},
    medium::{medium, remove_earlier},
};
use crate::{
    certs::{Virtiofsd, VirtiofsdConfig},
    errors::with_causes,
    files,
    image::{self, Image, ImageErrorKind, PullPhase, PullProgress},
    qemu::{CertificateDevice, DataDiskFile, DiskFormat, Handed, MachineConfig, SeedDevice},
    reconcile::{
        board::Board,
        executor::Failure,
        network::{GuestLink, Tap},
    },
    spec::{Digest, GuestSpec, SeedKind},
    volume,
};

/// A download changes by the kilobyte; who watches a guest wants to hear less often.
const TOLD_EVERY: Duration = Duration::from_millis(500);

/// Everything that the launch takes.
pub(in crate::reconcile) struct Prepared {
    pub(super) machine: MachineConfig,
    pub(super) handed: Handed,
}

impl HostExecutor {
    pub(super) async fn prepare_all(
        &self,
        spec: &GuestSpec,
        image: &Image,
        board: &Arc<Board>,
    ) -> Result<Prepared, Failure> {
        let accelerator = self
            .shared
            .rooms
            .accelerators
            .choose(spec.machine.accelerator, image.kernel.as_deref())
            .await
            .map_err(|error| Failure::new("Running", "NoAccelerator", error.to_string()))?;
        let (tap, (overlay, data_disks), certificates, seed) = tokio::try_join!(
            self.network(spec, board),
            self.disks(spec, image),
            self.certificate_volume(spec, board),
            self.seed(spec)
        )?;
        board.is("VolumesReady", "Ready", "disks, seed and certificates are there");
        let (device, socket) = certificates.unzip();
        let parts = Parts {
            image,
            accelerator,
            overlay,
            data_disks,
            seed,
            mtu: tap.as_ref().map(|tap| tap.mtu),
            certificates: device,
        };
        let machine = machine_config(spec, parts)?;
        let handed = Handed { tap: tap.map(|tap| tap.file), certificates: socket.flatten() };
        Ok(Prepared { machine, handed })
    }

    /// Of the guest's own, for root alone.
    pub(super) fn directories(&self) -> Result<(), Failure> {
        for directory in [self.shared.paths.runtime(), self.shared.paths.state()] {
            files::make_directory(directory, 0o700).map_err(|reason| {
                Failure::new("VolumesReady", "NoDirectory", format!("cannot make {}: {reason}", directory.display()))
            })?;
        }
        Ok(())
    }

    /// The image, leased: from now on it is there for as long as the guest is.
    pub(super) async fn pull_image(
        &self,
        spec: &GuestSpec,
        known: Option<&Digest>,
        board: &Arc<Board>,
    ) -> Result<Arc<Image>, Failure> {
        let reference = match known {
            Some(digest) => spec.image.with_digest(digest.clone()),
            None => spec.image.clone(),
        };
        // Once more if somebody removed it between the pull's end and the lease.
        for _ in 0..2 {
            let pull = self.shared.rooms.images.pull(&reference);
            let mut progress = pull.progress();
            let finished = pull.finish();
            tokio::pin!(finished);
            let mut pace = tokio::time::interval(TOLD_EVERY);
            let image = loop {
                tokio::select! {
                    biased;
                    image = &mut finished => break image,
                    _ = pace.tick() => tell_progress(board, *progress.borrow_and_update()),
                }
            };
            let image =
                image.map_err(|error| Failure::new("ImageReady", reason(error.kind()), with_causes(error.as_ref())))?;
            if self.lease(&image.digest) {
                board.is("ImageReady", "Present", format!("{} is {}", spec.image, image.digest));
                return Ok(image);
            }
        }
        Err(Failure::new("ImageReady", "RemovedMeanwhile", "the image was removed twice right after it was pulled"))
    }

    async fn network(&self, spec: &GuestSpec, board: &Arc<Board>) -> Result<Option<Tap>, Failure> {
        let Some(port) = Self::port(spec) else { return Ok(None) };
        let networks = &self.shared.rooms.networks;
        board.is_not("NetworkReady", "Waiting", format!("waits for the network of {}", spec.cluster));
        networks.ready(&spec.cluster).await;
        let tap = networks
            .attach(&spec.cluster, port)
            .await
            .map_err(|error| Failure::new("NetworkReady", "AttachFailed", with_causes(&error)))?;
        board.is("NetworkReady", "Attached", format!("attached as {}", tap.device));
        Ok(Some(tap))
    }

    async fn disks(&self, spec: &GuestSpec, image: &Image) -> Result<(Option<PathBuf>, Vec<DataDiskFile>), Failure> {
        let directory = self.shared.paths.state().to_owned();
        let image_tool = self.shared.rooms.qemu.image_tool.clone();
        let (root, data) = (spec.root_disk.clone(), spec.data_disks.clone());
        let base = match (&root, &image.disk) {
            (Some(_), None) => {
                let message = format!("image {} has no disk for the guest's root disk to lie over", image.digest);
                return Err(Failure::new("VolumesReady", "ImageUnfit", message));
            }
            (_, base) => base.clone(),
        };
        let make = move || {
            let overlay = match (root, base) {
                (Some(root), Some(base)) => {
                    let format = disk_format(base.format);
                    let base = volume::Base { path: &base.path, format, size: base.virtual_size };
                    Some(volume::root_disk(&directory, base, root.size, &image_tool)?)
                }
                _ => None,
            };
            let data: Result<Vec<_>, _> = data.iter().map(|disk| volume::data_disk(&directory, disk)).collect();
            Ok((overlay, data?))
        };
        let failed = |message| Failure::new("VolumesReady", "DiskFailed", message);
        match tokio::task::spawn_blocking(make).await {
            Ok(made) => made.map_err(|error: volume::DiskError| failed(with_causes(&error))),
            Err(reason) => Err(failed(reason.to_string())),
        }
    }

    /// Told anew at every start: addresses may have changed. It may hold secrets, so it is in memory.
    async fn seed(&self, spec: &GuestSpec) -> Result<Option<SeedDevice>, Failure> {
        let Some(seed) = &spec.seed else { return Ok(None) };
        let (user_data, vendor_data) = match &seed.kind {
            SeedKind::Ignition(document) => return Ok(Some(SeedDevice::Ignition(document.clone()))),
            SeedKind::CloudInit { user_data, vendor_data } => (user_data.clone(), vendor_data.clone()),
        };
        let input = volume::SeedInput {
            uid: spec.uid,
            name: spec.name.clone(),
            cluster: spec.cluster.clone(),
            link: self.link(spec),
            ntp_servers: seed.ntp_servers.clone(),
            user_data,
            vendor_data,
        };
        let path = self.shared.paths.runtime().join("seed.img");
        let target = path.clone();
        let write = move || {
            let disk = volume::nocloud_disk(&input).map_err(|error| with_causes(&error))?;
            files::write_whole(&target, &disk, 0o600).map_err(|reason| format!("{}: {reason}", target.display()))
        };
        let failed = |message| Failure::new("VolumesReady", "SeedFailed", message);
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map(|()| Some(SeedDevice::NoCloudDisk(path))).map_err(failed),
            Err(reason) => Err(failed(reason.to_string())),
        }
    }

    fn link(&self, spec: &GuestSpec) -> Option<volume::Link> {
        let network = spec.network.as_ref()?;
        let GuestLink { cidr, gateway, mtu, dns_servers } = self.shared.rooms.networks.guest_link(&spec.cluster)?;
        let (mac_address, address) = (spec.mac_address(), network.address);
        Some(volume::Link { mac_address, address, cidr, gateway, mtu, dns_servers })
    }

    /// The certificates, all of them there, and the process that shows them to the guest where it takes one.
    async fn certificate_volume(
        &self,
        spec: &GuestSpec,
        board: &Arc<Board>,
    ) -> Result<Option<(CertificateDevice, Option<OwnedFd>)>, Failure> {
        if spec.certificates.is_empty() {
            return Ok(None);
        }
        let (volume, places) = (spec.certificate_volume, self.certificate_places());
        let keeper = self.shared.certificates.keep(spec, volume, &places, &self.shared.rooms.issuers, board).await;
        let state = all_there(&keeper, volume).await?;
        if let Some(disk) = state.disk() {
            remove_earlier(disk).await.map_err(|reason| {
                Failure::new(
                    "VolumesReady",
                    "CertificateDiskFailed",
                    format!("earlier disks cannot be removed: {reason}"),
                )
            })?;
            return Ok(Some((CertificateDevice::Disk(medium(disk)), None)));
        }
        let config = VirtiofsdConfig {
            program: self.shared.rooms.qemu.virtiofsd.clone(),
            directory: places.directory,
            runtime: self.shared.paths.runtime().to_owned(),
        };
        let (_, socket) = Virtiofsd::launch(config)
            .await
            .map_err(|error| Failure::new("VolumesReady", "VirtiofsdFailed", with_causes(&error)))?;
        Ok(Some((CertificateDevice::Virtiofs, Some(socket))))
    }

    pub(super) fn certificate_places(&self) -> Places {
        Places::in_directory(self.shared.paths.runtime())
    }
}

fn tell_progress(board: &Board, progress: PullProgress) {
    let message = match (progress.phase, progress.total) {
        (PullPhase::Resolving, _) => "asking the registry".to_owned(),
        (PullPhase::Downloading, Some(total)) => format!("{} of {total}", progress.downloaded),
        (PullPhase::Downloading, None) => progress.downloaded.to_string(),
        (PullPhase::Inspecting, _) => "being inspected".to_owned(),
        (PullPhase::Done, _) => return,
    };
    board.is_not("ImageReady", "Pulling", message);
}

/// For programs.
fn reason(kind: ImageErrorKind) -> &'static str {
    match kind {
        ImageErrorKind::NotFound => "NotFound",
        ImageErrorKind::Unauthorized => "Unauthorized",
        ImageErrorKind::Unavailable => "Unavailable",
        ImageErrorKind::Refused => "Refused",
        ImageErrorKind::InUse => "InUse",
        ImageErrorKind::NoSpace => "NoSpace",
        ImageErrorKind::Misconfigured => "Misconfigured",
        ImageErrorKind::Storage => "Storage",
        ImageErrorKind::Cancelled => "Cancelled",
    }
}

pub(super) fn disk_format(format: image::DiskFormat) -> DiskFormat {
    match format {
        image::DiskFormat::Qcow2 => DiskFormat::Qcow2,
        image::DiskFormat::Raw => DiskFormat::Raw,
    }
}
