//! Which images lead one node to the target, in which order.
//!
//! Kubernetes supports going up one minor version at a time
//! (<https://kubernetes.io/releases/version-skew-policy/>), so a path climbs a ladder whose rungs
//! are the minor versions in between, each through its newest image that is allowed.

use std::fmt;

use super::{Hop, NodeFacts, target::Because};
use crate::{
    Version,
    catalog::{Catalog, Image},
    location::{LocationError, image_url},
    osupgradeprogress::ImageRef,
    reason::AcceptedReason,
    version::VersionRequirement,
};

/// A minor version of a major one, such as v1.34.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minor {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
}

impl Minor {
    fn of(version: &Version) -> Self {
        Self {
            major: version.major(),
            minor: version.minor(),
        }
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}", self.major, self.minor)
    }
}

/// Why one node is not taken to a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The target is older than what the node runs.
    #[error("it runs {current}, which is newer than {target}; set allowDowngrade: true to go down")]
    Downgrade {
        /// Version that the node runs.
        current: Version,
        /// Version it should be taken to.
        target: Version,
    },
    /// The target has another major version.
    #[error(
        "it runs {current} and {target} is another major version, which the catalog allows only with majorChange: allow"
    )]
    MajorVersionChange {
        /// Version that the node runs.
        current: Version,
        /// Version it should be taken to.
        target: Version,
    },
    /// No image leads through a minor version in between.
    #[error(
        "from {current} to {target} the way leads through {minor}, of which the catalog has no usable image{}; add one, or let the catalog say minorSkip: allow",
        .unusable
    )]
    IntermediateVersionMissing {
        /// Version that the node runs.
        current: Version,
        /// Version it should be taken to.
        target: Version,
        /// The minor version without an image.
        minor: Minor,
        /// What is listed there all the same.
        unusable: Unusable,
    },
    /// The image may not be installed over what the node runs when its turn comes.
    #[error(
        "{version} can be installed only over {requirement} (its upgradeFrom) and the node would come from {from}; bring it to a version that fits first"
    )]
    UpgradeFromRefused {
        /// Version whose image makes the demand.
        version: Version,
        /// The demand.
        requirement: VersionRequirement,
        /// Version that the node has or would have by then.
        from: Version,
    },
    /// The version exists, for other platforms.
    #[error("{version} has no image for {}; its images are for {}", Platform(.platform), .offered.join(", "))]
    NoImageForPlatform {
        /// Version it should be taken to.
        version: Version,
        /// The node's platform; empty when it reports none.
        platform: String,
        /// The platforms that there are images for.
        offered: Vec<String>,
    },
    /// The catalog has no image of the target (any more).
    #[error("the catalog has no image of {target}")]
    VersionNotInCatalog {
        /// Version it should be taken to.
        target: Version,
    },
    /// The catalog blocks the target (by now).
    #[error("the catalog blocks {target}{}", Because(.reason))]
    VersionBlocked {
        /// Version it should be taken to.
        target: Version,
        /// Why, as the catalog puts it; may be empty.
        reason: String,
    },
    /// An image on the chosen path has no usable checksum.
    #[error(
        "the catalog's checksum of {version} is not sha256: followed by 64 hex digits; correct the catalog (sha256sum prints it)"
    )]
    InvalidChecksum {
        /// Version whose image it is.
        version: Version,
    },
    /// An image on the chosen path has a URL that is not used.
    #[error("the catalog's {place} of {version} cannot be used: {problem}")]
    InvalidUrl {
        /// Version whose image it is.
        version: Version,
        /// Which URL: `url` or a mirror.
        place: &'static str,
        /// What is wrong with it.
        problem: LocationError,
    },
}

/// What a minor version lists, none of it of use to the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unusable {
    /// Blocked versions.
    pub blocked: u32,
    /// Pre-releases, which nobody asked for.
    pub prereleases: u32,
    /// Versions without an image for the node's platform.
    pub other_platforms: u32,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.blocked, "blocked"),
            (self.prereleases, "pre-release"),
            (self.other_platforms, "for other platforms"),
        ];
        let mut separator = " (there are: ";
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {what}")?;
            separator = ", ";
        }
        f.write_str(if separator == ", " { ")" } else { "" })
    }
}

struct Platform<'a>(&'a str);

impl fmt::Display for Platform<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "a node that reports no platform"
        } else {
            self.0
        })
    }
}

impl Refusal {
    /// The reason that the Accepted condition gives when every node refuses so.
    pub fn reason(&self) -> AcceptedReason {
        match self {
            Self::Downgrade { .. } => AcceptedReason::Downgrade,
            Self::MajorVersionChange { .. } => AcceptedReason::MajorVersionChange,
            Self::IntermediateVersionMissing { .. } => AcceptedReason::IntermediateVersionMissing,
            Self::UpgradeFromRefused { .. } => AcceptedReason::UpgradeFromRefused,
            Self::NoImageForPlatform { .. } => AcceptedReason::NoImageForPlatform,
            Self::VersionNotInCatalog { .. } => AcceptedReason::VersionNotInCatalog,
            Self::VersionBlocked { .. } => AcceptedReason::VersionBlocked,
            Self::InvalidChecksum { .. } => AcceptedReason::InvalidChecksum,
            Self::InvalidUrl { .. } => AcceptedReason::InvalidCatalog,
        }
    }

    /// Whether the catalog is at fault rather than this node's state, so that the upgrade is
    /// Rejected whatever other nodes say.
    pub fn condemns_upgrade(&self) -> bool {
        self.reason().on_own_account()
    }
}

/// The hops that bring one node to `target`, in order; none when it is there already.
pub fn path(
    catalog: &Catalog,
    target: &Version,
    node: &NodeFacts,
    allow_downgrade: bool,
) -> Result<Vec<Hop>, Refusal> {
    let current = &node.version;
    if current == target {
        return Ok(Vec::new());
    }
    if target < current && !allow_downgrade {
        return Err(Refusal::Downgrade {
            current: current.clone(),
            target: target.clone(),
        });
    }
    if target.major() != current.major() && !catalog.major_change().is_allowed() {
        return Err(Refusal::MajorVersionChange {
            current: current.clone(),
            target: target.clone(),
        });
    }
    let last = target_image(catalog, target, &node.platform)?;
    let ladder = Ladder {
        catalog,
        node,
        last,
    };
    let chosen = if catalog.minor_skip().is_allowed() {
        ladder.fewest_hops()?
    } else {
        ladder.climb(&ladder.every_rung()?)?
    };
    chosen.into_iter().map(hop).collect()
}

fn target_image<'c>(
    catalog: &'c Catalog,
    target: &Version,
    platform: &str,
) -> Result<&'c Image, Refusal> {
    if let Some(blocked) = catalog.blocked(target) {
        return Err(Refusal::VersionBlocked {
            target: target.clone(),
            reason: blocked.reason.clone(),
        });
    }
    let entries = catalog.images_of(target);
    if entries.is_empty() {
        return Err(Refusal::VersionNotInCatalog {
            target: target.clone(),
        });
    }
    catalog
        .image_for(target, platform)
        .ok_or_else(|| Refusal::NoImageForPlatform {
            version: target.clone(),
            platform: platform.to_owned(),
            offered: entries.iter().filter_map(|i| i.platform.clone()).collect(),
        })
}

/// The minor versions between a node and its target.
struct Ladder<'c> {
    catalog: &'c Catalog,
    node: &'c NodeFacts,
    /// Image of the target.
    last: &'c Image,
}

impl<'c> Ladder<'c> {
    fn ends(&self) -> (Minor, Minor) {
        (Minor::of(&self.node.version), Minor::of(&self.last.version))
    }

    /// The images to choose from on every rung between node and target, each rung newest first;
    /// refused at the first rung without any, so that its length is bounded by the catalog's.
    fn every_rung(&self) -> Result<Vec<Vec<&'c Image>>, Refusal> {
        let (from, to) = self.ends();
        let mut rungs = Vec::new();
        let mut at = from;
        while at != to {
            at = self.step(at, to);
            if at == to {
                break;
            }
            let usable = self.usable(at);
            if usable.is_empty() {
                return Err(Refusal::IntermediateVersionMissing {
                    current: self.node.version.clone(),
                    target: self.last.version.clone(),
                    minor: at,
                    unusable: self.unusable(at),
                });
            }
            rungs.push(usable);
        }
        Ok(rungs)
    }

    /// The images on any rung between node and target, newest first.
    fn all_in_between(&self) -> Vec<&'c Image> {
        let (from, to) = self.ends();
        let (low, high) = (from.min(to), from.max(to));
        let mut minors: Vec<Minor> = self
            .catalog
            .images()
            .iter()
            .rev()
            .map(|image| Minor::of(&image.version))
            .filter(|minor| low < *minor && *minor < high)
            .collect();
        minors.dedup();
        minors.into_iter().flat_map(|m| self.usable(m)).collect()
    }

    /// Where minors may be skipped: straight to the target or, where upgradeFrom demands it, with
    /// as few stops as possible, each at the newest version that serves.
    fn fewest_hops(&self) -> Result<Vec<&'c Image>, Refusal> {
        let start = &self.node.version;
        let mut left = self.all_in_between();
        // Layer n holds the images from which the target is n hops away.
        let mut layers = vec![vec![self.last]];
        while let Some(layer) = layers.last()
            && !layer.iter().any(|image| accepts(image, start))
        {
            let leads_on = |image: &&Image| layer.iter().any(|next| self.follows(next, image));
            let (next, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(leads_on);
            if next.is_empty() {
                return Err(refused_by(self.last, start));
            }
            layers.push(next);
            left = rest;
        }
        let mut chosen: Vec<&Image> = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            let next = layer.iter().find(|image| match chosen.last() {
                Some(before) => self.follows(image, before),
                None => accepts(image, start),
            });
            chosen.extend(next);
        }
        Ok(chosen)
    }

    /// Whether `next` can be installed over `image` and lies on a rung further on.
    fn follows(&self, next: &Image, image: &Image) -> bool {
        let (from, to) = self.ends();
        let (here, there) = (Minor::of(&image.version), Minor::of(&next.version));
        let further = if from < to {
            here < there
        } else {
            there < here
        };
        further && accepts(next, &image.version)
    }

    /// The next rung on the way. Within a major version minors follow one another; the last one
    /// that the catalog lists is followed by the next major's first.
    fn step(&self, at: Minor, to: Minor) -> Minor {
        let Minor { major, minor } = at;
        if major == to.major {
            let minor = if minor < to.minor {
                minor + 1
            } else {
                minor - 1
            };
            return Minor { major, minor };
        }
        if major < to.major {
            return match self.last_minor(major) {
                Some(last) if minor < last => Minor {
                    major,
                    minor: minor + 1,
                },
                _ => Minor {
                    major: major + 1,
                    minor: 0,
                },
            };
        }
        if minor > 0 {
            return Minor {
                major,
                minor: minor - 1,
            };
        }
        let major = major - 1;
        let listed = self.last_minor(major).unwrap_or(0);
        let minor = if major == to.major {
            listed.max(to.minor)
        } else {
            listed
        };
        Minor { major, minor }
    }

    /// The newest minor of a major version that the node could use.
    fn last_minor(&self, major: u64) -> Option<u64> {
        let images = self.catalog.images();
        let end = images.partition_point(|i| i.version.major() <= major);
        images[..end]
            .iter()
            .rev()
            .take_while(|image| image.version.major() == major)
            .find(|image| self.is_usable(image))
            .map(|image| image.version.minor())
    }

    /// The images of a minor version that a hop may use, newest first.
    fn usable(&self, minor: Minor) -> Vec<&'c Image> {
        let newest_first = self.versions(minor).into_iter().rev();
        newest_first
            .filter_map(|entries| self.pick(entries))
            .filter(|image| self.is_usable(image))
            .collect()
    }

    fn unusable(&self, minor: Minor) -> Unusable {
        let mut unusable = Unusable::default();
        for entries in self.versions(minor) {
            let Some(Image { version, .. }) = entries.first() else {
                continue;
            };
            if self.catalog.is_blocked(version) {
                unusable.blocked += 1;
            } else if version.is_prerelease() {
                unusable.prereleases += 1;
            } else {
                unusable.other_platforms += 1;
            }
        }
        unusable
    }

    fn is_usable(&self, image: &Image) -> bool {
        let fits = image
            .platform
            .as_ref()
            .is_none_or(|platform| *platform == self.node.platform);
        fits && !image.version.is_prerelease() && !self.catalog.is_blocked(&image.version)
    }

    /// The entry of one version that is this node's.
    fn pick(&self, entries: &'c [Image]) -> Option<&'c Image> {
        let version = &entries.first()?.version;
        self.catalog.image_for(version, &self.node.platform)
    }

    /// The entries of a minor version, one group per version, oldest first.
    fn versions(&self, minor: Minor) -> Vec<&'c [Image]> {
        let images = self.catalog.images();
        let start = images.partition_point(|i| Minor::of(&i.version) < minor);
        let end = images.partition_point(|i| Minor::of(&i.version) <= minor);
        images[start..end]
            .chunk_by(|a, b| a.version == b.version)
            .collect()
    }

    /// One image of each rung and the target's, the newest of each rung from which the rest of the
    /// way can still be made.
    fn climb(&self, rungs: &[Vec<&'c Image>]) -> Result<Vec<&'c Image>, Refusal> {
        let mut from = &self.node.version;
        let mut chosen = Vec::with_capacity(rungs.len() + 1);
        for candidates in self.those_that_lead_on(rungs) {
            let next = candidates.iter().find(|image| accepts(image, from));
            let Some(image) = next else {
                return Err(self.first_that_refuses(rungs));
            };
            chosen.push(*image);
            from = &image.version;
        }
        if !accepts(self.last, from) {
            return Err(self.first_that_refuses(rungs));
        }
        chosen.push(self.last);
        Ok(chosen)
    }

    /// Per rung the images from which the target can be reached, newest first.
    fn those_that_lead_on(&self, rungs: &[Vec<&'c Image>]) -> Vec<Vec<&'c Image>> {
        let mut above = vec![self.last];
        let mut alive: Vec<Vec<&Image>> = Vec::with_capacity(rungs.len());
        for rung in rungs.iter().rev() {
            let leads_on = |image: &&&Image| above.iter().any(|next| accepts(next, &image.version));
            let kept: Vec<&Image> = rung.iter().filter(leads_on).copied().collect();
            above.clone_from(&kept);
            alive.push(kept);
        }
        alive.reverse();
        alive
    }

    /// Where somebody gets stuck who takes the newest image that is open on each rung.
    fn first_that_refuses(&self, rungs: &[Vec<&'c Image>]) -> Refusal {
        let mut from = &self.node.version;
        for rung in rungs {
            match rung.iter().find(|image| accepts(image, from)) {
                Some(image) => from = &image.version,
                None => return refused_by(rung.first().copied().unwrap_or(self.last), from),
            }
        }
        refused_by(self.last, from)
    }
}

/// Whether a node that runs `from` may be taken to this image.
fn accepts(image: &Image, from: &Version) -> bool {
    image
        .upgrade_from
        .as_ref()
        .is_none_or(|requirement| requirement.is_met_by(from))
}

fn refused_by(image: &Image, from: &Version) -> Refusal {
    Refusal::UpgradeFromRefused {
        version: image.version.clone(),
        requirement: image.upgrade_from.clone().unwrap_or_default(),
        from: from.clone(),
    }
}

/// What the catalog promises of an image, checked.
fn hop(image: &Image) -> Result<Hop, Refusal> {
    let version = image.version.clone();
    let invalid_url = |place, problem| Refusal::InvalidUrl {
        version: version.clone(),
        place,
        problem,
    };
    let url = image_url(&image.url).map_err(|e| invalid_url("url", e))?;
    let mirrors = image
        .mirrors
        .iter()
        .map(|mirror| image_url(mirror).map(String::from))
        .collect::<Result<_, _>>()
        .map_err(|e| invalid_url("mirror", e))?;
    let checksum = image.digest().map_err(|_| Refusal::InvalidChecksum {
        version: version.clone(),
    })?;
    Ok(Hop {
        image: ImageRef {
            version: version.to_string(),
            url: Some(url.into()),
            mirrors,
            checksum: Some(checksum.to_string()),
            size: image.size.and_then(|size| i64::try_from(size).ok()),
        },
        version,
    })
}
