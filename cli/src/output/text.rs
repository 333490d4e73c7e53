//! Numbers and times in few characters.

use jiff::Timestamp;

/// `45s`, `3m12s`, `5h2m`, `2d4h`: two units at most.
pub(crate) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let units = [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = units.iter().position(|(value, _)| *value > 0).unwrap_or(3);
    units
        .iter()
        .skip(first)
        .take(2)
        .filter(|(value, _)| *value > 0)
        .fold(String::new(), |text, (value, unit)| text + &value.to_string() + unit)
        + if seconds == 0 { "0s" } else { "" }
}

/// How long ago; `-` where there is no time.
pub(crate) fn age(time: Option<prost_types::Timestamp>, now: Timestamp) -> String {
    time.map_or_else(|| "-".to_owned(), |time| span(now.as_second() - time.seconds))
}

/// How long from now, or how long ago.
pub(crate) fn until(time: prost_types::Timestamp, now: Timestamp) -> String {
    let seconds = time.seconds - now.as_second();
    if seconds >= 0 { format!("in {}", span(seconds)) } else { format!("{} ago", span(-seconds)) }
}

/// `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        // A tenth of a unit is shown; what 52 bits lose is far below.
        #[allow(clippy::cast_precision_loss)]
        Some((unit, shift)) => {
            let value = format!("{:.1}", bytes as f64 / (1_u64 << shift) as f64);
            format!("{} {unit}", value.strip_suffix(".0").unwrap_or(&value))
        }
        None => format!("{bytes} B"),
    }
}

/// The text, or `-` for none.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// The first twelve digits of a digest.
pub(crate) fn short_digest(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    or_dash(hex.get(..12).unwrap_or(hex))
}

/// One line without characters that a terminal would obey: a guest's words may be in a message.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_two_units_at_most() {
        for (seconds, text) in
            [(0, "0s"), (45, "45s"), (60, "1m"), (192, "3m12s"), (18_120, "5h2m"), (187_200, "2d4h"), (90_061, "1d1h")]
        {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(span(-5), "0s", "clocks differ");
    }

    #[test]
    fn a_size_has_one_decimal_at_most() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (512 << 20, "512 MiB"), (1536 << 20, "1.5 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn no_message_can_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc"), "a [2Jb  c");
    }
}
