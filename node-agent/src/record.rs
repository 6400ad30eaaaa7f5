//! The record: what this agent has done to the machine, as its next start has to know it.
//!
//! It holds facts rather than a state word (`switch` is there or it is not), so that an agent of the other slot's
//! release, one format older or newer, reads from it all that it needs: whether bytes were written, whether the
//! boot order was switched and in which boot, and which reboots were asked for.

use std::{collections::BTreeMap, io, path::PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use monok8s_api::{
    osnode::LastResult,
    osupgradeprogress::ImageRef,
    reason::{FailureReason, ProgressPhase, SlotState},
};
use monok8s_boot::SlotName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::durable;

/// Format that this release writes. It reads this one, the one before and the one after.
pub const FORMAT: u32 = 1;

/// Name of the file in the state folder.
pub const FILE_NAME: &str = "record.json";

/// Reboots that one attempt may ask for: into the new slot, and back when the trial failed.
pub const MAX_REBOOTS: usize = 2;

/// Largest record that is read or written, in bytes. A full one has some kilobytes.
const MAX_SIZE: u64 = 1 << 20;

/// Finished attempts that are kept; beyond it the oldest go.
const MAX_FINISHED: usize = 32;

/// Everything the agent remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Format of the release that wrote it.
    pub format: u32,
    /// The newest attempt of each progress, oldest first. At most one of them is under way.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// What the slots hold.
    #[serde(default)]
    pub slots: BTreeMap<SlotName, SlotRecord>,
    /// How the last attempt ended, kept when its progress is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_result: Option<LastResult>,
    /// Fields of a newer release, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// One attempt: (progress UID, number).
#[allow(
    clippy::struct_excessive_bools,
    reason = "facts of their own, so that another release may know of more"
)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Name of the progress.
    pub name: String,
    /// UID of the progress.
    pub uid: String,
    /// Number of the attempt, from 1. An accepted nonce makes the next one.
    pub number: i32,
    /// Accepted nonces so far.
    #[serde(default)]
    pub retry_count: i32,
    /// The nonce that was seen last.
    #[serde(default)]
    pub observed_nonce: String,
    /// A nonce changed while the attempt ran, which has no effect.
    #[serde(default)]
    pub nonce_without_effect: bool,
    /// When it began, by this machine's clock. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// What goes where; absent until the attempt has its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The API server has accepted the attempt's first status.
    #[serde(default)]
    pub accepted: bool,
    /// The target was given up for writing: from here on it may hold anything.
    #[serde(default)]
    pub writing: bool,
    /// The target's content is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<Proof>,
    /// The boot order was, or was about to be, switched for one trial boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<Switch>,
    /// IDs of the boots in which a reboot was asked for, oldest first. At most [`MAX_REBOOTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reboots: Vec<String>,
    /// ID of the trial boot; empty before it.
    #[serde(
        default,
        rename = "trialBootID",
        skip_serializing_if = "String::is_empty"
    )]
    pub trial_boot_id: String,
    /// Why the trial is given up although the new slot runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_failure: Option<Trouble>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The API server has accepted what this entry says (or the progress is gone).
    #[serde(default)]
    pub reported: bool,
    /// Fields of a newer release, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What an attempt does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The slot that ran when it began.
    pub from: SlotName,
    /// The version that ran when it began.
    #[serde(default)]
    pub from_version: String,
    /// The slot that is written.
    pub to: SlotName,
    /// What is written. Its URL may carry a query with credentials: this file is for root only.
    pub image: ImageRef,
}

/// What was found when the target was proven.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// Expanded bytes written.
    pub bytes: i64,
    /// Which SHA-256 the catalog's checksum turned out to be: File or Image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum_matched: Option<String>,
}

/// The switch for one trial boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// ID of the boot in which it was made.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// The boot loader has taken it, or it was taken back: it is not made again. Without this it was about to be made,
    /// and the boot loader's variables tell whether it was.
    #[serde(default)]
    pub done: bool,
}

/// A reason and what to say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// One of the contract's failure reasons.
    pub reason: FailureReason,
    /// What was tried, on what, how far it got, and what to do next.
    pub message: String,
}

impl Trouble {
    /// Both parts.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// `Completed`, `Failed`, `RolledBack` or Cancelled.
    pub phase: ProgressPhase,
    /// Failure reason; empty when there is none.
    #[serde(default)]
    pub reason: String,
    /// What people read.
    #[serde(default)]
    pub message: String,
    /// When, by this machine's clock. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// What one slot holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotRecord {
    /// In which state it is.
    pub state: SlotState,
    /// Version; empty when not known.
    #[serde(default)]
    pub version: String,
    /// Checksum it was installed with; empty when not known.
    #[serde(default)]
    pub checksum: String,
}

/// How far an attempt is, told from its facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Known, for instance by an accepted nonce, but it has not had its turn.
    Queued,
    /// It has its plan; the API server has not accepted its first status yet.
    Announced,
    /// Accepted; nothing was written.
    Begun,
    /// Bytes may have been written.
    Writing,
    /// The target's content is proven.
    Proven,
    /// The boot order was, or may have been, switched.
    Switched,
    /// Over.
    Ended,
}

impl Attempt {
    /// The entry of a progress's first attempt, or of the next one after `number`.
    pub fn queued(name: &str, uid: &str, number: i32) -> Self {
        Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            number,
            retry_count: 0,
            observed_nonce: String::new(),
            nonce_without_effect: false,
            started_at: None,
            plan: None,
            accepted: false,
            writing: false,
            proven: None,
            switch: None,
            reboots: Vec::new(),
            trial_boot_id: String::new(),
            trial_failure: None,
            end: None,
            reported: false,
            unknown: Map::new(),
        }
    }

    /// It is over, and the API server knows.
    fn is_told(&self) -> bool {
        self.reported && self.end.is_some()
    }

    /// How far it is.
    pub fn step(&self) -> Step {
        if self.end.is_some() {
            Step::Ended
        } else if self.switch.is_some() {
            Step::Switched
        } else if self.proven.is_some() {
            Step::Proven
        } else if self.writing {
            Step::Writing
        } else if self.accepted {
            Step::Begun
        } else if self.plan.is_some() {
            Step::Announced
        } else {
            Step::Queued
        }
    }

    /// Whether it occupies the machine.
    pub fn is_under_way(&self) -> bool {
        !matches!(self.step(), Step::Queued | Step::Ended)
    }

    /// Whether a reboot may be asked for in this boot: the same one again, or one of the two.
    pub fn may_reboot(&self, boot_id: &str) -> bool {
        self.asked_in(boot_id) || self.reboots.len() < MAX_REBOOTS
    }

    /// Whether a reboot was asked for in this boot.
    pub fn asked_in(&self, boot_id: &str) -> bool {
        self.reboots.last().is_some_and(|b| b == boot_id)
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            format: FORMAT,
            attempts: Vec::new(),
            slots: BTreeMap::new(),
            last_result: None,
            unknown: Map::new(),
        }
    }
}

impl Record {
    /// The attempt that occupies the machine.
    pub fn under_way(&self) -> Option<&Attempt> {
        self.attempts.iter().find(|a| a.is_under_way())
    }

    /// The newest attempt of a progress.
    pub fn attempt(&self, uid: &str) -> Option<&Attempt> {
        self.attempts.iter().find(|a| a.uid == uid)
    }

    /// The newest attempt of a progress, to change it.
    pub fn attempt_mut(&mut self, uid: &str) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|a| a.uid == uid)
    }

    /// Puts an attempt in place of the one of the same progress, and drops the oldest finished ones beyond the limit.
    pub fn put(&mut self, attempt: Attempt) {
        self.attempts.retain(|a| a.uid != attempt.uid);
        self.attempts.push(attempt);
        let mut surplus = self.attempts.len().saturating_sub(MAX_FINISHED);
        self.attempts.retain(|a| {
            let drop = surplus > 0 && a.is_told();
            surplus -= usize::from(drop);
            !drop
        });
    }

    /// Forgets a progress.
    pub fn forget(&mut self, uid: &str) {
        self.attempts.retain(|a| a.uid != uid);
    }

    /// Notes what a slot holds now.
    pub fn set_slot(&mut self, slot: SlotName, state: SlotState, version: &str, checksum: &str) {
        self.slots.insert(
            slot,
            SlotRecord {
                state,
                version: version.to_owned(),
                checksum: checksum.to_owned(),
            },
        );
    }

    /// Notes another state of what a slot holds.
    pub fn set_slot_state(&mut self, slot: SlotName, state: SlotState) {
        self.slots
            .entry(slot)
            .and_modify(|s| s.state = state.clone())
            .or_insert(SlotRecord {
                state,
                version: String::new(),
                checksum: String::new(),
            });
    }

    /// What no sequence of this agent's writes can produce, whatever its release.
    fn contradiction(&self) -> Option<String> {
        if self.attempts.iter().filter(|a| a.is_under_way()).count() > 1 {
            return Some("more than one attempt is under way".to_owned());
        }
        for (i, a) in self.attempts.iter().enumerate() {
            if a.uid.is_empty() || self.attempts[..i].iter().any(|b| b.uid == a.uid) {
                return Some(format!("progress UID {:?} is empty or there twice", a.uid));
            }
            if a.number < 1 {
                return Some(format!("attempt {} of progress {}", a.number, a.name));
            }
            if a.plan.as_ref().is_some_and(|p| p.from == p.to) {
                return Some(format!("progress {} writes the slot it runs from", a.name));
            }
            if (a.accepted || a.writing || a.proven.is_some() || a.switch.is_some())
                && a.plan.is_none()
            {
                return Some(format!("progress {} has begun without a plan", a.name));
            }
            if a.switch.is_some() && a.proven.is_none() {
                return Some(format!("progress {} switched to an unproven slot", a.name));
            }
        }
        None
    }
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is there, but says nothing this release may act on.
    #[error(
        "the agent's record {path} cannot be used: {why}; nothing is switched or written until it is replaced: look \
         with `kubectl get osnodes` which slot runs, move the file away (or bring back the release that wrote it), then \
         change spec.retryNonce",
        path = path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Truncated, garbage, of another format.
        why: String,
    },
    /// The folder does not take or give files.
    #[error("the agent's record {path} cannot be {verb}: {source}; make its folder readable and writable", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl RecordError {
    /// The failure reason of the contract, with this error's message.
    pub fn trouble(&self) -> Trouble {
        let reason = match self {
            Self::Unreadable { .. } => FailureReason::StateUnreadable,
            Self::Io { .. } => FailureReason::StateNotPersistent,
        };
        Trouble::new(reason, self.to_string())
    }
}

/// The file.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The record in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Where the record is.
    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE_NAME)
    }

    /// Reads the record; `None` when there is none.
    pub fn load(&self) -> Result<Option<Record>, RecordError> {
        let path = self.path();
        let io = |source| RecordError::Io {
            path: path.clone(),
            verb: "read",
            source,
        };
        let Some(bytes) = durable::read(&path, MAX_SIZE).map_err(io)? else {
            return Ok(None);
        };
        parse(&bytes)
            .map(Some)
            .map_err(|why| RecordError::Unreadable { path, why })
    }

    /// Replaces the record. After a power cut there is the old one or the new one.
    pub fn save(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path();
        self.replace(record).map_err(|source| RecordError::Io {
            path,
            verb: "written",
            source,
        })
    }

    fn replace(&self, record: &Record) -> io::Result<()> {
        let text = bounded(record)?;
        durable::replace(&self.folder, FILE_NAME, &text)
    }
}

/// A record's bytes, without the oldest attempts that nobody needs any more where it would be larger than what is read.
fn bounded(record: &Record) -> io::Result<Vec<u8>> {
    let mut record = Record {
        format: FORMAT,
        ..record.clone()
    };
    loop {
        let mut text = serde_json::to_vec_pretty(&record)?;
        text.push(b'\n');
        if text.len() as u64 <= MAX_SIZE {
            return Ok(text);
        }
        let told = record.attempts.iter().position(Attempt::is_told);
        let Some(told) = told else {
            return Err(io::Error::other(format!(
                "it has {} bytes, more than the {MAX_SIZE} that are read",
                text.len()
            )));
        };
        record.attempts.remove(told);
    }
}

/// Reads a record's bytes; the error says why they are none.
fn parse(bytes: &[u8]) -> Result<Record, String> {
    if bytes.len() as u64 > MAX_SIZE {
        return Err(format!("it is larger than {MAX_SIZE} bytes"));
    }
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|e| {
        let what = if e.is_eof() {
            "it is truncated"
        } else {
            "it is no JSON"
        };
        format!("{what} (line {}, column {})", e.line(), e.column())
    })?;
    let format = value
        .get("format")
        .and_then(Value::as_u64)
        .ok_or("it has no format number")?;
    if format.abs_diff(u64::from(FORMAT)) > 1 {
        return Err(format!(
            "a release wrote it in format {format}, this one reads {} to {}",
            FORMAT - 1,
            FORMAT + 1
        ));
    }
    let record: Record = serde_json::from_value(value)
        .map_err(|e| format!("in format {format} it does not say what it should: {e}"))?;
    match record.contradiction() {
        Some(why) => Err(format!("it contradicts itself: {why}")),
        None => Ok(record),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// An attempt between switch and reboot: every field in use.
    fn full() -> Record {
        let mut record = Record::default();
        record.set_slot(SlotName::A, SlotState::Good, "v1.35.0", "");
        record.set_slot(SlotName::B, SlotState::Trial, "v1.35.1", "sha256:00");
        let mut attempt = Attempt::queued("p", "uid-1", 2);
        attempt.plan = Some(Plan {
            from: SlotName::A,
            from_version: "v1.35.0".to_owned(),
            to: SlotName::B,
            image: ImageRef {
                version: "v1.35.1".to_owned(),
                ..ImageRef::default()
            },
        });
        attempt.accepted = true;
        attempt.writing = true;
        attempt.proven = Some(Proof {
            bytes: 4096,
            checksum_matched: Some("File".to_owned()),
        });
        attempt.switch = Some(Switch {
            boot_id: "b1".to_owned(),
            done: true,
        });
        attempt.reboots = vec!["b1".to_owned()];
        record.put(attempt);
        record
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        (folder, store)
    }

    #[test]
    fn what_was_saved_is_loaded_and_nothing_else_lies_about() {
        let (folder, store) = store();
        assert_eq!(store.load().unwrap(), None);
        store.save(&full()).unwrap();
        store.save(&full()).unwrap();
        assert_eq!(store.load().unwrap(), Some(full()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mode = fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "an image's URL may carry a secret");
    }

    #[test]
    fn a_left_over_temporary_file_is_no_record() {
        let (folder, store) = store();
        fs::write(folder.path().join("record.json.new"), "half").unwrap();
        assert_eq!(store.load().unwrap(), None);
        store.save(&full()).unwrap();
        assert_eq!(store.load().unwrap(), Some(full()));
    }

    /// What may lie there instead of a record, and what the message has to name.
    #[test]
    fn every_damage_is_state_unreadable_and_says_which() {
        let good = serde_json::to_string(&full()).unwrap();
        let with = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            good.replacen(from, to, 1)
        };
        let rows = [
            ("empty", String::new(), "it is empty"),
            (
                "truncated",
                good[..good.len() / 2].to_owned(),
                "it is truncated",
            ),
            (
                "cut at the end",
                good[..good.len() - 1].to_owned(),
                "it is truncated",
            ),
            (
                "garbage",
                "\u{0}\u{0}\u{0}\u{0}".to_owned(),
                "it is no JSON",
            ),
            ("a web page", "<html>".to_owned(), "it is no JSON"),
            ("no format", with("\"format\":1,", ""), "no format number"),
            (
                "two newer",
                with("\"format\":1", "\"format\":3"),
                "in format 3, this one reads 0 to 2",
            ),
            (
                "huge format",
                with("\"format\":1", "\"format\":99999999999"),
                "this one reads 0 to 2",
            ),
            (
                "wrong type",
                with("\"writing\":true", "\"writing\":\"yes\""),
                "does not say what it should",
            ),
            (
                "unproven",
                with(
                    "\"proven\":{\"bytes\":4096,\"checksumMatched\":\"File\"},",
                    "",
                ),
                "unproven slot",
            ),
            (
                "same slot",
                with("\"to\":\"B\"", "\"to\":\"A\""),
                "writes the slot it runs from",
            ),
            (
                "attempt 0",
                with("\"number\":2", "\"number\":0"),
                "attempt 0",
            ),
            (
                "too large",
                format!("{good}{}", " ".repeat(1 << 20)),
                "larger than",
            ),
        ];
        for (name, text, expected) in rows {
            let (_folder, store) = store();
            fs::write(store.path(), text).unwrap();
            let error = store.load().expect_err(name);
            assert!(error.to_string().contains(expected), "{name}: {error}");
            assert_eq!(
                error.trouble().reason,
                FailureReason::StateUnreadable,
                "{name}"
            );
        }
    }

    #[test]
    fn one_format_older_and_newer_are_read_and_their_fields_survive() {
        for format in [0, 2] {
            let (_folder, store) = store();
            let mut value = serde_json::to_value(full()).unwrap();
            value["format"] = format.into();
            value["fleet"] = "blue".into();
            value["attempts"][0]["soak"] = 30.into();
            fs::write(store.path(), value.to_string()).unwrap();

            let record = store.load().unwrap().unwrap();
            assert_eq!(record.under_way().unwrap().step(), Step::Switched);
            store.save(&record).unwrap();

            let kept: Value = serde_json::from_slice(&fs::read(store.path()).unwrap()).unwrap();
            assert_eq!(kept["fleet"], "blue");
            assert_eq!(kept["attempts"][0]["soak"], 30);
            assert_eq!(kept["format"], FORMAT);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(cut in 0..2000usize, at in 0..2000usize, byte: u8) {
            let mut bytes = serde_json::to_vec(&full()).unwrap();
            let n = bytes.len();
            bytes[at % n] = byte;
            bytes.truncate(cut % (n + 1));
            if let Ok(record) = parse(&bytes) {
                proptest::prop_assert_eq!(record.contradiction(), None);
            }
        }
    }

    #[test]
    fn two_attempts_under_way_are_no_record() {
        let mut record = full();
        let mut second = record.attempts[0].clone();
        second.uid = "uid-2".to_owned();
        record.attempts.push(second);
        let (_folder, store) = store();
        store.save(&record).unwrap();
        let error = store.load().unwrap_err();
        assert!(error.to_string().contains("more than one"), "{error}");
    }

    #[test]
    fn a_folder_that_takes_no_file_is_state_not_persistent() {
        let store = Store::new("/proc/self");
        let error = store.save(&full()).unwrap_err();
        assert_eq!(error.trouble().reason, FailureReason::StateNotPersistent);
    }

    #[test]
    fn old_finished_attempts_go_and_unreported_ones_stay() {
        let mut record = Record::default();
        let finished = |i: usize, reported| {
            let mut a = Attempt::queued("p", &format!("u{i}"), 1);
            a.end = Some(End {
                phase: ProgressPhase::Completed,
                reason: String::new(),
                message: String::new(),
                at: None,
            });
            a.reported = reported;
            a
        };
        record.put(finished(0, false));
        for i in 1..100 {
            record.put(finished(i, true));
        }
        assert_eq!(record.attempts.len(), MAX_FINISHED);
        assert!(record.attempt("u0").is_some(), "nobody was told yet");
        assert!(record.attempt("u99").is_some());
        assert!(record.attempt("u1").is_none());
    }

    #[test]
    fn what_is_saved_can_be_loaded_however_much_there_is_to_say() {
        let (_folder, store) = store();
        let mut record = Record::default();
        for i in 0..MAX_FINISHED {
            let mut attempt = Attempt::queued("p", &format!("u{i}"), 1);
            attempt.end = Some(End {
                phase: ProgressPhase::Failed,
                reason: "DownloadFailed".to_owned(),
                message: "m".repeat(100 << 10),
                at: None,
            });
            attempt.reported = true;
            record.put(attempt);
        }
        let mut running = full().attempts.remove(0);
        running.uid = "running".to_owned();
        record.put(running.clone());
        store.save(&record).unwrap();
        let kept = store.load().unwrap().unwrap();
        assert_eq!(kept.under_way(), Some(&running));
        let last = format!("u{}", MAX_FINISHED - 1);
        assert!(kept.attempt(&last).is_some() && kept.attempt("u1").is_none());

        record.attempt_mut("running").unwrap().name = "n".repeat(2 << 20);
        let before = fs::read(store.path()).unwrap();
        let error = store.save(&record).unwrap_err().to_string();
        assert!(error.contains("more than the 1048576"), "{error}");
        assert_eq!(fs::read(store.path()).unwrap(), before);
    }
}
