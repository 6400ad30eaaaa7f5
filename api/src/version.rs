//! Versions of OS images.

use std::{cmp::Ordering, fmt, str::FromStr};

use semver::{Comparator, Op};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A semantic version (<https://semver.org>), written with a leading `v` as Kubernetes does.
///
/// Reading accepts it with or without the `v`; writing always adds it. Equality and order are
/// semver *precedence*: build metadata is kept for display but never distinguishes two versions.
#[derive(Clone, Debug)]
pub struct Version(semver::Version);

/// Longest version accepted, in bytes as written with its `v`; what `spec.version` and
/// `spec.image.version` can carry.
pub const MAX_VERSION_LEN: usize = 64;

/// Why a text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Longer than [`MAX_VERSION_LEN`].
    #[error("a version has at most {MAX_VERSION_LEN} characters with its v, this one has {0}")]
    TooLong(usize),
    /// Not MAJOR.MINOR.PATCH with optional pre-release and build.
    #[error("{text:?} is not a semantic version (like v1.35.1 or 1.36.0-rc.1): {cause}")]
    NotSemver {
        /// The text as given.
        text: String,
        /// What the parser objected to.
        cause: String,
    },
}

impl Version {
    /// Major number.
    pub fn major(&self) -> u64 {
        self.0.major
    }
    /// Minor number.
    pub fn minor(&self) -> u64 {
        self.0.minor
    }
    /// Patch number.
    pub fn patch(&self) -> u64 {
        self.0.patch
    }
    /// Whether this is a pre-release such as `v1.36.0-rc.1`.
    pub fn is_prerelease(&self) -> bool {
        !self.0.pre.is_empty()
    }
    /// The underlying semver value, for matching against requirements.
    pub fn as_semver(&self) -> &semver::Version {
        &self.0
    }
}

impl From<semver::Version> for Version {
    fn from(version: semver::Version) -> Self {
        Self(version)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let bare = text.strip_prefix('v').unwrap_or(text);
        let written = bare.len().saturating_add(1);
        if written > MAX_VERSION_LEN {
            return Err(VersionError::TooLong(written));
        }
        semver::Version::parse(bare)
            .map(Self)
            .map_err(|e| VersionError::NotSemver {
                text: text.to_owned(),
                cause: e.to_string(),
            })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp_precedence(&other.0)
    }
}
impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Version {}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A requirement on a version, such as `>=1.34.3` or `>=1.33, <1.36`, written as Cargo writes them
/// (<https://doc.rust-lang.org/cargo/reference/specifying-dependencies.html>); a leading `v` is
/// allowed in each part.
///
/// Unlike Cargo's, it compares by precedence alone: `>=1.34.3` holds for v1.35.0-rc.1 as well.
///
/// The default is `*`, which every version meets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionRequirement(semver::VersionReq);

/// Longest requirement accepted, in bytes.
pub const MAX_REQUIREMENT_LEN: usize = 256;

/// Most parts of a requirement. It is compared with every version of a catalog, whose author may
/// mean harm.
pub const MAX_REQUIREMENT_PARTS: usize = 8;

/// A text is no requirement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a requirement like \">=1.34.3\" or \">=1.33, <1.36\", of at most {MAX_REQUIREMENT_PARTS} parts and {MAX_REQUIREMENT_LEN} characters"
)]
pub struct RequirementError;

impl VersionRequirement {
    /// Whether a node that runs `version` meets the requirement.
    pub fn is_met_by(&self, version: &Version) -> bool {
        self.0
            .comparators
            .iter()
            .all(|comparator| holds(comparator, &version.0))
    }
}

/// One part of a requirement. Parts that a comparator leaves out (`1.34`) match anything, so
/// `<1.35` excludes 1.35.0-rc.1 and `<1.35.0` does not.
fn holds(part: &Comparator, version: &semver::Version) -> bool {
    match part.op {
        Op::Exact | Op::Wildcard => compare(part, version).is_eq(),
        Op::Greater => compare(part, version).is_gt(),
        Op::GreaterEq => compare(part, version).is_ge(),
        Op::Less => compare(part, version).is_lt(),
        Op::LessEq => compare(part, version).is_le(),
        Op::Tilde => {
            compare(part, version).is_ge()
                && version.major == part.major
                && part.minor.is_none_or(|minor| version.minor == minor)
        }
        Op::Caret => compare(part, version).is_ge() && same_left_most(part, version),
        // The set of operators is open in the semver crate; what is not understood is not met.
        _ => false,
    }
}

/// How a version stands to the part, as far as the part goes.
fn compare(part: &Comparator, version: &semver::Version) -> Ordering {
    let Some(minor) = part.minor else {
        return version.major.cmp(&part.major);
    };
    let Some(patch) = part.patch else {
        return (version.major, version.minor).cmp(&(part.major, minor));
    };
    (version.major, version.minor, version.patch, &version.pre)
        .cmp(&(part.major, minor, patch, &part.pre))
}

/// Cargo's caret: everything up to the left-most part that is not zero stays the same.
fn same_left_most(part: &Comparator, version: &semver::Version) -> bool {
    version.major == part.major
        && (part.major > 0
            || part.minor.is_none_or(|minor| {
                version.minor == minor
                    && (minor > 0 || part.patch.is_none_or(|patch| version.patch == patch))
            }))
}

impl FromStr for VersionRequirement {
    type Err = RequirementError;

    fn from_str(text: &str) -> Result<Self, RequirementError> {
        if text.len() > MAX_REQUIREMENT_LEN || text.split(',').count() > MAX_REQUIREMENT_PARTS {
            return Err(RequirementError);
        }
        let without_v: Vec<String> = text
            .split(',')
            .map(|part| {
                let number =
                    part.trim_start_matches(|c: char| c.is_whitespace() || "<>=~^".contains(c));
                let operator = &part[..part.len() - number.len()];
                format!("{operator}{}", number.strip_prefix('v').unwrap_or(number))
            })
            .collect();
        let parsed = semver::VersionReq::parse(&without_v.join(","));
        let requirement = parsed.map(Self).map_err(|_| RequirementError)?;
        // Written out, a bare 1.35 is ^1.35; what is written must be readable again.
        if requirement.to_string().len() > MAX_REQUIREMENT_LEN {
            return Err(RequirementError);
        }
        Ok(requirement)
    }
}

impl fmt::Display for VersionRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn the_v_is_optional_and_always_written() {
        assert_eq!(v("1.35.1").to_string(), "v1.35.1");
        assert_eq!(v("v1.35.1"), v("1.35.1"));
    }

    #[test]
    fn precedence_is_semvers() {
        assert!(v("v1.36.0-rc.1") < v("v1.36.0"));
        assert!(v("v1.36.0-rc.2") < v("v1.36.0-rc.10"));
        assert_eq!(v("v1.35.1+a"), v("v1.35.1+b"));
        assert_eq!(v("v1.35.1+a").to_string(), "v1.35.1+a");
    }

    #[test]
    fn requirements_compare_by_precedence() {
        for (requirement, met, not_met) in [
            (
                ">=1.34.3",
                &["1.34.3", "1.35.0-rc.1", "1.35.0", "2.0.0"][..],
                &["1.34.2", "1.34.3-rc.1"][..],
            ),
            (">=v1.34.3", &["1.34.3"], &["1.34.2"]),
            (
                ">= v1.33, < v1.36",
                &["1.33.0", "1.33.0-rc.1", "1.35.9"],
                &["1.32.9", "1.36.0", "1.36.0-rc.1"],
            ),
            ("<1.35.0", &["1.35.0-rc.1", "1.34.9"], &["1.35.0"]),
            ("<1.35", &["1.34.9"], &["1.35.0-rc.1", "1.35.0"]),
            ("<=1.35", &["1.35.9", "1.34.0"], &["1.36.0-rc.1"]),
            (">1.35", &["1.36.0"], &["1.35.9", "1.35.0"]),
            (
                "=1.35.1",
                &["1.35.1", "1.35.1+build"],
                &["1.35.1-rc.1", "1.35.2"],
            ),
            ("=1.35", &["1.35.0", "1.35.7"], &["1.36.0"]),
            ("~1.35.1", &["1.35.1", "1.35.9"], &["1.35.0", "1.36.0"]),
            ("~1", &["1.0.0", "1.99.0"], &["2.0.0"]),
            ("1.35.1", &["1.35.1", "1.99.0"], &["1.35.0", "2.0.0"]),
            ("^0.3.1", &["0.3.1", "0.3.9"], &["0.3.0", "0.4.0", "1.3.1"]),
            ("^0.0.3", &["0.0.3"], &["0.0.4"]),
            ("1.35.*", &["1.35.0", "1.35.9"], &["1.36.0"]),
            ("*", &["0.0.1", "9.9.9-rc.1"], &[]),
        ] {
            let requirement: VersionRequirement = requirement.parse().unwrap();
            for version in met {
                assert!(
                    requirement.is_met_by(&v(version)),
                    "{requirement}: {version}"
                );
            }
            for version in not_met {
                assert!(
                    !requirement.is_met_by(&v(version)),
                    "{requirement}: {version}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_requirement_is_refused() {
        for text in [
            "",
            "stable",
            ">=",
            ">=1.34.3 <1.36",
            "vv1",
            ">=1.34.3,",
            "1.*.3",
            "-1",
        ] {
            assert_eq!(
                text.parse::<VersionRequirement>(),
                Err(RequirementError),
                "{text}"
            );
        }
        let parts = |n| vec![">1.0"; n].join(",");
        assert!(
            parts(MAX_REQUIREMENT_PARTS)
                .parse::<VersionRequirement>()
                .is_ok()
        );
        assert!(
            parts(MAX_REQUIREMENT_PARTS + 1)
                .parse::<VersionRequirement>()
                .is_err()
        );
        let longer_when_written = format!("1.35.1-{}", "a".repeat(MAX_REQUIREMENT_LEN - 7));
        assert_eq!(longer_when_written.len(), MAX_REQUIREMENT_LEN);
        assert!(longer_when_written.parse::<VersionRequirement>().is_err());
        let long = format!(">={}", "1".repeat(MAX_REQUIREMENT_LEN));
        assert_eq!(long.parse::<VersionRequirement>(), Err(RequirementError));
    }

    #[test]
    fn what_is_no_version_says_so() {
        for text in [
            "", "v", "1.35", "vv1.2.3", "stable", "1.2.3.4", " 1.2.3", "1.02.3",
        ] {
            let e = text.parse::<Version>().unwrap_err();
            assert!(e.to_string().contains("semantic version"), "{text}: {e}");
        }
        // With its v it would not fit into an object any more.
        let bare = format!("1.35.1-{}", "a".repeat(57));
        assert_eq!(bare.len(), MAX_VERSION_LEN);
        assert_eq!(bare.parse::<Version>(), Err(VersionError::TooLong(65)));
        let fits = v(&bare[..MAX_VERSION_LEN - 1]).to_string();
        assert_eq!(fits.len(), MAX_VERSION_LEN);
        assert_eq!(v(&fits).to_string(), fits);
    }
}
