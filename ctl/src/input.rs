//! Reading what the user names, with a bound.

use std::{
    convert::Infallible,
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

/// A file, or standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `-`.
    StandardInput,
    /// Anything else.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "-" => Self::StandardInput,
            path => Self::File(path.into()),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardInput => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Why something was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("cannot read {source_}: {cause}; name a file, or - for standard input")]
    Unreadable { source_: Source, cause: io::Error },
    #[error("{source_} has more than {limit} bytes, which is more than such a file may have")]
    TooLarge { source_: Source, limit: usize },
    #[error("{source_} is not UTF-8 text")]
    NotText { source_: Source },
}

/// The text of a file or of standard input, at most `limit` bytes.
pub(crate) fn read(source: &Source, limit: usize) -> Result<String, InputError> {
    let unreadable = |cause| InputError::Unreadable {
        source_: source.clone(),
        cause,
    };
    let mut reader: Box<dyn Read> = match source {
        Source::StandardInput => Box::new(io::stdin().lock()),
        Source::File(path) => Box::new(open(path).map_err(unreadable)?),
    };
    let mut bytes = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let read = reader.by_ref().take(bound).read_to_end(&mut bytes);
    read.map_err(unreadable)?;
    if bytes.len() > limit {
        return Err(InputError::TooLarge {
            source_: source.clone(),
            limit,
        });
    }
    String::from_utf8(bytes).map_err(|_| InputError::NotText {
        source_: source.clone(),
    })
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "it is a folder",
        ));
    }
    Ok(file)
}
