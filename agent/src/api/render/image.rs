//! Images.

use goliath_proto::agent::v1 as pb;

use super::timestamp;
use crate::{
    image::{Image, PullPhase, PullProgress},
    spec::{ByteSize, GuestUid},
};

pub(in crate::api) fn image(image: &Image, used_by: &[GuestUid]) -> pb::Image {
    pb::Image {
        digest: image.digest.to_string(),
        references: image.references.iter().cloned().collect(),
        stored_bytes: image.stored.get(),
        disk: image.disk.as_ref().map(|disk| pb::ImageDisk {
            format: disk.format.name().to_owned(),
            virtual_size_bytes: disk.virtual_size.get(),
        }),
        has_kernel: image.kernel.is_some(),
        has_initrd: image.initrd.is_some(),
        command_line: image.command_line.clone().unwrap_or_default(),
        pulled_at: Some(timestamp(image.pulled_at)),
        used_by: used_by.iter().map(ToString::to_string).collect(),
    }
}

/// How far a pull is; none when it ended, since how is told with the image.
pub(in crate::api) fn progress(progress: PullProgress) -> Option<pb::PullImageResponse> {
    use pb::pull_image_response::Phase;
    let phase = match progress.phase {
        PullPhase::Resolving => Phase::Resolving,
        PullPhase::Downloading => Phase::Downloading,
        PullPhase::Inspecting => Phase::Inspecting,
        PullPhase::Done => return None,
    };
    Some(pb::PullImageResponse {
        phase: phase.into(),
        downloaded_bytes: progress.downloaded.get(),
        total_bytes: progress.total.map_or(0, ByteSize::get),
        image: None,
    })
}
