//! What is wrong with a catalog, and where; never what it says there.

use std::fmt;

use super::{MAX_ALIAS_LEN, MAX_CATALOG_BYTES, MAX_IMAGES, MAX_MIRRORS};
use crate::{
    reason::AcceptedReason,
    version::{MAX_REQUIREMENT_LEN, MAX_REQUIREMENT_PARTS},
};

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
    /// Nothing but white space and comments.
    #[error("there is nothing in it; it needs at least the key images")]
    Empty,
    /// A page for browsers, such as a server's error page or a login form.
    #[error("this is a web page and no catalog; check that the URL leads to the file itself")]
    WebPage,
    /// The YAML parser gave up.
    #[error("this is not YAML: {0}")]
    NotYaml(&'static str),
    /// A second `---`.
    #[error("a second YAML document begins; a catalog is one")]
    SeveralDocuments,
    /// `&name`, `*name`.
    #[error("YAML anchors and aliases (& and *) are not allowed; write the value out")]
    Anchor,
    /// `!tag`.
    #[error("YAML tags (!) are not allowed; quote the value if it begins with one")]
    Tag,
    /// Nested too deep.
    #[error("values are nested deeper than a catalog needs")]
    TooDeep,
    /// More values than a catalog of [`MAX_IMAGES`] images needs.
    #[error("there are more values in it than {MAX_IMAGES} images need")]
    TooManyValues,
    /// A list or mapping as key.
    #[error("a key must be a word")]
    KeyIsNoText,
    /// The same key twice in one mapping.
    #[error("this key has occurred before in the same mapping")]
    DuplicateKey,
    /// A value of another kind than its key asks for.
    #[error("{key} must be {expected}")]
    WrongKind {
        /// The key, or what stands in its place.
        key: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// A key that this format does not have.
    #[error("this key is not known here; known are {}, and x-… keys are left alone", .known.join(", "))]
    UnknownKey {
        /// The keys that are.
        known: &'static [&'static str],
    },
    /// A key kept for a later release. Refused rather than overlooked: somebody who writes
    /// `expires` or `signatures` relies on their being honoured.
    #[error("the key {0} is reserved and this release does not know what to do with it")]
    ReservedKey(&'static str),
    /// A key that must be there.
    #[error("the key {0} is missing")]
    MissingKey(&'static str),
    /// A version, or `previous`, as the name of an alias.
    #[error(
        "an alias must not be named like a version, nor previous, which means the other slot; choose a word such as stable"
    )]
    AliasName,
    /// An alias that no `spec.version` could name.
    #[error("an alias and what it stands for have at most {MAX_ALIAS_LEN} characters each")]
    AliasTooLong,
    /// More images than [`MAX_IMAGES`].
    #[error(
        "there are {0} images and may be {MAX_IMAGES}; leave out versions that nobody needs any more"
    )]
    TooManyImages(usize),
    /// More mirrors than [`MAX_MIRRORS`].
    #[error("an image may have {MAX_MIRRORS} mirrors")]
    TooManyMirrors,
    /// A text beyond its limit.
    #[error("{key} has more than {limit} characters")]
    TooLong {
        /// Its key.
        key: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Not a semantic version.
    #[error("version must be a semantic version such as v1.35.1 (the v is optional)")]
    Version,
    /// Not a requirement on a version.
    #[error(
        "upgradeFrom must be a requirement such as \">=1.34.3\" or \">=1.33, <1.36\", of at most {MAX_REQUIREMENT_PARTS} parts and {MAX_REQUIREMENT_LEN} characters"
    )]
    Requirement,
    /// Not a size in bytes.
    #[error("size must be the expanded image's size in bytes, a whole number of at least 1")]
    Size,
    /// Not a platform.
    #[error("platform must be an operating system and an architecture such as linux/amd64")]
    Platform,
    /// The same version for the same platform twice.
    #[error(
        "this version is listed for the same platform at {0} already; versions that differ in build metadata alone count as one"
    )]
    DuplicateImage(Position),
    /// The same version blocked twice.
    #[error("this version is blocked at {0} already")]
    DuplicateBlocked(Position),
}

/// Longest stretch of a line that [`CatalogError::in_text`] shows, in characters.
const SHOWN: usize = 120;

impl CatalogError {
    /// The reason that the Accepted condition gives.
    pub fn reason(&self) -> AcceptedReason {
        match self {
            Self::TooLarge { .. } => AcceptedReason::CatalogTooLarge,
            Self::Invalid { .. } => AcceptedReason::InvalidCatalog,
        }
    }

    /// Where in the text, when one place is at fault.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::TooLarge { .. } => None,
            Self::Invalid { at, .. } => Some(*at),
        }
    }

    /// The message and below it the offending line of `text`, for people who may see the text
    /// anyway: the author of an inline catalog, the user of `ctl catalog check`.
    pub fn in_text(&self, text: &str) -> String {
        let message = self.to_string();
        let line = self
            .position()
            .and_then(|at| Some((at, text.lines().nth(at.line.checked_sub(1)?)?)));
        let Some((at, line)) = line else {
            return message;
        };
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let skipped = at.column.saturating_sub(SHOWN / 2);
        let shown: String = line
            .chars()
            .skip(skipped)
            .take(SHOWN)
            .map(visible)
            .collect();
        let caret = " ".repeat(at.column - 1 - skipped.min(at.column - 1));
        let number = at.line.to_string();
        let margin = " ".repeat(number.len());
        format!("{message}\n{margin} |\n{number} | {shown}\n{margin} | {caret}^")
    }
}
