//! From a wish and a catalog to the images that bring one node there.
//!
//! [`target`] makes a version of what was asked for and does not look at nodes; [`path`] finds the
//! hops of one node. Both depend on nothing but their arguments, and not on the order of the
//! catalog's entries either.

mod path;
mod target;

pub use path::{Minor, Refusal, path};
pub use target::{TargetRefusal, target};

use crate::{Version, catalog::Catalog, osupgradeprogress::ImageRef, reason::FailureReason};

/// What resolution has to know of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeFacts {
    /// Version that it runs.
    pub version: Version,
    /// Its platform, such as `linux/amd64`; empty fits only images without a platform.
    pub platform: String,
}

/// One installation on the way to the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Version that the node runs afterwards.
    pub version: Version,
    /// What is installed. Its URLs and its checksum have been checked and are written in their
    /// canonical form.
    pub image: ImageRef,
}

/// Why a progress made by hand does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandMadeRefusal {
    /// No version comes of what the source asks for.
    #[error(transparent)]
    Target(#[from] TargetRefusal),
    /// This node is not taken there.
    #[error(transparent)]
    Policy(#[from] Refusal),
    /// It is more than one hop away.
    #[error(
        "{target} is more than one hop away from {current}, and a progress made by hand takes one: ask for {next} first"
    )]
    IntermediateVersionNeeded {
        /// Version that the node runs.
        current: Version,
        /// Version that was asked for.
        target: Version,
        /// The first hop on the way.
        next: Version,
    },
}

impl HandMadeRefusal {
    /// The `failureReason` that the progress ends with.
    pub fn failure_reason(&self) -> FailureReason {
        match self {
            Self::Target(_) | Self::Policy(_) => FailureReason::PolicyRefused,
            Self::IntermediateVersionNeeded { .. } => FailureReason::IntermediateVersionNeeded,
        }
    }
}

/// The one hop that a progress made by hand takes; none when the node is there already.
pub fn single_hop(
    catalog: &Catalog,
    requested: &str,
    node: &NodeFacts,
    allow_downgrade: bool,
) -> Result<Option<Hop>, HandMadeRefusal> {
    let target = target(catalog, requested)?;
    let mut hops = path(catalog, &target, node, allow_downgrade)?.into_iter();
    let Some(first) = hops.next() else {
        return Ok(None);
    };
    if hops.len() == 0 {
        return Ok(Some(first));
    }
    Err(HandMadeRefusal::IntermediateVersionNeeded {
        current: node.version.clone(),
        target,
        next: first.version,
    })
}
