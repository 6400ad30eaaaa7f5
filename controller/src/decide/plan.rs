//! The whole decision: from the index to what is to be written.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt, core::SelectorExt};
use monok8s_api::{
    OSUpgrade, OSUpgradeProgress, OSUpgradeProgressSpec, OSUpgradeStatus, REVISION_LABEL,
    UPGRADE_LABEL,
    condition::Truth,
    govern::{self, Verdict},
    osupgrade::{Download, PREVIOUS, PinnedImage},
    osupgradeprogress::{Release, SourceRef},
    reason::AcceptedReason,
};

use super::{
    Moment, Settings,
    notice::{self, Notice},
    place::{self, NodeCase, Place},
    release::{self, Brakes},
    standing::{Case, Standing, Step, Target},
    status::{self, Judgement, Rollout, Said, Tally},
};
use crate::index::{Index, Node, Origin, Progress, Upgrade};

/// Most progresses that one plan makes; the rest follows in the next, so that a fleet's objects do
/// not hold up everything else.
pub const MAX_CREATIONS: usize = 500;
/// Finished progresses kept per node and upgrade.
pub const KEPT_FINISHED: usize = 3;
/// Most images that `status.pinned` holds.
pub const MAX_PINNED: usize = 64;

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

/// A node that some upgrade selects, and who governs it.
struct Governed<'a> {
    node: &'a Node,
    /// Which of the cases; none when nobody does.
    by: Option<usize>,
}

/// Plans what is to be done now.
pub fn plan(index: &Index, settings: &Settings, now: Moment) -> Plan {
    let mut plan = Plan::default();
    let mut cases: Vec<Case<'_>> = index
        .upgrades()
        .filter(|u| !u.is_being_deleted())
        .map(Case::new)
        .collect();
    cases.sort_by(|a, b| b.upgrade.seniority.cmp(&a.upgrade.seniority));

    let managed: Vec<&Node> = index.nodes().filter(|n| n.managed).collect();
    let matched: Vec<Vec<usize>> = cases
        .iter()
        .map(|c| matching(c.upgrade, &managed))
        .collect();
    for (case, nodes) in cases.iter_mut().zip(&matched) {
        condemn(
            case,
            nodes.iter().filter_map(|at| managed.get(*at).copied()),
        );
    }

    let mut governed: Vec<Governed<'_>> = managed
        .iter()
        .map(|node| Governed { node, by: None })
        .collect();
    for (at, _) in cases.iter().enumerate().filter(|(_, c)| c.governs()) {
        for node in matched.get(at).into_iter().flatten() {
            if let Some(node) = governed.get_mut(*node) {
                node.by.get_or_insert(at);
            }
        }
    }

    let mut stands: HashMap<&str, usize> = HashMap::with_capacity(governed.len());
    let mut teams: Vec<Vec<NodeCase<'_>>> = cases.iter().map(|_| Vec::new()).collect();
    for node in &governed {
        if let Some((by, case)) = node.by.and_then(|by| Some((by, cases.get(by)?))) {
            stands.insert(&node.node.name, by);
            if let Some(team) = teams.get_mut(by) {
                team.push(place::place(case, node.node, index));
            }
        }
    }

    tidy(&mut plan, index, &cases, &stands);
    for (at, case) in cases.iter().enumerate() {
        let team = teams.get(at).map_or(&[][..], Vec::as_slice);
        let reached = matched.get(at).map_or(&[][..], Vec::as_slice);
        let rivals = if team.is_empty() {
            rivals(reached, &governed, &cases)
        } else {
            Vec::new()
        };
        let judge = Judge {
            settings,
            now,
            case,
            team,
        };
        judge.judge(reached.len(), &rivals, &mut plan);
    }
    plan
}

/// Who governs these nodes.
fn rivals<'c, 'a>(
    reached: &[usize],
    governed: &[Governed<'a>],
    cases: &'c [Case<'a>],
) -> Vec<&'c Case<'a>> {
    let by: BTreeSet<usize> = reached
        .iter()
        .filter_map(|node| governed.get(*node)?.by)
        .collect();
    by.into_iter().filter_map(|at| cases.get(at)).collect()
}

fn matching(upgrade: &Upgrade, nodes: &[&Node]) -> Vec<usize> {
    let Some(selector) = &upgrade.selector else {
        return Vec::new();
    };
    nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| selector.matches(&node.labels))
        .map(|(at, _)| at)
        .collect()
}

/// A fault of the catalog on the path of any node that is matched makes the whole upgrade wrong on
/// its own account. Judged before governance, or the two would chase each other.
fn condemn<'a>(case: &mut Case<'a>, nodes: impl Iterator<Item = &'a Node>) {
    if case.pinned || case.target().is_none() {
        return;
    }
    let fault = nodes
        .into_iter()
        .find_map(|node| case.is_condemned_by(node));
    if let Some((reason, message)) = fault {
        case.standing = Standing::Rejected { reason, message };
    }
}

/// What is to be done about progresses whatever becomes of their upgrade: those that nobody wants
/// any more, those that ended and have to wait for another turn, those that are history.
fn tidy(plan: &mut Plan, index: &Index, cases: &[Case<'_>], stands: &HashMap<&str, usize>) {
    let by_uid: HashMap<&str, usize> = cases
        .iter()
        .enumerate()
        .map(|(at, case)| (case.upgrade.uid(), at))
        .collect();
    let mut finished: HashMap<(&str, &str), Vec<&Progress>> = HashMap::new();
    for progress in index.progresses() {
        let Origin::Controller { upgrade, revision } = &progress.origin else {
            continue;
        };
        // Without its upgrade a progress belongs to the garbage collector.
        let Some((at, case)) = by_uid
            .get(upgrade.as_str())
            .and_then(|at| Some((*at, cases.get(*at)?)))
        else {
            continue;
        };
        if progress.is_being_deleted() {
            continue;
        }
        let node = index.node(progress.node_name());
        let same_node =
            node.is_some_and(|n| progress.object.spec.node_uid.as_deref() == Some(n.uid.as_str()));
        let governor = stands.get(progress.node_name()).copied();
        let wanted = same_node && governor == Some(at) && *revision == case.revision;
        let undecided = case.standing == Standing::Undecided
            || governor
                .and_then(|by| cases.get(by))
                .is_some_and(|by| by.standing == Standing::Undecided);

        if node.is_some() && !same_node && progress.is_over() {
            plan.deletions.push(deletion(progress, Why::NodeReplaced));
        } else if !wanted && !progress.has_begun() {
            if !undecided {
                plan.deletions.push(deletion(progress, Why::Superseded));
            }
        } else if progress.phase().can_retry() && progress.object.spec.release != Release::Hold {
            plan.amendments.push(Amendment {
                release: Some(Release::Hold),
                ..amendment(progress)
            });
        } else if progress.is_over() {
            finished
                .entry((progress.node_name(), upgrade))
                .or_default()
                .push(progress);
        }
    }
    for mut finished in finished.into_values().filter(|f| f.len() > KEPT_FINISHED) {
        finished.sort_by_key(|p| {
            let revision = match p.origin {
                Origin::Controller { revision, .. } => revision,
                Origin::HandMade => 0,
            };
            std::cmp::Reverse((
                revision,
                // What ended badly is what a person may still want to retry.
                p.phase().can_retry(),
                p.object.creation_timestamp(),
                p.name(),
            ))
        });
        let old = finished.into_iter().skip(KEPT_FINISHED);
        plan.deletions
            .extend(old.map(|p| deletion(p, Why::History)));
    }
    plan.deletions.sort_by(|a, b| a.name.cmp(&b.name));
}

fn deletion(progress: &Progress, why: Why) -> Deletion {
    Deletion {
        name: progress.name().to_owned(),
        uid: progress.object.uid().unwrap_or_default(),
        resource_version: progress.object.resource_version().unwrap_or_default(),
        why,
    }
}

fn amendment(progress: &Progress) -> Amendment {
    Amendment {
        name: progress.name().to_owned(),
        uid: progress.object.uid().unwrap_or_default(),
        resource_version: progress.object.resource_version().unwrap_or_default(),
        release: None,
        download: None,
    }
}

/// One upgrade and the nodes that it governs.
struct Judge<'a, 'p> {
    settings: &'p Settings,
    now: Moment,
    case: &'p Case<'a>,
    team: &'p [NodeCase<'a>],
}

impl<'a> Judge<'a, '_> {
    /// `reached` is how many nodes the selector matches, `rivals` who governs them instead.
    fn judge(&self, reached: usize, rivals: &[&Case<'a>], plan: &mut Plan) {
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
                self.want_reading(Urgency::Eventually, plan);
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
                tally: Tally::of(self.team),
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
        let tally = Tally::of(self.team);
        let max = spec.rollout.max_unavailable_of(self.team.len());
        let failures = tally.counts.rolled_back + tally.counts.failed - tally.cancelled;
        let image_changed = self.changed_images();
        let halted = failures > spec.rollout.max_failures;
        let brakes = Brakes {
            paused: spec.paused,
            halted: halted || image_changed.is_some(),
        };
        let pinned = self.pins();
        let releases = release::choose(self.team, max, brakes);
        let makes = self
            .team
            .iter()
            .any(|n| matches!(n.place, Place::Make { .. }));
        let blind = self.team.iter().any(|n| matches!(n.place, Place::Unjudged));
        let fresh = self.has_fresh_catalog();
        if !fresh && (makes || blind || !releases.is_empty()) {
            self.want_reading(Urgency::Now, plan);
        } else if image_changed.is_some() {
            self.want_reading(Urgency::Eventually, plan);
        }
        if fresh && self.is_fixed(&pinned) {
            let releases = releases.into_iter().map(|(progress, release)| Amendment {
                release: Some(release),
                download: self.new_download(progress),
                ..amendment(progress)
            });
            plan.releases.extend(releases);
            if image_changed.is_none() {
                self.make(plan);
            }
        }
        for node in self.team {
            match node.place {
                Place::Obsolete(progress) if !progress.is_being_deleted() => {
                    plan.deletions.push(deletion(progress, Why::Obsolete));
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
            halted,
            paused: spec.paused,
            image_changed,
            catalog_trouble: self
                .case
                .upgrade
                .catalog
                .error
                .as_ref()
                .filter(|_| makes || blind || !fresh)
                .map(ToString::to_string),
            stalled: self.stalled(plan),
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

    fn has_fresh_catalog(&self) -> bool {
        self.case.upgrade.object.spec.catalog.is_none()
            || self
                .case
                .upgrade
                .catalog
                .fresh(self.now.clock, self.settings.catalog_age)
                .is_some()
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

    /// What the catalog now says otherwise about images that were handed out.
    fn changed_images(&self) -> Option<String> {
        let catalog = self.case.catalog()?;
        let changed: Vec<String> = self
            .case
            .recorded_pins()
            .iter()
            .filter(|pin| !pin.checksum.is_empty())
            .filter_map(|pin| {
                let version = pin.version.parse().ok()?;
                let image = catalog
                    .images_of(&version)
                    .iter()
                    .find(|i| i.platform.as_deref().unwrap_or_default() == pin.platform)?;
                (!image.checksum.eq_ignore_ascii_case(&pin.checksum)).then(|| pin.version.clone())
            })
            .collect();
        (!changed.is_empty()).then(|| changed.join(", "))
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
                    ..amendment(progress)
                });
            }
        }
    }

    /// Names of nodes whose released progress has stood still for too long.
    fn stalled(&self, plan: &mut Plan) -> Vec<String> {
        let mut stalled = Vec::new();
        for node in self.team {
            let Place::Active(progress) = node.place else {
                continue;
            };
            let due = progress.moved_at + self.settings.stall_after;
            if due <= self.now.clock {
                stalled.push(node.node.name.clone());
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
