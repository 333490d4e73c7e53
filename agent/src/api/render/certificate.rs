//! Certificates in guests' volumes; never a key.

use goliath_proto::agent::v1 as pb;

use super::timestamp;
use crate::certs::CertificateInfo;

pub(in crate::api) fn certificate(info: &CertificateInfo) -> pb::Certificate {
    pb::Certificate {
        name: info.name.to_string(),
        generation: info.generation,
        issuer: info.issuer.to_string(),
        serial_number: info.serial_number.clone(),
        common_name: info.common_name.clone(),
        dns_names: info.dns_names.iter().cloned().collect(),
        ip_addresses: info.ip_addresses.iter().map(ToString::to_string).collect(),
        not_before: Some(timestamp(info.not_before)),
        not_after: Some(timestamp(info.not_after)),
        renew_at: Some(timestamp(info.renew_at)),
        last_error: info.last_error.clone().unwrap_or_default(),
        certificate_chain: info.certificate_chain.clone(),
    }
}
