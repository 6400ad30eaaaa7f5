//! One upgrade and the nodes that it governs: what is made and released for them, and what is said.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use monok8s_api::{
    OSUpgrade, OSUpgradeProgress, OSUpgradeProgressSpec, REVISION_LABEL, UPGRADE_LABEL,
    condition::Truth,
    govern::{self, Verdict},
    osupgrade::{Download, PREVIOUS, PinnedImage},
    osupgradeprogress::{Release, SourceRef},
    reason::AcceptedReason,
};

use super::{
    Moment, Settings,
    drains::Told,
    halt::Halt,
    notice,
    place::{NodeCase, Place},
    plan::{Amendment, Deletion, Plan, ReadingWanted, StatusWrite, Urgency, Why},
    release::{self, Brakes, ControlPlane},
    standing::{Case, MAX_PINNED, Standing, Step, Target},
    status::{self, Judgement, Rollout, Said},
    tally::Tally,
};
use crate::index::{Node, Progress};

/// Most progresses that one plan makes; the rest follows in the next, so that a fleet's objects do
/// not hold up everything else.
pub const MAX_CREATIONS: usize = 500;
/// When to look whether a stalled progress moves again.
const LOOK_AGAIN_AT_STALLED: Duration = Duration::from_secs(30);

/// One upgrade and the nodes that it governs.
pub(super) struct Judge<'a, 'p> {
    pub(super) settings: &'p Settings,
    pub(super) now: Moment,
    pub(super) case: &'p Case<'a>,
    pub(super) team: &'p [NodeCase<'a>],
    /// How many of its nodes stand where.
    pub(super) tally: &'p Tally,
    /// Whether it stands still.
    pub(super) halt: &'p Halt,
    /// Progresses of this upgrade on nodes that are not, or no longer, its own: their node was
    /// deleted or relabelled, the selector changed, another upgrade took over.
    pub(super) strays: &'p [&'a Progress],
    /// What is told of its nodes that wait for their reboot.
    pub(super) drained: &'p [Told],
    pub(super) control_plane: &'p ControlPlane<'a>,
}

impl<'a> Judge<'a, '_> {
    /// `reached` is how many nodes the selector matches, `rivals` who governs them instead.
    pub(super) fn judge(&self, reached: usize, rivals: &[&Case<'a>], plan: &mut Plan) {
        let verdict = match &self.case.standing {
            Standing::Undecided => {
                self.want_reading(Urgency::Now, plan);
                return;
            }
            Standing::Unavailable(error) => Verdict {
                truth: Truth::Unknown,
                reason: error.reason.clone(),
                message: error.message.clone(),
            },
            Standing::Rejected { reason, message } => Verdict {
                truth: Truth::False,
                reason: reason.clone(),
                message: message.clone(),
            },
            Standing::Open(_) if reached > 0 && self.team.is_empty() => {
                if rivals.iter().any(|r| r.standing == Standing::Undecided) {
                    return;
                }
                superseded(rivals)
            }
            Standing::Open(_) => govern::verdict(self.team.iter().map(|n| {
                let refusal = match &n.place {
                    Place::Refused(refusal) => Some(refusal),
                    _ => None,
                };
                (n.node.name.as_str(), refusal)
            })),
        };
        let judgement = match verdict.truth {
            Truth::True => {
                let (rollout, pinned) = self.roll_out(plan);
                (Judgement::Accepted(rollout), pinned)
            }
            Truth::False | Truth::Unknown => {
                // Whom another governs, no catalog can change.
                if verdict.reason != AcceptedReason::Superseded {
                    self.want_reading(Urgency::Eventually, plan);
                }
                let judgement = Judgement::NotAccepted(verdict);
                (judgement, self.case.recorded_pins().to_vec())
            }
        };
        self.write_status(judgement, plan);
        self.amend_downloads(plan);
    }

    fn write_status(&self, (judgement, pinned): (Judgement, Vec<PinnedImage>), plan: &mut Plan) {
        let status = status::next(
            self.case,
            Said {
                judgement,
                pinned,
                tally: self.tally.clone(),
            },
            self.now.wall,
        );
        let old = self.case.upgrade.status();
        if old != Some(&status) {
            plan.statuses.push(StatusWrite {
                upgrade: self.case.upgrade.object.clone(),
                notices: notice::transitions(&self.case.upgrade.object, &status),
                status,
            });
        }
    }

    /// Adds what is to be made and released for an accepted upgrade, and says how it goes.
    fn roll_out(&self, plan: &mut Plan) -> (Rollout, Vec<PinnedImage>) {
        let spec = &self.case.upgrade.object.spec;
        let max = spec.rollout.max_unavailable_of(self.team.len());
        let brakes = Brakes {
            paused: spec.paused,
            halted: self.halt.is_on(),
        };
        let image_changed = self.halt.image_changed.is_some();
        let pinned = if image_changed {
            // What contradicts a pin must not become one.
            self.case.recorded_pins().to_vec()
        } else {
            self.pins()
        };
        let places = self.strays.iter().filter(|p| p.has_place()).count();
        let gate = release::first_gate(&spec.rollout.drain);
        let releases = release::choose(self.team, places, max, brakes, gate, self.control_plane);
        let makes = self
            .team
            .iter()
            .any(|n| matches!(n.place, Place::Make { .. }));
        let blind = self.team.iter().any(|n| matches!(n.place, Place::Unjudged));
        let fresh = (self.case).has_fresh_catalog(self.now.clock, self.settings.catalog_age);
        if !fresh && (makes || blind || !releases.is_empty() || self.halt.unread) {
            self.want_reading(Urgency::Now, plan);
        } else if image_changed {
            self.want_reading(Urgency::Eventually, plan);
        }
        if fresh && self.is_fixed(&pinned) {
            let releases = releases.into_iter().map(|(progress, release)| Amendment {
                release: Some(release),
                download: self.new_download(progress),
                drain_note: progress.drain_note().map(|_| String::new()),
                ..Amendment::of(progress)
            });
            plan.releases.extend(releases);
            if !image_changed {
                self.make(plan);
            }
        }
        for node in self.team {
            match node.place {
                Place::Obsolete(progress) if !progress.is_being_deleted() => {
                    plan.deletions.push(Deletion::of(progress, Why::Obsolete));
                }
                Place::NameTaken(foreign) => plan.notices.push(notice::name_taken(
                    &self.case.upgrade.object,
                    &node.node.name,
                    &foreign.object,
                )),
                _ => {}
            }
        }
        let rollout = Rollout {
            max_unavailable: max,
            halt: self.halt.clone(),
            paused: spec.paused,
            catalog_trouble: self
                .case
                .upgrade
                .catalog
                .error
                .as_ref()
                .filter(|_| makes || blind || !fresh)
                .map(ToString::to_string),
            stalled: self.stalled(plan),
            drained: self.drained.to_vec(),
            still_cordoned: self.still_cordoned(),
            behind_control_plane: self.behind_control_plane(),
        };
        (rollout, pinned)
    }

    fn want_reading(&self, urgency: Urgency, plan: &mut Plan) {
        if self.case.upgrade.remote_source().is_some() {
            plan.readings.push(ReadingWanted {
                upgrade: self.case.upgrade.name().to_owned(),
                uid: self.case.upgrade.uid().to_owned(),
                urgency,
            });
        }
    }

    /// Whether the status already fixes what is handed out: whoever takes over, even with another
    /// catalog before its eyes, then goes on with the same revision, target and images.
    fn is_fixed(&self, pinned: &[PinnedImage]) -> bool {
        let status = self.case.upgrade.status();
        self.case.recorded
            && status
                .is_some_and(|s| s.pinned == pinned && s.resolved_version == self.case.resolved)
    }

    /// What was pinned before, and what is about to be handed out.
    fn pins(&self) -> Vec<PinnedImage> {
        let mut pins = self.case.recorded_pins().to_vec();
        let mut pin = |version: &str, platform: &str, checksum: &str| {
            let known = pins
                .iter()
                .any(|p| p.version == version && p.platform == platform);
            if !known && pins.len() < MAX_PINNED {
                pins.push(PinnedImage {
                    version: version.to_owned(),
                    platform: platform.to_owned(),
                    checksum: checksum.to_owned(),
                });
            }
        };
        let target = match self.case.target() {
            Some(Target::Version(version)) => Some(version),
            _ => None,
        };
        let catalog = self.case.catalog();
        for node in self.team {
            let (Some(catalog), Ok(facts)) = (catalog, &node.node.facts) else {
                continue;
            };
            let next = match &node.place {
                Place::Make { step, .. } => step.version.parse().ok(),
                _ => None,
            };
            for version in next.iter().chain(target) {
                if let Some(image) = catalog.image_for(version, &facts.platform) {
                    let platform = image.platform.as_deref().unwrap_or_default();
                    pin(&image.version.to_string(), platform, &image.checksum);
                }
            }
        }
        if pins.is_empty() {
            // Nothing to compare images with, but the target stays what it is.
            let version = target.map_or_else(|| PREVIOUS.to_owned(), ToString::to_string);
            pins.push(PinnedImage {
                version,
                platform: String::new(),
                checksum: String::new(),
            });
        }
        pins
    }

    fn make(&self, plan: &mut Plan) {
        for node in self.team {
            let Place::Make { step, name } = &node.place else {
                continue;
            };
            if plan.creations.len() >= MAX_CREATIONS {
                plan.more = true;
                return;
            }
            plan.creations.push(self.progress(node.node, step, name));
        }
    }

    fn progress(&self, node: &Node, step: &Step, name: &str) -> OSUpgradeProgress {
        let upgrade = &self.case.upgrade.object;
        let source = self.case.upgrade.name().to_owned();
        let mut progress = OSUpgradeProgress::new(
            name,
            OSUpgradeProgressSpec {
                source_ref: SourceRef {
                    name: source.clone(),
                },
                node_name: node.name.clone(),
                node_uid: Some(node.uid.clone()),
                operation: upgrade.spec.operation,
                image: Some(step.image.clone()),
                final_version: step.final_version.clone(),
                allow_downgrade: upgrade.spec.allow_downgrade,
                release: Release::Hold,
                cancel: false,
                retry_nonce: String::new(),
                download: upgrade.spec.download.clone(),
                health: upgrade.spec.health.clone(),
            },
        );
        progress.metadata.labels = Some(
            [
                (UPGRADE_LABEL.to_owned(), source.clone()),
                (REVISION_LABEL.to_owned(), self.case.revision.to_string()),
            ]
            .into(),
        );
        progress.metadata.owner_references = Some(vec![OwnerReference {
            api_version: OSUpgrade::api_version(&()).into_owned(),
            kind: OSUpgrade::kind(&()).into_owned(),
            name: source,
            uid: self.case.upgrade.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(false),
        }]);
        progress
    }

    fn new_download(&self, progress: &Progress) -> Option<Download> {
        let wanted = &self.case.upgrade.object.spec.download;
        (progress.object.spec.download != *wanted).then(|| wanted.clone())
    }

    /// Copies changed download settings to what is not over yet.
    fn amend_downloads(&self, plan: &mut Plan) {
        for node in self.team {
            let (Place::Active(progress) | Place::Held(progress)) = node.place else {
                continue;
            };
            let Some(download) = self.new_download(progress) else {
                continue;
            };
            if !plan.releases.iter().any(|r| r.name == progress.name()) {
                plan.amendments.push(Amendment {
                    download: Some(download),
                    ..Amendment::of(progress)
                });
            }
        }
    }

    /// Names of nodes that this system cordoned, whose attempt is over, and that are not Ready: only
    /// when they are, the cordon is undone.
    fn still_cordoned(&self) -> Vec<String> {
        let cordoned = self.team.iter().filter(|n| {
            let over = !matches!(n.place, Place::Active(_)) && n.occupant.is_none();
            over && n.node.cordoned_for.is_some() && !n.node.ready
        });
        cordoned.map(|n| n.node.name.clone()).collect()
    }

    /// A node of the control plane that waits, and for which other one.
    fn behind_control_plane(&self) -> Option<(String, String)> {
        let mut held = self
            .team
            .iter()
            .filter(|n| matches!(n.place, Place::Held(_)) && !n.is_down());
        held.find_map(|n| Some((n.node, self.control_plane.in_the_way_of(n)?)))
            .map(|(node, other)| (node.name.clone(), other.to_owned()))
    }

    /// Names of nodes whose released progress has stood still for too long.
    fn stalled(&self, plan: &mut Plan) -> Vec<String> {
        let mut stalled = Vec::new();
        let active = self.team.iter().filter_map(|node| match node.place {
            Place::Active(progress) => Some(progress),
            _ => None,
        });
        let strays = self.strays.iter().copied().filter(|p| p.has_place());
        // An agent whose image is staged waits for the controller, as long as that sees to the drain: not any more when
        // the Node is gone.
        let waits = |p: &Progress| {
            let in_hand = || self.drained.iter().any(|told| told.node == p.node_name());
            p.awaits_drain() && (p.object.spec.cancel || p.is_being_deleted() || in_hand())
        };
        for progress in active.chain(strays).filter(|p| !waits(p)) {
            let due = progress.moved_at + self.settings.stall_after;
            if due <= self.now.clock {
                stalled.push(progress.node_name().to_owned());
                // Bytes that flow again are no reason to plan.
                let soon = self.now.clock + LOOK_AGAIN_AT_STALLED;
                plan.look_again_at = Some(plan.look_again_at.map_or(soon, |at| at.min(soon)));
            } else {
                plan.look_again_at = Some(plan.look_again_at.map_or(due, |at| at.min(due)));
            }
        }
        stalled
    }
}

fn superseded(rivals: &[&Case<'_>]) -> Verdict {
    let names: Vec<&str> = rivals.iter().map(|r| r.upgrade.name()).collect();
    Verdict {
        truth: Truth::False,
        reason: AcceptedReason::Superseded,
        message: format!(
            "a newer OSUpgrade governs every node that this one selects: {}",
            names.join(", ")
        ),
    }
}
