//! Texts that go on to QEMU, to a kernel or to an issuer.

use crate::spec::InvalidValue;

/// Printable, of at most so many bytes. Nothing that a person cannot see, no second line, no end before the end.
pub(super) fn line(text: &str, most: usize) -> Result<String, InvalidValue> {
    if text.len() > most {
        return Err(InvalidValue::new(format!("has {} bytes: {most} are allowed", text.len())));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(control) => {
            Err(InvalidValue::new(format!("contains the control character {control:?}: it must be one printable line")))
        }
        None => Ok(text.to_owned()),
    }
}

/// As [`line`], and not empty.
pub(super) fn filled_line(text: &str, most: usize) -> Result<String, InvalidValue> {
    if text.is_empty() {
        return Err(InvalidValue::new("must not be empty"));
    }
    line(text, most)
}

/// A word of letters, digits and some marks.
pub(super) fn word(text: &str, most: usize, marks: &str) -> Result<String, InvalidValue> {
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !marks.contains(*c)) {
        Some(stranger) => {
            Err(InvalidValue::new(format!("contains {stranger:?}: only letters, digits and `{marks}` may stand here")))
        }
        None => filled_line(text, most),
    }
}

/// RFC 1123: labels of letters, digits and `-`, joined by dots; 253 characters at most.
pub(super) fn dns_name(text: &str) -> Result<String, InvalidValue> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.is_empty() {
        return Err(InvalidValue::new("must not be empty"));
    }
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(InvalidValue::new(format!("{text:?} is not a DNS name")));
    }
    Ok(text.to_owned())
}

/// As [`dns_name`], or with `*` as its first label.
pub(super) fn dns_name_or_wildcard(text: &str) -> Result<String, InvalidValue> {
    dns_name(text.strip_prefix("*.").unwrap_or(text)).map(|_| text.to_owned())
}

/// A machine's address or name.
pub(super) fn host(text: &str) -> Result<String, InvalidValue> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => dns_name(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(line("console=ttyS0 quiet", 100).unwrap(), "console=ttyS0 quiet");
        for bad in ["a\nb", "a\0b", "\u{1b}[31m", "a\u{85}b"] {
            assert!(line(bad, 100).is_err(), "{bad:?}");
        }
        assert!(line("aaa", 2).is_err());
        assert!(filled_line("", 2).is_err());
    }

    #[test]
    fn names_of_machines() {
        for good in ["a", "kube-apiserver", "api.acme.example", "1.pool.ntp.org"] {
            assert!(dns_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "*.a", "../x", "é", &"a.".repeat(200)] {
            assert!(dns_name(bad).is_err(), "{bad}");
        }
        assert!(dns_name_or_wildcard("*.acme.example").is_ok());
        for bad in ["*", "*.", "a.*.b", "*.*.b"] {
            assert!(dns_name_or_wildcard(bad).is_err(), "{bad}");
        }
        assert!(host("192.0.2.1").is_ok() && host("2001:db8::1").is_ok() && host("pool.ntp.org").is_ok());
    }
}
