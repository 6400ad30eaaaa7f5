//! What an upgrade's status says.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use monok8s_api::{
    OSUpgradeStatus,
    condition::{self, Truth},
    govern::Verdict,
    osupgrade::{CatalogStatus, NodeFailure, PinnedImage},
    reason::{
        AcceptedReason, CatalogChangedReason, CompletedReason, DegradedReason, ProgressingReason,
        StalledReason, UpgradePhase,
    },
};

use super::{
    drains::Told,
    halt::{Failures, Halt},
    standing::Case,
    tally::Tally,
    words::{cut, listed, nodes},
};

/// What is said of an upgrade.
#[derive(Clone, Debug)]
pub struct Said {
    /// Whether it is accepted, and how its rollout goes.
    pub judgement: Judgement,
    /// Images pinned under this revision.
    pub pinned: Vec<PinnedImage>,
    /// How many nodes stand where.
    pub tally: Tally,
}

/// Whether an upgrade is accepted.
#[derive(Clone, Debug)]
pub enum Judgement {
    /// Rejected or Pending.
    NotAccepted(Verdict),
    /// Accepted.
    Accepted(Rollout),
}

/// How the rollout of an accepted upgrade goes, beside the counts.
#[derive(Clone, Debug, Default)]
pub struct Rollout {
    /// How many nodes may be unavailable at once.
    pub max_unavailable: usize,
    /// Whether it stands still, and why.
    pub halt: Halt,
    /// `spec.paused`.
    pub paused: bool,
    /// Why the catalog, which has to be read before the next hop, cannot be.
    pub catalog_trouble: Option<String>,
    /// Nodes whose progress stands still.
    pub stalled: Vec<String>,
    /// Nodes that are emptied before their reboot, or wait for that.
    pub(super) drained: Vec<Told>,
    /// Nodes whose drain is over and that stay cordoned, because they are not Ready.
    pub still_cordoned: Vec<String>,
    /// A node of the control plane that waits, and the other one that it waits for.
    pub behind_control_plane: Option<(String, String)>,
}

/// The status that an upgrade is to have.
pub fn next(case: &Case<'_>, said: Said, wall: Timestamp) -> OSUpgradeStatus {
    let empty = OSUpgradeStatus::default();
    let old = case.upgrade.status().unwrap_or(&empty);
    let phase = phase(&said);
    let tally = &said.tally;
    let generation = case.upgrade.object.metadata.generation;
    let mut conditions = Conditions {
        old: &old.conditions,
        generation,
        wall,
        new: Vec::new(),
    };
    conditions.accepted(&said, case);
    let progressing = conditions.progressing(&said, &phase);
    conditions.completed(&phase, tally);
    conditions.degraded(tally);
    if let Judgement::Accepted(rollout) = &said.judgement {
        conditions.stalled(rollout);
    }
    let catalog = catalog(case, old, wall);
    conditions.catalog_changed(case, catalog.as_ref());

    let message = match &said.judgement {
        Judgement::NotAccepted(verdict) => cut(&verdict.message),
        Judgement::Accepted(_) => progressing.unwrap_or_default(),
    };
    OSUpgradeStatus {
        observed_generation: generation,
        revision: Some(case.revision),
        revision_digest: Some(case.upgrade.digest.clone()),
        phase,
        resolved_version: case.resolved.clone(),
        catalog,
        summary: Some(format!(
            "{}/{}",
            tally.counts.completed, tally.counts.selected
        )),
        nodes: Some(tally.counts.clone()),
        failures: tally.failures.iter().map(bounded).collect(),
        pinned: said.pinned,
        message,
        conditions: conditions.new,
    }
}

/// A failure at the length that a status may have. An agent's reason is a word; nothing but its agent
/// keeps it from being a text that no upgrade's status has room for.
fn bounded(failure: &NodeFailure) -> NodeFailure {
    NodeFailure {
        reason: cut(&failure.reason),
        ..failure.clone()
    }
}

fn phase(said: &Said) -> UpgradePhase {
    let rollout = match &said.judgement {
        Judgement::NotAccepted(verdict) if verdict.truth == Truth::False => {
            return UpgradePhase::Rejected;
        }
        Judgement::NotAccepted(_) => return UpgradePhase::Pending,
        Judgement::Accepted(rollout) => rollout,
    };
    let tally = &said.tally;
    let remaining = tally.remaining();
    if tally.moving > 0 {
        UpgradePhase::Accepted
    } else if tally.failed() > 0 && (remaining == 0 || rollout.halt.failures.is_some()) {
        UpgradePhase::Failed
    } else if remaining == 0 && tally.cancelled == 0 {
        UpgradePhase::Completed
    } else {
        UpgradePhase::Accepted
    }
}

/// The catalog that the target was resolved with: fixed as long as the target is.
fn catalog(case: &Case<'_>, old: &OSUpgradeStatus, wall: Timestamp) -> Option<CatalogStatus> {
    if case.pinned {
        return old.catalog.clone();
    }
    let good = case.good_catalog()?;
    let known = old.catalog.clone().filter(|c| c.digest == good.digest);
    Some(known.unwrap_or_else(|| CatalogStatus {
        digest: good.digest.clone(),
        fetched_at: Some(Time::from(good.first_read.unwrap_or(wall))),
    }))
}

struct Conditions<'o> {
    old: &'o [Condition],
    generation: Option<i64>,
    wall: Timestamp,
    new: Vec<Condition>,
}

impl Conditions<'_> {
    fn set(&mut self, type_: &str, truth: Truth, reason: &str, message: &str) {
        self.new.push(condition::next(
            self.old,
            type_,
            truth,
            reason,
            cut(message),
            self.generation,
            self.wall,
        ));
    }

    fn accepted(&mut self, said: &Said, case: &Case<'_>) {
        match &said.judgement {
            Judgement::NotAccepted(verdict) => self.set(
                "Accepted",
                verdict.truth,
                verdict.reason.as_str(),
                &verdict.message,
            ),
            Judgement::Accepted(_) => {
                let wanted = &case.upgrade.object.spec.version;
                let message = match &case.resolved {
                    Some(version) => format!("{wanted} is {version}"),
                    None => "the system in each node's other slot".to_owned(),
                };
                let reason = AcceptedReason::Resolved;
                self.set("Accepted", Truth::True, reason.as_str(), &message);
            }
        }
    }

    /// Absent unless accepted: before that there is no progress to speak of. Gives its message.
    fn progressing(&mut self, said: &Said, phase: &UpgradePhase) -> Option<String> {
        let Judgement::Accepted(rollout) = &said.judgement else {
            return None;
        };
        let (reason, message) = progressing(rollout, &said.tally, phase);
        let truth = match reason {
            ProgressingReason::Releasing | ProgressingReason::Draining => Truth::True,
            _ => Truth::False,
        };
        let message = cut(&message);
        self.set("Progressing", truth, reason.as_str(), &message);
        Some(message)
    }

    fn completed(&mut self, phase: &UpgradePhase, tally: &Tally) {
        let counts = &tally.counts;
        let (truth, reason, message) = match phase {
            UpgradePhase::Completed => (
                Truth::True,
                CompletedReason::AllNodesDone,
                done_message(tally),
            ),
            UpgradePhase::Failed => (
                Truth::False,
                CompletedReason::NodesFailed,
                format!("{} did not make it", nodes(tally.failed())),
            ),
            _ => (
                Truth::False,
                CompletedReason::NodesRemaining,
                format!("{} of {} done", counts.completed, nodes(counts.selected)),
            ),
        };
        self.set("Completed", truth, reason.as_str(), &message);
    }

    fn degraded(&mut self, tally: &Tally) {
        let failed = tally.counts.failed;
        let (truth, reason, message) = if failed > 0 {
            let message = format!("{} failed; see status.failures", nodes(failed));
            (Truth::True, DegradedReason::NodesFailed, message)
        } else if tally.counts.rolled_back > 0 {
            let message = format!(
                "{} fell back to the old system; see status.failures",
                nodes(tally.counts.rolled_back)
            );
            (Truth::True, DegradedReason::NodesRolledBack, message)
        } else if !tally.drifted.is_empty() {
            let message = format!(
                "{} had completed and now run another version: an upgrade acts once per node and \
                 revision, so change its spec or make another to bring them back",
                listed(&tally.drifted)
            );
            (Truth::True, DegradedReason::Drifted, message)
        } else {
            (Truth::False, DegradedReason::AsExpected, String::new())
        };
        self.set("Degraded", truth, reason.as_str(), &message);
    }

    fn stalled(&mut self, rollout: &Rollout) {
        if !rollout.stalled.is_empty() {
            let message = format!(
                "{} released long ago and not moving: check the node and its node-agent pod; \
                 the place stays taken until the progress ends or is deleted",
                listed(&rollout.stalled)
            );
            let reason = StalledReason::NoMovement;
            self.set("Stalled", Truth::True, reason.as_str(), &message);
        }
    }

    fn catalog_changed(&mut self, case: &Case<'_>, pinned: Option<&CatalogStatus>) {
        if !case.pinned {
            return;
        }
        let Some(good) = case.good_catalog() else {
            // Not read since this process began: what was known still holds.
            let known = condition::find(self.old, "CatalogChanged").cloned();
            self.new.extend(known);
            return;
        };
        if pinned.is_some_and(|c| c.digest != good.digest) {
            let message = format!(
                "the catalog is another one now ({}) than this revision was resolved with; the \
                 target stays what it is until the spec changes",
                good.digest
            );
            let reason = CatalogChangedReason::AnotherDigest;
            self.set("CatalogChanged", Truth::True, reason.as_str(), &message);
        }
    }
}

/// Reason and message of the Progressing condition of an accepted upgrade.
fn progressing(
    rollout: &Rollout,
    tally: &Tally,
    phase: &UpgradePhase,
) -> (ProgressingReason, String) {
    let (reason, mut message) = pace(rollout, tally, phase);
    let mut drained: Vec<&Told> = rollout.drained.iter().collect();
    drained.sort_by_key(|told| (!told.blocked, !told.begun));
    let words: Vec<String> = drained.iter().map(|told| told.words.clone()).collect();
    if !words.is_empty() {
        message.push_str("; ");
        message.push_str(&listed(&words));
    }
    if !rollout.still_cordoned.is_empty() {
        message.push_str("; not Ready since the upgrade, and cordoned until then: ");
        message.push_str(&listed(&rollout.still_cordoned));
    }
    (reason, message)
}

/// The same without what is told of nodes that are drained.
fn pace(rollout: &Rollout, tally: &Tally, phase: &UpgradePhase) -> (ProgressingReason, String) {
    let remaining = tally.remaining();
    let in_all = format!(
        "{} of {} done",
        tally.counts.completed,
        nodes(tally.counts.selected)
    );
    if remaining > 0 {
        if let Some(versions) = &rollout.halt.image_changed {
            let message = format!(
                "{in_all}; nothing more is released: the catalog shows another checksum for \
                 {versions} than was handed out; put the old one back, or change the spec for a \
                 new revision"
            );
            return (ProgressingReason::ImageChanged, message);
        }
        if let Some(Failures { failed, .. }) = rollout.halt.failures {
            let message = format!(
                "{in_all}; nothing more is released: {} failed, which is more than \
                 rollout.maxFailures; retry them (spec.retryNonce of the progresses in \
                 status.failures) or change the spec",
                nodes(failed)
            );
            return (ProgressingReason::TooManyFailures, message);
        }
    }
    if rollout.drained.iter().any(|told| told.begun) {
        let message = releasing(rollout, tally, in_all);
        return (ProgressingReason::Draining, message);
    }
    if remaining > 0 {
        if rollout.paused {
            let message = format!("{in_all}; spec.paused holds {remaining} back");
            return (ProgressingReason::Paused, message);
        }
        if tally.occupied.len() == remaining && tally.moving == 0 {
            let occupied: Vec<String> = tally
                .occupied
                .iter()
                .map(|(node, progress)| format!("{node} by {progress}"))
                .collect();
            let message = format!(
                "{in_all}; the rest is still occupied by other progresses: {}",
                listed(&occupied)
            );
            return (ProgressingReason::WaitingForOtherUpgrade, message);
        }
    }
    match phase {
        UpgradePhase::Completed => (ProgressingReason::Done, done_message(tally)),
        UpgradePhase::Failed => {
            let message = format!(
                "{in_all}, {} did not make it; set another spec.retryNonce on the progresses in \
                 status.failures to try again",
                nodes(tally.failed())
            );
            (ProgressingReason::Done, message)
        }
        _ if remaining == 0 && tally.moving == 0 => {
            let message = format!(
                "{in_all}, {} cancelled; set another spec.retryNonce on the progresses in \
                 status.failures to take them up again",
                nodes(tally.cancelled)
            );
            (ProgressingReason::Done, message)
        }
        _ => (
            ProgressingReason::Releasing,
            releasing(rollout, tally, in_all),
        ),
    }
}

/// How a rollout goes, and what the next node waits for.
fn releasing(rollout: &Rollout, tally: &Tally, in_all: String) -> String {
    let mut parts = vec![in_all];
    if !tally.under_way.is_empty() {
        let under_way: Vec<String> = tally
            .under_way
            .iter()
            .map(|(node, phase)| format!("{node} ({phase})"))
            .collect();
        parts.push(format!("under way: {}", listed(&under_way)));
    }
    if let Some(trouble) = &rollout.catalog_trouble {
        parts.push(format!(
            "the next hop waits for the catalog, which is read again before it: {trouble}"
        ));
    } else if tally.remaining() > 0 {
        if !tally.not_ready.is_empty() {
            parts.push(format!(
                "not Ready, and counted against rollout.maxUnavailable ({}): {}",
                rollout.max_unavailable,
                listed(&tally.not_ready)
            ));
        }
        if !tally.name_taken.is_empty() {
            parts.push(format!(
                "a foreign object holds the name of the progress of {}; see the Events",
                listed(&tally.name_taken)
            ));
        }
        if let Some((node, other)) = &rollout.behind_control_plane {
            parts.push(format!(
                "{node} waits for {other}: nodes of the control plane go one at a time, and only \
                 while the others are Ready"
            ));
        }
        if rollout.paused {
            parts.push(format!("spec.paused holds {} back", tally.remaining()));
        } else if tally.moving >= rollout.max_unavailable {
            parts.push(format!(
                "{} for a place (rollout.maxUnavailable is {})",
                waiting(tally.remaining()),
                rollout.max_unavailable
            ));
        }
    }
    parts.join("; ")
}

fn done_message(tally: &Tally) -> String {
    let mut message = format!("{} done", nodes(tally.counts.completed));
    if tally.counts.refused > 0 {
        message.push_str(", ");
        message.push_str(&tally.counts.refused.to_string());
        message.push_str(" refused (see status.failures)");
    }
    message
}

fn waiting(count: usize) -> String {
    match count {
        1 => "1 waits".to_owned(),
        n => format!("{n} wait"),
    }
}
