//! What is to be written: the answer of a decision.

use std::{collections::BTreeSet, time::Duration};

use kube::ResourceExt;
use monok8s_api::{
    OSUpgrade, OSUpgradeProgress, OSUpgradeStatus, osupgrade::Download, osupgradeprogress::Release,
};

use super::{
    drain::{Asked, Rules},
    notice::Notice,
};
use crate::index::{Node, Progress};

/// What is to be written, in the order in which it is to be written.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Status of upgrades. What a status fixes (revision, target, images) comes before anything is
    /// made or released on the strength of it, in a plan of its own.
    pub statuses: Vec<StatusWrite>,
    /// Progresses to be deleted.
    pub deletions: Vec<Deletion>,
    /// Progresses whose gate or download settings are to be changed, none of them released.
    pub amendments: Vec<Amendment>,
    /// Progresses to be released.
    pub releases: Vec<Amendment>,
    /// Progresses to be made.
    pub creations: Vec<OSUpgradeProgress>,
    /// What empties nodes before their reboot, and lets them be used again after it.
    pub drain: DrainWork,
    /// Things to be told that no status change tells.
    pub notices: Vec<Notice>,
    /// Upgrades whose catalog has to be read, and how urgently.
    pub readings: Vec<ReadingWanted>,
    /// When to look again although nothing has changed, by this process's clock.
    pub look_again_at: Option<Duration>,
    /// There is more to be made than one plan holds.
    pub more: bool,
}

/// A status to be written.
#[derive(Clone, Debug)]
pub struct StatusWrite {
    /// The upgrade as seen, whose resource version is the precondition.
    pub upgrade: OSUpgrade,
    /// Its new status.
    pub status: OSUpgradeStatus,
    /// What to tell once it is written.
    pub notices: Vec<Notice>,
}

/// A progress to be deleted, if nobody has touched it since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Its name.
    pub name: String,
    /// Precondition: its UID.
    pub uid: String,
    /// Precondition: its resource version.
    pub resource_version: String,
    /// Why.
    pub why: Why,
}

impl Deletion {
    pub(super) fn of(progress: &Progress, why: Why) -> Self {
        Self {
            name: progress.name().to_owned(),
            uid: progress.object.uid().unwrap_or_default(),
            resource_version: progress.object.resource_version().unwrap_or_default(),
            why,
        }
    }
}

/// Why a progress is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Another upgrade or revision governs the node by now, or nobody does.
    Superseded,
    /// The node needs another hop, or none.
    Obsolete,
    /// The Node was made again under its name.
    NodeReplaced,
    /// Older than the last few finished ones.
    History,
}

/// A change to a progress's spec, if nobody has touched the object since.
#[derive(Clone, Debug, PartialEq)]
pub struct Amendment {
    /// Its name.
    pub name: String,
    /// Precondition: its UID.
    pub uid: String,
    /// Precondition: its resource version.
    pub resource_version: String,
    /// The gate, when it is to be another.
    pub release: Option<Release>,
    /// The download settings, when they are to be others.
    pub download: Option<Download>,
    /// What the annotation [`monok8s_api::DRAIN_ANNOTATION`] is to say; empty takes it off.
    pub drain_note: Option<String>,
}

impl Amendment {
    /// Of this progress, changing nothing yet.
    pub(super) fn of(progress: &Progress) -> Self {
        Self {
            name: progress.name().to_owned(),
            uid: progress.object.uid().unwrap_or_default(),
            resource_version: progress.object.resource_version().unwrap_or_default(),
            release: None,
            download: None,
            drain_note: None,
        }
    }
}

/// What is to be done about the nodes that are drained, and those that were.
#[derive(Clone, Debug, Default)]
pub struct DrainWork {
    /// UIDs of the progresses whose node is being drained: their clocks run on, others are
    /// forgotten.
    pub going_on: Vec<String>,
    /// UIDs of the progresses that wait, or waited before their reboot, because no other node takes the pods of
    /// their node; since when is remembered, and forgotten of others.
    pub nowhere: Vec<String>,
    /// Names of the progresses that are held because their upgrade stands still.
    pub held: Vec<String>,
    /// Nodes whose pods are to be followed.
    pub follow: BTreeSet<String>,
    /// Nodes to be cordoned.
    pub cordons: Vec<Cordon>,
    /// Nodes to be let go.
    pub uncordons: Vec<Uncordon>,
    /// Pods to be asked to go.
    pub asks: Vec<Ask>,
    /// Progresses whose node may reboot now.
    pub reboots: Vec<Reboot>,
}

/// A Node as it was seen: the precondition of what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its resource version.
    pub resource_version: String,
}

impl NodeSeen {
    pub(super) fn of(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            uid: node.uid.clone(),
            resource_version: node.resource_version.clone(),
        }
    }
}

/// A node to be cordoned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cordon {
    /// The node.
    pub node: NodeSeen,
    /// UID of the progress that it is drained for; goes into the annotation.
    pub progress_uid: String,
}

/// A node whose drain is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncordon {
    /// The node.
    pub node: NodeSeen,
    /// Whether the cordon is lifted, or only the annotation taken off: then it is somebody else's.
    pub lift: bool,
}

/// A pod to be asked to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// UID of the progress whose node is drained.
    pub progress_uid: String,
    /// The node.
    pub node: String,
    /// The pod.
    pub pod: Asked,
}

/// A progress whose node may reboot.
#[derive(Clone, Debug)]
pub struct Reboot {
    /// The change of its gate.
    pub amendment: Amendment,
    /// The node.
    pub node: String,
    /// By which rules the node has to be empty when looked at once more; none when it goes down
    /// with its pods.
    pub empty_by: Option<Rules>,
    /// What is to be told when its pods go down with it because there is no other node for them; none
    /// when that is not so.
    pub alone: Option<Notice>,
}

/// A catalog to be read from its URL or ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadingWanted {
    /// The upgrade's name.
    pub upgrade: String,
    /// Its UID.
    pub uid: String,
    /// How urgently.
    pub urgency: Urgency,
}

/// How urgently a catalog is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Something waits for it.
    Now,
    /// A change of it could change the verdict.
    Eventually,
}
