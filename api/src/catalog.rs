//! The image catalog: which versions exist, where their images lie, and which of them nobody
//! should run.
//!
//! Whoever may write an OSUpgrade chooses where the controller fetches a catalog from, so the text
//! is hostile input and the answer travels back to its author: every bound is checked before
//! memory is taken, and no message repeats what was fetched.

mod config_map;
mod error;
mod parse;
mod yaml;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

pub use config_map::{ConfigMapError, text_in};
pub use error::{CatalogError, Position, Problem};

use crate::{Sha256Digest, Version, digest::DigestError, version::VersionRequirement};

/// Largest catalog read from a URL or a ConfigMap, in bytes.
pub const MAX_CATALOG_BYTES: usize = 1024 * 1024;
/// Most images that a catalog may list.
pub const MAX_IMAGES: usize = 2_000;
/// Most mirrors that one image may have; what a progress can carry.
pub const MAX_MIRRORS: usize = 8;
/// Longest URL of an image, in bytes; what a progress can carry.
pub const MAX_URL_LEN: usize = 2_048;
/// Longest name of an alias, in bytes; what `spec.version` can carry.
pub const MAX_ALIAS_LEN: usize = 64;

/// A catalog that has been read and found to be one.
///
/// What cannot be judged without knowing who asks is kept as written: an alias may lead to nothing
/// and a checksum may be no checksum until somebody's path goes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    aliases: BTreeMap<String, String>,
    images: Vec<Image>,
    blocked: Vec<Blocked>,
    minor_skip: Permission,
    major_change: Permission,
}

/// One entry under `images`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Version that the image carries.
    pub version: Version,
    /// Where it is, as written; judged by [`crate::location::image_url`] on a chosen path.
    pub url: String,
    /// Further places of the same bytes, as written.
    pub mirrors: Vec<String>,
    /// Checksum as written; empty when the catalog has none.
    pub checksum: String,
    /// Expanded size in bytes.
    pub size: Option<u64>,
    /// Platform such as `linux/amd64`; none fits every node.
    pub platform: Option<String>,
    /// What a node must run for it to be taken to this version.
    pub upgrade_from: Option<VersionRequirement>,
}

impl Image {
    /// The checksum, if it is one.
    pub fn digest(&self) -> Result<Sha256Digest, DigestError> {
        self.checksum.parse()
    }
}

/// One entry under `blocked`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The version nobody should be taken to.
    pub version: Version,
    /// Why; empty when the catalog does not say.
    pub reason: String,
}

/// Whether a catalog lets a rule be broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permission {
    /// The rule holds.
    #[default]
    Forbid,
    /// It may be broken.
    Allow,
}

impl Permission {
    /// Whether the catalog said `allow`.
    pub fn is_allowed(self) -> bool {
        self == Self::Allow
    }
}

/// Whether a word can be the name of an alias: letters, digits, `.`, `_` and `-`, beginning with a
/// letter or a digit. (That it must be no version is another matter.)
pub(crate) fn is_alias_shaped(word: &str) -> bool {
    word.len() <= MAX_ALIAS_LEN
        && word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl Catalog {
    /// Reads a catalog. Takes memory in proportion to the text, which may have
    /// [`MAX_CATALOG_BYTES`].
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        parse::catalog(text)
    }

    /// SHA-256 of a catalog's text, as `status.catalog.digest` shows it.
    pub fn digest(text: &str) -> Sha256Digest {
        Sha256Digest::new(Sha256::digest(text.as_bytes()).into())
    }

    /// The aliases and what they stand for, both as written.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// What the alias stands for, one step: a version or another alias.
    pub fn alias(&self, name: &str) -> Option<&str> {
        self.aliases.get(name).map(String::as_str)
    }

    /// The images, lowest version first.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The entries of one version, for whatever platform.
    pub fn images_of(&self, version: &Version) -> &[Image] {
        let start = self.images.partition_point(|i| i.version < *version);
        let end = self.images.partition_point(|i| i.version <= *version);
        &self.images[start..end]
    }

    /// The entry that a node of this platform would be given: its own platform's before one
    /// without a platform. Whether the version is blocked does not matter here.
    pub fn image_for(&self, version: &Version, platform: &str) -> Option<&Image> {
        let entries = self.images_of(version);
        entries
            .iter()
            .find(|i| i.platform.as_deref() == Some(platform))
            .or_else(|| entries.iter().find(|i| i.platform.is_none()))
    }

    /// The blocked versions, lowest first.
    pub fn blocked_versions(&self) -> &[Blocked] {
        &self.blocked
    }

    /// The entry that blocks this version, if any.
    pub fn blocked(&self, version: &Version) -> Option<&Blocked> {
        self.blocked
            .binary_search_by(|b| b.version.cmp(version))
            .ok()
            .and_then(|at| self.blocked.get(at))
    }

    /// Whether this version is blocked.
    pub fn is_blocked(&self, version: &Version) -> bool {
        self.blocked(version).is_some()
    }

    /// Whether a hop may leave out minor versions.
    pub fn minor_skip(&self) -> Permission {
        self.minor_skip
    }

    /// Whether a hop may lead to another major version.
    pub fn major_change(&self) -> Permission {
        self.major_change
    }
}
