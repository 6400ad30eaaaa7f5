//! Structured logs on standard error.

use std::{fmt, str::FromStr};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Variable that holds the filter, in the notation of `tracing_subscriber::EnvFilter`, such as
/// `info,kube=debug`.
pub const FILTER_VARIABLE: &str = "RUST_LOG";

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, target, message, then `key=value`.
    #[default]
    Text,
    /// For programs: one JSON object per line.
    Json,
}

/// A word that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log format: use text or json")]
pub struct FormatError(String);

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(word: &str) -> Result<Self, FormatError> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(FormatError(other.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter variable is set to something that is no filter.
    #[error("{FILTER_VARIABLE} is not a log filter (an example: info,kube=debug): {0}")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// Logging is set up once per process.
    #[error("logging is set up already: {0}")]
    Twice(Box<dyn std::error::Error + Send + Sync>),
}

/// Installs the process's logger: level `info` unless [`FILTER_VARIABLE`] says otherwise, colours
/// only in text on a terminal.
pub fn init(format: Format) -> Result<(), InitError> {
    use std::io::IsTerminal as _;

    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(FILTER_VARIABLE)
        .from_env()?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(format == Format::Text && std::io::stderr().is_terminal());
    match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(InitError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_and_written_alike() {
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        let refused = "xml".parse::<Format>().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "\"xml\" is not a log format: use text or json"
        );
    }
}
