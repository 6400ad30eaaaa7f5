//! What can be said of an upgrade before governance: its revision, its target, and whether it is
//! wrong on its own account.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use monok8s_api::{
    Version,
    catalog::Catalog,
    condition,
    govern::NodeRefusal,
    osupgrade::{Operation, PREVIOUS, PinnedImage},
    osupgradeprogress::ImageRef,
    reason::{AcceptedReason, ProgressingReason, UpgradePhase},
    resolve::{self, NodeFacts},
};

use crate::index::{GoodCatalog, Node, Progress, ReadError, Upgrade, revision};

/// Most images that `status.pinned` holds.
pub const MAX_PINNED: usize = 64;

/// Where an upgrade leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this version.
    Version(Version),
    /// To whatever the node's other slot holds.
    Previous,
}

/// What can be said of an upgrade before its nodes are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its catalog has not been read since this process began: nothing is said and nothing done.
    Undecided,
    /// Its catalog cannot be read: Pending.
    Unavailable(ReadError),
    /// Wrong as written, whatever the nodes: Rejected, and it governs nothing.
    Rejected {
        /// Reason of the Accepted condition.
        reason: AcceptedReason,
        /// The same in words.
        message: String,
    },
    /// It names a target.
    Open(Target),
}

/// One installation, or one boot of the other slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The version, with a leading v, or `previous`.
    pub version: String,
    /// What the progress is to carry.
    pub image: ImageRef,
    /// The version of the last step, when this is not the last.
    pub final_version: Option<String>,
}

/// The way of one node, or why it does not go.
pub type Way = Result<Rc<[Step]>, NodeRefusal>;

/// An upgrade under judgement.
#[derive(Debug)]
pub struct Case<'a> {
    /// The upgrade.
    pub upgrade: &'a Upgrade,
    /// Its revision as of now.
    pub revision: i64,
    /// Whether its status knows that revision.
    pub recorded: bool,
    /// What can be said of it.
    pub standing: Standing,
    /// What `status.resolvedVersion` is to show.
    pub resolved: Option<String>,
    /// Whether its target was fixed when it was first accepted under this revision.
    pub pinned: bool,
    /// What the catalog says against the pinned target by now.
    withdrawn: Option<(AcceptedReason, String)>,
    /// Ways found so far: all nodes of one version and platform have the same.
    ways: RefCell<BTreeMap<(&'a Version, &'a str), Way>>,
}

impl<'a> Case<'a> {
    /// Judges an upgrade by its spec, its catalog and what was pinned.
    pub fn new(upgrade: &'a Upgrade) -> Self {
        let (revision, recorded) = revision::current(&upgrade.object, &upgrade.digest);
        let spec = &upgrade.object.spec;
        let explicit = spec.version.parse::<Version>().ok();
        let mut case = Self {
            upgrade,
            revision,
            recorded,
            standing: Standing::Undecided,
            resolved: explicit.as_ref().map(ToString::to_string),
            pinned: false,
            withdrawn: None,
            ways: RefCell::default(),
        };
        match spec.operation {
            Operation::Rollback => case.judge_rollback(explicit),
            Operation::Upgrade => case.judge_upgrade(),
        }
        case
    }

    fn judge_rollback(&mut self, explicit: Option<Version>) {
        self.pinned = !self.recorded_pins().is_empty();
        self.standing = match explicit {
            Some(version) => Standing::Open(Target::Version(version)),
            None if self.upgrade.object.spec.version == PREVIOUS => {
                Standing::Open(Target::Previous)
            }
            None => Standing::Rejected {
                reason: AcceptedReason::InvalidVersion,
                message: "spec.version of a Rollback is a version such as v1.35.1, or previous"
                    .to_owned(),
            },
        };
    }

    fn judge_upgrade(&mut self) {
        let requested = &self.upgrade.object.spec.version;
        let status = self.upgrade.status();
        let pinned = status
            .filter(|s| self.recorded && !s.pinned.is_empty())
            .and_then(|s| s.resolved_version.as_deref()?.parse::<Version>().ok());
        let catalog = &self.upgrade.catalog;
        if let Some(target) = pinned {
            self.pinned = true;
            self.withdrawn = self.catalog().and_then(|catalog| {
                let refusal = resolve::target(catalog, &target.to_string()).err()?;
                Some((refusal.reason(), refusal.message()))
            });
            self.resolved = Some(target.to_string());
            self.standing = Standing::Open(Target::Version(target));
            return;
        }
        self.standing = match (&catalog.good, &catalog.error) {
            (None, None) => Standing::Undecided,
            // A reading that failed changes nothing: neither what was read before, nor a verdict
            // that an earlier controller gave on what it had read.
            (None, Some(error)) if !error.reason.on_own_account() && self.was_rejected() => {
                Standing::Undecided
            }
            (_, Some(error)) if error.reason.on_own_account() => Standing::Rejected {
                reason: error.reason.clone(),
                message: error.message.clone(),
            },
            (None, Some(error)) => Standing::Unavailable(error.clone()),
            (Some(good), _) => match resolve::target(&good.catalog, requested) {
                Ok(target) => {
                    self.resolved = Some(target.to_string());
                    Standing::Open(Target::Version(target))
                }
                Err(refusal) => {
                    if let Some(named) = refusal.resolved_version() {
                        self.resolved = Some(named.to_string());
                    }
                    Standing::Rejected {
                        reason: refusal.reason(),
                        message: refusal.message(),
                    }
                }
            },
        };
    }

    /// Images pinned under the current revision.
    pub fn recorded_pins(&self) -> &'a [PinnedImage] {
        self.upgrade
            .status()
            .filter(|_| self.recorded)
            .map_or(&[], |s| &s.pinned)
    }

    /// The catalog that was read last, fresh or not.
    pub fn catalog(&self) -> Option<&'a Catalog> {
        self.good_catalog().map(|good| good.catalog.as_ref())
    }

    /// The same, with when it was read.
    pub fn good_catalog(&self) -> Option<&'a GoodCatalog> {
        self.upgrade.catalog.good.as_ref()
    }

    /// Whether its catalog, if it has one, was found to be current within `age` before `clock`.
    pub(super) fn has_fresh_catalog(&self, clock: Duration, age: Duration) -> bool {
        self.upgrade.object.spec.catalog.is_none()
            || self.upgrade.catalog.fresh(clock, age).is_some()
    }

    /// Whether the status tells of this revision that an image is another one than was handed out.
    pub(super) fn is_image_told_changed(&self) -> bool {
        let status = self.upgrade.status().filter(|_| self.recorded);
        status
            .and_then(|status| condition::find(&status.conditions, "Progressing"))
            .is_some_and(|c| c.reason == ProgressingReason::ImageChanged.as_str())
    }

    /// Whether the status tells that this very spec was found wrong on its own account.
    fn was_rejected(&self) -> bool {
        self.upgrade.status().is_some_and(|status| {
            status.phase == UpgradePhase::Rejected
                && status.observed_generation == self.upgrade.object.metadata.generation
                && condition::find(&status.conditions, "Accepted")
                    .is_some_and(|c| AcceptedReason::from(c.reason.as_str()).on_own_account())
        })
    }

    /// Where it leads, once that is known.
    pub fn target(&self) -> Option<&Target> {
        match &self.standing {
            Standing::Open(target) => Some(target),
            _ => None,
        }
    }

    /// Whether it governs the nodes that it matches: unless it is wrong on its own account.
    pub fn governs(&self) -> bool {
        match self.standing {
            Standing::Rejected { .. } => false,
            Standing::Open(_) | Standing::Unavailable(_) => true,
            // Until its catalog is read again the last verdict on the same spec stands.
            Standing::Undecided => !self.was_rejected(),
        }
    }

    /// Whether a node with these facts runs the target already.
    pub fn is_there(&self, facts: &NodeFacts) -> bool {
        matches!(self.target(), Some(Target::Version(v)) if *v == facts.version)
    }

    /// The way of one node; none while that cannot be told for want of a catalog.
    pub fn way(&self, node: &'a Node) -> Option<Way> {
        let facts = match &node.facts {
            Ok(facts) => facts,
            Err(why) => return Some(Err(why.clone().into())),
        };
        let target = self.target()?;
        if self.upgrade.object.spec.operation == Operation::Rollback {
            return Some(Ok(rollback(target, facts)));
        }
        let key = (&facts.version, facts.platform.as_str());
        if let Some(known) = self.ways.borrow().get(&key) {
            return Some(known.clone());
        }
        let way = self.find_way(target, facts)?;
        self.ways.borrow_mut().insert(key, way.clone());
        Some(way)
    }

    fn find_way(&self, target: &Target, facts: &NodeFacts) -> Option<Way> {
        let Target::Version(target) = target else {
            return None;
        };
        if facts.version == *target {
            return Some(Ok(Rc::from([])));
        }
        let catalog = self.catalog()?;
        if let Some((reason, message)) = &self.withdrawn {
            return Some(Err(NodeRefusal::Withdrawn {
                reason: reason.clone(),
                message: message.clone(),
            }));
        }
        let allow_downgrade = self.upgrade.object.spec.allow_downgrade;
        let hops = match resolve::path(catalog, target, facts, allow_downgrade) {
            Ok(hops) => hops,
            // What was accepted once is not condemned by a later catalog; its nodes refuse.
            Err(refusal) if self.pinned && refusal.condemns_upgrade() => {
                return Some(Err(NodeRefusal::Withdrawn {
                    reason: refusal.reason(),
                    message: refusal.to_string(),
                }));
            }
            Err(refusal) => return Some(Err(refusal.into())),
        };
        let last = hops.last().map(|hop| hop.version.to_string());
        let count = hops.len();
        let steps = hops.into_iter().enumerate().map(|(at, hop)| Step {
            version: hop.version.to_string(),
            image: hop.image,
            final_version: last.clone().filter(|_| at + 1 < count),
        });
        Some(Ok(steps.collect()))
    }

    /// Whether the catalog would still take a node of these facts to that version in one step.
    pub fn allows_step(&self, version: &Version, facts: &NodeFacts) -> bool {
        let allow_downgrade = self.upgrade.object.spec.allow_downgrade;
        self.catalog().is_some_and(|catalog| {
            resolve::path(catalog, version, facts, allow_downgrade)
                .is_ok_and(|hops| hops.len() == 1)
        })
    }

    /// Whether a progress under a name of ours carries what was handed out under it. Whoever makes
    /// an object of the same name can put any image into it.
    pub fn handed_out(&self, progress: &Progress) -> bool {
        let spec = &self.upgrade.object.spec;
        let Some(image) = &progress.object.spec.image else {
            return false;
        };
        if progress.object.spec.operation != spec.operation {
            return false;
        }
        if spec.operation == Operation::Rollback {
            return image.url.is_none() && image.checksum.is_none();
        }
        let pins = self.recorded_pins();
        if pins.len() >= MAX_PINNED {
            // Not everything that was handed out is written down any more.
            return true;
        }
        pins.iter().any(|pin| {
            pin.version == image.version
                && image
                    .checksum
                    .as_ref()
                    .is_some_and(|c| c.eq_ignore_ascii_case(&pin.checksum))
        })
    }

    /// Whether the catalog is at fault on the path of this node.
    pub fn is_condemned_by(&self, node: &'a Node) -> Option<(AcceptedReason, String)> {
        if self.pinned {
            return None;
        }
        match self.way(node)? {
            Err(NodeRefusal::Policy(refusal)) if refusal.condemns_upgrade() => {
                let message = format!("{refusal} (on the path of {})", node.name);
                Some((refusal.reason(), message))
            }
            _ => None,
        }
    }
}

fn rollback(target: &Target, facts: &NodeFacts) -> Rc<[Step]> {
    let version = match target {
        Target::Version(version) if *version == facts.version => return Rc::from([]),
        Target::Version(version) => version.to_string(),
        Target::Previous => PREVIOUS.to_owned(),
    };
    let image = ImageRef {
        version: version.clone(),
        ..ImageRef::default()
    };
    Rc::from([Step {
        version,
        image,
        final_version: None,
    }])
}
