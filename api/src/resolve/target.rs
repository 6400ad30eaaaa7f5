//! What version a wish names.

use std::fmt;

use crate::{
    Version,
    catalog::{Catalog, is_alias_shaped},
    osupgrade::PREVIOUS,
    reason::AcceptedReason,
    version::{MAX_VERSION_LEN, VersionError},
};

/// How many versions a message lists before it only counts.
const LISTED: usize = 10;

/// Why no version comes of what was asked for, whatever the node.
///
/// What was asked for is repeated in messages; of the catalog only versions and, for a blocked
/// one, the reason that the catalog gives to be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetRefusal {
    /// Neither a version nor a word that could be an alias.
    #[error("{problem}; ask for a version of the catalog or for one of its aliases")]
    InvalidVersion {
        /// What is wrong with it.
        problem: VersionError,
    },
    /// `previous` where an image is to be installed.
    #[error(
        "previous means the system in the other slot and goes only with operation: Rollback; ask for a version or an alias"
    )]
    Previous,
    /// The catalog has no such alias, or it leads nowhere.
    #[error("the catalog {ending} {requested:?}; {}", .ending.cure())]
    AliasNotFound {
        /// The alias that was asked for.
        requested: String,
        /// Where the search ended.
        ending: AliasEnding,
    },
    /// The catalog has no image of that version.
    #[error("the catalog has no image of {version}; it has {}", List(.listed, *.total))]
    VersionNotInCatalog {
        /// The version that is not there.
        version: Version,
        /// The newest of those that are and are not blocked, newest first, at most ten.
        listed: Vec<Version>,
        /// How many those are in all.
        total: usize,
    },
    /// The catalog says that nobody should run it.
    #[error("the catalog blocks {version}{}", Because(.reason))]
    VersionBlocked {
        /// The blocked version.
        version: Version,
        /// Why, as the catalog puts it; may be empty.
        reason: String,
    },
}

/// Where the search for an alias ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasEnding {
    /// There is none of that name.
    Unknown,
    /// It, or an alias that it leads to, is neither a version nor another alias.
    Nowhere,
    /// It leads back to an alias that was passed before.
    Loop,
}

impl AliasEnding {
    fn cure(self) -> &'static str {
        match self {
            Self::Unknown => "add it to the catalog, or ask for a version",
            Self::Nowhere | Self::Loop => "correct it in the catalog, or ask for a version",
        }
    }
}

impl fmt::Display for AliasEnding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "has no alias",
            Self::Nowhere => "leads neither to a version nor to another alias from the alias",
            Self::Loop => "leads in a circle from the alias",
        })
    }
}

/// Versions for a message: the first few, and how many more there are.
struct List<'a>(&'a [Version], usize);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(versions, total) = self;
        if versions.is_empty() {
            return f.write_str("none that is not blocked");
        }
        for (i, version) in versions.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{version}")?;
        }
        match total.saturating_sub(versions.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} older"),
        }
    }
}

/// `: reason`, if there is one.
pub(super) struct Because<'a>(pub(super) &'a str);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.0)
    }
}

impl TargetRefusal {
    /// The reason that the Accepted condition gives.
    pub fn reason(&self) -> AcceptedReason {
        match self {
            Self::InvalidVersion { .. } | Self::Previous => AcceptedReason::InvalidVersion,
            Self::AliasNotFound { .. } => AcceptedReason::AliasNotFound,
            Self::VersionNotInCatalog { .. } => AcceptedReason::VersionNotInCatalog,
            Self::VersionBlocked { .. } => AcceptedReason::VersionBlocked,
        }
    }

    /// The version that was named all the same.
    pub fn resolved_version(&self) -> Option<&Version> {
        match self {
            Self::InvalidVersion { .. } | Self::Previous | Self::AliasNotFound { .. } => None,
            Self::VersionNotInCatalog { version, .. } | Self::VersionBlocked { version, .. } => {
                Some(version)
            }
        }
    }

    /// The same as `Display`.
    pub fn message(&self) -> String {
        self.to_string()
    }
}

/// The version that `requested` (a version or an alias) names, in this catalog and not blocked.
pub fn target(catalog: &Catalog, requested: &str) -> Result<Version, TargetRefusal> {
    let version = named(catalog, requested)?;
    if let Some(blocked) = catalog.blocked(&version) {
        return Err(TargetRefusal::VersionBlocked {
            version,
            reason: blocked.reason.clone(),
        });
    }
    if catalog.images_of(&version).is_empty() {
        return Err(not_in_catalog(catalog, version));
    }
    Ok(version)
}

/// The version that `requested` names, whether or not there is one.
fn named(catalog: &Catalog, requested: &str) -> Result<Version, TargetRefusal> {
    let problem = match requested.parse::<Version>() {
        Ok(version) => return Ok(version),
        Err(problem) => problem,
    };
    if requested == PREVIOUS {
        return Err(TargetRefusal::Previous);
    }
    let Some(mut meaning) = catalog.alias(requested) else {
        return Err(if could_be_an_alias(requested) {
            alias_not_found(requested, AliasEnding::Unknown)
        } else {
            TargetRefusal::InvalidVersion { problem }
        });
    };
    // A chain longer than there are aliases has passed one of them twice.
    for _ in 0..=catalog.aliases().count() {
        if let Ok(version) = meaning.parse() {
            return Ok(version);
        }
        meaning = catalog
            .alias(meaning)
            .ok_or_else(|| alias_not_found(requested, AliasEnding::Nowhere))?;
    }
    Err(alias_not_found(requested, AliasEnding::Loop))
}

/// Whether somebody who wrote this meant an alias rather than a version with a slip in it, such as
/// `v1.35` or `1.35.x`.
fn could_be_an_alias(word: &str) -> bool {
    let number = word.strip_prefix('v').unwrap_or(word);
    word.len() <= MAX_VERSION_LEN
        && is_alias_shaped(word)
        && !number.starts_with(|c: char| c.is_ascii_digit())
}

fn alias_not_found(requested: &str, ending: AliasEnding) -> TargetRefusal {
    TargetRefusal::AliasNotFound {
        requested: requested.to_owned(),
        ending,
    }
}

fn not_in_catalog(catalog: &Catalog, version: Version) -> TargetRefusal {
    let mut listed: Vec<Version> = catalog
        .images()
        .iter()
        .rev()
        .map(|image| image.version.clone())
        .filter(|listed| !catalog.is_blocked(listed))
        .collect();
    listed.dedup();
    let total = listed.len();
    listed.truncate(LISTED);
    TargetRefusal::VersionNotInCatalog {
        version,
        listed,
        total,
    }
}
