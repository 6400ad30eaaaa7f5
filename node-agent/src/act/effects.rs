//! What the executor does to the world, as a trait: the real machine and API server are one implementation
//! ([`crate::run::node`]), the simulated ones that the property tests kill at every step are another.

use k8s_openapi::jiff::Timestamp;
use monok8s_api::osupgradeprogress::ImageRef;
use monok8s_boot::SlotName;

use crate::{
    decide::next::{Machine, RebootWatch, System, View},
    record::{Attempt, Proof, Record, SlotRecord, Trouble},
};

/// What the API server made of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is stored.
    Accepted,
    /// There is no such object any more. The view says so too from now on.
    Gone,
}

/// The API server could not be asked, or did not want to answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

/// What a progress is to install.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// This image.
    Install(ImageRef),
    /// Nothing: the node runs that version.
    AlreadyThere(ImageRef),
}

/// Why there is nothing to install.
#[derive(Clone, Debug, PartialEq)]
pub enum NoChoice {
    /// Not known yet.
    Away(Away),
    /// It will not be: what the progress asks for (as far as known), and why not.
    Refused(Trouble),
}

/// One slot to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The progress.
    pub uid: String,
    /// Number of its attempt.
    pub attempt: i32,
    /// The slot.
    pub to: SlotName,
    /// What to write.
    pub image: ImageRef,
    /// The slot was given up for this attempt before, and may hold a part of the image.
    pub wrote: bool,
}

/// Whether a write can begin.
#[derive(Clone, Debug, PartialEq)]
pub enum Opened {
    /// The first byte is ready to be written.
    Ready(Begun),
    /// It will not begin.
    Failed(Trouble),
    /// As [`Written::Stopped`].
    Stopped,
}

/// How a write begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    /// So many bytes of the image are in the slot from before the agent was started, and were read again; 0: it is
    /// written from its beginning.
    pub resumed_at: u64,
    /// The image, named so that it stays the same one: a tag in a registry by the digest that it stands for.
    pub image: ImageRef,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// The medium holds the image, the image is the promised one, and it carries the promised version.
    Proven(Proof),
    /// It does not.
    Failed(Trouble),
    /// Stopped between two chunks: the process is to end, or the object was cancelled or deleted.
    Stopped,
}

/// Everything the executor does and sees. Calls never overlap.
#[allow(
    async_fn_in_trait,
    reason = "the executor runs on the main task, so no future has to be Send"
)]
pub trait Effects {
    /// This machine's clock. For people.
    fn now(&self) -> Timestamp;

    /// Reads the record.
    fn load(&mut self) -> Result<Option<Record>, Trouble>;
    /// Whether a record could be saved: its folder takes writes and outlives a reboot.
    fn can_save(&mut self) -> Result<(), Trouble>;
    /// Replaces the record; when this returns it survives a power cut.
    fn save(&mut self, record: &Record) -> Result<(), Trouble>;

    /// Looks at the machine. `switched_in` is the boot in which the attempt under way switched: when this is another
    /// one, a machine that cannot be told yet is given time before that counts.
    async fn machine(&mut self, switched_in: Option<&str>) -> Machine;
    /// What a slot holds of which there is no record.
    fn look_into(&mut self, slot: SlotName) -> SlotRecord;
    /// See [`monok8s_boot::BootLoader::mark_unbootable`].
    fn mark_unbootable(&mut self, slot: SlotName) -> Result<(), Trouble>;
    /// See [`monok8s_boot::BootLoader::try_once`].
    fn try_once(&mut self, slot: SlotName) -> Result<(), Trouble>;
    /// See [`monok8s_boot::BootLoader::mark_good`].
    fn mark_good(&mut self, slot: SlotName) -> Result<(), Trouble>;
    /// See [`monok8s_boot::BootLoader::mark_bad`].
    fn mark_bad(&mut self, slot: SlotName) -> Result<(), Trouble>;

    /// Claims the slot, contacts the server and goes on until the first byte is ready to be written. Unless it is
    /// [`Opened::Ready`], nothing more was written.
    async fn open(&mut self, job: &Job) -> Opened;
    /// Writes, reads back, compares, looks inside.
    async fn write(&mut self, job: &Job) -> Written;
    /// Gives back what [`Self::open`] has claimed when there will be no [`Self::write`].
    async fn abandon(&mut self);
    /// What [`Self::write`] has kept of how far it was is of no use any more.
    fn forget_checkpoint(&mut self);

    /// Asks for the reboot; [`Self::reboot_watch`] tells what came of it.
    async fn reboot(&mut self);
    /// The reboot that was asked for.
    fn reboot_watch(&self) -> RebootWatch;
    /// What was said to the reboot, where it was refused.
    fn reboot_refusal(&self) -> Option<String>;
    /// What came of a reboot is of an attempt that is over.
    fn forget_reboot(&mut self);

    /// What the API server has said last.
    fn view(&self) -> View;
    /// Writes the attempt's status and waits for the answer.
    async fn report(&mut self, attempt: &Attempt) -> Result<Reply, Away>;
    /// Has the attempt's status written soon; a newer one takes its place.
    fn show(&mut self, attempt: &Attempt);
    /// What the attempt under way waits for, for its statuses; empty when for nothing.
    fn note(&mut self, note: &str);
    /// Reads the attempt's object into the view.
    async fn read_fresh(&mut self, attempt: &Attempt) -> Result<(), Away>;
    /// What the progress is to install.
    async fn choose(&mut self, uid: &str, system: &System) -> Result<Choice, NoChoice>;
    /// Has the OSNode written when it differs.
    fn publish(&mut self, record: Result<&Record, &Trouble>, machine: &Machine);
    /// Says in an Event how an attempt goes.
    fn event(&mut self, attempt: &Attempt);
    /// Says in an Event that an attempt goes on with so many bytes of its image in the slot.
    fn resumed(&mut self, attempt: &Attempt, bytes: u64);
}
