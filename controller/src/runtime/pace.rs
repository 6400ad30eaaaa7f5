//! How often an upgrade's status is written.
//!
//! A status write carries the whole object back, an inline catalog of 128 KiB included, and sends
//! it to whoever watches. In a wide rollout nodes move many times a second, so what only counts
//! them waits until a second has passed since the last write of the same upgrade. Nothing is
//! queued: the next plan makes the newest status anew.

use std::{collections::HashMap, time::Duration};

use kube::ResourceExt as _;
use monok8s_api::OSUpgradeStatus;

use crate::decide::plan::StatusWrite;

/// Least time between two writes that tell how far a rollout has come.
const LEAST_GAP: Duration = Duration::from_secs(1);
/// Pause after a write that the API server does not take, unless the object changes.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// When each upgrade's status was written last, by this process's clock.
#[derive(Debug, Default)]
pub(super) struct Pace {
    written: HashMap<String, Duration>,
    /// What was refused, by the upgrade's UID.
    refused: HashMap<String, Refused>,
}

/// A write that was refused.
#[derive(Debug)]
struct Refused {
    /// As the object was then.
    resource_version: Option<String>,
    again_at: Duration,
}

impl Pace {
    /// Until when a write has to wait; none when it may go out now.
    pub(super) fn wait(&self, write: &StatusWrite, now: Duration) -> Option<Duration> {
        let uid = write.upgrade.uid()?;
        let refused = self.refused.get(&uid).filter(|refused| {
            refused.resource_version == write.upgrade.resource_version() && now < refused.again_at
        });
        if let Some(refused) = refused {
            return Some(refused.again_at);
        }
        let last = self.written.get(&uid)?;
        let due = *last + LEAST_GAP;
        let urgent = write
            .upgrade
            .status
            .as_ref()
            .is_none_or(|before| is_urgent(before, &write.status));
        (now < due && !urgent).then_some(due)
    }

    /// The API server does not take this status; gives when it may be asked again.
    pub(super) fn refused(&mut self, write: &StatusWrite, now: Duration) -> Duration {
        let again_at = now + AFTER_REFUSAL;
        let refused = Refused {
            resource_version: write.upgrade.resource_version(),
            again_at,
        };
        let uid = write.upgrade.uid().unwrap_or_default();
        self.refused.insert(uid, refused);
        again_at
    }

    /// A status was written, or may have been.
    pub(super) fn wrote(&mut self, write: &StatusWrite, now: Duration) {
        self.written.retain(|_, at| now < *at + LEAST_GAP);
        self.refused.retain(|_, refused| now < refused.again_at);
        self.written
            .insert(write.upgrade.uid().unwrap_or_default(), now);
    }
}

/// Whether something rests on this status: another phase, or what is fixed before anything is made
/// or released on the strength of it (the target, its revision, the pinned images).
fn is_urgent(before: &OSUpgradeStatus, next: &OSUpgradeStatus) -> bool {
    let OSUpgradeStatus {
        observed_generation,
        revision,
        revision_digest,
        phase,
        resolved_version,
        catalog,
        pinned,
        // What only tells how it goes.
        summary: _,
        nodes: _,
        failures: _,
        message: _,
        conditions: _,
    } = next;
    before.observed_generation != *observed_generation
        || before.revision != *revision
        || before.revision_digest != *revision_digest
        || before.phase != *phase
        || before.resolved_version != *resolved_version
        || before.catalog != *catalog
        || before.pinned != *pinned
}

#[cfg(test)]
mod tests {
    use monok8s_api::{
        API_VERSION, OSUpgrade,
        osupgrade::{CatalogStatus, NodeFailure, PinnedImage},
        reason::UpgradePhase,
    };
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn status(change: impl FnOnce(&mut OSUpgradeStatus)) -> OSUpgradeStatus {
        let mut status = OSUpgradeStatus {
            phase: UpgradePhase::Accepted,
            ..OSUpgradeStatus::default()
        };
        change(&mut status);
        status
    }

    fn write(uid: &str, before: Option<OSUpgradeStatus>, status: OSUpgradeStatus) -> StatusWrite {
        let mut upgrade: OSUpgrade = serde_json::from_value(json!({
            "apiVersion": API_VERSION, "kind": "OSUpgrade",
            "metadata": {"name": "up", "uid": uid}, "spec": {"version": "v1.35.1"},
        }))
        .unwrap();
        upgrade.status = before;
        StatusWrite {
            upgrade,
            status,
            notices: Vec::new(),
        }
    }

    fn failure() -> NodeFailure {
        NodeFailure {
            node_name: "n".into(),
            progress: None,
            reason: "r".into(),
            message: String::new(),
        }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn what_only_counts_waits_and_what_something_rests_on_does_not() {
        type Change = fn(&mut OSUpgradeStatus);
        let table: [(&str, Change, bool); 12] = [
            ("summary", |s| s.summary = Some("1/3".into()), true),
            ("nodes", |s| s.nodes = Some(<_>::default()), true),
            ("failures", |s| s.failures = vec![failure()], true),
            ("message", |s| s.message = "1 of 3 nodes done".into(), true),
            ("observed", |s| s.observed_generation = Some(2), false),
            ("revision", |s| s.revision = Some(2), false),
            ("digest", |s| s.revision_digest = Some("d".into()), false),
            ("completed", |s| s.phase = UpgradePhase::Completed, false),
            ("failed", |s| s.phase = UpgradePhase::Failed, false),
            ("version", |s| s.resolved_version = Some("v1".into()), false),
            (
                "catalog",
                |s| {
                    s.catalog = Some(CatalogStatus {
                        digest: "sha256:d".into(),
                        fetched_at: None,
                    });
                },
                false,
            ),
            (
                "pinned",
                |s| {
                    s.pinned = vec![PinnedImage {
                        version: "v1.35.1".into(),
                        platform: String::new(),
                        checksum: String::new(),
                    }];
                },
                false,
            ),
        ];
        for (what, change, waits) in table {
            let mut pace = Pace::default();
            let next = write("u", Some(status(|_| {})), status(change));
            assert_eq!(pace.wait(&next, ms(5_000)), None, "{what}: the first");
            pace.wrote(&next, ms(5_000));
            let due = waits.then_some(ms(6_000));
            assert_eq!(pace.wait(&next, ms(5_001)), due, "{what}");
            assert_eq!(pace.wait(&next, ms(5_999)), due, "{what}");
            assert_eq!(pace.wait(&next, ms(6_000)), None, "{what}");
            let other = write("other", Some(status(|_| {})), status(change));
            assert_eq!(pace.wait(&other, ms(5_001)), None, "another upgrade");
        }
        let mut pace = Pace::default();
        let first = write("u", None, status(|_| {}));
        pace.wrote(&first, ms(0));
        assert_eq!(pace.wait(&first, ms(1)), None, "there is no status yet");
    }

    #[test]
    fn what_was_refused_waits_until_its_time_or_until_the_object_changes() {
        let mut pace = Pace::default();
        let mut next = write("u", None, status(|_| {}));
        next.upgrade.metadata.resource_version = Some("7".into());
        pace.wrote(&next, ms(1_000));
        assert_eq!(pace.refused(&next, ms(1_000)), ms(11_000));
        assert_eq!(pace.wait(&next, ms(10_999)), Some(ms(11_000)));
        assert_eq!(pace.wait(&next, ms(11_000)), None);
        let other = write("other", None, status(|_| {}));
        assert_eq!(pace.wait(&other, ms(1_001)), None, "another upgrade");
        next.upgrade.metadata.resource_version = Some("8".into());
        assert_eq!(pace.wait(&next, ms(1_001)), None);
    }

    proptest! {
        /// However fast a fleet moves: at most one write a second beside changes of phase, and what
        /// was held back is written in its newest state as soon as its time has come.
        #[test]
        fn a_fast_fleet_is_told_of_once_a_second(
            steps in prop::collection::vec((1_u64..400, prop::bool::weighted(0.1)), 1..300),
        ) {
            let mut pace = Pace::default();
            let mut stored = status(|_| {});
            let (mut clock, mut done, mut phases, mut writes) = (0, 0_i64, 0, 0);
            let mut wanted = stored.clone();
            for (pause, new_phase) in steps {
                clock += pause;
                done += 1;
                wanted.summary = Some(format!("{done}/1000"));
                if new_phase {
                    phases += 1;
                    wanted.phase = match wanted.phase {
                        UpgradePhase::Accepted => UpgradePhase::Failed,
                        _ => UpgradePhase::Accepted,
                    };
                }
                let next = write("u", Some(stored.clone()), wanted.clone());
                if let Some(due) = pace.wait(&next, ms(clock)) {
                    prop_assert!(due > ms(clock) && due <= ms(clock) + LEAST_GAP);
                    prop_assert!(!new_phase);
                    prop_assert_eq!(pace.wait(&next, due), None);
                } else {
                    pace.wrote(&next, ms(clock));
                    stored = wanted.clone();
                    writes += 1;
                }
            }
            prop_assert!(writes <= phases + 1 + clock / 1_000);
        }
    }
}
