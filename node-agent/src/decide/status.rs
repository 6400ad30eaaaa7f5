//! What an attempt looks like from outside: the status of its progress.
//!
//! Pure. The status follows from the record's entry, from what is being written at the moment, and from the object
//! it is written to; nothing else is remembered.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use monok8s_api::{
    OSUpgradeProgress, OSUpgradeProgressStatus, Version,
    condition::{self, Truth},
    osupgradeprogress::{ImageRef, Release},
    reason::{AttemptReason, FailureReason, ProgressPhase},
};

use crate::{
    decide::next::System,
    record::{Attempt, Step},
};

/// What is going on with the slot that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// The image is written; it is being read back and compared.
    pub verifying: bool,
    /// Expanded bytes written.
    pub bytes_done: i64,
    /// Expanded bytes in all; 0 while not known.
    pub bytes_total: i64,
    /// What is being waited for, such as a server that is asked again.
    pub note: String,
}

impl Live {
    /// Share written, 0 to 100; never 100 before all bytes are.
    pub fn percent(&self) -> i32 {
        if self.bytes_total <= 0 {
            return 0;
        }
        let done = i128::from(self.bytes_done.clamp(0, self.bytes_total));
        i32::try_from(done * 100 / i128::from(self.bytes_total)).unwrap_or(0)
    }
}

/// The running system as the status function needs it.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// The kernel's ID of this boot.
    pub boot_id: String,
    /// What runs, where that is known.
    pub system: Option<System>,
}

/// A version as statuses write it: normalised where it is one.
pub fn shown_version(text: &str) -> String {
    text.parse::<Version>()
        .map_or_else(|_| text.to_owned(), |v| v.to_string())
}

/// The phase an attempt is in.
pub fn phase(attempt: &Attempt, live: &Live, here: &Here) -> ProgressPhase {
    if let Some(end) = &attempt.end {
        return end.phase.clone();
    }
    match attempt.step() {
        Step::Queued | Step::Ended => ProgressPhase::Pending,
        Step::Announced | Step::Begun | Step::Writing if live.verifying => ProgressPhase::Verifying,
        Step::Announced | Step::Begun | Step::Writing => ProgressPhase::Downloading,
        Step::Proven => ProgressPhase::Staged,
        Step::Switched => {
            let same_boot = attempt
                .switch
                .as_ref()
                .is_some_and(|s| s.boot_id == here.boot_id);
            if same_boot {
                ProgressPhase::Rebooting
            } else {
                ProgressPhase::Confirming
            }
        }
    }
}

/// The whole status: server-side apply drops what is left out.
pub fn status(
    object: &OSUpgradeProgress,
    attempt: &Attempt,
    live: &Live,
    here: &Here,
    now: Timestamp,
) -> OSUpgradeProgressStatus {
    let nothing = OSUpgradeProgressStatus::default();
    let before = object.status.as_ref().unwrap_or(&nothing);
    let same_attempt = before.attempt == attempt.number;
    let phase = phase(attempt, live, here);
    let plan = attempt.plan.as_ref();

    // Bytes: those of the proof; while writing the live ones; of a failed attempt the last that were shown.
    let mut bytes = live.clone();
    if let Some(proof) = &attempt.proven {
        bytes.bytes_done = proof.bytes;
        bytes.bytes_total = proof.bytes;
    } else if attempt.end.is_some() && (live.bytes_done == 0 || plan.is_none()) && same_attempt {
        bytes.bytes_done = before.bytes_done;
        bytes.bytes_total = before.bytes_total;
    } else if plan.is_none() {
        // What is live belongs to an attempt before.
        bytes = Live::default();
    }

    let image = plan
        .map(|p| &p.image)
        .or(object.spec.image.as_ref())
        .map(shown_image);
    let nonce_is_new = !object.spec.retry_nonce.is_empty() && attempt.is_under_way();
    OSUpgradeProgressStatus {
        current_version: here
            .system
            .as_ref()
            .map(|s| shown_version(&s.version))
            .or_else(|| plan.map(|p| shown_version(&p.from_version)))
            .unwrap_or_else(|| before.current_version.clone()),
        target_version: image
            .as_ref()
            .map(|i| shown_version(&i.version))
            .unwrap_or_default(),
        started_at: attempt.started_at.clone(),
        completed_at: attempt.end.as_ref().and_then(|e| e.at.clone()),
        last_updated_at: Some(now.into()),
        attempt: if attempt.step() == Step::Queued {
            before.attempt.max(attempt.number)
        } else {
            attempt.number
        },
        retry_count: attempt.retry_count,
        observed_retry_nonce: if nonce_is_new {
            object.spec.retry_nonce.clone()
        } else {
            attempt.observed_nonce.clone()
        },
        inactive_partition: plan
            .map(|p| p.to)
            .or_else(|| here.system.as_ref().map(|s| s.active.other()))
            .map_or_else(
                || before.inactive_partition.clone(),
                |slot| slot.to_string(),
            ),
        failure_reason: attempt
            .end
            .as_ref()
            .map_or_else(String::new, |e| e.reason.clone()),
        message: message(object, attempt, live, &phase),
        percent: bytes.percent(),
        bytes_done: bytes.bytes_done,
        bytes_total: bytes.bytes_total,
        image,
        checksum_matched: attempt
            .proven
            .as_ref()
            .and_then(|p| p.checksum_matched.clone()),
        trial_boot_id: attempt.trial_boot_id.clone(),
        conditions: conditions(object, attempt, &phase, now),
        phase,
    }
}

/// An image as it may be shown to everybody: no URL with its query, which is where signed URLs carry their key.
fn shown_image(image: &ImageRef) -> ImageRef {
    let bare = |url: &String| url.split(['?', '#']).next().unwrap_or_default().to_owned();
    ImageRef {
        version: image.version.clone(),
        url: image.url.as_ref().map(bare),
        mirrors: image.mirrors.iter().map(bare).collect(),
        checksum: image.checksum.clone(),
        size: image.size,
    }
}

fn message(
    object: &OSUpgradeProgress,
    attempt: &Attempt,
    live: &Live,
    phase: &ProgressPhase,
) -> String {
    let (version, slot) = attempt.plan.as_ref().map_or_else(
        || ("the image".to_owned(), String::new()),
        |p| (p.image.version.clone(), format!(" slot {}", p.to)),
    );
    let mut text = match (&attempt.end, phase) {
        (Some(end), _) => end.message.clone(),
        (None, ProgressPhase::Pending) => "waiting for its turn".to_owned(),
        (None, ProgressPhase::Downloading) => format!("writing {version} to{slot}"),
        (None, ProgressPhase::Verifying) => {
            format!("reading{slot} back and comparing it with {version}")
        }
        (None, ProgressPhase::Staged) if object.spec.release == Release::Reboot => {
            format!("{version} is proven in{slot}; about to switch")
        }
        (None, ProgressPhase::Staged) => {
            format!("{version} is proven in{slot}; waiting for release: Reboot")
        }
        (None, ProgressPhase::Rebooting) => {
            format!("rebooting into{slot} for the trial boot of {version}")
        }
        (None, _) => match &attempt.trial_failure {
            Some(trouble) => format!(
                "the trial boot is given up: {}; rebooting back",
                trouble.message
            ),
            None => format!("judging the trial boot of {version} from{slot}"),
        },
    };
    if !live.note.is_empty() && attempt.end.is_none() {
        text = format!("{text}; {}", live.note);
    }
    if let Some(end) = &attempt.end
        && end.phase.can_retry()
        && attempt.nonce_without_effect
    {
        text.push_str(
            ". The retryNonce that was changed while the attempt ran has no effect: change it again to retry",
        );
    }
    if object.spec.cancel && is_switched(attempt) {
        text.push_str(". cancel came after the switch and is ignored");
    }
    // The CRD has no bound; a message is for people.
    shorten(&mut text, MAX_MESSAGE);
    text
}

/// Whether the boot order was switched, and it was not the switch that failed.
fn is_switched(attempt: &Attempt) -> bool {
    let failed = attempt
        .end
        .as_ref()
        .is_some_and(|e| e.reason == FailureReason::BootSwitchFailed.as_str());
    attempt.switch.as_ref().is_some_and(|s| s.done) && !failed
}

/// Cuts a text to `most` bytes, between two characters, and says so.
pub fn shorten(text: &mut String, most: usize) {
    const CUT: char = '…';
    if text.len() <= most {
        return;
    }
    let mut end = most.saturating_sub(CUT.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push(CUT);
}

/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = 2048;

fn conditions(
    object: &OSUpgradeProgress,
    attempt: &Attempt,
    phase: &ProgressPhase,
    now: Timestamp,
) -> Vec<Condition> {
    if attempt.step() == Step::Queued {
        return Vec::new();
    }
    let before = object
        .status
        .as_ref()
        .map_or(&[][..], |s| s.conditions.as_slice());
    let completed = *phase == ProgressPhase::Completed;
    let why_not = match &attempt.end {
        Some(end) if end.reason.is_empty() => end.phase.to_string(),
        Some(end) => end.reason.clone(),
        None => AttemptReason::InProgress.to_string(),
    };
    let switched = is_switched(attempt);
    [
        (
            "Verified",
            attempt.proven.is_some(),
            AttemptReason::ReadBack,
        ),
        ("Switched", switched, AttemptReason::TrialBoot),
        (
            "Confirmed",
            completed && switched,
            AttemptReason::MarkedGood,
        ),
        ("Completed", completed, AttemptReason::Completed),
    ]
    .into_iter()
    .map(|(type_, holds, reason)| {
        let (truth, reason) = if holds {
            (Truth::True, reason.as_str())
        } else {
            (Truth::False, why_not.as_str())
        };
        condition::next(
            before,
            type_,
            truth,
            reason,
            "",
            object.metadata.generation,
            now,
        )
    })
    .collect()
}

/// Whether a reason is one that a retry with the same image cannot mend; the message says so.
pub fn needs_another_image(reason: &FailureReason) -> bool {
    matches!(
        reason,
        FailureReason::ChecksumMismatch
            | FailureReason::SizeMismatch
            | FailureReason::NotAnImage
            | FailureReason::WindowTooLarge
            | FailureReason::ImageTooLarge
            | FailureReason::WrongVersionInImage
            | FailureReason::BootFilesMissing
    )
}

#[cfg(test)]
mod tests {
    use monok8s_boot::SlotName;

    use super::*;
    use crate::record::{End, Plan, Proof, Switch};

    fn object(spec: &serde_json::Value) -> OSUpgradeProgress {
        let mut object = serde_json::json!({
            "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgradeProgress",
            "metadata": {"name": "p", "uid": "u", "generation": 3},
            "spec": {"sourceRef": {"name": "u"}, "nodeName": "n"},
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    /// An attempt that has its plan.
    fn planned() -> Attempt {
        let mut attempt = Attempt::queued("p", "u", 1);
        attempt.plan = Some(Plan {
            from: SlotName::A,
            from_version: "1.35.0".to_owned(),
            to: SlotName::B,
            image: ImageRef {
                version: "1.35.1".to_owned(),
                url: Some("https://x/i.zst?key=secret".to_owned()),
                mirrors: vec!["https://y/i.zst?key=secret#f".to_owned()],
                ..ImageRef::default()
            },
        });
        attempt
    }

    fn here(boot: &str) -> Here {
        Here {
            boot_id: boot.to_owned(),
            system: None,
        }
    }

    fn of(
        attempt: &Attempt,
        live: &Live,
        boot: &str,
        spec: &serde_json::Value,
    ) -> OSUpgradeProgressStatus {
        status(
            &object(spec),
            attempt,
            live,
            &here(boot),
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn the_phase_follows_from_the_facts() {
        let live = Live::default();
        let verifying = Live {
            verifying: true,
            ..Live::default()
        };
        let mut a = Attempt::queued("p", "u", 1);
        let at = |a: &Attempt, live: &Live, boot: &str| phase(a, live, &here(boot)).to_string();
        assert_eq!(at(&a, &live, "b1"), "Pending");
        a = planned();
        assert_eq!(at(&a, &live, "b1"), "Downloading");
        a.accepted = true;
        a.writing = true;
        assert_eq!(at(&a, &verifying, "b1"), "Verifying");
        a.proven = Some(Proof {
            bytes: 10,
            checksum_matched: None,
        });
        assert_eq!(at(&a, &verifying, "b1"), "Staged");
        a.switch = Some(Switch {
            boot_id: "b1".to_owned(),
            done: true,
        });
        assert_eq!(at(&a, &live, "b1"), "Rebooting");
        assert_eq!(at(&a, &live, "b2"), "Confirming");
    }

    #[test]
    fn no_query_of_a_url_is_shown() {
        let shown = of(&planned(), &Live::default(), "b", &serde_json::json!({}));
        let text = serde_json::to_string(&shown).unwrap();
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("https://x/i.zst"), "{text}");
        assert_eq!(
            (
                shown.current_version.as_str(),
                shown.target_version.as_str()
            ),
            ("v1.35.0", "v1.35.1")
        );
    }

    #[test]
    fn percent_is_whole_and_bounded() {
        for (done, total, percent) in [
            (0, 0, 0),
            (5, 0, 0),
            (1, 3, 33),
            (299, 300, 99),
            (3, 3, 100),
            (9, 3, 100),
            (i64::MAX, i64::MAX, 100),
        ] {
            let live = Live {
                bytes_done: done,
                bytes_total: total,
                ..Live::default()
            };
            assert_eq!(live.percent(), percent, "{done}/{total}");
        }
    }

    #[test]
    fn what_came_too_late_is_told() {
        let mut a = planned();
        a.proven = Some(Proof {
            bytes: 10,
            checksum_matched: None,
        });
        a.switch = Some(Switch {
            boot_id: "b1".to_owned(),
            done: true,
        });
        let cancel = serde_json::json!({"cancel": true});
        let rebooting = of(&a, &Live::default(), "b1", &cancel);
        assert!(
            rebooting.message.contains("ignored"),
            "{}",
            rebooting.message
        );
        a.end = Some(End {
            phase: ProgressPhase::RolledBack,
            reason: "FellBack".to_owned(),
            message: "it fell back".to_owned(),
            at: None,
        });
        a.nonce_without_effect = true;
        let ended = of(&a, &Live::default(), "b2", &serde_json::json!({}));
        assert!(
            ended.message.contains("change it again"),
            "{}",
            ended.message
        );
        let condition = |type_: &str| {
            let c = condition::find(&ended.conditions, type_).unwrap();
            (c.status.clone(), c.reason.clone())
        };
        assert_eq!(condition("Switched").0, "True");
        assert_eq!(
            condition("Completed"),
            ("False".to_owned(), "FellBack".to_owned())
        );
    }

    #[test]
    fn a_condition_has_no_reason_outside_the_sets() {
        let mut a = planned();
        let known = |a: &Attempt| {
            let shown = of(a, &Live::default(), "b1", &serde_json::json!({}));
            assert_eq!(shown.conditions.len(), 4);
            for c in shown.conditions {
                let listed = AttemptReason::ALL.contains(&c.reason.as_str().into())
                    || FailureReason::ALL.contains(&c.reason.as_str().into());
                assert!(listed, "{} has the reason {}", c.type_, c.reason);
            }
        };
        known(&a);
        for (phase, reason) in [
            (ProgressPhase::Completed, ""),
            (ProgressPhase::Cancelled, ""),
            (ProgressPhase::Failed, "DownloadFailed"),
            (ProgressPhase::RolledBack, "FellBack"),
        ] {
            a.end = Some(End {
                phase,
                reason: reason.to_owned(),
                message: String::new(),
                at: None,
            });
            known(&a);
        }
    }

    #[test]
    fn an_attempt_without_a_plan_shows_no_bytes_of_another() {
        let live = Live {
            bytes_done: 7,
            bytes_total: 10,
            ..Live::default()
        };
        let mut refused = Attempt::queued("p", "u", 2);
        let shown = |attempt: &Attempt, before: i32| {
            let mut object = object(&serde_json::json!({}));
            object.status = Some(OSUpgradeProgressStatus {
                attempt: before,
                bytes_done: 5,
                bytes_total: 10,
                ..OSUpgradeProgressStatus::default()
            });
            let status = status(&object, attempt, &live, &here("b"), Timestamp::UNIX_EPOCH);
            (status.bytes_done, status.percent)
        };
        assert_eq!(shown(&refused, 1), (0, 0));
        refused.end = Some(End {
            phase: ProgressPhase::Failed,
            reason: "PolicyRefused".to_owned(),
            message: String::new(),
            at: None,
        });
        assert_eq!(shown(&refused, 1), (0, 0));
        // Such as one whose record was lost while it wrote.
        assert_eq!(shown(&refused, 2), (5, 50));
        assert_eq!(shown(&planned(), 1), (7, 70));
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let mut text = "ü".repeat(10);
        shorten(&mut text, 10);
        assert_eq!(text, "üüü…");
        let mut short = "abc".to_owned();
        shorten(&mut short, 3);
        assert_eq!(short, "abc");
    }
}
