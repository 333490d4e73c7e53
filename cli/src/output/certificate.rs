//! A guest's certificates as rows.

use goliath_proto::agent::v1::Certificate;
use jiff::Timestamp;

use super::{
    table::{Cell, Table},
    text::{or_dash, until},
};
use crate::style::Tone;

pub(crate) fn table(certificates: &[Certificate], now: Timestamp) -> Table {
    let mut table =
        Table::new(["NAME", "ISSUE", "ISSUER", "COMMON NAME", "SERIAL", "EXPIRES", "RENEWAL", "LAST ERROR"]);
    for certificate in certificates {
        let time = |time: Option<prost_types::Timestamp>| time.map_or_else(|| "-".to_owned(), |time| until(time, now));
        let error_tone = if certificate.last_error.is_empty() { Tone::Plain } else { Tone::Bad };
        table.row(vec![
            certificate.name.clone().into(),
            certificate.generation.to_string().into(),
            certificate.issuer.clone().into(),
            certificate.common_name.clone().into(),
            or_dash(&certificate.serial_number).into(),
            Cell::new(time(certificate.not_after), expiry_tone(certificate, now)),
            time(certificate.renew_at).into(),
            Cell::new(or_dash(&certificate.last_error), error_tone),
        ]);
    }
    table
}

/// Over is bad; past the time of renewal is a warning.
fn expiry_tone(certificate: &Certificate, now: Timestamp) -> Tone {
    let past = |time: Option<prost_types::Timestamp>| time.is_some_and(|time| time.seconds <= now.as_second());
    if past(certificate.not_after) {
        Tone::Bad
    } else if past(certificate.renew_at) {
        Tone::Warn
    } else {
        Tone::Plain
    }
}
