//! Emptying one node before its reboot: what is to be done next.
//!
//! ```text
//! Stage, Staged ── held? ──────────────► wait (its own node not Ready, too many down, control plane,
//!       │                                for a minute: no other node Ready)
//!       │            alone or disabled ► Reboot: the pods go down with the node
//!       ▼
//!    cordon ── annotation with the progress's UID, in the same write
//!       ▼
//!    pods ──── nothing has to go ──────► Reboot
//!       │      deadline ───────────────► Abort: back to Hold, uncordon
//!       │                                Force: delete, then Reboot
//!       ▼                                Wait: go on
//!    evict, lowest priority first; what is refused is tried again later
//! ```
//!
//! Everything follows from the objects but two things, which only delay: the drain's clock, and when
//! a pod that was refused may be tried again.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use kube::core::{Selector, SelectorExt};
use monok8s_api::osupgrade::{Drain, OnDeadline};

use super::{Moment, OwnPods};
use crate::index::{DrainMemory, Ending, Keeper, Node, Pod, PodsByUid};

/// Most pods of one node that are asked to go at once.
pub const AT_ONCE: usize = 10;
/// Pause before the next so many.
pub const BETWEEN: Duration = Duration::from_secs(1);
/// Longest grace period of a pod that is deleted by force.
pub const FORCED_GRACE: Duration = Duration::from_secs(30);
/// How long after its grace period a pod that is deleted by force may still be there.
const OVERDUE_AFTER: Duration = Duration::from_secs(30);
/// How long after the deadline a drain by force goes on. What cannot be deleted, or is made again on the
/// same node, does not keep it up for longer.
const FORCED_FOR: Duration = Duration::from_secs(120);
/// How long a pod may be ending before it is named.
const NAMED_AFTER: Duration = Duration::from_secs(10);

/// What is to become of a node's pods.
#[derive(Clone, Debug)]
pub struct Rules {
    /// As the upgrade says.
    pub drain: Drain,
    selector: Option<Selector>,
    own: OwnPods,
}

/// What is to become of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It stays where it is and goes down with the node, or is over already.
    Stays,
    /// It has to go, and may not be made to.
    Protected(Protection),
    /// It has to go.
    Goes,
}

/// What protects a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// `deleteUnmanaged: false`.
    Unmanaged,
    /// `deleteEmptyDir: false`.
    EmptyDir,
}

impl Rules {
    /// As an upgrade's settings say; none when their selector cannot be read, which the CRD's rules
    /// all but prevent.
    pub fn new(drain: &Drain, own: &OwnPods) -> Option<Self> {
        let selector = match &drain.pod_selector {
            Some(selector) => Some(selector.clone().try_into().ok()?),
            None => None,
        };
        Some(Self {
            drain: drain.clone(),
            selector,
            own: own.clone(),
        })
    }

    /// What is to become of a pod.
    pub fn part(&self, pod: &Pod) -> Part {
        let stays = matches!(pod.keeper, Keeper::Kubelet | Keeper::DaemonSet)
            || pod.finished
            || self.own.contains(pod)
            || self
                .selector
                .as_ref()
                .is_some_and(|s| s.matches(&pod.labels))
            || self
                .drain
                .skip_pods_with_priority_above
                .is_some_and(|bound| pod.priority > bound);
        if stays {
            Part::Stays
        } else if pod.ending.is_some() {
            Part::Goes
        } else if pod.keeper == Keeper::Nobody && !self.drain.delete_unmanaged {
            Part::Protected(Protection::Unmanaged)
        } else if pod.has_empty_dir && !self.drain.delete_empty_dir {
            Part::Protected(Protection::EmptyDir)
        } else {
            Part::Goes
        }
    }

    /// Whether none of these pods has to go any more.
    pub fn is_empty<'p>(&self, mut pods: impl Iterator<Item = &'p Pod>) -> bool {
        pods.all(|pod| self.part(pod) == Part::Stays)
    }
}

/// Why nothing is done to a node although its image is staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is not Ready: its pods would not end, and its reboot would tell nothing.
    NotReady,
    /// As many nodes are down as may be.
    Others {
        /// They.
        down: Vec<String>,
        /// `maxUnavailable`.
        max: usize,
    },
    /// Another node of the control plane is not Ready, or goes down.
    ControlPlane(String),
    /// No other node takes its pods, until this one is back.
    NowhereElse(String),
    /// No other node takes its pods now. There are others, though, and it has not waited for them yet.
    NowhereYet {
        /// When it has, by this process's clock; none before that is remembered.
        due: Option<Duration>,
        /// The same by the wall clock; for people.
        until: Option<Timestamp>,
    },
    /// The last other node that took pods went away while this one was being emptied.
    NoneLeft,
    /// `podSelector` cannot be read.
    Selector,
}

/// All that one node's drain is decided on.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// What is to become of its pods; none when that cannot be told.
    pub rules: Option<&'a Rules>,
    /// The node.
    pub node: &'a Node,
    /// UID of the progress that it is drained for.
    pub progress_uid: &'a str,
    /// Its pods, once they are known.
    pub pods: Option<&'a PodsByUid>,
    /// What is remembered of this drain; none before it began.
    pub memory: Option<&'a DrainMemory>,
    /// Why nothing may be done for now.
    pub held: Option<&'a Held>,
    /// Whether another node is Ready and schedulable.
    pub elsewhere: bool,
    /// Now.
    pub now: Moment,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nothing, until something changes or it is time to look again.
    Wait,
    /// Cordon the node.
    Cordon,
    /// Ask these pods to go.
    Ask(Vec<Asked>),
    /// Let the agent reboot the node, if a fresh look shows it empty (`checked`), or anyhow.
    Reboot {
        /// Whether it has to be empty.
        checked: bool,
    },
    /// Give the drain up.
    Abort,
}

/// A pod that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, a precondition.
    pub uid: String,
    /// Seconds that it has to end, when they are not its own.
    pub grace: Option<i64>,
    /// Deleted, whatever its budget says, instead of evicted.
    pub forced: bool,
}

/// What keeps a node from being empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// What keeps it.
    pub why: Why,
    /// Since when, by the wall clock; for people.
    pub since: Timestamp,
}

/// What keeps a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its eviction was refused; the words name the budget.
    Refused(String),
    /// A setting protects it.
    Protected(Protection),
    /// It takes its time.
    Ending(Ending),
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, since, .. } = self;
        match &self.why {
            Why::Refused(words) => write!(f, "pod {pod}: {words}")?,
            Why::Protected(Protection::Unmanaged) => write!(
                f,
                "pod {pod}: no controller would make it again elsewhere \
                 (rollout.drain.deleteUnmanaged is false)"
            )?,
            Why::Protected(Protection::EmptyDir) => write!(
                f,
                "pod {pod}: the data of its emptyDir volume would be lost \
                 (rollout.drain.deleteEmptyDir is false)"
            )?,
            Why::Ending(ending) if !ending.finalizers.is_empty() => write!(
                f,
                "pod {pod}: it is ending, and kept by the finalizer {}",
                ending.finalizers.join(", ")
            )?,
            Why::Ending(ending) => write!(
                f,
                "pod {pod}: it is ending and has a grace period of {} s",
                ending.grace.as_secs()
            )?,
        }
        write!(f, " (since {since:.0})")
    }
}

/// What is decided for one node.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What is to be done.
    pub next: Move,
    /// Whether the drain has begun, or begins with this.
    pub begun: bool,
    /// Whether its pods go down with it because there is nowhere else.
    pub alone: bool,
    /// What keeps it from being empty; by pod.
    pub blockers: Vec<Blocker>,
    /// When to look again although nothing has changed.
    pub look_again_at: Option<Duration>,
}

/// A node's pods that are not left where they are.
#[derive(Default)]
struct Sorted<'a> {
    protected: Vec<(&'a Pod, Protection)>,
    ending: Vec<(&'a Pod, &'a Ending)>,
    /// The lowest priority first.
    to_go: Vec<&'a Pod>,
}

impl<'a> Sorted<'a> {
    fn of(rules: &Rules, pods: &'a PodsByUid) -> Self {
        let mut sorted = Self::default();
        for pod in pods.values() {
            match (rules.part(pod), &pod.ending) {
                (Part::Stays, _) => {}
                (Part::Protected(protection), _) => sorted.protected.push((pod, protection)),
                (Part::Goes, Some(ending)) => sorted.ending.push((pod, ending)),
                (Part::Goes, None) => sorted.to_go.push(pod),
            }
        }
        let order = |pod: &Pod| (pod.priority, pod.namespace.clone(), pod.name.clone());
        sorted.to_go.sort_by_cached_key(|pod| order(pod));
        sorted.ending.sort_by_cached_key(|(pod, _)| order(pod));
        sorted.protected.sort_by_cached_key(|(pod, _)| order(pod));
        sorted
    }
}

/// Decides for one node whose image is staged.
pub fn decide(look: &Look<'_>) -> Decision {
    let held = look
        .held
        .or(look.rules.is_none().then_some(&Held::Selector));
    let begun =
        look.memory.is_some() || look.node.cordoned_for.as_deref() == Some(look.progress_uid);
    let mut decision = Decision {
        next: Move::Wait,
        begun,
        alone: false,
        blockers: Vec::new(),
        look_again_at: None,
    };
    let (Some(rules), None) = (look.rules, held) else {
        let drain = look.rules.map(|r| &r.drain);
        if let Some(drain) = drain.filter(|_| begun) {
            let (late, due) = deadline(look, drain);
            match drain.on_deadline {
                OnDeadline::Abort if late => decision.next = Move::Abort,
                // Its pods end all the same.
                OnDeadline::Force if late && held == Some(&Held::NoneLeft) => {
                    decision.next = Move::Reboot { checked: false };
                }
                OnDeadline::Abort | OnDeadline::Force | OnDeadline::Wait => {}
            }
            decision.look_again_at = due;
        }
        if let Some(Held::NowhereYet { due: Some(due), .. }) = held {
            decision.look_at(*due);
        }
        return decision;
    };
    if !rules.drain.enabled || !look.elsewhere {
        decision.alone = rules.drain.enabled;
        decision.next = Move::Reboot { checked: false };
        return decision;
    }
    decision.begun = true;
    if !look.node.cordoned {
        decision.next = Move::Cordon;
        return decision;
    }
    let (late, due) = deadline(look, &rules.drain);
    decision.look_again_at = due;
    let abort = late && rules.drain.on_deadline == OnDeadline::Abort;
    let force = late && rules.drain.on_deadline == OnDeadline::Force;
    if force {
        let end = due_at(look, &rules.drain) + FORCED_FOR;
        if end <= look.now.clock {
            decision.next = Move::Reboot { checked: false };
            return decision;
        }
        decision.look_at(end);
    }
    let Some(pods) = look.pods else {
        if abort {
            decision.next = Move::Abort;
        }
        return decision;
    };
    let sorted = Sorted::of(rules, pods);
    decision.blockers = blockers(&sorted, look);
    let empty = if force {
        sorted.to_go.is_empty()
            && sorted
                .ending
                .iter()
                .all(|(_, e)| is_overdue(e, look, rules))
    } else {
        sorted.to_go.is_empty() && sorted.ending.is_empty() && sorted.protected.is_empty()
    };
    if empty {
        decision.next = Move::Reboot { checked: !force };
        return decision;
    }
    if abort {
        decision.next = Move::Abort;
        return decision;
    }
    let candidates = if force {
        forced(&sorted, rules)
    } else if !sorted.protected.is_empty() && rules.drain.on_deadline != OnDeadline::Force {
        // Somebody has to decide about these first: until then nobody else is disturbed.
        Vec::new()
    } else {
        let grace = rules.drain.grace_period_seconds;
        sorted
            .to_go
            .iter()
            .map(|pod| asked(pod, grace, false))
            .collect()
    };
    ask(&mut decision, &candidates, look);
    let times = sorted.ending.iter().flat_map(|(_, ending)| {
        let named = ending.seen + NAMED_AFTER;
        [Some(named), force.then(|| overdue_at(ending, look, rules))]
    });
    for at in times.flatten().filter(|at| *at > look.now.clock) {
        decision.look_at(at);
    }
    decision
}

impl Decision {
    fn look_at(&mut self, at: Duration) {
        self.look_again_at = Some(self.look_again_at.map_or(at, |known| known.min(at)));
    }
}

/// Whether the time is up, and if not, when it is. Before a drain began it is not.
fn deadline(look: &Look<'_>, drain: &Drain) -> (bool, Option<Duration>) {
    let due = look.memory.map(|_| due_at(look, drain));
    let late = due.is_some_and(|due| due <= look.now.clock);
    (
        late,
        due.filter(|_| !late && drain.on_deadline != OnDeadline::Wait),
    )
}

/// When the time of a drain that has begun is up.
fn due_at(look: &Look<'_>, drain: &Drain) -> Duration {
    look.memory.map_or(Duration::ZERO, |m| m.began) + drain.deadline.0
}

/// When a pod that is deleted by force does not count any more.
fn overdue_at(ending: &Ending, look: &Look<'_>, rules: &Rules) -> Duration {
    ending.seen.max(due_at(look, &rules.drain)) + ending.grace.min(FORCED_GRACE) + OVERDUE_AFTER
}

fn is_overdue(ending: &Ending, look: &Look<'_>, rules: &Rules) -> bool {
    overdue_at(ending, look, rules) <= look.now.clock
}

/// A grace period of 0 would take the pod off the API server while its containers still run, and
/// its successor would run beside them: it gets the shortest that the kubelet sees to.
fn asked(pod: &Pod, grace: Option<i64>, forced: bool) -> Asked {
    let own = pod.grace_period.filter(|own| *own == 0);
    let grace = grace.or(own).map(|grace| grace.max(1));
    Asked {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        grace,
        forced,
    }
}

/// What is deleted by force: what has not been asked to go, and what has too much time for it.
fn forced(sorted: &Sorted<'_>, rules: &Rules) -> Vec<Asked> {
    let most = i64::try_from(FORCED_GRACE.as_secs()).unwrap_or(i64::MAX);
    let own = |pod: &Pod| pod.grace_period.unwrap_or(most);
    let wanted = |pod: &Pod| {
        rules
            .drain
            .grace_period_seconds
            .unwrap_or(own(pod))
            .min(most)
    };
    let slow = sorted
        .ending
        .iter()
        .filter(|(_, ending)| ending.grace > FORCED_GRACE)
        .map(|(pod, _)| *pod);
    sorted
        .to_go
        .iter()
        .copied()
        .chain(slow)
        .map(|pod| asked(pod, Some(wanted(pod)), true))
        .collect()
}

/// Of these pods the first few whose time it is, if it is time for any.
fn ask(decision: &mut Decision, candidates: &[Asked], look: &Look<'_>) {
    let clock = look.now.clock;
    let again: BTreeMap<&str, Duration> = candidates
        .iter()
        .filter_map(|pod| {
            let tried = look.memory?.tried(&pod.uid)?;
            Some((pod.uid.as_str(), tried.again_at))
        })
        .collect();
    let is_due = |pod: &Asked| again.get(pod.uid.as_str()).is_none_or(|at| *at <= clock);
    if let Some(at) = again.values().copied().filter(|at| *at > clock).min() {
        decision.look_at(at);
    }
    let due: Vec<Asked> = candidates
        .iter()
        .filter(|pod| is_due(pod))
        .cloned()
        .collect();
    if due.is_empty() {
        return;
    }
    let open_at = look
        .memory
        .and_then(|m| m.asked_at)
        .map_or(Duration::ZERO, |at| at + BETWEEN);
    if open_at > clock {
        decision.look_at(open_at);
        return;
    }
    if due.len() > AT_ONCE {
        decision.look_at(clock + BETWEEN);
    }
    decision.next = Move::Ask(due.into_iter().take(AT_ONCE).collect());
}

fn blockers(sorted: &Sorted<'_>, look: &Look<'_>) -> Vec<Blocker> {
    let blocker = |pod: &Pod, why: Why, since: Timestamp| Blocker {
        pod: format!("{}/{}", pod.namespace, pod.name),
        uid: pod.uid.clone(),
        why,
        since,
    };
    let refused = sorted.to_go.iter().filter_map(|pod| {
        let known = look.memory?.tried(&pod.uid)?.blocked.as_ref()?;
        Some(blocker(pod, Why::Refused(known.why.clone()), known.since))
    });
    let protected = sorted
        .protected
        .iter()
        .map(|(pod, protection)| blocker(pod, Why::Protected(*protection), pod.seen));
    let ending = sorted
        .ending
        .iter()
        .filter(|(_, ending)| ending.seen + NAMED_AFTER <= look.now.clock)
        .map(|(pod, ending)| {
            let asked = ending
                .until
                .and_then(|until| until.checked_sub(ending.grace).ok());
            let why = Why::Ending((*ending).clone());
            blocker(pod, why, asked.unwrap_or(pod.seen))
        });
    refused.chain(protected).chain(ending).collect()
}
