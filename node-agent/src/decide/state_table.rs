//! The table of docs/state-table.md: record x object x running slot -> what happens.
//!
//! The page is generated from these rows and the tests walk them, so that neither can say something else than
//! [`crate::decide::next::next`] does. Together the rows cover every combination exactly once.

use std::fmt::Write as _;

use monok8s_api::{
    osupgrade::Operation,
    osupgradeprogress::{ImageRef, Release},
    reason::{FailureReason, ProgressPhase},
};
use monok8s_boot::SlotName;

use crate::{
    decide::next::{Action, For, Inputs, Machine, Progress, RebootWatch, System, View, next},
    record::{Attempt, End, Plan, Proof, Record, Switch, Trouble},
};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* #[doc = $text] $variant,)+ }

        impl $name {
            /// All of them, in the order of the page.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// As the page says it.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

words! {
    /// What the record says of the progress.
    InRecord {
        Nothing = "nothing",
        Queued = "queued (a nonce was accepted, or a begin was undone)",
        Announced = "planned, not accepted by the API server yet",
        Begun = "begun, nothing written",
        Writing = "writing",
        Proven = "proven",
        SwitchAnnounced = "switch announced, the boot loader does not have it",
        SwitchMade = "switch made, same boot",
        SwitchVanished = "switch made, same boot, the boot loader no longer has it",
        Rebooted = "switch made, later boot",
        TrialRejected = "trial given up, later boot",
        FailedUntold = "ended Failed, not told yet",
        FailedTold = "ended Failed, told",
        CompletedTold = "ended Completed, told",
        Unusable = "unusable (damaged, of another format)",
        OutOfReach = "on a disk out of reach (not mounted, not persistent, failing)",
        OutOfReachArmed = "on a disk out of reach, and the boot loader has a trial",
    }
}

words! {
    /// What the API server says of the progress.
    Object {
        Away = "API server away since the start",
        Gone = "deleted",
        PendingHold = "Pending, Hold",
        PendingReleased = "Pending, Stage or Reboot",
        PendingCancelled = "Pending, cancel",
        PendingLater = "Pending, Hold, of a later attempt than the record's",
        OtherNode = "Pending, for another Node's UID",
        ActiveHold = "under way, Hold",
        ActiveStage = "under way, Stage",
        ActiveReboot = "under way, Reboot",
        NodeUnknown = "under way, Reboot, and this Node's UID is not known",
        PastSwitch = "Rebooting or Confirming",
        ActiveCancelled = "under way, cancel",
        ActiveNonce = "under way, new nonce",
        Failed = "Failed",
        FailedNonce = "Failed, new nonce, made by hand or under Hold",
        FailedNonceReleased = "Failed, new nonce, the controller's, not under Hold",
        Completed = "Completed",
        CompletedNonce = "Completed, new nonce",
    }
}

words! {
    /// What runs.
    Running {
        Old = "the slot that ran before",
        New = "the other slot, not confirmed",
        Unclear = "cannot be told",
    }
}

/// What happens, without the particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happens {
    /// See [`Action::Wait`].
    Wait(For),
    /// See [`Action::Begin`].
    Begin,
    /// See [`Action::Announce`].
    Announce,
    /// See [`Action::Requeue`].
    Requeue,
    /// See [`Action::Write`].
    Write,
    /// [`Action::ReadFresh`], and [`Action::Switch`] when that confirms it.
    ReadFreshThenSwitch,
    /// See [`Action::Reboot`].
    Reboot,
    /// See [`Action::Confirm`].
    Confirm,
    /// See [`Action::RejectTrial`].
    RejectTrial,
    /// See [`Action::End`]; the reason is empty when there is none.
    End(&'static str, &'static str),
    /// See [`Action::Report`].
    Report,
    /// See [`Action::ReportLost`].
    ReportLost,
    /// See [`Action::Forget`].
    Forget,
    /// See [`Action::AcceptNonce`].
    AcceptNonce,
    /// See [`Action::ObserveNonce`].
    ObserveNonce,
    /// See [`Action::Tell`].
    Tell(&'static str, &'static str),
}

impl Happens {
    /// As the page says it.
    pub fn text(self) -> String {
        let plain = match self {
            Self::Wait(For::Work) => "nothing",
            Self::Wait(For::ApiServer) => "waits for the API server",
            Self::Wait(For::NodeUid) => "waits for the Node's UID",
            Self::Wait(For::Release) => "waits for `release: Reboot`",
            Self::Wait(For::Reboot) => "waits for the reboot",
            Self::Wait(For::Disk) => "waits for the disk",
            Self::Begin => "chooses image and slot, records the plan",
            Self::Announce => {
                "first gate: writes the status; begins when the API server accepts it"
            }
            Self::Requeue => "takes the plan back",
            Self::Write => "marks the target not bootable, writes it from the start, proves it",
            Self::ReadFreshThenSwitch => {
                "second gate: reads the object afresh; if it still says so, switches for one trial boot"
            }
            Self::Reboot => "asks for the reboot (at most two per attempt)",
            Self::Confirm => "makes the new slot the default; `Completed`",
            Self::RejectTrial => "gives the trial up: marks the new slot bad, reboots",
            Self::Report => "writes to the object what the record says",
            Self::ReportLost => "tells the result by OSNode and an Event",
            Self::Forget => "drops it from the record",
            Self::AcceptNonce => "next attempt: `Pending`, retryCount + 1",
            Self::ObserveNonce => "notes the nonce, without effect",
            Self::End(phase, "") => return format!("ends `{phase}`"),
            Self::End(phase, reason) => return format!("ends `{phase}` (`{reason}`)"),
            Self::Tell(phase, "") => return format!("writes `{phase}` to the object"),
            Self::Tell(phase, reason) => {
                return format!("writes `{phase}` (`{reason}`) to the object");
            }
        };
        plain.to_owned()
    }

    fn of(action: &Action) -> (Self, String, String) {
        let word = |happens| (happens, String::new(), String::new());
        match action {
            Action::Wait(what) => word(Self::Wait(*what)),
            Action::Begin { .. } => word(Self::Begin),
            Action::Announce { .. } => word(Self::Announce),
            Action::Requeue { .. } => word(Self::Requeue),
            Action::Write { .. } => word(Self::Write),
            Action::ReadFresh { .. } | Action::Switch { .. } => word(Self::ReadFreshThenSwitch),
            Action::Reboot { .. } => word(Self::Reboot),
            Action::Confirm { .. } => word(Self::Confirm),
            Action::RejectTrial { .. } => word(Self::RejectTrial),
            Action::Report { .. } => word(Self::Report),
            Action::ReportLost { .. } => word(Self::ReportLost),
            Action::Forget { .. } => word(Self::Forget),
            Action::AcceptNonce { .. } => word(Self::AcceptNonce),
            Action::ObserveNonce { .. } => word(Self::ObserveNonce),
            Action::End(e) => (Self::End("", ""), e.phase.to_string(), e.reason.clone()),
            Action::Tell { phase, trouble, .. } => (
                Self::Tell("", ""),
                phase.to_string(),
                trouble
                    .as_ref()
                    .map_or_else(String::new, |t| t.reason.to_string()),
            ),
        }
    }

    /// Whether this is what the action does.
    pub fn is(self, action: &Action) -> bool {
        let (kind, phase, reason) = Self::of(action);
        match (self, kind) {
            (Self::End(p, r), Self::End(..)) | (Self::Tell(p, r), Self::Tell(..)) => {
                p == phase && r == reason
            }
            (mine, other) => mine == other,
        }
    }
}

/// One row: it stands for every combination of its parts.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The record, any of these.
    pub record: &'static [InRecord],
    /// The object, any of these.
    pub object: &'static [Object],
    /// The machine, any of these.
    pub running: &'static [Running],
    /// What happens.
    pub happens: Happens,
}

const fn row(
    record: &'static [InRecord],
    object: &'static [Object],
    running: &'static [Running],
    happens: Happens,
) -> Row {
    Row {
        record,
        object,
        running,
        happens,
    }
}

/// All rows.
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn rows() -> Vec<Row> {
    use Happens as H;
    use InRecord as I;
    use Object as O;
    use Running as R;

    const ANY: &[Running] = Running::ALL;
    const LISTED_PENDING_RELEASED: &[Object] = &[
        O::PendingReleased,
        O::ActiveStage,
        O::ActiveReboot,
        O::NodeUnknown,
        O::PastSwitch,
        O::Completed,
    ];
    const BEGUN: &[InRecord] = &[I::Begun, I::Writing];
    const PLANNED: &[InRecord] = &[I::Announced, I::Begun, I::Writing, I::Proven];
    const ACTIVE: &[Object] = &[
        O::ActiveHold,
        O::ActiveStage,
        O::ActiveReboot,
        O::NodeUnknown,
        O::PastSwitch,
        O::ActiveCancelled,
        O::ActiveNonce,
    ];
    const FAILED: &[Object] = &[O::Failed, O::FailedNonce, O::FailedNonceReleased];
    const OUT_OF_REACH: &[InRecord] = &[I::OutOfReach, I::OutOfReachArmed];
    const OUT_OF_USE: &[InRecord] = &[I::Unusable, I::OutOfReach, I::OutOfReachArmed];
    const BEFORE_SWITCH: &[Object] = &[
        O::ActiveHold,
        O::ActiveStage,
        O::ActiveReboot,
        O::NodeUnknown,
        O::ActiveCancelled,
        O::ActiveNonce,
    ];
    const CANCELLED: &[Object] = &[O::PendingCancelled, O::ActiveCancelled];
    const NONCE: &[Object] = &[O::ActiveNonce, O::CompletedNonce];
    const ANSWERED: &[Object] = &[
        O::Gone,
        O::PendingHold,
        O::PendingReleased,
        O::PendingCancelled,
        O::PendingLater,
        O::OtherNode,
        O::ActiveHold,
        O::ActiveStage,
        O::ActiveReboot,
        O::NodeUnknown,
        O::PastSwitch,
        O::ActiveCancelled,
        O::ActiveNonce,
        O::Failed,
        O::FailedNonce,
        O::FailedNonceReleased,
        O::Completed,
        O::CompletedNonce,
    ];
    const THERE: &[Object] = ANSWERED.split_at(1).1;

    vec![
        // Nothing is known of it.
        row(
            &[
                I::Nothing,
                I::Queued,
                I::FailedUntold,
                I::FailedTold,
                I::CompletedTold,
                I::Unusable,
                I::OutOfReach,
                I::OutOfReachArmed,
                I::Announced,
                I::Begun,
                I::Writing,
                I::Proven,
            ],
            &[O::Away],
            ANY,
            H::Wait(For::ApiServer),
        ),
        row(
            &[I::Nothing, I::Queued],
            &[O::PendingHold, O::PendingLater],
            ANY,
            H::Wait(For::Work),
        ),
        row(&[I::Nothing], &[O::Gone], ANY, H::Wait(For::Work)),
        row(
            &[I::Nothing, I::Queued],
            &[O::PendingReleased],
            &[R::Old],
            H::Begin,
        ),
        row(
            &[I::Nothing, I::Queued],
            &[O::PendingReleased],
            &[R::New],
            H::End("Failed", "StateLost"),
        ),
        row(
            &[I::Nothing, I::Queued],
            &[O::PendingReleased],
            &[R::Unclear],
            H::End("Failed", "SlotAmbiguous"),
        ),
        row(
            &[I::Nothing, I::Queued],
            &[O::PendingCancelled],
            ANY,
            H::End("Cancelled", ""),
        ),
        row(
            &[I::Nothing, I::Queued],
            &[O::OtherNode],
            ANY,
            H::End("Failed", "NodeReplaced"),
        ),
        row(&[I::Nothing], ACTIVE, ANY, H::End("Failed", "StateLost")),
        row(
            &[I::Nothing],
            &[
                O::Failed,
                O::FailedNonceReleased,
                O::Completed,
                O::CompletedNonce,
            ],
            ANY,
            H::Wait(For::Work),
        ),
        row(&[I::Nothing], &[O::FailedNonce], ANY, H::AcceptNonce),
        // Queued.
        row(&[I::Queued], &[O::Gone], ANY, H::Forget),
        row(
            &[I::Queued],
            &[
                O::ActiveHold,
                O::ActiveStage,
                O::ActiveReboot,
                O::NodeUnknown,
                O::PastSwitch,
                O::ActiveCancelled,
                O::ActiveNonce,
                O::Failed,
                O::FailedNonce,
                O::FailedNonceReleased,
                O::Completed,
                O::CompletedNonce,
            ],
            ANY,
            H::Report,
        ),
        // Before the switch: the object decides.
        row(&[I::Announced], &[O::Gone], ANY, H::Forget),
        row(PLANNED, &[O::PendingLater], ANY, H::Forget),
        row(
            &[I::SwitchAnnounced],
            &[O::PendingLater],
            &[R::Old],
            H::Forget,
        ),
        row(
            &[I::Begun, I::Writing, I::Proven],
            &[O::Gone],
            ANY,
            H::End("Cancelled", ""),
        ),
        row(
            &[I::SwitchAnnounced],
            &[O::Gone],
            &[R::Old],
            H::End("Cancelled", ""),
        ),
        row(PLANNED, FAILED, ANY, H::End("Failed", "WriteFailed")),
        row(
            &[I::SwitchAnnounced],
            FAILED,
            &[R::Old],
            H::End("Failed", "WriteFailed"),
        ),
        row(
            PLANNED,
            &[O::OtherNode],
            ANY,
            H::End("Failed", "NodeReplaced"),
        ),
        row(
            &[I::SwitchAnnounced],
            &[O::OtherNode],
            &[R::Old],
            H::End("Failed", "NodeReplaced"),
        ),
        row(PLANNED, CANCELLED, ANY, H::End("Cancelled", "")),
        row(
            &[I::SwitchAnnounced],
            CANCELLED,
            &[R::Old],
            H::End("Cancelled", ""),
        ),
        row(PLANNED, NONCE, ANY, H::ObserveNonce),
        row(&[I::SwitchAnnounced], NONCE, &[R::Old], H::ObserveNonce),
        row(
            PLANNED,
            &[
                O::PendingHold,
                O::PendingReleased,
                O::ActiveHold,
                O::ActiveStage,
                O::ActiveReboot,
                O::NodeUnknown,
                O::PastSwitch,
                O::Completed,
            ],
            &[R::Unclear],
            H::End("Failed", "SlotAmbiguous"),
        ),
        row(
            &[I::Announced],
            &[
                O::PendingHold,
                O::PendingReleased,
                O::ActiveHold,
                O::ActiveStage,
                O::ActiveReboot,
                O::NodeUnknown,
                O::PastSwitch,
                O::Completed,
            ],
            &[R::New],
            H::Requeue,
        ),
        row(
            &[I::Announced],
            &[O::PendingHold, O::ActiveHold],
            &[R::Old],
            H::Requeue,
        ),
        row(
            &[I::Announced],
            LISTED_PENDING_RELEASED,
            &[R::Old],
            H::Announce,
        ),
        row(
            &[I::Begun, I::Writing, I::Proven],
            &[
                O::PendingHold,
                O::PendingReleased,
                O::ActiveHold,
                O::ActiveStage,
                O::ActiveReboot,
                O::NodeUnknown,
                O::PastSwitch,
                O::Completed,
            ],
            &[R::New],
            H::End("Failed", "SlotActive"),
        ),
        row(
            BEGUN,
            &[
                O::PendingHold,
                O::PendingReleased,
                O::ActiveHold,
                O::ActiveStage,
                O::ActiveReboot,
                O::NodeUnknown,
                O::PastSwitch,
                O::Completed,
            ],
            &[R::Old],
            H::Write,
        ),
        row(
            &[I::Proven, I::SwitchAnnounced],
            &[O::PendingHold, O::ActiveHold],
            &[R::Old],
            H::End("Failed", "DrainTimedOut"),
        ),
        row(
            &[I::Proven, I::SwitchAnnounced],
            &[O::ActiveStage],
            &[R::Old],
            H::Wait(For::Release),
        ),
        row(
            &[I::Proven, I::SwitchAnnounced],
            &[
                O::PendingReleased,
                O::ActiveReboot,
                O::PastSwitch,
                O::Completed,
            ],
            &[R::Old],
            H::ReadFreshThenSwitch,
        ),
        row(
            &[I::Proven, I::SwitchAnnounced],
            &[O::NodeUnknown],
            &[R::Old],
            H::Wait(For::NodeUid),
        ),
        row(
            &[I::SwitchAnnounced],
            &[O::Away],
            &[R::Old],
            H::Wait(For::ApiServer),
        ),
        // After the switch: the record decides, the object changes nothing.
        row(
            &[I::SwitchAnnounced],
            Object::ALL,
            &[R::New, R::Unclear],
            H::Reboot,
        ),
        row(&[I::SwitchMade], Object::ALL, ANY, H::Reboot),
        row(
            &[I::SwitchVanished],
            Object::ALL,
            &[R::Old],
            H::End("Failed", "BootSwitchFailed"),
        ),
        row(
            &[I::SwitchVanished],
            Object::ALL,
            &[R::New, R::Unclear],
            H::Reboot,
        ),
        row(
            &[I::Rebooted],
            Object::ALL,
            &[R::Old],
            H::End("RolledBack", "FellBack"),
        ),
        row(&[I::Rebooted], Object::ALL, &[R::New], H::Confirm),
        row(&[I::Rebooted], Object::ALL, &[R::Unclear], H::RejectTrial),
        row(
            &[I::TrialRejected],
            Object::ALL,
            &[R::Old],
            H::End("RolledBack", "WrongVersionInImage"),
        ),
        row(
            &[I::TrialRejected],
            Object::ALL,
            &[R::New, R::Unclear],
            H::Reboot,
        ),
        // Over.
        row(&[I::FailedUntold], THERE, ANY, H::Report),
        row(&[I::FailedUntold], &[O::Gone], ANY, H::ReportLost),
        row(
            &[I::FailedTold, I::CompletedTold],
            &[O::Gone, O::PendingLater],
            ANY,
            H::Wait(For::Work),
        ),
        row(
            &[I::FailedTold],
            &[
                O::PendingHold,
                O::PendingReleased,
                O::PendingCancelled,
                O::OtherNode,
                O::ActiveHold,
                O::ActiveStage,
                O::ActiveReboot,
                O::NodeUnknown,
                O::PastSwitch,
                O::ActiveCancelled,
                O::Completed,
            ],
            ANY,
            H::Report,
        ),
        row(
            &[I::FailedTold],
            &[O::Failed, O::FailedNonceReleased],
            ANY,
            H::Wait(For::Work),
        ),
        row(
            &[I::FailedTold],
            &[O::FailedNonce, O::ActiveNonce, O::CompletedNonce],
            ANY,
            H::AcceptNonce,
        ),
        row(
            &[I::CompletedTold],
            &[
                O::PendingHold,
                O::PendingReleased,
                O::PendingCancelled,
                O::OtherNode,
                O::ActiveHold,
                O::ActiveStage,
                O::ActiveReboot,
                O::NodeUnknown,
                O::PastSwitch,
                O::ActiveCancelled,
                O::Failed,
            ],
            ANY,
            H::Report,
        ),
        row(
            &[I::CompletedTold],
            &[
                O::ActiveNonce,
                O::FailedNonce,
                O::FailedNonceReleased,
                O::CompletedNonce,
            ],
            ANY,
            H::ObserveNonce,
        ),
        row(
            &[I::CompletedTold],
            &[O::Completed],
            ANY,
            H::Wait(For::Work),
        ),
        // No record to go by.
        row(
            OUT_OF_USE,
            &[
                O::Gone,
                O::PendingHold,
                O::PendingLater,
                O::Failed,
                O::FailedNonceReleased,
                O::Completed,
                O::CompletedNonce,
            ],
            ANY,
            H::Wait(For::Work),
        ),
        row(
            OUT_OF_USE,
            &[O::PendingCancelled],
            ANY,
            H::Tell("Cancelled", ""),
        ),
        row(
            &[I::Unusable],
            &[
                O::PendingReleased,
                O::OtherNode,
                O::ActiveHold,
                O::ActiveStage,
                O::ActiveReboot,
                O::NodeUnknown,
                O::PastSwitch,
                O::ActiveCancelled,
                O::ActiveNonce,
            ],
            ANY,
            H::Tell("Failed", "StateUnreadable"),
        ),
        row(
            OUT_OF_REACH,
            &[O::PendingReleased, O::OtherNode],
            ANY,
            H::Tell("Failed", "StateNotPersistent"),
        ),
        row(
            &[I::OutOfReach],
            BEFORE_SWITCH,
            &[R::Old],
            H::Tell("Failed", "StateNotPersistent"),
        ),
        // What may have switched is judged by the record alone.
        row(
            &[I::OutOfReach],
            BEFORE_SWITCH,
            &[R::New, R::Unclear],
            H::Wait(For::Disk),
        ),
        row(
            &[I::OutOfReachArmed],
            BEFORE_SWITCH,
            ANY,
            H::Wait(For::Disk),
        ),
        row(OUT_OF_REACH, &[O::PastSwitch], ANY, H::Wait(For::Disk)),
        row(OUT_OF_USE, &[O::FailedNonce], ANY, H::Tell("Pending", "")),
    ]
}

const UID: &str = "uid";
const BEFORE: &str = "boot-1";

/// What the function decides for one combination.
pub fn decide(record: InRecord, object: Object, running: Running, fresh: bool) -> Action {
    let (record, boot_id, trial) = recorded(record);
    let machine = Machine {
        boot_id,
        node_uid: (object != Object::NodeUnknown).then(|| "node-1".to_owned()),
        system: match running {
            Running::Unclear => Err(Trouble::new(FailureReason::SlotAmbiguous, "unclear")),
            Running::Old | Running::New => {
                let new = running == Running::New;
                Ok(System {
                    active: if new { SlotName::B } else { SlotName::A },
                    version: if new { "v1.35.1" } else { "v1.35.0" }.to_owned(),
                    default: Some(SlotName::A),
                    settled: !new,
                    no_trial: false,
                    trial: trial.filter(|_| !new),
                })
            }
        },
    };
    next(&Inputs {
        record: record.as_ref(),
        view: &view(object),
        fresh,
        machine: &machine,
        reboot: RebootWatch::NotAsked,
    })
}

/// The record, the boot it is read in, and the trial that the boot loader holds.
fn recorded(what: InRecord) -> (Result<Record, Trouble>, String, Option<SlotName>) {
    let mut attempt = Attempt::queued("p", UID, 1);
    attempt.reported = true;
    let mut boot = BEFORE;
    let mut trial = None;
    let at_least = |step: InRecord| what >= step && what <= InRecord::TrialRejected;
    if at_least(InRecord::Announced) {
        attempt.plan = Some(Plan {
            from: SlotName::A,
            from_version: "v1.35.0".to_owned(),
            to: SlotName::B,
            image: ImageRef {
                version: "v1.35.1".to_owned(),
                ..ImageRef::default()
            },
        });
    }
    attempt.accepted = at_least(InRecord::Begun);
    attempt.writing = at_least(InRecord::Writing);
    if at_least(InRecord::Proven) {
        attempt.proven = Some(Proof {
            bytes: 1,
            checksum_matched: None,
        });
    }
    if at_least(InRecord::SwitchAnnounced) {
        attempt.switch = Some(Switch {
            boot_id: BEFORE.to_owned(),
            done: what != InRecord::SwitchAnnounced,
        });
    }
    match what {
        InRecord::SwitchMade | InRecord::OutOfReachArmed => trial = Some(SlotName::B),
        InRecord::Rebooted | InRecord::TrialRejected => {
            attempt.reboots.push(BEFORE.to_owned());
            boot = "boot-2";
        }
        _ => {}
    }
    if what == InRecord::TrialRejected {
        attempt.trial_failure = Some(Trouble::new(FailureReason::WrongVersionInImage, "other"));
    }
    let end = |phase, reason: &str| {
        Some(End {
            phase,
            reason: reason.to_owned(),
            message: String::new(),
            at: None,
        })
    };
    match what {
        InRecord::FailedUntold | InRecord::FailedTold => {
            attempt.end = end(ProgressPhase::Failed, "WriteFailed");
            attempt.reported = what == InRecord::FailedTold;
        }
        InRecord::CompletedTold => attempt.end = end(ProgressPhase::Completed, ""),
        _ => {}
    }
    let mut record = Record::default();
    if what != InRecord::Nothing {
        record.put(attempt);
    }
    let record = match what {
        InRecord::Unusable => Err(Trouble::new(FailureReason::StateUnreadable, "garbage")),
        InRecord::OutOfReach | InRecord::OutOfReachArmed => Err(Trouble::new(
            FailureReason::StateNotPersistent,
            "not mounted",
        )),
        _ => Ok(record),
    };
    (record, boot.to_owned(), trial)
}

fn view(object: Object) -> View {
    use Object as O;
    let (phase, release) = match object {
        O::Away => return View::Away,
        O::Gone => return View::Listed(Vec::new()),
        O::PendingHold | O::PendingLater => (ProgressPhase::Pending, Release::Hold),
        O::PendingReleased | O::PendingCancelled | O::OtherNode => {
            (ProgressPhase::Pending, Release::Reboot)
        }
        O::ActiveHold => (ProgressPhase::Downloading, Release::Hold),
        O::PastSwitch => (ProgressPhase::Rebooting, Release::Reboot),
        O::ActiveStage => (ProgressPhase::Downloading, Release::Stage),
        O::ActiveReboot | O::NodeUnknown | O::ActiveCancelled | O::ActiveNonce => {
            (ProgressPhase::Downloading, Release::Reboot)
        }
        O::Failed | O::FailedNonce | O::FailedNonceReleased => {
            (ProgressPhase::Failed, Release::Reboot)
        }
        O::Completed | O::CompletedNonce => (ProgressPhase::Completed, Release::Reboot),
    };
    let nonce = matches!(
        object,
        O::ActiveNonce | O::FailedNonce | O::FailedNonceReleased | O::CompletedNonce
    );
    let node = if object == O::OtherNode {
        "node-0"
    } else {
        "node-1"
    };
    View::Listed(vec![Progress {
        name: "p".to_owned(),
        uid: UID.to_owned(),
        created: None,
        deleted: false,
        owned: object == O::FailedNonceReleased,
        node_uid: Some(node.to_owned()),
        operation: Operation::Upgrade,
        checks: false,
        release,
        cancel: matches!(object, O::PendingCancelled | O::ActiveCancelled),
        nonce: if nonce { "new" } else { "" }.to_owned(),
        attempt: match object {
            O::PendingLater => 2,
            _ => i32::from(phase != ProgressPhase::Pending),
        },
        failure_reason: if phase == ProgressPhase::Failed {
            "WriteFailed".to_owned()
        } else {
            String::new()
        },
        phase,
        retry_count: 0,
        observed_nonce: String::new(),
        message: String::new(),
    }])
}

/// The page.
pub fn markdown() -> String {
    let mut page = String::from(
        "# What the node agent does next\n\n\
         Generated from `node-agent/src/decide/state_table.rs` by `cargo run -q -p monok8s-node-agent --example state_table`; \
         a test walks the same rows.\n\n\
         The record on disk decides after a crash. The first row that fits is the only one that fits: together the rows \
         cover every combination of what the record says of a progress, what the API server says of it, and which slot \
         runs. While another progress is under way, one whose turn it is not waits. \"Slot marked bad\" and \"reported\" \
         are left out: an attempt that ends after it has begun to write leaves the target marked bad, and every end is \
         reported.\n\n\
         | record | object | running slot | what happens |\n|---|---|---|---|\n",
    );
    for row in rows() {
        let list = |words: Vec<&str>, all: usize| {
            if words.len() == all {
                "any".to_owned()
            } else {
                words.join("; ")
            }
        };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} |",
            list(
                row.record.iter().map(|w| w.text()).collect(),
                InRecord::ALL.len()
            ),
            list(
                row.object.iter().map(|w| w.text()).collect(),
                Object::ALL.len()
            ),
            list(
                row.running.iter().map(|w| w.text()).collect(),
                Running::ALL.len()
            ),
            row.happens.text(),
        );
    }
    page.push_str(
        "\nA reboot that was asked for and does not come within `--reboot-timeout` ends the attempt `Failed` \
         (`RebootFailed`) with the switch taken back. Under `Rollback`, or with health checks in the object, an attempt \
         does not begin: `Failed` (`RollbackUnavailable`, `PolicyRefused`).\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_what_happens() {
        let mut wrong = String::new();
        for row in rows() {
            for (record, object, running) in cells(&row) {
                for fresh in [false, true] {
                    let action = decide(record, object, running, fresh);
                    if !row.happens.is(&action) {
                        let _ = writeln!(
                            wrong,
                            "{record:?} {object:?} {running:?}: {:?}, not {action:?}",
                            row.happens
                        );
                    }
                    let switches = matches!(action, Action::Switch { .. });
                    assert!(fresh || !switches, "switched without a fresh read");
                    if row.happens == Happens::ReadFreshThenSwitch {
                        assert_eq!(switches, fresh, "{record:?} {object:?} {running:?}");
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }

    #[test]
    fn the_rows_cover_every_combination_once() {
        let mut covered: Vec<_> = rows().iter().flat_map(cells).collect();
        let count = covered.len();
        covered.sort_unstable();
        covered.dedup();
        assert_eq!(
            covered.len(),
            count,
            "two rows say something of one combination"
        );
        for &record in InRecord::ALL {
            for &object in Object::ALL {
                for &running in Running::ALL {
                    assert!(
                        covered.binary_search(&(record, object, running)).is_ok(),
                        "no row for {record:?} {object:?} {running:?}: {:?}",
                        decide(record, object, running, false)
                    );
                }
            }
        }
    }

    fn cells(row: &Row) -> Vec<(InRecord, Object, Running)> {
        let mut cells = Vec::new();
        for &record in row.record {
            for &object in row.object {
                for &running in row.running {
                    cells.push((record, object, running));
                }
            }
        }
        cells
    }

    #[test]
    fn the_page_is_generated_from_these_rows() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/state-table.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == markdown(),
            "docs/state-table.md is stale: run `cargo run -q -p monok8s-node-agent --example state_table`"
        );
    }
}
