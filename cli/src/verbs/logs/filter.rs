//! Lets text and colours of a guest through to a terminal, and nothing that moves, renames or answers.

/// Longer than any sequence that sets colours.
const MAX_SEQUENCE: usize = 64;

/// Where in a control sequence (ECMA-48) the last piece of output ended.
#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    Escape,
    /// After `ESC [`: its parameters so far.
    Control(Vec<u8>),
    /// Operating system commands and their kin, up to BEL or `ESC \`.
    Command,
    CommandEscape,
}

#[derive(Debug, Default)]
pub(super) struct TerminalFilter(State);

impl TerminalFilter {
    /// What of `data` may be shown; sequences may be cut anywhere between two calls.
    pub(super) fn pass(&mut self, data: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(data.len());
        for byte in data {
            self.0 = match (std::mem::take(&mut self.0), *byte) {
                // Two-byte sequences may have a byte between.
                (State::Text, 0x1b) | (State::Escape, 0x20..=0x2f) => State::Escape,
                (State::Text, byte) => {
                    if matches!(byte, b'\n' | b'\r' | b'\t' | 0x20..=0x7e | 0x80..) {
                        shown.push(byte);
                    }
                    State::Text
                }
                (State::Escape, b'[') => State::Control(Vec::new()),
                (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::Command,
                (State::Control(parameters), b'm') => {
                    if parameters.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b';' | b':')) {
                        shown.extend_from_slice(b"\x1b[");
                        shown.extend_from_slice(&parameters);
                        shown.push(b'm');
                    }
                    State::Text
                }
                (State::Control(mut parameters), byte @ 0x20..=0x3f) if parameters.len() < MAX_SEQUENCE => {
                    parameters.push(byte);
                    State::Control(parameters)
                }
                (State::Escape | State::Control(_), _) | (State::Command, 0x07) | (State::CommandEscape, b'\\') => {
                    State::Text
                }
                (State::Command, 0x1b) => State::CommandEscape,
                (State::Command | State::CommandEscape, _) => State::Command,
            };
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_colours_pass_and_nothing_else() {
        for (data, shown) in [
            ("Debian GNU/Linux 12 ttyS0\r\n\tlogin: ", "Debian GNU/Linux 12 ttyS0\r\n\tlogin: "),
            ("[\x1b[0;32m  OK  \x1b[0m] é", "[\x1b[0;32m  OK  \x1b[0m] é"),
            ("a\x1b[2J\x1b[1;1Hb", "ab"),
            ("a\x1b]0;title\x07b\x1b]52;c;cGF5\x1b\\c", "abc"),
            ("a\x1b[?25lb\x1b(Bc\x07\x08", "abc"),
            ("a\x1b[>0mb\x1b[6nc", "abc"),
        ] {
            assert_eq!(String::from_utf8_lossy(&TerminalFilter::default().pass(data.as_bytes())), shown);
        }
    }

    #[test]
    fn a_sequence_may_be_cut_anywhere() {
        let data = b"x\x1b[0;32mgreen\x1b[0m\x1b]0;title\x1b\\y\x1b[2Jz";
        let whole = TerminalFilter::default().pass(data);
        let mut filter = TerminalFilter::default();
        let pieces: Vec<u8> = data.iter().flat_map(|byte| filter.pass(&[*byte])).collect();
        assert_eq!(pieces, whole);
        assert_eq!(whole, b"x\x1b[0;32mgreen\x1b[0myz");
    }
}
