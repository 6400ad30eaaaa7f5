//! The executor: observes, decides ([`crate::decide::next`]), acts. It owns the device and the record.
//!
//! Each action is a sequence of effects, and the process may be killed between any two of them: the record is
//! written before what it announces, and every action may be done again.

use monok8s_api::{
    osnode::LastResult,
    reason::{FailureReason, ProgressPhase, SlotState},
};
use monok8s_boot::SlotName;
use tracing::{error, info, warn};

use crate::{
    act::effects::{Choice, Effects, Job, NoChoice, Opened, Reply, Written},
    decide::{
        next::{self, Action, Ending, For, Inputs, Machine, Progress, View},
        status::{MAX_MESSAGE, shorten},
    },
    record::{Attempt, End, Plan, Record, Switch, Trouble},
};

/// Times the boot loader is asked to make a slot the default before the trial is given up.
const MARK_GOOD_TRIES: usize = 3;

/// What the status says while it is not known which Node this machine is.
const NODE_UNKNOWN: &str = "waits for this Node's UID, because the progress may be for another Node of the same name: \
                            the Node is gone or could not be read (the agent's log says why)";

/// What to do after one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Decide again at once.
    Again,
    /// Nothing to do until something changes.
    Wait(For),
    /// The API server does not answer: again after a pause.
    Backoff(String),
    /// The write was stopped between two chunks. When that was not for the sake of the object, the process is to end.
    Stopped,
}

/// The executor.
#[derive(Debug)]
pub struct Executor<E> {
    effects: E,
    record: Result<Record, Trouble>,
    /// The record as it was read or written last: what the disk holds while it cannot be read.
    on_disk: Option<Record>,
    machine: Option<Machine>,
    fresh: bool,
    last: Option<Action>,
    /// The record could not be written and not everybody who asks was told so: it is not read again yet.
    untold: bool,
    /// The status says that the disk takes no writes.
    noted: bool,
}

/// The record could not be written; [`Executor::record`] says why.
struct Unsaved;

impl<E: Effects> Executor<E> {
    /// Reads the record. No record is an empty one.
    pub fn new(mut effects: E) -> Self {
        let record = load(&mut effects);
        if let Err(trouble) = &record {
            error!(reason = %trouble.reason, "{}", trouble.message);
        }
        Self {
            effects,
            on_disk: record.as_ref().ok().cloned(),
            record,
            machine: None,
            fresh: false,
            last: None,
            untold: false,
            noted: false,
        }
    }

    /// The effects.
    pub fn effects(&mut self) -> &mut E {
        &mut self.effects
    }

    /// The record, for tests.
    pub fn record(&self) -> Result<&Record, &Trouble> {
        self.record.as_ref()
    }

    /// Whether the node cannot take an upgrade as the last round saw it. What mends that, on the machine, is no event.
    pub fn is_troubled(&self) -> bool {
        self.record.is_err() || self.machine.as_ref().is_some_and(|m| m.system.is_err())
    }

    /// One round: observe, decide, act.
    pub async fn step(&mut self) -> Flow {
        let switched_in = self.switched_in();
        let machine = self.effects.machine(switched_in.as_deref()).await;
        if self.record.is_err() && !self.untold {
            self.record = load(&mut self.effects);
            if let Ok(record) = &self.record {
                self.on_disk = Some(record.clone());
            }
        }
        let view = self.effects.view();
        self.machine = Some(machine.clone());
        self.note_slots(&machine);
        let action = next::next(&Inputs {
            record: self.record.as_ref(),
            view: &view,
            fresh: std::mem::take(&mut self.fresh),
            machine: &machine,
            reboot: self.effects.reboot_watch(),
        });
        let repeated = self.last.as_ref() == Some(&action);
        if !repeated {
            info!(?action, "next");
            if self.last == Some(Action::Wait(For::NodeUid)) {
                self.effects.note("");
            }
        }
        self.effects.publish(self.record.as_ref(), &machine);
        self.last = Some(action.clone());
        let flow = match self.act(action, &view, &machine).await {
            Ok(flow) => flow,
            Err(Unsaved) => self.unsaved(),
        };
        // What is decided twice in a row did not take: not again without a pause.
        if flow == Flow::Again && repeated {
            return Flow::Backoff("the same step again".to_owned());
        }
        flow
    }

    async fn act(
        &mut self,
        action: Action,
        view: &View,
        machine: &Machine,
    ) -> Result<Flow, Unsaved> {
        match action {
            Action::Wait(what) => {
                self.untold = false;
                if what == For::NodeUid {
                    self.effects.note(NODE_UNKNOWN);
                }
                self.show_under_way();
                return Ok(Flow::Wait(what));
            }
            Action::Begin { uid } => return self.begin(&uid, view, machine).await,
            Action::Announce { uid } => return self.announce(&uid).await,
            Action::Requeue { uid } => self.change(&uid, |a| {
                a.plan = None;
                a.started_at = None;
            })?,
            Action::Write { uid } => return self.write(&uid, view, machine).await,
            Action::ReadFresh { uid } => return Ok(self.read_fresh(&uid).await),
            Action::Switch { uid } => self.switch(&uid, machine)?,
            Action::Reboot { uid } => self.reboot(&uid, machine).await?,
            Action::Confirm { uid } => self.confirm(&uid, view, machine).await?,
            Action::RejectTrial { uid, trouble } => self.reject_trial(&uid, trouble, machine)?,
            Action::End(ending) => self.end(ending, view)?,
            Action::Report { uid } => return self.report(&uid).await,
            Action::ReportLost { uid } => {
                if let Some(attempt) = self.attempt(&uid) {
                    self.effects.event(&attempt);
                }
                self.change(&uid, |a| a.reported = true)?;
            }
            Action::Forget { uid } => self.forget(&uid, machine)?,
            Action::AcceptNonce { uid } => self.accept_nonce(&uid, view)?,
            Action::ObserveNonce { uid } => self.observe_nonce(&uid, view)?,
            Action::Tell {
                uid,
                phase,
                trouble,
            } => return Ok(self.tell(&uid, phase, trouble, view).await),
        }
        Ok(Flow::Again)
    }

    /// Keeps what the record says of the slots in step with what runs.
    fn note_slots(&mut self, machine: &Machine) {
        let (Ok(record), Ok(system)) = (&mut self.record, &machine.system) else {
            return;
        };
        let before = record.slots.clone();
        for slot in SlotName::BOTH {
            let effects = &mut self.effects;
            record
                .slots
                .entry(slot)
                .or_insert_with(|| effects.look_into(slot));
        }
        if record.under_way().is_none()
            && let Some(entry) = record.slots.get_mut(&system.active)
        {
            if system.default == Some(system.active) {
                entry.state = SlotState::Good;
            }
            if !system.version.is_empty() && !next::same_version(&entry.version, &system.version) {
                entry.version.clone_from(&system.version);
                entry.checksum.clear();
            }
        }
        if record.slots != before && self.save().is_err() {
            warn!("what the slots hold could not be recorded");
        }
    }

    async fn begin(&mut self, uid: &str, view: &View, machine: &Machine) -> Result<Flow, Unsaved> {
        let (Some(p), Ok(system)) = (view.find(uid), &machine.system) else {
            return Ok(Flow::Again);
        };
        let image = match self.effects.choose(uid, system).await {
            Ok(Choice::Install(image)) => image,
            Ok(Choice::AlreadyThere(image)) => {
                let message = format!(
                    "the node runs {} already; nothing was written",
                    image.version
                );
                self.end(ending(p, ProgressPhase::Completed, "", message), view)?;
                return Ok(Flow::Again);
            }
            Err(NoChoice::Away(away)) => return Ok(Flow::Backoff(away.to_string())),
            Err(NoChoice::Refused(trouble)) => {
                let reason = trouble.reason.to_string();
                self.end(
                    ending(p, ProgressPhase::Failed, &reason, trouble.message),
                    view,
                )?;
                return Ok(Flow::Again);
            }
        };
        let mut attempt = self.entry(p);
        attempt.observed_nonce.clone_from(&p.nonce);
        attempt.started_at = Some(self.effects.now().into());
        attempt.reported = true;
        attempt.plan = Some(Plan {
            from: system.active,
            from_version: system.version.clone(),
            to: system.active.other(),
            image,
        });
        self.put(attempt)?;
        Ok(Flow::Again)
    }

    async fn announce(&mut self, uid: &str) -> Result<Flow, Unsaved> {
        let Some(attempt) = self.attempt(uid) else {
            return Ok(Flow::Again);
        };
        match self.effects.report(&attempt).await {
            Ok(Reply::Accepted) => {
                self.change(uid, |a| a.accepted = true)?;
                Ok(Flow::Again)
            }
            Ok(Reply::Gone) => Ok(Flow::Again),
            Err(away) => Ok(Flow::Backoff(away.to_string())),
        }
    }

    async fn write(&mut self, uid: &str, view: &View, machine: &Machine) -> Result<Flow, Unsaved> {
        let Some((attempt, plan)) = self.planned(uid) else {
            return Ok(Flow::Again);
        };
        let job = Job {
            uid: uid.to_owned(),
            attempt: attempt.number,
            to: plan.to,
            image: plan.image.clone(),
            wrote: attempt.writing,
        };
        self.effects.show(&attempt);
        let begun = match self.effects.open(&job).await {
            Opened::Ready(begun) => begun,
            Opened::Stopped => return Ok(Flow::Stopped),
            Opened::Failed(trouble) => {
                let spoil = attempt.writing.then_some(plan.to);
                self.fail(uid, trouble, spoil, view)?;
                return Ok(Flow::Again);
            }
        };
        let plan = Plan {
            image: begun.image,
            ..plan
        };
        match self.give_up_slot(uid, &plan, machine) {
            Ok(Ok(())) => {}
            Ok(Err(trouble)) => {
                self.effects.abandon().await;
                self.fail(uid, trouble, Some(plan.to), view)?;
                return Ok(Flow::Again);
            }
            Err(unsaved) => {
                self.effects.abandon().await;
                return Err(unsaved);
            }
        }
        if begun.resumed_at > 0 {
            self.effects.resumed(&attempt, begun.resumed_at);
        }
        match self.effects.write(&job).await {
            Written::Proven(proof) => {
                if let Ok(record) = &mut self.record {
                    record.set_slot_state(plan.to, SlotState::Trial);
                }
                self.change(uid, |a| a.proven = Some(proof))?;
                self.effects.forget_checkpoint();
                self.show_under_way();
                Ok(Flow::Again)
            }
            Written::Failed(trouble) => {
                self.fail(uid, trouble, Some(plan.to), view)?;
                Ok(Flow::Again)
            }
            Written::Stopped => Ok(Flow::Stopped),
        }
    }

    /// Says in the record and in the boot loader that the slot may hold anything from here on: announced before it is
    /// done.
    fn give_up_slot(
        &mut self,
        uid: &str,
        plan: &Plan,
        machine: &Machine,
    ) -> Result<Result<(), Trouble>, Unsaved> {
        let checksum = plan.image.checksum.clone().unwrap_or_default();
        if let Ok(record) = &mut self.record {
            record.set_slot(plan.to, SlotState::Writing, &plan.image.version, &checksum);
        }
        self.change(uid, |a| {
            a.writing = true;
            a.plan = Some(plan.clone());
        })?;
        self.show_under_way();
        let marked = self
            .settle(plan, machine)
            .and_then(|()| self.effects.mark_unbootable(plan.to));
        Ok(marked)
    }

    async fn read_fresh(&mut self, uid: &str) -> Flow {
        let Some(attempt) = self.attempt(uid) else {
            return Flow::Again;
        };
        match self.effects.read_fresh(&attempt).await {
            Ok(()) => {
                self.fresh = true;
                Flow::Again
            }
            Err(away) => Flow::Backoff(away.to_string()),
        }
    }

    /// The critical section: nothing in here waits for the network, and the process does not end in it.
    fn switch(&mut self, uid: &str, machine: &Machine) -> Result<(), Unsaved> {
        let Some((_, plan)) = self.planned(uid) else {
            return Ok(());
        };
        self.effects.forget_reboot();
        self.change(uid, |a| {
            a.switch = Some(Switch {
                boot_id: machine.boot_id.clone(),
                done: false,
            });
        })?;
        let switched = self
            .settle(&plan, machine)
            .and_then(|()| self.effects.try_once(plan.to));
        if let Err(trouble) = switched {
            let view = self.effects.view();
            return self.fail(uid, trouble, Some(plan.to), &view);
        }
        self.change(uid, |a| {
            if let Some(switch) = &mut a.switch {
                switch.done = true;
            }
        })
    }

    /// Makes the running slot what a fallback finds, where it is not.
    fn settle(&mut self, plan: &Plan, machine: &Machine) -> Result<(), Trouble> {
        let settled = machine.system.as_ref().is_ok_and(|s| s.settled);
        if settled {
            Ok(())
        } else {
            self.effects.mark_good(plan.from)
        }
    }

    async fn reboot(&mut self, uid: &str, machine: &Machine) -> Result<(), Unsaved> {
        self.change(uid, |a| {
            if let Some(switch) = &mut a.switch {
                switch.done = true;
            }
            if !a.asked_in(&machine.boot_id) {
                a.reboots.push(machine.boot_id.clone());
            }
        })?;
        if let Some(attempt) = self.attempt(uid) {
            // For people: the reboot does not wait for an answer.
            if let Err(away) = self.effects.report(&attempt).await {
                info!("rebooting without having said so: {away}");
            }
            self.effects.event(&attempt);
        }
        self.effects.reboot().await;
        Ok(())
    }

    async fn confirm(&mut self, uid: &str, view: &View, machine: &Machine) -> Result<(), Unsaved> {
        let Some((_, plan)) = self.planned(uid) else {
            return Ok(());
        };
        self.change(uid, |a| a.trial_boot_id.clone_from(&machine.boot_id))?;
        self.show_under_way();
        let mut outcome = Ok(());
        for _ in 0..MARK_GOOD_TRIES {
            outcome = self.effects.mark_good(plan.to);
            if outcome.is_ok() {
                break;
            }
        }
        if let Err(trouble) = outcome {
            // An error says that it may or may not be on disk.
            let now = self.effects.machine(None).await;
            let on_disk = now.system.is_ok_and(|s| s.active == plan.to && s.settled);
            if !on_disk {
                return self.reject_trial(uid, trouble, machine);
            }
        }
        if let Ok(record) = &mut self.record {
            record.set_slot_state(plan.to, SlotState::Good);
            record.set_slot_state(plan.from, SlotState::Good);
        }
        let message = format!("{} runs from slot {}", plan.image.version, plan.to);
        self.end(
            Ending {
                uid: uid.to_owned(),
                phase: ProgressPhase::Completed,
                reason: String::new(),
                message,
                spoil: None,
            },
            view,
        )
    }

    fn reject_trial(
        &mut self,
        uid: &str,
        trouble: Trouble,
        machine: &Machine,
    ) -> Result<(), Unsaved> {
        let Some((_, plan)) = self.planned(uid) else {
            return Ok(());
        };
        warn!(reason = %trouble.reason, "the trial is given up: {}", trouble.message);
        if let Ok(record) = &mut self.record {
            record.set_slot_state(plan.to, SlotState::Bad);
        }
        self.change(uid, |a| {
            a.trial_boot_id.clone_from(&machine.boot_id);
            a.trial_failure = Some(trouble);
        })?;
        if let Err(trouble) = self.effects.mark_bad(plan.to) {
            // The trial is used up, so the next boot is the old slot's all the same.
            warn!("slot {}: {}", plan.to, trouble.message);
        }
        self.show_under_way();
        Ok(())
    }

    fn fail(
        &mut self,
        uid: &str,
        trouble: Trouble,
        spoil: Option<SlotName>,
        view: &View,
    ) -> Result<(), Unsaved> {
        self.end(
            Ending {
                uid: uid.to_owned(),
                phase: ProgressPhase::Failed,
                reason: trouble.reason.to_string(),
                message: trouble.message,
                spoil,
            },
            view,
        )
    }

    fn end(&mut self, ending: Ending, view: &View) -> Result<(), Unsaved> {
        let mut message = ending.message;
        if ending.reason == FailureReason::RebootFailed.as_str()
            && let Some(why) = self.effects.reboot_refusal()
        {
            message = format!("{message} ({why})");
        }
        if let Some(slot) = ending.spoil {
            // From here on the boot loader no longer tells whether the switch was made, so the record has to.
            self.change(&ending.uid, |a| {
                if let Some(switch) = &mut a.switch {
                    switch.done = true;
                }
            })?;
            if let Err(trouble) = self.effects.mark_bad(slot) {
                message = format!(
                    "{message} (and slot {slot} could not be marked bad: {})",
                    trouble.message
                );
            }
            if let Ok(record) = &mut self.record {
                record.set_slot_state(slot, SlotState::Bad);
            }
        }
        // A nonce that changed while the attempt ran may be newer than the view this was decided from.
        let newest = self.effects.view();
        let p = newest.find(&ending.uid).or_else(|| view.find(&ending.uid));
        let attempt = match p {
            Some(p) => Some(self.entry(p)),
            None => self.attempt(&ending.uid),
        };
        let Some(mut attempt) = attempt else {
            return Ok(());
        };
        if let Some(p) = p
            && !p.nonce.is_empty()
            && p.nonce != attempt.observed_nonce
        {
            // Told so while the record could not be written: a nonce since then is a retry.
            if p.attempt == attempt.number && p.phase.can_retry() {
                attempt.observed_nonce.clone_from(&p.observed_nonce);
            } else {
                attempt.nonce_without_effect |= attempt.plan.is_some();
                attempt.observed_nonce.clone_from(&p.nonce);
            }
        }
        let now = self.effects.now();
        let version = attempt
            .plan
            .as_ref()
            .map_or_else(String::new, |plan| plan.image.version.clone());
        if ending.reason.is_empty() {
            info!(progress = %attempt.name, phase = %ending.phase, "{message}");
        } else {
            warn!(progress = %attempt.name, phase = %ending.phase, reason = %ending.reason, "{message}");
        }
        if let Ok(record) = &mut self.record {
            record.last_result = Some(LastResult {
                progress: attempt.name.clone(),
                version,
                phase: ending.phase.clone(),
                reason: ending.reason.clone(),
                at: Some(now.into()),
            });
        }
        shorten(&mut message, MAX_MESSAGE);
        attempt.end = Some(End {
            phase: ending.phase,
            reason: ending.reason,
            message,
            at: Some(now.into()),
        });
        attempt.reported = false;
        self.put(attempt)?;
        self.effects.forget_checkpoint();
        Ok(())
    }

    async fn report(&mut self, uid: &str) -> Result<Flow, Unsaved> {
        let Some(attempt) = self.attempt(uid) else {
            return Ok(Flow::Again);
        };
        match self.effects.report(&attempt).await {
            Ok(Reply::Accepted) => {
                if attempt.end.is_some() && !attempt.reported {
                    self.effects.event(&attempt);
                }
                self.change(uid, |a| a.reported = true)?;
                Ok(Flow::Again)
            }
            Ok(Reply::Gone) => Ok(Flow::Again),
            Err(away) => Ok(Flow::Backoff(away.to_string())),
        }
    }

    fn forget(&mut self, uid: &str, machine: &Machine) -> Result<(), Unsaved> {
        let runs = machine.system.as_ref().ok().map(|s| s.active);
        let given_up = self
            .planned(uid)
            .filter(|(attempt, _)| attempt.writing && attempt.is_under_way())
            .map(|(_, plan)| plan.to)
            .filter(|slot| runs != Some(*slot));
        if let Ok(record) = &mut self.record {
            if let Some(slot) = given_up {
                record.set_slot_state(slot, SlotState::Bad);
            }
            record.forget(uid);
        }
        self.save()?;
        self.effects.forget_checkpoint();
        Ok(())
    }

    fn accept_nonce(&mut self, uid: &str, view: &View) -> Result<(), Unsaved> {
        let Some(p) = view.find(uid) else {
            return Ok(());
        };
        let before = self.entry(p);
        let mut attempt = Attempt::queued(&p.name, uid, before.number.saturating_add(1));
        attempt.retry_count = before.retry_count.saturating_add(1);
        attempt.observed_nonce.clone_from(&p.nonce);
        attempt.unknown = before.unknown;
        self.put(attempt)
    }

    fn observe_nonce(&mut self, uid: &str, view: &View) -> Result<(), Unsaved> {
        let Some(p) = view.find(uid) else {
            return Ok(());
        };
        let nonce = p.nonce.clone();
        self.change(uid, |a| {
            a.observed_nonce = nonce;
            if a.end.is_some() {
                a.reported = false;
            } else {
                a.nonce_without_effect = true;
            }
        })?;
        self.show_under_way();
        Ok(())
    }

    async fn tell(
        &mut self,
        uid: &str,
        phase: ProgressPhase,
        trouble: Option<Trouble>,
        view: &View,
    ) -> Flow {
        let Some(p) = view.find(uid) else {
            return Flow::Again;
        };
        let mut attempt = Attempt::queued(&p.name, uid, p.attempt.max(1));
        attempt.retry_count = p.retry_count;
        attempt.observed_nonce.clone_from(&p.nonce);
        if phase == ProgressPhase::Pending {
            attempt.number = p.attempt.saturating_add(1);
            attempt.retry_count = p.retry_count.saturating_add(1);
        } else {
            let message = trouble
                .as_ref()
                .map_or("cancelled before it began", |t| &t.message);
            attempt.end = Some(End {
                phase,
                reason: trouble
                    .as_ref()
                    .map_or(String::new(), |t| t.reason.to_string()),
                message: message.to_owned(),
                at: Some(self.effects.now().into()),
            });
        }
        match self.effects.report(&attempt).await {
            Ok(Reply::Accepted) => {
                if attempt.end.is_some() {
                    self.effects.event(&attempt);
                }
                Flow::Again
            }
            Ok(Reply::Gone) => Flow::Again,
            Err(away) => Flow::Backoff(away.to_string()),
        }
    }

    /// The record could not be written. An attempt that has not switched is given up, and those who ask are told. One
    /// that has is on disk as such, and goes on from there when the disk takes writes again.
    fn unsaved(&mut self) -> Flow {
        let Err(trouble) = &self.record else {
            return Flow::Again;
        };
        error!(reason = %trouble.reason, "{}", trouble.message);
        // A file system that was remounted read-only still holds what was saved.
        let on_disk = self.effects.load().unwrap_or_else(|_| self.on_disk.clone());
        if let Some(on_disk) = on_disk.filter(has_switched) {
            let why = trouble.message.clone();
            self.record = Ok(on_disk);
            self.noted = true;
            self.effects.note(&why);
            self.show_under_way();
            return Flow::Backoff(why);
        }
        self.untold = true;
        Flow::Again
    }

    fn show_under_way(&mut self) {
        if let Ok(record) = &self.record
            && let Some(attempt) = record.under_way().filter(|a| a.accepted)
        {
            self.effects.show(attempt);
        }
    }

    /// The attempt of a progress, or the one it would have.
    fn entry(&self, p: &Progress) -> Attempt {
        let known = self.attempt(&p.uid).filter(|a| p.attempt <= a.number);
        known.unwrap_or_else(|| {
            let mut attempt = Attempt::queued(&p.name, &p.uid, p.attempt.max(1));
            attempt.retry_count = p.retry_count;
            attempt.observed_nonce.clone_from(&p.observed_nonce);
            attempt
        })
    }

    /// The boot in which the attempt under way switched.
    fn switched_in(&self) -> Option<String> {
        let switch = self.record.as_ref().ok()?.under_way()?.switch.as_ref()?;
        Some(switch.boot_id.clone())
    }

    fn attempt(&self, uid: &str) -> Option<Attempt> {
        self.record.as_ref().ok()?.attempt(uid).cloned()
    }

    fn planned(&self, uid: &str) -> Option<(Attempt, Plan)> {
        let attempt = self.attempt(uid)?;
        let plan = attempt.plan.clone()?;
        Some((attempt, plan))
    }

    fn put(&mut self, attempt: Attempt) -> Result<(), Unsaved> {
        if let Ok(record) = &mut self.record {
            record.put(attempt);
        }
        self.save()
    }

    fn change(&mut self, uid: &str, change: impl FnOnce(&mut Attempt)) -> Result<(), Unsaved> {
        if let Ok(record) = &mut self.record
            && let Some(attempt) = record.attempt_mut(uid)
        {
            change(attempt);
        }
        self.save()
    }

    fn save(&mut self) -> Result<(), Unsaved> {
        let Ok(record) = &self.record else {
            return Err(Unsaved);
        };
        match self.effects.save(record) {
            Ok(()) => {
                self.on_disk = Some(record.clone());
                if std::mem::take(&mut self.noted) {
                    self.effects.note("");
                }
                if let Some(machine) = &self.machine {
                    self.effects.publish(Ok(record), machine);
                }
                Ok(())
            }
            Err(trouble) => {
                self.record = Err(trouble);
                Err(Unsaved)
            }
        }
    }
}

/// Reads the record; none is an empty one. A disk that takes no writes counts unless an attempt has switched: that one
/// is finished from the record alone, and goes on when the disk takes writes again.
fn load(effects: &mut impl Effects) -> Result<Record, Trouble> {
    let record = effects.load()?.unwrap_or_default();
    if !has_switched(&record) {
        effects.can_save()?;
    }
    Ok(record)
}

fn has_switched(record: &Record) -> bool {
    record.under_way().is_some_and(|a| a.switch.is_some())
}

fn ending(p: &Progress, phase: ProgressPhase, reason: &str, message: String) -> Ending {
    Ending {
        uid: p.uid.clone(),
        phase,
        reason: reason.to_owned(),
        message,
        spoil: None,
    }
}
