//! What is printed, and with which exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::ValueEnum;
use serde::Serialize;

/// Exit code of a no.
const NO: u8 = 1;
/// Exit code when the question could not be asked: wrong usage (clap's code too), a file that
/// cannot be read, a cluster that does not answer.
pub(crate) const COULD_NOT_ASK: u8 = 2;

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// A finished answer.
#[derive(Debug)]
pub(crate) struct Answer {
    text: String,
    is_yes: bool,
}

impl Answer {
    /// A yes, or plain output.
    pub(crate) fn yes(text: String) -> Self {
        Self { text, is_yes: true }
    }

    /// In the format that was asked for.
    pub(crate) fn new<T: Serialize>(
        format: Format,
        is_yes: bool,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Self {
        let text = match format {
            Format::Text => text(value),
            // Maps with other keys than strings are the only thing that fails; there are none.
            Format::Json => serde_json::to_string_pretty(value).unwrap_or_default() + "\n",
        };
        Self { text, is_yes }
    }

    /// Writes it to standard output. A reader that has gone away (`| head`) is no error.
    pub(crate) fn print(self) -> ExitCode {
        let mut out = io::stdout().lock();
        match out
            .write_all(self.text.as_bytes())
            .and_then(|()| out.flush())
        {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                eprintln!("error: cannot write to standard output: {error}");
                ExitCode::from(COULD_NOT_ASK)
            }
            _ if self.is_yes => ExitCode::SUCCESS,
            _ => ExitCode::from(NO),
        }
    }
}
