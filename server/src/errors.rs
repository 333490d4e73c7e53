//! How errors are told.

use std::{error::Error, fmt::Display};

/// An error with all of its causes, as one sentence.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their cause's text in their own.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The first of several things, or the first few, and how many there are besides.
pub fn and_more(first: impl Display, rest: usize) -> String {
    match rest {
        0 => first.to_string(),
        rest => format!("{first} (and {rest} more)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_out_is_counted() {
        assert_eq!(and_more("a", 0), "a");
        assert_eq!(and_more("a", 1), "a (and 1 more)");
        assert_eq!(and_more("a, b", 12), "a, b (and 12 more)");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start the guest")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_told_with_its_causes() {
        assert_eq!(with_causes(&Outer(std::io::Error::other("no such tap"))), "cannot start the guest: no such tap");
    }
}
