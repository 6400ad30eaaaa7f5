//! The decision: from the record, the objects, and the machine to the one next action.
//!
//! Pure. Everything that an attempt may or may not do is here, and the table in docs/state-table.md is generated
//! from the rows that the tests walk (`state_table`).
//!
//! The order of the questions matters: an attempt that has switched the boot order is finished from the record
//! alone; one that has not obeys its object; what has ended is reported; only then is the next progress looked at.

use k8s_openapi::jiff::Timestamp;
use monok8s_api::{
    osupgrade::Operation,
    osupgradeprogress::Release,
    reason::{FailureReason, ProgressPhase},
};
use monok8s_boot::SlotName;

use crate::record::{Attempt, Plan, Record, Step, Trouble};

/// Everything a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The record, or why there is none that may be acted on.
    pub record: Result<&'a Record, &'a Trouble>,
    /// What the API server has said of this node's progresses.
    pub view: &'a View,
    /// The view's entry of the attempt under way was read from the API server for this very decision.
    pub fresh: bool,
    /// What runs.
    pub machine: &'a Machine,
    /// The reboot that this process has asked for.
    pub reboot: RebootWatch,
}

/// What the API server has said of this node's progresses.
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// Nothing yet since this process started.
    Away,
    /// All of them, as of the last answer.
    Listed(Vec<Progress>),
}

impl View {
    /// One progress.
    pub fn find(&self, uid: &str) -> Option<&Progress> {
        match self {
            Self::Away => None,
            Self::Listed(all) => all.iter().find(|p| p.uid == uid),
        }
    }
}

/// What a decision needs to know of one OSUpgradeProgress.
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are the object's fields, independent of each other"
)]
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// metadata.name
    pub name: String,
    /// metadata.uid
    pub uid: String,
    /// metadata.creationTimestamp, the API server's.
    pub created: Option<Timestamp>,
    /// It carries a deletion timestamp.
    pub deleted: bool,
    /// An OSUpgrade is its controller: the agent accepts a nonce under Hold only.
    pub owned: bool,
    /// spec.nodeUID
    pub node_uid: Option<String>,
    /// spec.operation
    pub operation: Operation,
    /// spec.health.checks has any.
    pub checks: bool,
    /// spec.release
    pub release: Release,
    /// spec.cancel
    pub cancel: bool,
    /// spec.retryNonce
    pub nonce: String,
    /// status.phase
    pub phase: ProgressPhase,
    /// status.attempt
    pub attempt: i32,
    /// status.retryCount
    pub retry_count: i32,
    /// status.observedRetryNonce
    pub observed_nonce: String,
    /// status.failureReason
    pub failure_reason: String,
    /// status.message
    pub message: String,
}

impl Progress {
    /// Whether the nonce says something that neither the status nor the record has seen. An empty one says nothing.
    fn has_new_nonce(&self, attempt: Option<&Attempt>) -> bool {
        !self.nonce.is_empty()
            && self.nonce != self.observed_nonce
            && attempt.is_none_or(|a| a.observed_nonce != self.nonce)
    }
}

/// What runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The kernel's ID of this boot.
    pub boot_id: String,
    /// UID of the Node that this machine is; `None` while the API server has not said.
    pub node_uid: Option<String>,
    /// Slots and boot loader, or why they cannot be told.
    pub system: Result<System, Trouble>,
}

/// The running system.
#[derive(Clone, Debug, PartialEq)]
pub struct System {
    /// The slot it runs from.
    pub active: SlotName,
    /// Its version as written in its os-release; empty when that has none.
    pub version: String,
    /// The slot that the boot loader starts unless told otherwise: the one it names when that is bootable, else the
    /// other one. `None` when it starts neither, or does not say.
    pub default: Option<SlotName>,
    /// The boot loader names the running slot as its default and takes it for bootable, so that it is what every
    /// fallback finds.
    pub settled: bool,
    /// The boot loader said that this boot is no trial: it started the running slot as its default, as the fallback for
    /// a default that it could not start, or for a person.
    pub no_trial: bool,
    /// The slot that it starts once, next time.
    pub trial: Option<SlotName>,
}

/// A reboot that this process has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebootWatch {
    /// None.
    NotAsked,
    /// It should come any moment.
    Asked,
    /// It was refused, or the system has gone on running for longer than it may.
    Overdue,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing, until something changes.
    Wait(For),
    /// Choose image and slot, and record the plan.
    Begin {
        /// Whose turn it is.
        uid: String,
    },
    /// First gate: the API server has to accept the attempt's first status.
    Announce {
        /// The progress.
        uid: String,
    },
    /// Undo a Begin of which nobody has heard.
    Requeue {
        /// The progress.
        uid: String,
    },
    /// Mark the target not bootable, write it, prove it, look inside.
    Write {
        /// The progress.
        uid: String,
    },
    /// Second gate: read the object from the API server.
    ReadFresh {
        /// The progress.
        uid: String,
    },
    /// Switch the boot order for one trial boot.
    Switch {
        /// The progress.
        uid: String,
    },
    /// Ask for the reboot.
    Reboot {
        /// The progress.
        uid: String,
    },
    /// Make the switch permanent: Completed.
    Confirm {
        /// The progress.
        uid: String,
    },
    /// The new slot runs but is not kept: mark it bad, then reboot.
    RejectTrial {
        /// The progress.
        uid: String,
        /// Why.
        trouble: Trouble,
    },
    /// The attempt is over.
    End(Ending),
    /// Tell the API server how an attempt ended, or that it is queued.
    Report {
        /// The progress.
        uid: String,
    },
    /// The object is gone: tell how it ended by OSNode and an Event.
    ReportLost {
        /// The progress.
        uid: String,
    },
    /// The object is gone and there is nothing to tell, or it knows of a later attempt.
    Forget {
        /// The progress.
        uid: String,
    },
    /// A changed nonce starts the next attempt.
    AcceptNonce {
        /// The progress.
        uid: String,
    },
    /// A changed nonce is noted and has no effect.
    ObserveNonce {
        /// The progress.
        uid: String,
    },
    /// Without a usable record: write the status, keep nothing.
    Tell {
        /// The progress.
        uid: String,
        /// The phase to write: Failed, Cancelled, or Pending after a nonce.
        phase: ProgressPhase,
        /// Why the record cannot be used.
        trouble: Option<Trouble>,
    },
}

/// How and why an attempt ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// The progress.
    pub uid: String,
    /// `Completed`, `Failed`, `RolledBack` or Cancelled.
    pub phase: ProgressPhase,
    /// Failure reason; empty when there is none.
    pub reason: String,
    /// What people read.
    pub message: String,
    /// The slot to mark bad.
    pub spoil: Option<SlotName>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// A progress whose turn it is.
    Work,
    /// An answer of the API server.
    ApiServer,
    /// The UID of the Node that this machine is, which the progress names.
    NodeUid,
    /// `release: Reboot`.
    Release,
    /// The reboot that was asked for.
    Reboot,
    /// The disk with the record.
    Disk,
}

/// Decides.
pub fn next(inputs: &Inputs<'_>) -> Action {
    let record = match inputs.record {
        Ok(record) => record,
        Err(trouble) => return without_record(inputs, trouble),
    };
    if let Some(attempt) = record.under_way()
        && let Some(plan) = &attempt.plan
    {
        return match switch_state(attempt, plan, inputs.machine) {
            SwitchState::Not => before_switch(attempt, plan, inputs),
            SwitchState::SameBoot => same_boot(attempt, plan, inputs),
            SwitchState::LaterBoot => later_boot(attempt, plan, inputs),
        };
    }
    let View::Listed(progresses) = inputs.view else {
        return Action::Wait(For::ApiServer);
    };
    if let Some(action) = record
        .attempts
        .iter()
        .filter(|a| !a.reported)
        .map(|a| report(a, inputs.view))
        .next()
    {
        return action;
    }
    if let Some(gone) = record
        .attempts
        .iter()
        .find(|a| a.step() == Step::Queued && inputs.view.find(&a.uid).is_none())
    {
        let uid = gone.uid.clone();
        return Action::Forget { uid };
    }
    in_turn(progresses)
        .into_iter()
        .find_map(|p| turn(p, record.attempt(&p.uid), inputs.machine))
        .unwrap_or(Action::Wait(For::Work))
}

/// The order in which progresses have their turn: one that has begun, then the oldest, then by name.
fn in_turn(progresses: &[Progress]) -> Vec<&Progress> {
    let mut all: Vec<_> = progresses.iter().filter(|p| !p.deleted).collect();
    all.sort_by_key(|p| {
        let begun = p.phase != ProgressPhase::Pending && !p.phase.is_terminal();
        (!begun, p.created, &p.name)
    });
    all
}

/// What an entry that the API server does not know of yet asks for.
fn report(attempt: &Attempt, view: &View) -> Action {
    let uid = attempt.uid.clone();
    match (view.find(&uid), attempt.step()) {
        (Some(_), _) => Action::Report { uid },
        (None, Step::Ended) => Action::ReportLost { uid },
        (None, _) => Action::Forget { uid },
    }
}

/// What one progress asks for while nothing is under way.
fn turn(p: &Progress, attempt: Option<&Attempt>, machine: &Machine) -> Option<Action> {
    let uid = p.uid.clone();
    // Told while the record could not be written: then the object knows of a later attempt.
    let attempt = attempt.filter(|a| p.attempt <= a.number);
    let ended = match attempt {
        Some(a) => a.end.as_ref().map(|end| &end.phase),
        None => p.phase.is_terminal().then_some(&p.phase),
    };
    if let Some(phase) = ended {
        return after_end(p, attempt, phase);
    }
    if attempt.is_none() && p.phase != ProgressPhase::Pending {
        return Some(Action::End(failed(p, state_lost(p))));
    }
    if attempt.is_some() && p.phase != ProgressPhase::Pending {
        // Queued by the record, something else by the object: an answer that was lost.
        return Some(Action::Report { uid });
    }
    if p.cancel {
        return Some(Action::End(cancelled(p, "cancelled before it began")));
    }
    if p.release == Release::Hold {
        return None;
    }
    if is_of_unknown_node(p, machine) {
        return Some(Action::Wait(For::NodeUid));
    }
    match refusal(p, machine) {
        Some(trouble) => Some(Action::End(failed(p, trouble))),
        None => Some(Action::Begin { uid }),
    }
}

/// What a progress asks for whose attempt is over.
fn after_end(p: &Progress, attempt: Option<&Attempt>, phase: &ProgressPhase) -> Option<Action> {
    let uid = p.uid.clone();
    if p.has_new_nonce(attempt) {
        return match (phase.can_retry(), attempt) {
            // The controller sets its own back to Hold first: a retry waits for its turn.
            (true, _) if p.owned && p.release != Release::Hold => None,
            (true, _) => Some(Action::AcceptNonce { uid }),
            (false, Some(_)) => Some(Action::ObserveNonce { uid }),
            (false, None) => None,
        };
    }
    let differs = attempt.is_some() && p.phase != *phase;
    differs.then_some(Action::Report { uid })
}

/// Why this machine does not take this progress, told before the first byte.
fn refusal(p: &Progress, machine: &Machine) -> Option<Trouble> {
    if let Some(trouble) = node_replaced(p, machine) {
        return Some(trouble);
    }
    if p.operation == Operation::Rollback {
        return Some(Trouble::new(
            FailureReason::RollbackUnavailable,
            "this release of the node agent cannot roll back; nothing was written. Make an OSUpgrade that names the \
             version to return to, with allowDowngrade: true",
        ));
    }
    if p.checks {
        return Some(Trouble::new(
            FailureReason::PolicyRefused,
            "this release of the node agent runs no health checks and will not pass over the ones asked for; nothing \
             was written. Remove spec.health.checks from the OSUpgrade",
        ));
    }
    match &machine.system {
        Err(trouble) => Some(trouble.clone()),
        // The other slot is the only system known to boot: it must not be written over. On a boot that is no trial it is
        // the one that did not boot, or that somebody has left.
        Ok(system)
            if !system.no_trial && system.default.is_some_and(|slot| slot != system.active) =>
        {
            Some(Trouble::new(
                FailureReason::StateLost,
                format!(
                    "slot {} runs on an unconfirmed trial boot that the agent's record knows nothing of, and slot {} is \
                     the boot loader's default; nothing was written. Reboot the node (it returns to slot {}), then \
                     change spec.retryNonce",
                    system.active,
                    system.active.other(),
                    system.active.other(),
                ),
            ))
        }
        Ok(_) => None,
    }
}

/// Whether nobody can say that the progress was made for the Node that this machine is: it names one, and the API server
/// has not said which one this is.
fn is_of_unknown_node(p: &Progress, machine: &Machine) -> bool {
    p.node_uid.is_some() && machine.node_uid.is_none()
}

/// `NodeReplaced`, when the progress was made for another Node.
fn node_replaced(p: &Progress, machine: &Machine) -> Option<Trouble> {
    let (wanted, found) = (p.node_uid.as_ref()?, machine.node_uid.as_ref()?);
    (wanted != found).then(|| {
        Trouble::new(
            FailureReason::NodeReplaced,
            format!(
                "made for the Node with UID {wanted}, but the Node of this name is {found} now: delete this progress"
            ),
        )
    })
}

fn state_lost(p: &Progress) -> Trouble {
    Trouble::new(
        FailureReason::StateLost,
        format!(
            "the progress says {} but the agent's disk has no record of it, so it is not carried on; check that the \
             state folder is on the data partition, look which slot runs (`kubectl get osnodes`), then change \
             spec.retryNonce",
            p.phase
        ),
    )
}

/// Where an attempt stands with its switch.
enum SwitchState {
    /// Not made: not asked for, or asked for and provably not done.
    Not,
    /// Made, and the machine has not rebooted since.
    SameBoot,
    /// Made, or perhaps made; the machine has rebooted since.
    LaterBoot,
}

fn switch_state(attempt: &Attempt, plan: &Plan, machine: &Machine) -> SwitchState {
    let Some(switch) = &attempt.switch else {
        return SwitchState::Not;
    };
    if switch.boot_id != machine.boot_id {
        return SwitchState::LaterBoot;
    }
    // Killed between the record and the boot loader. Firmware alone clears a trial, and it has not run since.
    let untouched = !switch.done
        && attempt.reboots.is_empty()
        && machine
            .system
            .as_ref()
            .is_ok_and(|s| s.active == plan.from && s.trial != Some(plan.to));
    if untouched {
        SwitchState::Not
    } else {
        SwitchState::SameBoot
    }
}

fn before_switch(attempt: &Attempt, plan: &Plan, inputs: &Inputs<'_>) -> Action {
    let uid = attempt.uid.clone();
    let machine = inputs.machine;
    if matches!(inputs.view, View::Away) {
        return Action::Wait(For::ApiServer);
    }
    // The running slot is never marked bad, whatever the record says of it.
    let runs_target = machine.system.as_ref().is_ok_and(|s| s.active == plan.to);
    let spoil = (attempt.writing && !runs_target).then_some(plan.to);
    let end = |ending: Ending| Action::End(Ending { spoil, ..ending });

    let Some(p) = inputs.view.find(&uid).filter(|p| !p.deleted) else {
        if attempt.step() == Step::Announced {
            return Action::Forget { uid };
        }
        return end(Ending {
            uid,
            phase: ProgressPhase::Cancelled,
            reason: String::new(),
            message: format!(
                "the progress was deleted before the switch; slot {} {}",
                plan.to,
                left_as(attempt)
            ),
            spoil,
        });
    };
    if p.attempt > attempt.number {
        // Told while the record could not be written, and retried: this attempt is not carried on in the other's name.
        return Action::Forget { uid };
    }
    if p.attempt == attempt.number && p.phase.can_retry() {
        // Told while the record could not be written.
        return end(Ending {
            uid,
            phase: p.phase.clone(),
            reason: p.failure_reason.clone(),
            message: p.message.clone(),
            spoil,
        });
    }
    if let Some(Trouble { reason, message }) = node_replaced(p, machine) {
        let message = format!("{message}; slot {} {}", plan.to, left_as(attempt));
        return end(failed(p, Trouble { reason, message }));
    }
    if p.cancel {
        return end(cancelled(
            p,
            &format!(
                "cancelled before the switch; slot {} {}",
                plan.to,
                left_as(attempt)
            ),
        ));
    }
    if p.has_new_nonce(Some(attempt)) {
        return Action::ObserveNonce { uid };
    }
    if let Err(trouble) = &machine.system {
        return end(failed(p, trouble.clone()));
    }
    if attempt.step() == Step::Announced {
        return if runs_target || p.release == Release::Hold {
            Action::Requeue { uid }
        } else {
            Action::Announce { uid }
        };
    }
    if runs_target {
        return end(failed(
            p,
            Trouble::new(
                FailureReason::SlotActive,
                format!(
                    "slot {} was being written but the node was booted from it meanwhile; nothing more is written. \
                     Reboot the node into slot {}, then change spec.retryNonce",
                    plan.to, plan.from
                ),
            ),
        ));
    }
    if attempt.proven.is_none() {
        return Action::Write { uid };
    }
    match p.release {
        Release::Hold => end(failed(
            p,
            Trouble::new(
                FailureReason::DrainTimedOut,
                "the image was staged, but the release was taken back before the reboot: the node could not be drained \
                 in time. See what keeps its pods, then change spec.retryNonce",
            ),
        )),
        Release::Stage => Action::Wait(For::Release),
        // The machine may be another Node by now.
        Release::Reboot if is_of_unknown_node(p, machine) => Action::Wait(For::NodeUid),
        Release::Reboot if inputs.fresh => Action::Switch { uid },
        Release::Reboot => Action::ReadFresh { uid },
    }
}

fn left_as(attempt: &Attempt) -> &'static str {
    if attempt.writing {
        "is left marked bad"
    } else {
        "was not touched"
    }
}

/// The boot order is switched; the machine has not rebooted since.
fn same_boot(attempt: &Attempt, plan: &Plan, inputs: &Inputs<'_>) -> Action {
    if let Ok(system) = &inputs.machine.system
        && system.active == plan.from
        && system.trial != Some(plan.to)
    {
        return Action::End(Ending {
            uid: attempt.uid.clone(),
            phase: ProgressPhase::Failed,
            reason: FailureReason::BootSwitchFailed.to_string(),
            message: format!(
                "slot {} was set for one trial boot, but before the reboot the boot loader's variables no longer said \
                 so: something else writes them. Find it, then change spec.retryNonce",
                plan.to
            ),
            spoil: Some(plan.to),
        });
    }
    reboot(attempt, plan, inputs)
}

/// The machine has rebooted since the switch.
fn later_boot(attempt: &Attempt, plan: &Plan, inputs: &Inputs<'_>) -> Action {
    let uid = attempt.uid.clone();
    let system = match &inputs.machine.system {
        Ok(system) => system,
        Err(trouble) if attempt.trial_failure.is_none() => {
            return Action::RejectTrial {
                uid,
                trouble: trouble.clone(),
            };
        }
        Err(_) => return reboot(attempt, plan, inputs),
    };
    let promised = &plan.image.version;
    if system.active == plan.from {
        let trouble = attempt.trial_failure.clone().unwrap_or_else(|| {
            Trouble::new(
                FailureReason::FellBack,
                format!(
                    "the trial boot of {promised} from slot {} did not hold: the node came back on slot {} with {}. \
                     See the node's console or its journal of the boot before (`journalctl -b -1`), then change \
                     spec.retryNonce or ask for another version",
                    plan.to, plan.from, system.version
                ),
            )
        });
        return Action::End(Ending {
            uid,
            phase: ProgressPhase::RolledBack,
            reason: trouble.reason.to_string(),
            message: trouble.message,
            spoil: Some(plan.to),
        });
    }
    if attempt.trial_failure.is_some() {
        return reboot(attempt, plan, inputs);
    }
    if same_version(&system.version, promised) {
        return Action::Confirm { uid };
    }
    Action::RejectTrial {
        uid,
        trouble: Trouble::new(
            FailureReason::WrongVersionInImage,
            format!(
                "slot {} came up with version {:?} instead of {promised}; the node returns to slot {}. Mend the image or \
                 the catalog",
                plan.to, system.version, plan.from
            ),
        ),
    }
}

/// Whether a progress may have switched the boot order, as far as its object and the machine tell: its status may be
/// older than the switch.
fn may_have_switched(p: &Progress, machine: &Machine) -> bool {
    match p.phase {
        ProgressPhase::Pending => false,
        ProgressPhase::Rebooting | ProgressPhase::Confirming => true,
        _ => machine
            .system
            .as_ref()
            .map_or(true, |s| s.trial.is_some() || s.default != Some(s.active)),
    }
}

/// Whether two texts name the same version. Build metadata does not distinguish; what is no version equals nothing.
pub fn same_version(a: &str, b: &str) -> bool {
    use monok8s_api::Version;
    matches!((a.parse::<Version>(), b.parse::<Version>()), (Ok(a), Ok(b)) if a == b)
}

/// One of the attempt's two reboots.
fn reboot(attempt: &Attempt, plan: &Plan, inputs: &Inputs<'_>) -> Action {
    let uid = attempt.uid.clone();
    match inputs.reboot {
        RebootWatch::Asked => Action::Wait(For::Reboot),
        // After a restart of this process the same reboot is asked for again: nobody can say whether the first
        // request was heard.
        RebootWatch::NotAsked if attempt.may_reboot(&inputs.machine.boot_id) => {
            Action::Reboot { uid }
        }
        RebootWatch::NotAsked | RebootWatch::Overdue => {
            let (trouble, hint) = match &attempt.trial_failure {
                Some(trouble) => (
                    trouble.message.as_str(),
                    format!("Reboot it by hand: it returns to slot {}", plan.from),
                ),
                None => (
                    "the trial boot was prepared",
                    "The switch is taken back; reboot the node by hand to see what holds it, then change \
                     spec.retryNonce"
                        .to_owned(),
                ),
            };
            Action::End(Ending {
                uid,
                phase: ProgressPhase::Failed,
                reason: FailureReason::RebootFailed.to_string(),
                message: format!(
                    "{trouble}; a reboot was asked for but the node went on running. {hint}"
                ),
                spoil: Some(plan.to),
            })
        }
    }
}

fn failed(p: &Progress, trouble: Trouble) -> Ending {
    Ending {
        uid: p.uid.clone(),
        phase: ProgressPhase::Failed,
        reason: trouble.reason.to_string(),
        message: trouble.message,
        spoil: None,
    }
}

fn cancelled(p: &Progress, message: &str) -> Ending {
    Ending {
        uid: p.uid.clone(),
        phase: ProgressPhase::Cancelled,
        reason: String::new(),
        message: format!("{message}. Set cancel to false and change spec.retryNonce to try again"),
        spoil: None,
    }
}

/// Without a usable record nothing is begun, carried on or switched; who asks is told why. But what may have switched is
/// judged by the record alone: for a disk that does not answer it waits, rather than say Failed of a trial that goes on.
fn without_record(inputs: &Inputs<'_>, trouble: &Trouble) -> Action {
    let View::Listed(progresses) = inputs.view else {
        return Action::Wait(For::ApiServer);
    };
    in_turn(progresses)
        .into_iter()
        .find_map(|p| {
            let tell = |phase, trouble| {
                Some(Action::Tell {
                    uid: p.uid.clone(),
                    phase,
                    trouble,
                })
            };
            if p.phase.is_terminal() {
                let waits = p.owned && p.release != Release::Hold;
                return if p.phase.can_retry() && p.has_new_nonce(None) && !waits {
                    tell(ProgressPhase::Pending, None)
                } else {
                    None
                };
            }
            if p.phase == ProgressPhase::Pending && p.cancel {
                return tell(ProgressPhase::Cancelled, None);
            }
            if p.phase == ProgressPhase::Pending && p.release == Release::Hold {
                return None;
            }
            let may_return = trouble.reason == FailureReason::StateNotPersistent;
            if may_return && may_have_switched(p, inputs.machine) {
                return Some(Action::Wait(For::Disk));
            }
            tell(ProgressPhase::Failed, Some(trouble.clone()))
        })
        .unwrap_or(Action::Wait(For::Work))
}
