//! What this process remembers of the drains it is in the middle of: when each began by its clock,
//! and how the API server answered. Forgetting it costs time; and on a node that a person had cordoned, which carries no
//! mark of ours, whether its drain had begun.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;

use super::Effect;

/// Pause before a pod is tried again whose eviction was refused; it doubles with every further
/// refusal.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause between two tries of one pod.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the watch may take to show that a pod's deletion was accepted.
const UNTIL_SHOWN: Duration = Duration::from_secs(10);

/// How the API server answered when a pod was to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It goes.
    Accepted,
    /// Not now.
    Refused {
        /// What stands against it, in words: the budget that it would violate, or what the API
        /// server said instead.
        why: String,
        /// How long to wait at least (`Retry-After`).
        retry_after: Option<Duration>,
    },
}

/// What is remembered of one drain.
#[derive(Clone, Debug, Default)]
pub struct DrainMemory {
    /// When it began.
    pub began: Duration,
    /// The same by the wall clock; for people.
    pub began_wall: Timestamp,
    /// When the last pods were asked to go; none before the first.
    pub asked_at: Option<Duration>,
    pods: HashMap<String, Tried>,
}

/// What is remembered of one pod.
#[derive(Clone, Debug)]
pub struct Tried {
    /// When it may be tried again.
    pub again_at: Duration,
    /// What stands against its going; none once it was accepted.
    pub blocked: Option<Blocked>,
    refusals: u32,
}

/// What stands against a pod's going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Since when, by the wall clock; for people.
    pub since: Timestamp,
    /// In words.
    pub why: String,
}

impl DrainMemory {
    /// What is remembered of the pod with that UID.
    pub fn tried(&self, pod_uid: &str) -> Option<&Tried> {
        self.pods.get(pod_uid)
    }
}

/// When something was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noticed {
    /// By this process's clock.
    pub clock: Duration,
    /// By the wall clock; for people.
    pub wall: Timestamp,
}

/// All drains, by the UID of their progress.
#[derive(Clone, Debug, Default)]
pub(super) struct Drains {
    drains: HashMap<String, DrainMemory>,
    /// Since when there is no other node for the pods of a node that waits for one.
    nowhere: HashMap<String, Noticed>,
}

impl Drains {
    pub(super) fn of(&self, progress_uid: &str) -> Option<&DrainMemory> {
        self.drains.get(progress_uid)
    }

    /// These are the drains that are going on; what is not among them is over.
    pub(super) fn go_on<'u>(
        &mut self,
        uids: impl Iterator<Item = &'u str>,
        clock: Duration,
        wall: Timestamp,
    ) -> Effect {
        let uids: HashSet<&str> = uids.collect();
        self.drains.retain(|uid, _| uids.contains(uid.as_str()));
        let mut new = false;
        for uid in uids {
            self.drains.entry(uid.to_owned()).or_insert_with(|| {
                new = true;
                DrainMemory {
                    began: clock,
                    began_wall: wall,
                    ..DrainMemory::default()
                }
            });
        }
        Effect::of(new)
    }

    pub(super) fn nowhere_since(&self, progress_uid: &str) -> Option<Noticed> {
        self.nowhere.get(progress_uid).copied()
    }

    /// For these there is no other node now; of what is not among them nothing is remembered.
    pub(super) fn nowhere_else<'u>(
        &mut self,
        uids: impl Iterator<Item = &'u str>,
        clock: Duration,
        wall: Timestamp,
    ) -> Effect {
        let before = std::mem::take(&mut self.nowhere);
        let since = |uid: &str| before.get(uid).copied().unwrap_or(Noticed { clock, wall });
        self.nowhere = uids.map(|uid| (uid.to_owned(), since(uid))).collect();
        Effect::of(self.nowhere.keys().any(|uid| !before.contains_key(uid)))
    }

    /// How the API server answered for one pod.
    pub(super) fn answered(
        &mut self,
        progress_uid: &str,
        pod_uid: &str,
        answer: Answer,
        clock: Duration,
        wall: Timestamp,
    ) -> Effect {
        let Some(drain) = self.drains.get_mut(progress_uid) else {
            return Effect::None;
        };
        drain.asked_at = Some(clock);
        let before = drain.pods.get(pod_uid);
        let next = match answer {
            Answer::Accepted => Tried {
                again_at: clock + UNTIL_SHOWN,
                blocked: None,
                refusals: 0,
            },
            Answer::Refused { why, retry_after } => {
                let refusals = before.map_or(0, |b| b.refusals) + 1;
                let pause = FIRST_PAUSE * 2_u32.saturating_pow((refusals - 1).min(10));
                let pause = pause
                    .min(LONGEST_PAUSE)
                    .max(retry_after.unwrap_or_default());
                let since = before.and_then(|b| b.blocked.as_ref()).map(|b| b.since);
                Tried {
                    again_at: clock + pause,
                    blocked: Some(Blocked {
                        since: since.unwrap_or(wall),
                        why,
                    }),
                    refusals,
                }
            }
        };
        drain.pods.insert(pod_uid.to_owned(), next);
        Effect::Relevant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_tried_again_ever_more_rarely_and_since_stays() {
        let mut drains = Drains::default();
        let at = Duration::from_secs;
        let wall = |s: i64| Timestamp::from_second(s).unwrap();
        let refused = |retry_after| Answer::Refused {
            why: "budget".into(),
            retry_after,
        };
        assert_eq!(
            drains.answered("p", "1", Answer::Accepted, at(0), wall(0)),
            Effect::None,
            "a drain that is over"
        );
        let _ = drains.go_on(["p"].into_iter(), at(5), wall(0));
        let mut pauses = Vec::new();
        for n in 0..7_i64 {
            let clock = at(100 * n.unsigned_abs());
            let _ = drains.answered("p", "1", refused(None), clock, wall(n));
            let tried = drains.of("p").unwrap().tried("1").unwrap();
            assert_eq!(tried.blocked.as_ref().unwrap().since, wall(0));
            pauses.push(tried.again_at.saturating_sub(clock).as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        let _ = drains.answered("p", "1", refused(Some(at(50))), at(0), wall(9));
        let tried = drains.of("p").unwrap().tried("1").unwrap();
        assert_eq!(tried.again_at, at(50), "Retry-After is honoured");
        let _ = drains.answered("p", "1", Answer::Accepted, at(0), wall(9));
        assert!(
            drains
                .of("p")
                .unwrap()
                .tried("1")
                .unwrap()
                .blocked
                .is_none()
        );
        let _ = drains.go_on(["p"].into_iter(), at(50), wall(1));
        assert_eq!(drains.of("p").unwrap().began, at(5));
        let _ = drains.go_on([].into_iter(), at(60), wall(2));
        assert!(drains.of("p").is_none());
    }

    #[test]
    fn what_has_no_other_node_is_remembered_for_as_long_as_that_lasts() {
        let mut drains = Drains::default();
        let at = Duration::from_secs;
        let mut tell = |uids: &[&str], clock: u64| {
            let wall = Timestamp::UNIX_EPOCH;
            drains.nowhere_else(uids.iter().copied(), at(clock), wall)
        };
        assert_eq!(tell(&["p"], 5), Effect::Relevant);
        assert_eq!(tell(&["p"], 9), Effect::None);
        assert_eq!(tell(&["p", "q"], 11), Effect::Relevant);
        assert_eq!(tell(&["q"], 12), Effect::None);
        assert_eq!(tell(&["p", "q"], 20), Effect::Relevant);
        let since = |uid: &str| drains.nowhere_since(uid).map(|n| n.clock);
        assert_eq!((since("p"), since("q")), (Some(at(20)), Some(at(11))));
        assert_eq!(since("r"), None);
    }
}
