//! Sizes and spans of time as people write them.

use std::{fmt, fmt::Write as _, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::InvalidValue;

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// A number of bytes; a whole multiple of `GRAIN`, and not 0 where `GRAIN` is more than 1. Written `512MiB`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size<const GRAIN: u64>(u64);

/// Any number of bytes.
pub type ByteSize = Size<1>;
/// A guest's memory: whole MiB.
pub type MemorySize = Size<{ 1 << 20 }>;
/// A disk: whole sectors.
pub type DiskSize = Size<512>;

impl<const GRAIN: u64> Size<GRAIN> {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl<const GRAIN: u64> TryFrom<u64> for Size<GRAIN> {
    type Error = InvalidValue;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        if GRAIN > 1 && bytes == 0 {
            return Err(InvalidValue::new("must not be 0"));
        }
        if !bytes.is_multiple_of(GRAIN) {
            let grain = ByteSize::try_from(GRAIN)?;
            return Err(InvalidValue::new(format!("is {bytes} bytes: it must be a multiple of {grain}")));
        }
        Ok(Self(bytes))
    }
}

impl<const GRAIN: u64> FromStr for Size<GRAIN> {
    type Err = InvalidValue;

    /// A whole number and a unit; without one it counts bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit {
            "" => Some(0),
            _ => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, shift)| *shift),
        };
        let Some(shift) = shift.filter(|_| !number.is_empty()) else {
            return Err(InvalidValue::new(format!(
                "{text:?} is not a size: write a whole number with KiB, MiB, GiB or TiB, for example 512MiB"
            )));
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .ok_or_else(|| InvalidValue::new(format!("{text:?} is more bytes than 64 bits can count")))?
            .try_into()
    }
}

impl<const GRAIN: u64> TryFrom<String> for Size<GRAIN> {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl<const GRAIN: u64> From<Size<GRAIN>> for String {
    fn from(size: Size<GRAIN>) -> Self {
        size.to_string()
    }
}

/// The shortest text that reads back as the same number.
impl<const GRAIN: u64> fmt::Display for Size<GRAIN> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0 > 0 && self.0.trailing_zeros() >= *shift) {
            Some((unit, shift)) => write!(formatter, "{}{unit}", self.0 >> shift),
            None => formatter.write_str("0B"),
        }
    }
}

impl<const GRAIN: u64> fmt::Debug for Size<GRAIN> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl<const GRAIN: u64> schemars::JsonSchema for Size<GRAIN> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Size{GRAIN}").into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "maxLength": 24, "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)?$" })
    }
}

/// A span of time in whole seconds, written `60s`, `1h30m`, `720h` or `30d`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan(u64);

const DAY: (u64, char) = (86_400, 'd');
const CLOCK: [(u64, char); 3] = [(3600, 'h'), (60, 'm'), (1, 's')];

impl TimeSpan {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// So many hours.
    pub const fn hours(hours: u64) -> Self {
        Self(hours * 3600)
    }

    /// As the standard library has it.
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for TimeSpan {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed =
            || InvalidValue::new(format!("{text:?} is not a span of time: write it like 30s, 5m, 1h30m, 720h or 30d"));
        // No span that anything here needs is longer; a hundred years of seconds never overflow.
        let longest = Self::hours(24 * 365 * 100);
        let too_long = || InvalidValue::new(format!("{text:?} is too long: at most {longest} are allowed"));
        let mut units = std::iter::once(DAY).chain(CLOCK);
        let mut rest = text;
        let mut seconds = 0_u64;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let unit = tail.chars().next().ok_or_else(malformed)?;
            // Each unit at most once, the larger before the smaller.
            let (factor, _) = units.find(|(_, name)| *name == unit).ok_or_else(malformed)?;
            if number.is_empty() {
                return Err(malformed());
            }
            let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(too_long)?;
            seconds = seconds.checked_add(part).ok_or_else(too_long)?;
            rest = tail.strip_prefix(unit).unwrap_or_default();
        }
        match seconds {
            _ if text.is_empty() => Err(malformed()),
            _ if seconds > longest.0 => Err(too_long()),
            _ => Ok(Self(seconds)),
        }
    }
}

impl TryFrom<String> for TimeSpan {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TimeSpan> for String {
    fn from(span: TimeSpan) -> Self {
        span.to_string()
    }
}

/// In hours, minutes and seconds, as it is most often written.
impl fmt::Display for TimeSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return formatter.write_str("0s");
        }
        let mut rest = self.0;
        for (factor, unit) in CLOCK {
            if rest >= factor {
                write!(formatter, "{}", rest / factor)?;
                formatter.write_char(unit)?;
            }
            rest %= factor;
        }
        Ok(())
    }
}

impl fmt::Debug for TimeSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl schemars::JsonSchema for TimeSpan {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TimeSpan".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": 32,
            "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_size_is_a_number_with_a_binary_unit() {
        for (text, bytes) in [("512MiB", 512 << 20), ("4GiB", 4 << 30), ("1024", 1024), ("7B", 7), ("0B", 0)] {
            assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes, "{text}");
        }
        for bad in ["", "GiB", "-1GiB", "1.5GiB", "4 GiB", "4GB", "99999999999TiB", "1é"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_whole_mebibytes_and_a_disk_whole_sectors() {
        assert_eq!("2048MiB".parse::<MemorySize>().unwrap().to_string(), "2GiB");
        assert_eq!(
            "1000KiB".parse::<MemorySize>().unwrap_err().to_string(),
            "is 1024000 bytes: it must be a multiple of 1MiB"
        );
        assert!("0".parse::<MemorySize>().is_err());
        assert!("513".parse::<DiskSize>().is_err());
    }

    #[test]
    fn a_span_of_time_has_units_in_order() {
        for (text, seconds) in [("30s", 30), ("720h", 2_592_000), ("1h30m", 5400), ("30d", 2_592_000), ("0s", 0)] {
            assert_eq!(text.parse::<TimeSpan>().unwrap(), TimeSpan(seconds), "{text}");
        }
        for bad in ["", "30", "-5s", "1 month", "5m1h", "1h1h", "h", "99999999999999999999s", "36501d", "1µs"] {
            assert!(bad.parse::<TimeSpan>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes: u64, seconds in 0..3_000_000_000_u64) {
            let size = ByteSize::try_from(bytes).unwrap();
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
            let span = TimeSpan(seconds);
            prop_assert_eq!(span.to_string().parse::<TimeSpan>().unwrap(), span);
        }
    }
}
