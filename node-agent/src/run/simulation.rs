//! The executor on a simulated machine and API server, killed before and after every effect.
//!
//! The property: whatever sequence of kills, power cuts, outages and people's changes, an attempt switches at most
//! once, asks for at most two reboots, never writes to what may boot, never reports Completed on the old slot, and
//! ends; and the machine boots a whole system at every moment.

use std::{
    cell::{Ref, RefCell, RefMut},
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use k8s_openapi::jiff::Timestamp;
use monok8s_api::{
    OSUpgradeProgress, OSUpgradeProgressStatus,
    osupgradeprogress::{ImageRef, Release},
    reason::{FailureReason, ProgressPhase, SlotState},
};
use monok8s_boot::SlotName;
use proptest::prelude::*;

use crate::{
    act::effects::{Away, Begun, Choice, Effects, Job, NoChoice, Opened, Reply, Written},
    decide::{
        next::{For, Machine, Progress, RebootWatch, System, View},
        resume::Installation,
        status::{self, Here, Live},
    },
    record::{Attempt, Proof, Record, SlotRecord, Step, Trouble},
    run::executor::{Executor, Flow},
};

const OLD: &str = "v1.35.0";
const NEW: &str = "v1.35.1";

/// An image comes in so many parts, each of which is written, proven and kept before the next.
const PARTS: usize = 3;

/// What a part is known by.
type Mark = u8;

/// What every part of the promised image is known by, and of the file that is there in its place while the source is
/// wrong.
const PROMISED: Mark = 7;
const WRONG: Mark = 9;

/// What a slot holds.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    version: &'static str,
    whole: bool,
    /// What was written of an image, part by part; beyond `durable` a power cut takes it.
    parts: Vec<Mark>,
    durable: usize,
    /// Whether it comes up when booted.
    boots: bool,
}

/// What the agent has kept of an installation that it had not ended.
#[derive(Clone, Debug)]
struct Kept {
    installation: Installation,
    /// What was written and proven, and so hashed.
    parts: Vec<Mark>,
    /// The file it came from, by what its server says of it.
    file: Mark,
}

/// Variables as the shipped grub.cfg keeps them.
#[derive(Clone, Debug)]
struct Loader {
    default: SlotName,
    trial: Option<SlotName>,
    ok: BTreeMap<SlotName, bool>,
}

impl Loader {
    /// What is started without a trial.
    fn effective(&self) -> Option<SlotName> {
        [self.default, self.default.other()]
            .into_iter()
            .find(|s| self.ok[s])
    }
}

/// Something that does not work for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    ApiAway,
    NodeUnknown,
    DiskFull,
    DiskReadOnly,
    DiskGone,
    WriteFails,
    ImagePanics,
    ImageLies,
    /// Another file is behind the URL, and the server says so, or does not.
    OtherFile,
    OtherFileUnseen,
    LoaderFails,
    LoaderLies,
    SlotsUnclear,
    RebootRefused,
}

#[derive(Debug)]
struct World {
    disk: Option<String>,
    loader: Loader,
    slots: BTreeMap<SlotName, Content>,
    running: SlotName,
    /// What the boot loader said of this boot.
    trial_boot: bool,
    boot: u32,
    power: bool,
    checkpoint: Option<Kept>,
    /// Parts that were downloaded.
    downloaded: usize,
    objects: BTreeMap<String, OSUpgradeProgress>,
    faults: BTreeSet<Fault>,
    revision: u32,
    /// Effects until the process is killed.
    fuse: Option<u32>,
    /// A cancel, seen by the writer between two chunks.
    stop_writes: bool,
    /// (uid, attempt) of every effective switch, and the boots in which a reboot was asked for.
    switches: Vec<(String, i32)>,
    reboots: BTreeMap<(String, i32), BTreeSet<u32>>,
    violations: Vec<String>,
}

/// The payload of a kill.
struct Killed;

#[derive(Clone, Debug)]
struct Sim {
    world: Rc<RefCell<World>>,
    reboot: RebootWatch,
    /// This process has the slot open.
    claimed: bool,
    /// What the slot held of the image when it was opened, and which file that came from.
    begun: Vec<Mark>,
    /// The boot of the switch, as the last look at the machine was told of it.
    switched_in: Option<String>,
    /// What is shown in passing: the attempt and what it waits for.
    shown: Option<Attempt>,
    note: String,
}

impl World {
    fn new() -> Self {
        let content = |version| Content {
            version,
            whole: true,
            parts: Vec::new(),
            durable: 0,
            boots: true,
        };
        Self {
            disk: None,
            loader: Loader {
                default: SlotName::A,
                trial: None,
                ok: SlotName::BOTH.into_iter().map(|s| (s, true)).collect(),
            },
            slots: BTreeMap::from([
                (SlotName::A, content(OLD)),
                (SlotName::B, content("v1.34.9")),
            ]),
            running: SlotName::A,
            trial_boot: false,
            boot: 1,
            power: true,
            checkpoint: None,
            downloaded: 0,
            objects: BTreeMap::new(),
            faults: BTreeSet::new(),
            revision: 0,
            fuse: None,
            stop_writes: false,
            switches: Vec::new(),
            reboots: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    fn fails(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// What the source serves.
    fn file(&self) -> Mark {
        if self.fails(Fault::OtherFile) || self.fails(Fault::OtherFileUnseen) {
            WRONG
        } else {
            PROMISED
        }
    }

    /// What the server says by which its file is recognised.
    fn tag(&self) -> Mark {
        if self.fails(Fault::OtherFile) {
            WRONG
        } else {
            PROMISED
        }
    }

    /// What was not flushed is gone.
    fn lose_power(&mut self) {
        for slot in self.slots.values_mut() {
            slot.parts.truncate(slot.durable);
        }
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// What grub.cfg does; a trial that does not come up is reset by the watchdog.
    fn firmware(&mut self) {
        self.boot += 1;
        if let Some(slot) = self.loader.trial.take()
            && self.loader.ok[&slot]
        {
            if !self.slots[&slot].whole {
                self.violations
                    .push(format!("trial of half-written slot {slot}"));
            }
            if self.slots[&slot].boots {
                self.running = slot;
                self.trial_boot = true;
                return;
            }
            self.boot += 1;
        }
        self.trial_boot = false;
        match self.loader.effective() {
            Some(slot) if self.slots[&slot].whole => self.running = slot,
            other => self.violations.push(format!("nothing bootable: {other:?}")),
        }
    }

    fn add(&mut self, uid: &str, owned: bool, release: Release) {
        self.revision += 1;
        let upgrade = serde_json::json!([{"apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade", "name": "u",
                                        "uid": "uu", "controller": true}]);
        let object = serde_json::json!({
            "apiVersion": "monok8s.io/v1alpha1",
            "kind": "OSUpgradeProgress",
            "metadata": {"name": uid, "uid": uid, "ownerReferences": if owned { upgrade } else { serde_json::json!([]) }},
            "spec": {"sourceRef": {"name": "u"}, "nodeName": "n", "nodeUID": "node", "release": release,
                     "image": {"version": NEW, "url": "http://x/i?key=1", "checksum": format!("sha256:{:064}", 0)}},
        });
        self.objects
            .insert(uid.to_owned(), serde_json::from_value(object).unwrap());
    }

    fn record(&self) -> Option<Record> {
        self.disk.as_ref().map(|t| serde_json::from_str(t).unwrap())
    }

    fn under_way(&self) -> Option<Attempt> {
        self.record()?.under_way().cloned()
    }

    /// The API server takes a status.
    fn take_status(&mut self, uid: &str, status: OSUpgradeProgressStatus) {
        if status.phase == ProgressPhase::Completed {
            let good =
                self.slots[&self.running].version == NEW && self.loader.default == self.running;
            if !good {
                self.violations
                    .push(format!("Completed while {:?} runs", self.running));
            }
        }
        let armed = self.loader.trial.is_some() || self.loader.effective() != Some(self.running);
        if status.failure_reason == FailureReason::StateNotPersistent.as_str()
            && armed
            && self
                .under_way()
                .is_some_and(|a| a.uid == uid && a.switch.is_some())
        {
            self.violations.push(format!(
                "{uid} is told {} while its trial goes on",
                status.phase
            ));
        }
        if let Some(object) = self.objects.get_mut(uid) {
            object.status = Some(status);
        }
    }
}

impl Sim {
    fn w(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// One effect: the process may be killed before it or after it.
    fn effect<T>(&self, effect: impl FnOnce(&mut World) -> T) -> T {
        self.burn();
        let result = effect(&mut self.w());
        self.burn();
        result
    }

    fn burn(&self) {
        let mut w = self.w();
        if let Some(fuse) = &mut w.fuse {
            if *fuse == 0 {
                w.fuse = None;
                drop(w);
                resume_unwind(Box::new(Killed));
            }
            *fuse -= 1;
        }
    }

    /// What an earlier run has left of an image in the slot: the real decision, and the slot read again.
    fn find(&self, job: &Job) -> Vec<Mark> {
        let Some(kept) = self.w().checkpoint.clone() else {
            return Vec::new();
        };
        let wanted = installation(job);
        let held = self.w().slots[&job.to].parts.clone();
        let same = wanted.difference(&kept.installation).is_none();
        if !same || !held.starts_with(&kept.parts) || self.w().tag() != kept.file {
            self.effect(|w| w.checkpoint = None);
            return Vec::new();
        }
        let told = &kept.installation;
        if (&told.uid, told.attempt) != (&job.uid, job.attempt) {
            let violation = "goes on with another attempt's slot".to_owned();
            self.w().violations.push(violation);
        }
        kept.parts
    }

    /// Fills the slot from where it is, part by part: written, proven, kept. What ends it early, if anything does.
    fn fill(&self, job: &Job, hashed: &mut Vec<Mark>) -> Option<Written> {
        for part in hashed.len()..PARTS {
            let mark = self.effect(|w| {
                if w.running == job.to || w.loader.ok[&job.to] {
                    w.violations
                        .push(format!("wrote to bootable slot {}", job.to));
                }
                if w.record()
                    .is_none_or(|r| r.slots[&job.to].state != SlotState::Writing)
                {
                    w.violations.push("wrote without saying so".to_owned());
                }
                let mark = w.file();
                let slot = w.slots.get_mut(&job.to).unwrap();
                let mut parts = std::mem::take(&mut slot.parts);
                parts.resize(parts.len().max(part + 1), 0);
                parts[part] = mark;
                *slot = Content {
                    version: NEW,
                    whole: false,
                    durable: slot.durable.min(part),
                    parts,
                    boots: false,
                };
                w.downloaded += 1;
                mark
            });
            if self.w().stop_writes {
                return Some(Written::Stopped);
            }
            self.effect(|w| w.slots.get_mut(&job.to).unwrap().durable = part + 1);
            hashed.push(mark);
            self.effect(|w| {
                let full = [Fault::DiskFull, Fault::DiskReadOnly, Fault::DiskGone];
                if !full.iter().any(|fault| w.fails(*fault)) {
                    w.checkpoint = Some(Kept {
                        installation: installation(job),
                        parts: hashed.clone(),
                        file: w.tag(),
                    });
                }
            });
        }
        None
    }

    fn loader(&self, change: impl FnOnce(&mut World)) -> Result<(), Trouble> {
        self.effect(|w| {
            if w.fails(Fault::LoaderFails) {
                return Err(Trouble::new(
                    FailureReason::BootSwitchFailed,
                    "grubenv is read-only",
                ));
            }
            change(w);
            if w.fails(Fault::LoaderLies) {
                return Err(Trouble::new(
                    FailureReason::BootSwitchFailed,
                    "read back differs",
                ));
            }
            Ok(())
        })
    }
}

fn installation(job: &Job) -> Installation {
    Installation {
        uid: job.uid.clone(),
        attempt: job.attempt,
        checksum: job.image.checksum.clone().unwrap_or_default(),
        partition: job.to.to_string(),
    }
}

impl Effects for Sim {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn load(&mut self) -> Result<Option<Record>, Trouble> {
        let w = self.w();
        if w.fails(Fault::DiskGone) {
            return Err(Trouble::new(FailureReason::StateNotPersistent, "gone"));
        }
        Ok(w.record())
    }

    fn can_save(&mut self) -> Result<(), Trouble> {
        let w = self.w();
        for (fault, why) in [
            (Fault::DiskReadOnly, "read-only"),
            (Fault::DiskGone, "gone"),
        ] {
            if w.fails(fault) {
                return Err(Trouble::new(FailureReason::StateNotPersistent, why));
            }
        }
        Ok(())
    }

    fn save(&mut self, record: &Record) -> Result<(), Trouble> {
        self.can_save()?;
        let text = serde_json::to_string(record).unwrap();
        self.effect(|w| {
            if w.fails(Fault::DiskFull) {
                return Err(Trouble::new(FailureReason::StateNotPersistent, "disk full"));
            }
            w.disk = Some(text);
            Ok(())
        })
    }

    async fn machine(&mut self, switched_in: Option<&str>) -> Machine {
        self.switched_in = switched_in.map(str::to_owned);
        let w = self.w();
        Machine {
            boot_id: w.boot_id(),
            node_uid: (!w.fails(Fault::NodeUnknown)).then(|| "node".to_owned()),
            system: if w.fails(Fault::SlotsUnclear) {
                Err(Trouble::new(
                    FailureReason::SlotAmbiguous,
                    "two partitions are called A",
                ))
            } else {
                Ok(System {
                    active: w.running,
                    version: w.slots[&w.running].version.to_owned(),
                    default: w.loader.effective(),
                    settled: w.loader.default == w.running && w.loader.ok[&w.running],
                    no_trial: !w.trial_boot,
                    trial: w.loader.trial,
                })
            },
        }
    }

    fn look_into(&mut self, slot: SlotName) -> SlotRecord {
        SlotRecord {
            state: SlotState::Unknown,
            version: self.w().slots[&slot].version.to_owned(),
            checksum: String::new(),
        }
    }

    fn mark_unbootable(&mut self, slot: SlotName) -> Result<(), Trouble> {
        self.loader(|w| {
            w.loader.ok.insert(slot, false);
            w.loader.trial = w.loader.trial.filter(|t| *t != slot);
        })
    }

    fn try_once(&mut self, slot: SlotName) -> Result<(), Trouble> {
        let attempt = self.w().under_way().unwrap();
        self.loader(|w| {
            let content = w.slots[&slot].clone();
            if slot == w.running || !content.whole || content.version != NEW {
                w.violations.push(format!("switch to {content:?}"));
            }
            if w.fails(Fault::NodeUnknown) {
                w.violations
                    .push("switched a machine that may be another Node".to_owned());
            }
            w.loader.ok.insert(slot, true);
            w.loader.trial = Some(slot);
            w.switches.push((attempt.uid, attempt.number));
        })
    }

    fn mark_good(&mut self, slot: SlotName) -> Result<(), Trouble> {
        self.loader(|w| {
            if w.running != slot {
                w.violations
                    .push(format!("{slot} marked good while {} runs", w.running));
            }
            w.loader.ok.insert(slot, true);
            w.loader.default = slot;
            w.loader.trial = None;
        })
    }

    fn mark_bad(&mut self, slot: SlotName) -> Result<(), Trouble> {
        self.loader(|w| {
            if !w.loader.ok[&slot.other()] {
                w.violations
                    .push(format!("{slot} marked bad and nothing else boots"));
            }
            w.loader.ok.insert(slot, false);
            w.loader.trial = w.loader.trial.filter(|t| *t != slot);
        })
    }

    async fn open(&mut self, job: &Job) -> Opened {
        self.burn();
        if self.w().under_way().is_none_or(|a| a.writing != job.wrote) {
            let violation = format!("opened with wrote: {}", job.wrote);
            self.w().violations.push(violation);
        }
        if self.w().stop_writes {
            return Opened::Stopped;
        }
        if self.claimed {
            self.w()
                .violations
                .push("the slot is still claimed".to_owned());
        }
        self.claimed = true;
        self.begun = self.find(job);
        Opened::Ready(Begun {
            resumed_at: self.begun.len() as u64,
            image: job.image.clone(),
        })
    }

    async fn abandon(&mut self) {
        self.claimed = false;
    }

    fn forget_checkpoint(&mut self) {
        self.effect(|w| w.checkpoint = None);
    }

    async fn write(&mut self, job: &Job) -> Written {
        self.claimed = false;
        let mut hashed = std::mem::take(&mut self.begun);
        let mut resumed = !hashed.is_empty();
        loop {
            if let Some(outcome) = self.fill(job, &mut hashed) {
                return outcome;
            }
            if hashed == [PROMISED; PARTS] {
                break;
            }
            if !std::mem::take(&mut resumed) {
                return Written::Failed(Trouble::new(
                    FailureReason::ChecksumMismatch,
                    "another file",
                ));
            }
            // It may be another file than the earlier run had.
            self.effect(|w| w.checkpoint = None);
            hashed.clear();
        }
        let outcome = self.effect(|w| {
            if w.fails(Fault::WriteFails) {
                return Written::Failed(Trouble::new(FailureReason::WriteFailed, "I/O error"));
            }
            let boots = !w.fails(Fault::ImagePanics);
            if let Some(slot) = w.slots.get_mut(&job.to) {
                slot.whole = slot.parts == [PROMISED; PARTS];
                slot.boots = boots;
            }
            if w.fails(Fault::ImageLies) {
                return Written::Failed(Trouble::new(
                    FailureReason::WrongVersionInImage,
                    "it lies",
                ));
            }
            if !w.slots[&job.to].whole {
                w.violations
                    .push(format!("proven is {:?}", w.slots[&job.to].parts));
            }
            Written::Proven(Proof {
                bytes: 4096,
                checksum_matched: Some("File".to_owned()),
            })
        });
        if self.w().stop_writes {
            return Written::Stopped;
        }
        outcome
    }

    async fn reboot(&mut self) {
        self.burn();
        self.reboot = RebootWatch::Asked;
        let mut w = self.w();
        let attempt = w.under_way().unwrap();
        let boot = w.boot;
        w.reboots
            .entry((attempt.uid, attempt.number))
            .or_default()
            .insert(boot);
        if w.fails(Fault::RebootRefused) {
            drop(w);
            self.reboot = RebootWatch::Overdue;
        } else {
            w.power = false;
        }
    }

    fn reboot_watch(&self) -> RebootWatch {
        self.reboot
    }

    fn reboot_refusal(&self) -> Option<String> {
        (self.reboot == RebootWatch::Overdue).then(|| "a block inhibitor".to_owned())
    }

    fn forget_reboot(&mut self) {
        self.reboot = RebootWatch::NotAsked;
    }

    fn view(&self) -> View {
        // What was said before an outage stays; a process that starts in one has heard nothing.
        let w = self.w();
        if w.fails(Fault::ApiAway) && w.fuse.is_some() {
            return View::Away;
        }
        View::Listed(w.objects.values().map(Progress::of).collect())
    }

    async fn report(&mut self, attempt: &Attempt) -> Result<Reply, Away> {
        self.effect(|w| {
            if w.fails(Fault::ApiAway) {
                return Err(Away("no route to host".to_owned()));
            }
            let Some(object) = w.objects.get(&attempt.uid).cloned() else {
                return Ok(Reply::Gone);
            };
            let here = Here {
                boot_id: w.boot_id(),
                system: None,
            };
            let status = status::status(
                &object,
                attempt,
                &Live::default(),
                &here,
                Timestamp::UNIX_EPOCH,
            );
            w.take_status(&attempt.uid, status);
            Ok(Reply::Accepted)
        })
    }

    fn show(&mut self, attempt: &Attempt) {
        self.shown = Some(attempt.clone());
    }

    fn note(&mut self, note: &str) {
        note.clone_into(&mut self.note);
    }

    async fn read_fresh(&mut self, _attempt: &Attempt) -> Result<(), Away> {
        self.effect(|w| {
            if w.fails(Fault::ApiAway) {
                Err(Away("no route to host".to_owned()))
            } else {
                Ok(())
            }
        })
    }

    async fn choose(&mut self, uid: &str, system: &System) -> Result<Choice, NoChoice> {
        let image: ImageRef = self.w().objects[uid].spec.image.clone().unwrap();
        if image.version == system.version {
            return Ok(Choice::AlreadyThere(image));
        }
        Ok(Choice::Install(image))
    }

    fn publish(&mut self, _record: Result<&Record, &Trouble>, _machine: &Machine) {}
    fn event(&mut self, _attempt: &Attempt) {}

    fn resumed(&mut self, _attempt: &Attempt, bytes: u64) {
        if bytes == 0 {
            let nothing = "says that it resumed at nothing".to_owned();
            self.w().violations.push(nothing);
        }
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// The agent runs until it has nothing to do; the machine reboots when asked.
    Run,
    /// It is killed after so many effects.
    Kill(u32),
    /// Killed, and the power goes.
    PowerCut(u32),
    Release(Release),
    Cancel(bool),
    Nonce(u8),
    Delete,
    Second,
    Fault(Fault, bool),
    StopWrites(bool),
    /// Something else writes to the slot that is not running.
    Scribble,
}

/// Starts the agent.
fn start(world: &Rc<RefCell<World>>) -> Executor<Sim> {
    Executor::new(Sim {
        world: Rc::clone(world),
        reboot: RebootWatch::NotAsked,
        claimed: false,
        begun: Vec::new(),
        switched_in: None,
        shown: None,
        note: String::new(),
    })
}

/// Runs a future that never waits.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the simulation never waits"),
    }
}

/// Starts the agent and lets it run until it waits, is killed, or the machine goes down; then the machine boots.
/// Returns whether it came to rest by itself.
fn run(world: &Rc<RefCell<World>>, fuse: Option<u32>) -> bool {
    for _ in 0..30 {
        world.borrow_mut().fuse = fuse;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut executor = start(world);
            for _ in 0..60 {
                match block_on(executor.step()) {
                    Flow::Again => {}
                    Flow::Wait(_) | Flow::Backoff(_) | Flow::Stopped => break,
                }
                if !executor.effects().w().power {
                    break;
                }
            }
        }));
        let killed = match outcome {
            Ok(()) => false,
            Err(payload) if payload.is::<Killed>() => true,
            Err(payload) => resume_unwind(payload),
        };
        let mut w = world.borrow_mut();
        w.fuse = None;
        if w.power {
            return !killed;
        }
        w.power = true;
        w.firmware();
        if fuse.is_some() {
            return false;
        }
    }
    false
}

fn play(events: &[Event]) -> Rc<RefCell<World>> {
    let world = Rc::new(RefCell::new(World::new()));
    world.borrow_mut().add("p1", true, Release::Hold);
    play_on(&world, events);
    world
}

fn play_on(world: &Rc<RefCell<World>>, events: &[Event]) {
    for event in events {
        match event {
            Event::Run => {
                run(world, None);
            }
            Event::Kill(n) => {
                run(world, Some(*n));
            }
            Event::PowerCut(n) => {
                run(world, Some(*n));
                world.borrow_mut().lose_power();
                world.borrow_mut().firmware();
            }
            Event::Release(release) => {
                for p in world.borrow_mut().objects.values_mut() {
                    p.spec.release = *release;
                }
            }
            Event::Cancel(cancel) => {
                for p in world.borrow_mut().objects.values_mut() {
                    p.spec.cancel = *cancel;
                }
            }
            Event::Nonce(n) => {
                for p in world.borrow_mut().objects.values_mut() {
                    p.spec.retry_nonce = format!("retry-{n}");
                }
            }
            Event::Delete => {
                world.borrow_mut().objects.remove("p1");
            }
            Event::Second => {
                if !world.borrow().objects.contains_key("p2") {
                    world.borrow_mut().add("p2", false, Release::Reboot);
                }
            }
            Event::Fault(fault, true) => {
                world.borrow_mut().faults.insert(*fault);
            }
            Event::Fault(fault, false) => {
                world.borrow_mut().faults.remove(fault);
            }
            Event::StopWrites(on) => world.borrow_mut().stop_writes = *on,
            Event::Scribble => scribble(&mut world.borrow_mut()),
        }
        check(&world.borrow(), events);
    }
}

/// Something else writes to a slot that nobody relies on: it is not proven, and nothing boots it.
fn scribble(w: &mut World) {
    let target = w.under_way().filter(|a| a.proven.is_none());
    let Some(slot) = target.and_then(|a| a.plan).map(|plan| plan.to) else {
        return;
    };
    if w.running != slot && !w.loader.ok[&slot] {
        let written = w.slots.get_mut(&slot).unwrap();
        written.parts.iter_mut().take(1).for_each(|part| *part = 0);
    }
}

fn check(w: &World, events: &[Event]) {
    assert_eq!(w.violations, Vec::<String>::new(), "{events:?}");
    let mut seen = BTreeSet::new();
    for switch in &w.switches {
        assert!(
            seen.insert(switch),
            "switched twice in {switch:?}: {events:?}"
        );
    }
    for (attempt, boots) in &w.reboots {
        assert!(
            boots.len() <= 2,
            "{attempt:?} rebooted in {boots:?}: {events:?}"
        );
    }
    let mut after = World {
        disk: None,
        loader: w.loader.clone(),
        slots: w.slots.clone(),
        running: w.running,
        violations: Vec::new(),
        ..World::new()
    };
    after.firmware();
    assert_eq!(
        after.violations,
        Vec::<String>::new(),
        "a power cut now: {events:?}"
    );
}

/// Everything works from now on; people and controller let it run. Then every attempt ends.
fn settle(world: &Rc<RefCell<World>>, events: &[Event]) {
    {
        let mut w = world.borrow_mut();
        w.faults.clear();
        w.stop_writes = false;
        for p in w.objects.values_mut() {
            p.spec.release = Release::Reboot;
        }
    }
    for _ in 0..4 {
        run(world, None);
    }
    let w = world.borrow();
    check(&w, events);
    assert!(w.under_way().is_none(), "{:?}: {events:?}", w.under_way());
    for p in w.objects.values() {
        let phase = &p.status.as_ref().unwrap().phase;
        // A retry of the controller's own waits for Hold, and is queued then.
        assert!(phase.is_terminal(), "{phase}: {events:?}");
    }
}

fn phase_of(w: &Ref<'_, World>, uid: &str) -> (ProgressPhase, String) {
    let status = w.objects[uid].status.clone().unwrap_or_default();
    (status.phase, status.failure_reason)
}

fn nonce(world: &Rc<RefCell<World>>, nonce: &str) {
    for p in world.borrow_mut().objects.values_mut() {
        p.spec.retry_nonce = nonce.to_owned();
    }
}

fn event() -> impl Strategy<Value = Event> {
    fn fault(fault: Fault) -> impl Strategy<Value = Event> {
        any::<bool>().prop_map(move |on| Event::Fault(fault, on))
    }
    prop_oneof![
        6 => Just(Event::Run),
        8 => (0..90u32).prop_map(Event::Kill),
        4 => (0..90u32).prop_map(Event::PowerCut),
        6 => prop_oneof![Just(Release::Hold), Just(Release::Stage), Just(Release::Reboot), Just(Release::Reboot)]
            .prop_map(Event::Release),
        2 => any::<bool>().prop_map(Event::Cancel),
        3 => (0..4u8).prop_map(Event::Nonce),
        1 => Just(Event::Delete),
        1 => Just(Event::Second),
        1 => fault(Fault::ApiAway),
        1 => fault(Fault::NodeUnknown),
        1 => fault(Fault::DiskFull),
        1 => fault(Fault::DiskReadOnly),
        1 => fault(Fault::DiskGone),
        1 => fault(Fault::WriteFails),
        1 => fault(Fault::ImagePanics),
        1 => fault(Fault::ImageLies),
        1 => fault(Fault::OtherFile),
        1 => fault(Fault::OtherFileUnseen),
        1 => Just(Event::Scribble),
        1 => fault(Fault::LoaderFails),
        1 => fault(Fault::LoaderLies),
        1 => fault(Fault::SlotsUnclear),
        1 => fault(Fault::RebootRefused),
        1 => any::<bool>().prop_map(Event::StopWrites),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_breaks_the_promises(events in prop::collection::vec(event(), 1..25)) {
        let world = play(&events);
        settle(&world, &events);
    }
}

/// The shortest complete run, killed (and, separately, cut from power) after each of its effects in turn.
#[test]
fn an_upgrade_survives_a_kill_after_every_effect() {
    let mut points = 0;
    for n in 0.. {
        let events = [Event::Release(Release::Reboot), Event::Kill(n)];
        let world = play(&events);
        let done = world.borrow().power && world.borrow().boot == 1;
        settle(&world, &events);
        let w = world.borrow();
        assert_eq!(
            phase_of(&w, "p1").0,
            ProgressPhase::Completed,
            "killed after {n}"
        );
        assert_eq!(w.running, SlotName::B, "killed after {n}");
        if !done {
            points = n;
            break;
        }
    }
    assert!(points > 20, "only {points} effects up to the reboot");
    for n in 0..points {
        let events = [Event::Release(Release::Reboot), Event::PowerCut(n)];
        let world = play(&events);
        settle(&world, &events);
        let w = world.borrow();
        // Between the announcement of the switch and the switch itself nobody can tell after a power cut.
        let (phase, reason) = phase_of(&w, "p1");
        let told = (phase == ProgressPhase::Completed && w.running == SlotName::B)
            || (phase == ProgressPhase::RolledBack
                && reason == "FellBack"
                && w.running == SlotName::A);
        assert!(
            told,
            "power cut after {n}: {phase} {reason} on {}",
            w.running
        );
    }
    // And once more on the trial boot.
    for n in 0..40 {
        let events = [
            Event::Release(Release::Reboot),
            Event::Kill(points),
            Event::Kill(n),
        ];
        let world = play(&events);
        settle(&world, &events);
        assert_eq!(
            phase_of(&world.borrow(), "p1").0,
            ProgressPhase::Completed,
            "killed after {n}"
        );
    }
}

/// Killed again and again while the image is written: what was proven and kept is not downloaded again.
#[test]
fn what_was_proven_is_not_downloaded_again() {
    let whole = {
        let world = play(&[Event::Release(Release::Stage), Event::Run]);
        world.borrow().downloaded
    };
    assert_eq!(whole, PARTS);
    let mut resumed = 0;
    for first in 0..60 {
        for cut in [Event::Kill, Event::PowerCut] {
            for more in 0..4 {
                let events = [
                    Event::Release(Release::Stage),
                    cut(first),
                    cut(first / 2 + more),
                    Event::Run,
                ];
                let world = play(&events);
                let w = world.borrow();
                assert_eq!(w.under_way().unwrap().step(), Step::Proven, "{events:?}");
                // One part under way at each kill.
                assert!(
                    w.downloaded <= PARTS + 2,
                    "{} parts: {events:?}",
                    w.downloaded
                );
                resumed += usize::from(w.downloaded > PARTS);
                drop(w);
                settle(&world, &events);
                assert!(world.borrow().checkpoint.is_none(), "{events:?}");
            }
        }
    }
    assert!(
        resumed > 20,
        "{resumed} were killed in the middle of a part"
    );
}

/// What is in the slot, in the file behind the URL, or in the record of another attempt is never taken for what it is
/// not.
#[test]
fn a_checkpoint_is_believed_only_when_all_that_it_says_holds() {
    let cut = [Event::Release(Release::Stage), Event::Kill(26)];
    let begun = play(&cut);
    let kept = begun.borrow().checkpoint.clone().unwrap();
    assert!((1..PARTS).contains(&kept.parts.len()), "{kept:?}");
    for (meanwhile, downloaded) in [
        (vec![], PARTS - kept.parts.len()),
        (vec![Event::Scribble], PARTS),
        (
            vec![
                Event::Cancel(true),
                Event::Run,
                Event::Cancel(false),
                Event::Nonce(1),
                Event::Release(Release::Hold),
                Event::Run,
                Event::Release(Release::Stage),
            ],
            PARTS,
        ),
    ] {
        let world = play(&cut);
        let before = world.borrow().downloaded;
        play_on(&world, &meanwhile);
        // As an agent leaves it that is killed when the end is recorded and the checkpoint is still there.
        world.borrow_mut().checkpoint = Some(kept.clone());
        play_on(&world, &[Event::Run]);
        let w = world.borrow();
        assert_eq!(w.under_way().unwrap().step(), Step::Proven, "{meanwhile:?}");
        assert_eq!(w.downloaded - before, downloaded, "{meanwhile:?}");
    }
    // Another file, whether its server says so or not, is what fails, and not a success.
    for fault in [Fault::OtherFile, Fault::OtherFileUnseen] {
        let world = play(&cut);
        play_on(&world, &[Event::Fault(fault, true), Event::Run]);
        assert_eq!(
            phase_of(&world.borrow(), "p1").1,
            "ChecksumMismatch",
            "{fault:?}"
        );
        // Of a part from there, the rest being as promised, a checksum is all that tells.
        let world = Rc::new(RefCell::new(World::new()));
        world.borrow_mut().add("p1", true, Release::Stage);
        world.borrow_mut().faults.insert(fault);
        play_on(
            &world,
            &[Event::Kill(26), Event::Fault(fault, false), Event::Run],
        );
        assert_eq!(world.borrow().under_way().unwrap().step(), Step::Proven);
    }
}

#[test]
fn an_image_that_does_not_come_up_ends_rolled_back() {
    let events = [
        Event::Fault(Fault::ImagePanics, true),
        Event::Release(Release::Reboot),
        Event::Run,
    ];
    let world = play(&events);
    let w = world.borrow();
    assert_eq!(
        phase_of(&w, "p1"),
        (ProgressPhase::RolledBack, "FellBack".to_owned())
    );
    assert_eq!(w.running, SlotName::A);
    assert!(!w.loader.ok[&SlotName::B]);
}

/// The slot that was confirmed cannot be started any more, and the boot loader falls back to the other one.
#[test]
fn a_slot_that_does_not_boot_any_more_is_installed_anew() {
    let world = Rc::new(RefCell::new(World::new()));
    {
        let mut w = world.borrow_mut();
        w.loader.default = SlotName::B;
        if let Some(lost) = w.slots.get_mut(&SlotName::B) {
            lost.boots = false;
        }
        w.add("p1", false, Release::Reboot);
    }
    assert!(run(&world, None));
    let w = world.borrow();
    assert_eq!(phase_of(&w, "p1").0, ProgressPhase::Completed);
    assert_eq!((w.running, w.loader.default), (SlotName::B, SlotName::B));
    assert_eq!(w.violations, Vec::<String>::new());
}

/// One process all the time: what it remembers of a reboot belongs to the attempt that asked for it.
#[test]
fn a_refused_reboot_is_not_held_against_the_next_attempt() {
    let world = Rc::new(RefCell::new(World::new()));
    world.borrow_mut().add("p1", false, Release::Reboot);
    world.borrow_mut().faults.insert(Fault::RebootRefused);
    let mut executor = start(&world);
    while block_on(executor.step()) == Flow::Again {}
    assert_eq!(phase_of(&world.borrow(), "p1").1, "RebootFailed");
    let message = world.borrow().objects["p1"].status.clone().unwrap().message;
    assert!(message.contains("(a block inhibitor)"), "{message}");
    assert_eq!(
        world.borrow().loader.trial,
        None,
        "the switch is taken back"
    );
    world.borrow_mut().faults.clear();
    nonce(&world, "again");
    while world.borrow().power {
        assert_eq!(block_on(executor.step()), Flow::Again);
    }
    assert_eq!(world.borrow().switches.len(), 2);
}

/// What was opened for an attempt that ended before its first byte does not stay claimed.
#[test]
fn a_slot_that_could_not_be_marked_or_recorded_is_free_for_the_retry() {
    for fault in [Fault::LoaderFails, Fault::DiskFull] {
        let world = Rc::new(RefCell::new(World::new()));
        world.borrow_mut().add("p1", false, Release::Reboot);
        let mut executor = start(&world);
        while !world.borrow().under_way().is_some_and(|a| a.accepted) {
            assert_eq!(block_on(executor.step()), Flow::Again);
        }
        world.borrow_mut().faults.insert(fault);
        while block_on(executor.step()) == Flow::Again {}
        assert_eq!(phase_of(&world.borrow(), "p1").0, ProgressPhase::Failed);
        assert_eq!(world.borrow().slots[&SlotName::B].version, "v1.34.9");
        assert!(!executor.effects().claimed, "{fault:?}");
        world.borrow_mut().faults.clear();
        while block_on(executor.step()) == Flow::Again {}
        nonce(&world, "again");
        while world.borrow().power {
            assert_eq!(block_on(executor.step()), Flow::Again, "{fault:?}");
        }
        check(&world.borrow(), &[]);
    }
}

/// The controller hands nothing to a node that cannot take it, so that the node itself has to see that it is mended.
#[test]
fn trouble_is_looked_at_again_while_there_is_no_work() {
    for fault in [Fault::SlotsUnclear, Fault::DiskFull] {
        let world = Rc::new(RefCell::new(World::new()));
        world.borrow_mut().faults.insert(fault);
        let mut executor = start(&world);
        assert!(matches!(block_on(executor.step()), Flow::Wait(_)));
        assert!(executor.is_troubled(), "{fault:?}");
        world.borrow_mut().faults.clear();
        assert!(matches!(block_on(executor.step()), Flow::Wait(_)));
        assert!(!executor.is_troubled(), "{fault:?}");
    }
}

/// Nobody is told Failed of an attempt whose trial is armed, and no nonce is taken for it.
#[test]
fn a_disk_that_goes_away_after_the_switch_does_not_end_the_attempt() {
    for (fault, why) in [
        (Fault::DiskReadOnly, "read-only"),
        (Fault::DiskGone, "gone"),
    ] {
        let world = Rc::new(RefCell::new(World::new()));
        world.borrow_mut().add("p1", false, Release::Reboot);
        let mut executor = start(&world);
        while world.borrow().switches.is_empty() {
            assert_eq!(block_on(executor.step()), Flow::Again);
            assert_eq!(executor.effects().switched_in, None);
        }
        let before = phase_of(&world.borrow(), "p1");
        world.borrow_mut().faults.insert(fault);
        nonce(&world, "again");
        for _ in 0..5 {
            assert!(matches!(block_on(executor.step()), Flow::Backoff(_)));
        }
        assert_eq!(phase_of(&world.borrow(), "p1"), before);
        let shown = executor.effects().shown.clone();
        assert!(shown.is_some_and(|a| a.switch.is_some()));
        assert_eq!(executor.effects().note, why);
        world.borrow_mut().faults.clear();
        while world.borrow().power {
            assert!(!matches!(block_on(executor.step()), Flow::Wait(_)));
        }
        assert_eq!(executor.effects().note, "");
        world.borrow_mut().power = true;
        world.borrow_mut().firmware();
        let mut executor = start(&world);
        block_on(executor.step());
        assert_eq!(
            executor.effects().switched_in.as_deref(),
            Some("boot-1"),
            "a trial boot is given time to come up"
        );
        run(&world, None);
        assert_eq!(phase_of(&world.borrow(), "p1").0, ProgressPhase::Completed);
    }
}

/// Neither is it told so by an agent that starts while the disk does not take or give files: before the reboot, on the
/// trial boot, and back on the old slot.
#[test]
fn an_agent_that_starts_without_its_disk_waits_to_judge_a_trial() {
    for fault in [Fault::DiskReadOnly, Fault::DiskGone] {
        for boots in 0..3 {
            let world = Rc::new(RefCell::new(World::new()));
            world.borrow_mut().add("p1", false, Release::Reboot);
            let mut executor = start(&world);
            while world.borrow().power {
                assert_eq!(block_on(executor.step()), Flow::Again);
            }
            drop(executor);
            for _ in 0..boots {
                world.borrow_mut().firmware();
            }
            world.borrow_mut().power = true;
            world.borrow_mut().faults.insert(fault);
            nonce(&world, "again");
            let case = format!("{fault:?} after {boots} boots");
            let mut executor = start(&world);
            for _ in 0..3 {
                let flow = block_on(executor.step());
                let reads = fault == Fault::DiskReadOnly;
                assert!(
                    matches!(flow, Flow::Backoff(_) if reads)
                        || (flow == Flow::Wait(For::Disk) && !reads),
                    "{case}: {flow:?}"
                );
                assert_eq!(executor.is_troubled(), !reads, "{case}");
            }
            assert_eq!(
                phase_of(&world.borrow(), "p1"),
                (ProgressPhase::Rebooting, String::new()),
                "{case}"
            );
            world.borrow_mut().faults.clear();
            drop(executor);
            run(&world, None);
            let expected = if boots < 2 {
                ProgressPhase::Completed
            } else {
                ProgressPhase::RolledBack
            };
            assert_eq!(phase_of(&world.borrow(), "p1").0, expected, "{case}");
        }
    }
}

/// An attempt that has not switched is told at once, whatever it has written.
#[test]
fn an_agent_that_starts_without_its_disk_does_not_wait_for_what_was_not_switched() {
    for fault in [Fault::DiskReadOnly, Fault::DiskGone] {
        let world = play(&[Event::Release(Release::Stage), Event::Run]);
        let staged = world.borrow().under_way().unwrap();
        assert_eq!(staged.step(), Step::Proven);
        world.borrow_mut().faults.insert(fault);
        run(&world, None);
        assert_eq!(
            phase_of(&world.borrow(), "p1"),
            (ProgressPhase::Failed, "StateNotPersistent".to_owned())
        );
    }
}

/// What waits for its turn is forgotten with its object.
#[test]
fn a_queued_entry_goes_with_its_progress() {
    let world = play(&[
        Event::Fault(Fault::WriteFails, true),
        Event::Release(Release::Reboot),
        Event::Run,
        Event::Release(Release::Hold),
        Event::Nonce(1),
        Event::Run,
    ]);
    let queued = world.borrow().record().unwrap();
    assert_eq!(queued.attempts[0].step(), Step::Queued);
    play_on(&world, &[Event::Delete, Event::Run]);
    assert_eq!(world.borrow().record().unwrap().attempts, []);
}

/// An attempt of which the API server has heard that it failed, and the record has not: the disk is full. `own`: the
/// progress is the controller's.
fn told_behind_a_full_disk(own: bool) -> (Rc<RefCell<World>>, Executor<Sim>) {
    let world = Rc::new(RefCell::new(World::new()));
    world.borrow_mut().add("p1", own, Release::Reboot);
    let mut executor = start(&world);
    while !world.borrow().under_way().is_some_and(|a| a.accepted) {
        assert_eq!(block_on(executor.step()), Flow::Again);
    }
    world.borrow_mut().faults.insert(Fault::DiskFull);
    while block_on(executor.step()) == Flow::Again {}
    assert_eq!(phase_of(&world.borrow(), "p1").0, ProgressPhase::Failed);
    (world, executor)
}

/// Whoever makes room on the disk and changes the nonce at once has seen Failed, whatever the record says.
#[test]
fn a_nonce_that_follows_what_was_told_is_a_retry() {
    let (world, mut executor) = told_behind_a_full_disk(false);
    world.borrow_mut().faults.clear();
    nonce(&world, "again");
    while world.borrow().power {
        assert_eq!(block_on(executor.step()), Flow::Again);
    }
    let w = world.borrow();
    assert_eq!(w.switches, [("p1".to_owned(), 2)]);
    let status = w.objects["p1"].status.clone().unwrap();
    assert_eq!((status.attempt, status.retry_count), (2, 1));
    assert_eq!(status.observed_retry_nonce, "again");
}

/// The record still has the attempt that was told Failed while it could not be written.
#[test]
fn an_attempt_that_was_retried_behind_a_full_disk_is_not_carried_on() {
    let (world, mut executor) = told_behind_a_full_disk(true);
    let release = |release| {
        let mut w = world.borrow_mut();
        w.objects.get_mut("p1").unwrap().spec.release = release;
    };
    release(Release::Hold);
    nonce(&world, "again");
    while block_on(executor.step()) == Flow::Again {}
    world.borrow_mut().faults.clear();
    while block_on(executor.step()) == Flow::Again {}
    assert_eq!(phase_of(&world.borrow(), "p1").0, ProgressPhase::Pending);
    assert_eq!(world.borrow().slots[&SlotName::B].version, "v1.34.9");
    release(Release::Reboot);
    while world.borrow().power {
        assert_eq!(block_on(executor.step()), Flow::Again);
    }
    assert_eq!(world.borrow().switches, [("p1".to_owned(), 2)]);
}

#[test]
fn a_running_system_without_a_version_leaves_what_the_record_says_of_its_slot() {
    let world = Rc::new(RefCell::new(World::new()));
    let mut executor = start(&world);
    block_on(executor.step());
    let slots = world
        .borrow_mut()
        .slots
        .get_mut(&SlotName::A)
        .map(|s| std::mem::take(&mut s.version));
    assert_eq!(slots, Some(OLD));
    block_on(executor.step());
    assert_eq!(executor.record().unwrap().slots[&SlotName::A].version, OLD);
}

#[test]
fn a_retry_of_the_controllers_own_waits_for_its_turn() {
    let world = play(&[
        Event::Fault(Fault::WriteFails, true),
        Event::Release(Release::Reboot),
        Event::Run,
        Event::Fault(Fault::WriteFails, false),
        Event::Nonce(1),
        Event::Run,
    ]);
    assert_eq!(
        phase_of(&world.borrow(), "p1").0,
        ProgressPhase::Failed,
        "not under Reboot"
    );
    let step = |event: &[Event]| {
        for e in event {
            if let Event::Release(r) = e {
                world
                    .borrow_mut()
                    .objects
                    .get_mut("p1")
                    .unwrap()
                    .spec
                    .release = *r;
            }
        }
        run(&world, None);
    };
    step(&[Event::Release(Release::Hold)]);
    {
        let w = world.borrow();
        let status = w.objects["p1"].status.clone().unwrap();
        assert_eq!(status.phase, ProgressPhase::Pending);
        assert_eq!(
            (status.retry_count, status.failure_reason.as_str()),
            (1, "")
        );
        assert_eq!(status.observed_retry_nonce, "retry-1");
    }
    step(&[Event::Release(Release::Reboot)]);
    let w = world.borrow();
    assert_eq!(phase_of(&w, "p1").0, ProgressPhase::Completed);
    assert_eq!(w.objects["p1"].status.as_ref().unwrap().attempt, 2);
}

#[test]
fn a_nonce_seen_while_it_runs_has_no_effect_and_the_message_says_so() {
    let world = play(&[
        Event::Release(Release::Stage),
        Event::Run,
        Event::Nonce(1),
        Event::Run,
        Event::Release(Release::Hold),
        Event::Run,
    ]);
    let w = world.borrow();
    let status = w.objects["p1"].status.clone().unwrap();
    assert_eq!(status.phase, ProgressPhase::Failed);
    assert_eq!(status.failure_reason, "DrainTimedOut");
    assert_eq!(status.observed_retry_nonce, "retry-1");
    assert_eq!(status.retry_count, 0);
    assert!(
        status.message.contains("has no effect"),
        "{}",
        status.message
    );
}

#[test]
fn nothing_begins_or_switches_while_the_api_server_is_away() {
    let world = play(&[
        Event::Release(Release::Reboot),
        Event::Fault(Fault::ApiAway, true),
        Event::Run,
    ]);
    assert_eq!(
        world.borrow().slots[&SlotName::B].version,
        "v1.34.9",
        "nothing is written"
    );
    let world = play(&[
        Event::Release(Release::Stage),
        Event::Run,
        Event::Release(Release::Reboot),
        Event::Fault(Fault::ApiAway, true),
        Event::Run,
    ]);
    assert_eq!(world.borrow().switches.len(), 0);
    assert_eq!(world.borrow().boot, 1);
}

/// Whose Node's UID could not be read may be another Node by now.
#[test]
fn nothing_begins_or_switches_while_the_node_is_unknown() {
    let world = play(&[
        Event::Fault(Fault::NodeUnknown, true),
        Event::Release(Release::Reboot),
        Event::Run,
    ]);
    assert_eq!(world.borrow().slots[&SlotName::B].version, "v1.34.9");
    let world = play(&[
        Event::Release(Release::Stage),
        Event::Run,
        Event::Release(Release::Reboot),
        Event::Fault(Fault::NodeUnknown, true),
        Event::Run,
    ]);
    assert_eq!(
        world.borrow().under_way().unwrap().step(),
        Step::Proven,
        "nor does the attempt end"
    );
    let mut executor = start(&world);
    assert_eq!(block_on(executor.step()), Flow::Wait(For::NodeUid));
    let note = executor.effects().note.clone();
    assert!(note.contains("this Node's UID"), "{note}");
    world.borrow_mut().faults.clear();
    assert_eq!(block_on(executor.step()), Flow::Again);
    assert_eq!(executor.effects().note, "");
    drop(executor);
    run(&world, None);
    assert_eq!(phase_of(&world.borrow(), "p1").0, ProgressPhase::Completed);
}

#[test]
fn a_cancel_before_the_switch_leaves_the_slot_unbootable() {
    let world = play(&[
        Event::Release(Release::Stage),
        Event::Run,
        Event::Cancel(true),
        Event::Run,
    ]);
    let w = world.borrow();
    assert_eq!(phase_of(&w, "p1").0, ProgressPhase::Cancelled);
    assert!(!w.loader.ok[&SlotName::B]);
}

#[test]
fn a_full_disk_is_told_and_nothing_is_written() {
    let world = play(&[
        Event::Fault(Fault::DiskFull, true),
        Event::Release(Release::Reboot),
        Event::Run,
    ]);
    let w = world.borrow();
    assert_eq!(
        phase_of(&w, "p1"),
        (ProgressPhase::Failed, "StateNotPersistent".to_owned())
    );
    assert_eq!(w.slots[&SlotName::B].version, "v1.34.9");
}
