//! The executor's effects on the real machine and the real API server, and its loop.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use monok8s_api::reason::{FailureReason, ProgressPhase};
use monok8s_boot::{Reboot, SlotName, clock};
use tokio::{sync::watch, task::block_in_place};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    act::{
        calls::{Backoff, jittered},
        effects::{Away, Choice, Effects, Job, NoChoice, Opened, Reply, Written},
        events::Events,
        install::Installer,
        machine::{Hardware, Look},
        metrics::Metrics,
        objects::Objects,
        osnode::Facts,
        reporter::Reporter,
        source::Source,
        this_node::ThisNode,
    },
    decide::{
        next::{For, Machine, Progress, RebootWatch, System, View},
        status::Here,
    },
    record::{Attempt, Record, SlotRecord, Step, Trouble},
    run::executor::{Executor, Flow},
};

/// How often a machine that cannot be told is looked at again before that counts.
const LOOKS: usize = 3;

/// How long a machine that cannot be told on a trial boot is looked at: its devices and mounts may still be coming up.
const TRIAL_LOOKS: Duration = Duration::from_secs(60);

/// Pause between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// How long a reboot waits for the API server to take the status that announces it.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long it waits for the Event after that: the reboot would take it away on its way.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Everything real.
#[derive(Debug)]
pub struct Node {
    /// The machine.
    pub hardware: Hardware,
    /// How to reboot it.
    pub rebooter: Arc<dyn Reboot>,
    /// How long a reboot may take to end this process.
    pub reboot_limit: Duration,
    /// The objects.
    pub objects: Objects,
    /// Which Node this is.
    pub this_node: ThisNode,
    /// Statuses.
    pub reporter: Reporter,
    /// Slots.
    pub installer: Installer,
    /// Images.
    pub source: Source,
    /// The OSNode.
    pub facts: watch::Sender<Facts>,
    /// Events.
    pub events: Events,
    /// Counts.
    pub metrics: Metrics,
    /// The process is to end.
    pub stop: CancellationToken,
    /// What came of the reboot.
    pub reboot: Option<Asked>,
    /// The last look.
    pub look: Option<Look>,
}

/// A reboot that was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When, on the boot-time clock.
    at: Duration,
    /// Why it will not come.
    refused: Option<String>,
}

impl Node {
    async fn look(&mut self, switched_in: Option<&str>) -> Look {
        let began = clock::since_boot();
        let known = self.look.as_ref().is_some_and(|l| l.system.is_err());
        let mut looks = 0;
        loop {
            let look = block_in_place(|| self.hardware.look());
            looks += 1;
            let trial = switched_in.is_some_and(|boot| boot != look.boot_id);
            let spent = clock::since_boot().saturating_sub(began);
            // Known trouble is not waited for.
            if look.system.is_ok() || known || has_counted(looks, trial, spent) {
                self.look = Some(look.clone());
                return look;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// A progress for another Node may be for the Node that this one has become.
    async fn recheck_uid(&self) {
        let View::Listed(progresses) = self.objects.view() else {
            return;
        };
        let known = self.objects.node_uid();
        let stranger =
            |p: &Progress| p.node_uid.is_some() && p.node_uid != known && !p.phase.is_terminal();
        if progresses.iter().any(stranger) {
            self.this_node.ask().await;
        }
    }

    /// Waits for an answer unless the process is to end.
    async fn unless_stopping<T>(
        &self,
        answer: impl Future<Output = Result<T, Away>>,
    ) -> Result<T, Away> {
        tokio::select! {
            answer = answer => answer,
            () = self.stop.cancelled() => Err(Away("the agent is ending".to_owned())),
        }
    }
}

impl Effects for Node {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn load(&mut self) -> Result<Option<Record>, Trouble> {
        block_in_place(|| self.hardware.load())
    }

    fn can_save(&mut self) -> Result<(), Trouble> {
        block_in_place(|| self.hardware.can_save())
    }

    fn save(&mut self, record: &Record) -> Result<(), Trouble> {
        block_in_place(|| self.hardware.save(record))
    }

    async fn machine(&mut self, switched_in: Option<&str>) -> Machine {
        let look = self.look(switched_in).await;
        self.recheck_uid().await;
        self.reporter.here(Here {
            boot_id: look.boot_id.clone(),
            system: look.system.as_ref().ok().cloned(),
        });
        Machine {
            boot_id: look.boot_id,
            node_uid: self.objects.node_uid(),
            system: look.system,
        }
    }

    fn look_into(&mut self, slot: SlotName) -> SlotRecord {
        block_in_place(|| self.hardware.look_into(slot))
    }

    fn mark_unbootable(&mut self, slot: SlotName) -> Result<(), Trouble> {
        block_in_place(|| self.hardware.change(|l| l.mark_unbootable(slot)))
    }

    fn try_once(&mut self, slot: SlotName) -> Result<(), Trouble> {
        block_in_place(|| self.hardware.change(|l| l.try_once(slot)))
    }

    fn mark_good(&mut self, slot: SlotName) -> Result<(), Trouble> {
        block_in_place(|| self.hardware.change(|l| l.mark_good(slot)))
    }

    fn mark_bad(&mut self, slot: SlotName) -> Result<(), Trouble> {
        block_in_place(|| self.hardware.change(|l| l.mark_bad(slot)))
    }

    async fn open(&mut self, job: &Job) -> Opened {
        self.installer.open(job).await
    }

    async fn write(&mut self, job: &Job) -> Written {
        self.installer.write(job).await
    }

    async fn abandon(&mut self) {
        self.installer.abandon().await;
    }

    fn forget_checkpoint(&mut self) {
        block_in_place(|| self.installer.forget_checkpoint());
    }

    async fn reboot(&mut self) {
        self.metrics.reboot();
        // Without an answer it is lost, and nothing else.
        let _ = tokio::time::timeout(LAST_EVENTS, self.events.settled()).await;
        info!("rebooting");
        let refused = match self.rebooter.reboot().await {
            Ok(()) => None,
            Err(e) => {
                warn!("{e}");
                Some(e.to_string())
            }
        };
        self.reboot = Some(Asked {
            at: clock::since_boot(),
            refused,
        });
    }

    fn reboot_watch(&self) -> RebootWatch {
        match &self.reboot {
            None => RebootWatch::NotAsked,
            Some(asked) if asked.refused.is_some() => RebootWatch::Overdue,
            Some(asked) if clock::since_boot().saturating_sub(asked.at) > self.reboot_limit => {
                RebootWatch::Overdue
            }
            Some(_) => RebootWatch::Asked,
        }
    }

    fn reboot_refusal(&self) -> Option<String> {
        self.reboot.as_ref()?.refused.clone()
    }

    fn forget_reboot(&mut self) {
        self.reboot = None;
    }

    fn view(&self) -> View {
        self.objects.view()
    }

    async fn report(&mut self, attempt: &Attempt) -> Result<Reply, Away> {
        if attempt.step() == Step::Announced {
            self.installer.forget_progress();
        }
        let answer = self.reporter.report(attempt);
        if attempt.switch.is_some() && attempt.end.is_none() {
            let late = || Away(format!("no answer within {FAREWELL:?}"));
            let answer = async {
                tokio::time::timeout(FAREWELL, answer)
                    .await
                    .unwrap_or_else(|_| Err(late()))
            };
            return self.unless_stopping(answer).await;
        }
        self.unless_stopping(answer).await
    }

    fn show(&mut self, attempt: &Attempt) {
        self.reporter.show(attempt);
    }

    fn note(&mut self, note: &str) {
        self.installer.note(note);
    }

    async fn read_fresh(&mut self, attempt: &Attempt) -> Result<(), Away> {
        let answer = self.reporter.read(&attempt.name, &attempt.uid);
        self.unless_stopping(answer).await
    }

    async fn choose(&mut self, uid: &str, system: &System) -> Result<Choice, NoChoice> {
        let stopping = NoChoice::Away(Away("the agent is ending".to_owned()));
        let Some(object) = self.objects.get(uid) else {
            return Err(NoChoice::Refused(Trouble::new(
                FailureReason::SourceNotFound,
                "the progress is gone",
            )));
        };
        tokio::select! {
            choice = self.source.choose(&object, system) => choice,
            () = self.stop.cancelled() => Err(stopping),
        }
    }

    fn publish(&mut self, record: Result<&Record, &Trouble>, machine: &Machine) {
        let Some(look) = &self.look else {
            return;
        };
        let none = Record::default();
        let facts = Facts::new(
            record.unwrap_or(&none),
            machine,
            look.slots.as_ref().ok().cloned(),
            self.hardware.loader_kind(),
            &look.version,
            record.err().cloned(),
        );
        self.facts.send_if_modified(|known| {
            let changed = *known != facts;
            *known = facts;
            changed
        });
    }

    fn event(&mut self, attempt: &Attempt) {
        if let Some(end) = &attempt.end {
            let phase: &ProgressPhase = &end.phase;
            self.metrics.ended(phase, &end.reason);
        }
        self.events.tell(attempt);
    }

    fn resumed(&mut self, attempt: &Attempt, bytes: u64) {
        self.events.resumed(attempt, bytes);
    }
}

/// Whether trouble counts after so many looks in so much time. What counts on a trial boot ends the trial.
fn has_counted(looks: usize, trial: bool, spent: Duration) -> bool {
    looks >= LOOKS && (!trial || spent >= TRIAL_LOOKS)
}

/// After what time there is to be another round although nothing was heard. `troubled`: the node is refused as it is,
/// so that nothing would ever be heard of it.
fn look_again(what: For, troubled: bool) -> Option<Duration> {
    match what {
        For::ApiServer | For::NodeUid | For::Reboot | For::Disk => Some(Duration::from_secs(5)),
        For::Work | For::Release => troubled.then_some(Duration::from_secs(30)),
    }
}

/// Decides and acts until the process is to end.
pub async fn run(mut executor: Executor<Node>) {
    let stop = executor.effects().stop.clone();
    let mut changed = executor.effects().objects.subscribe();
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        changed.mark_unchanged();
        let pause = match Box::pin(executor.step()).await {
            Flow::Again => {
                backoff.reset();
                continue;
            }
            Flow::Stopped => continue,
            Flow::Wait(what) => look_again(what, executor.is_troubled()).map(jittered),
            Flow::Backoff(why) => {
                let pause = backoff.next_pause();
                info!("again in {pause:?}: {why}");
                Some(pause)
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            _ = changed.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_on_a_trial_boot_is_given_time() {
        const LONG: Duration = TRIAL_LOOKS;
        for (looks, trial, spent, counts) in [
            (1, false, Duration::ZERO, false),
            (LOOKS, false, Duration::ZERO, true),
            (LOOKS, true, Duration::ZERO, false),
            (100, true, LONG / 2, false),
            (100, true, LONG, true),
        ] {
            assert_eq!(has_counted(looks, trial, spent), counts, "{looks} {trial}");
        }
    }

    #[test]
    fn only_a_troubled_agent_looks_again_without_an_event() {
        for what in [For::Work, For::Release] {
            assert_eq!(look_again(what, false), None, "{what:?}");
            assert!(look_again(what, true).is_some(), "{what:?}");
        }
        for what in [For::ApiServer, For::NodeUid, For::Reboot, For::Disk] {
            assert!(look_again(what, false).is_some(), "{what:?}");
        }
    }
}
