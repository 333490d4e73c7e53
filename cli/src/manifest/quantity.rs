//! Sizes and durations as people write them.

use std::{fmt::Write as _, time::Duration};

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// `512MiB`, `4GiB`, or a plain number of bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let shape =
        || format!("`{text}` is not a size: write a whole number with KiB, MiB, GiB or TiB, for example 512MiB");
    if number.is_empty() {
        return Err(shape());
    }
    let shift = match unit {
        "" => 0,
        _ => match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, shift)) => *shift,
            None => {
                return Err(match binary_unit(unit) {
                    Some(meant) => {
                        format!("`{text}` has the unit {unit}, which is not one of ours: did you mean {number}{meant}?")
                    }
                    None => shape(),
                });
            }
        },
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("`{text}` is more bytes than 64 bits can count"))
}

/// The unit that someone who wrote `G`, `Gi` or `gb` most likely meant.
fn binary_unit(unit: &str) -> Option<&'static str> {
    let letter = unit.chars().next()?.to_ascii_uppercase();
    let rest = unit.get(1..)?.to_ascii_lowercase();
    let known = matches!(rest.as_str(), "" | "i" | "b" | "ib");
    UNITS.iter().map(|(name, _)| *name).find(|name| known && name.len() == 3 && name.starts_with(letter))
}

/// The shortest text that reads back as the same number.
pub(crate) fn format_size(bytes: u64) -> String {
    match UNITS.iter().find(|(_, shift)| *shift > 0 && bytes > 0 && bytes.trailing_zeros() >= *shift) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// `30s`, `1h30m`, `720h`, `30d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let shape = || format!("`{text}` is not a duration: write it like 30s, 5m, 1h30m, 720h or 30d");
    let span: jiff::Span = text.parse().map_err(|_| shape())?;
    let duration = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("`{text}` has no fixed length: write it in days, hours, minutes and seconds"))?;
    Duration::try_from(duration).map_err(|_| format!("`{text}` is negative"))
}

/// The text that reads back as the same duration, in hours, minutes and seconds.
pub(crate) fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let mut text = String::new();
    for (value, unit) in [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")] {
        if value > 0 {
            // Writing to a String does not fail.
            let _ = write!(text, "{value}{unit}");
        }
    }
    match (text.is_empty(), duration.subsec_millis()) {
        (true, 0) => "0s".to_owned(),
        (_, 0) => text,
        (_, milliseconds) => format!("{text}{milliseconds}ms"),
    }
}

/// As a message of the API has it.
pub(crate) fn to_proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// From a message of the API; none where it is negative.
pub(crate) fn from_proto(duration: prost_types::Duration) -> Option<Duration> {
    Duration::try_from(duration).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_with_a_binary_unit() {
        for (text, bytes) in [("512MiB", 512 << 20), ("4GiB", 4 << 30), ("4 GiB", 4 << 30), ("1024", 1024), ("7B", 7)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(
            parse_size("512Mi").unwrap_err(),
            "`512Mi` has the unit Mi, which is not one of ours: did you mean 512MiB?"
        );
        for bad in ["", "GiB", "-1GiB", "1.5GiB", "4 apples", "99999999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_has_units() {
        for (text, seconds) in [("30s", 30), ("720h", 2_592_000), ("1h30m", 5400), ("30d", 2_592_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "30", "-5s", "1 month", "soon"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for bytes in [0, 1, 1000, 1024, 1536 << 20, 4 << 30, 5 << 40, u64::MAX] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        for duration in [0, 1, 59, 60, 3601, 2_592_000].map(Duration::from_secs) {
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        assert_eq!(parse_duration(&format_duration(Duration::from_millis(1500))), Ok(Duration::from_millis(1500)));
    }
}
