//! A progress, with what follows from it.

use std::time::Duration;

use kube::ResourceExt;
use monok8s_api::{
    DRAIN_ANNOTATION, OSUpgradeProgress, OSUpgradeProgressStatus, REVISION_LABEL, Version, names,
    osupgradeprogress::Release, reason::ProgressPhase,
};

/// Who made a progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This system's controller, for one revision of one upgrade.
    Controller {
        /// UID of the upgrade that owns it.
        upgrade: String,
        /// The revision it belongs to.
        revision: i64,
    },
    /// A person or a program of theirs: it occupies its node and is never changed by us.
    HandMade,
}

/// A progress as the planner sees it.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The object, without managed fields.
    pub object: OSUpgradeProgress,
    /// Who made it.
    pub origin: Origin,
    /// Version of its image, where it names one.
    pub hop: Option<Version>,
    /// When it last moved, by this process's clock.
    pub moved_at: Duration,
    name: String,
}

impl Progress {
    pub(super) fn new(
        mut object: OSUpgradeProgress,
        before: Option<&Self>,
        clock: Duration,
    ) -> Self {
        object.metadata.managed_fields = None;
        let moved_at = before
            .filter(|b| {
                b.object.uid() == object.uid()
                    && b.object.status == object.status
                    && b.object.spec.release == object.spec.release
            })
            .map_or(clock, |b| b.moved_at);
        Self {
            origin: origin(&object),
            hop: object
                .spec
                .image
                .as_ref()
                .and_then(|i| i.version.parse().ok()),
            moved_at,
            name: object.name_any(),
            object,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of its node.
    pub fn node_name(&self) -> &str {
        &self.object.spec.node_name
    }

    /// Its phase; Pending before the agent has written any.
    pub fn phase(&self) -> &ProgressPhase {
        const PENDING: &ProgressPhase = &ProgressPhase::Pending;
        self.status().map_or(PENDING, |s| &s.phase)
    }

    /// Its status, once the agent has written one.
    pub fn status(&self) -> Option<&OSUpgradeProgressStatus> {
        self.object.status.as_ref()
    }

    /// Whether an attempt is under way or over. Until then a deletion costs nothing.
    pub fn has_begun(&self) -> bool {
        *self.phase() != ProgressPhase::Pending
    }

    /// Whether its attempt is over.
    pub fn is_over(&self) -> bool {
        self.phase().is_terminal()
    }

    /// Whether the agent may run it, or does: it has a place among the unavailable nodes.
    pub fn has_place(&self) -> bool {
        !self.is_over() && (self.has_begun() || self.object.spec.release != Release::Hold)
    }

    /// Whether its agent waits for its node to be emptied.
    pub fn awaits_drain(&self) -> bool {
        *self.phase() == ProgressPhase::Staged && self.object.spec.release == Release::Stage
    }

    /// Whether it takes its node down, or may any moment.
    pub fn goes_down(&self) -> bool {
        self.has_place() && self.object.spec.release == Release::Reboot
    }

    /// What its node's drain was waiting for when its time was up; none since it was released again.
    pub fn drain_note(&self) -> Option<&str> {
        let annotations = self.object.metadata.annotations.as_ref()?;
        annotations.get(DRAIN_ANNOTATION).map(String::as_str)
    }

    /// Whether somebody is deleting it.
    pub fn is_being_deleted(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Whether the controller made it for that revision of that upgrade.
    pub fn belongs_to(&self, upgrade_uid: &str, revision: i64) -> bool {
        matches!(&self.origin, Origin::Controller { upgrade, revision: r }
            if upgrade == upgrade_uid && *r == revision)
    }

    /// Whether it is the last hop of its node's path.
    pub fn is_last_hop(&self) -> bool {
        self.object.spec.final_version.is_none()
    }

    /// Bytes and percents move without changing what is to be done; they only show that it lives.
    pub(super) fn same_for_a_plan(&self, other: &Self) -> bool {
        let lean = |p: &Self| {
            p.status().cloned().map(|mut status| {
                status.bytes_done = 0;
                status.bytes_total = 0;
                status.percent = 0;
                status.last_updated_at = None;
                status
            })
        };
        self.object.spec == other.object.spec
            && self.object.uid() == other.object.uid()
            && self.is_being_deleted() == other.is_being_deleted()
            && lean(self) == lean(other)
    }
}

/// A progress is the controller's when its name is the one that its content computes to. Labels
/// and owner references can be written by anybody; this name cannot be hit by accident.
fn origin(object: &OSUpgradeProgress) -> Origin {
    let claimed = || {
        let owner = object
            .owner_references()
            .iter()
            .find(|o| o.controller == Some(true) && o.kind == "OSUpgrade")?;
        let revision: i64 = object.labels().get(REVISION_LABEL)?.parse().ok()?;
        let node_uid = object.spec.node_uid.as_deref()?;
        let image = object.spec.image.as_ref()?;
        let name = match image.version.parse::<Version>() {
            Ok(version) => names::progress(&owner.uid, revision, node_uid, &version),
            Err(_) => names::progress(&owner.uid, revision, node_uid, &image.version),
        };
        (name == object.name_any()).then(|| Origin::Controller {
            upgrade: owner.uid.clone(),
            revision,
        })
    };
    claimed().unwrap_or(Origin::HandMade)
}
