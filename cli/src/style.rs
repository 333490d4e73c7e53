//! Colours, where there is somebody to see them.

use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Effects};
use clap::ValueEnum;

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    Always,
    Never,
}

/// What a colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Warn,
    Bad,
    Note,
    Dim,
    Strong,
    Plain,
}

/// How one stream is written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    colours: bool,
}

impl Style {
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { colours: false }
    }

    pub(crate) fn has_colours(self) -> bool {
        self.colours
    }

    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colours || tone == Tone::Plain {
            return text.to_owned();
        }
        let style = match tone {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warn => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().effects(Effects::BOLD),
            Tone::Note => AnsiColor::Cyan.on_default(),
            Tone::Dim => anstyle::Style::new().effects(Effects::DIMMED),
            Tone::Strong => anstyle::Style::new().effects(Effects::BOLD),
            Tone::Plain => anstyle::Style::new(),
        };
        format!("{style}{text}{style:#}")
    }
}

/// The two streams that we write to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    pub(crate) out: Style,
    pub(crate) err: Style,
    /// The columns of the terminal that tables go to; none where they go to a file or a pipe.
    pub(crate) width: Option<u16>,
    /// Whether progress can be drawn.
    pub(crate) progress: bool,
}

impl Terminal {
    pub(crate) fn detect(choice: ColorChoice) -> Self {
        let wanted = |is_terminal: bool| match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            // https://no-color.org: any value but the empty one.
            ColorChoice::Auto => is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        let (out, err) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        Self {
            out: Style { colours: wanted(out) },
            err: Style { colours: wanted(err) },
            width: if out { console_width() } else { None },
            progress: err,
        }
    }
}

fn console_width() -> Option<u16> {
    let (_, columns) = console::Term::stdout().size_checked()?;
    Some(columns).filter(|columns| *columns > 0)
}
