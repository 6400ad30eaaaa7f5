//! All drains: which of the staged nodes may be emptied now, and which nodes are let go again.
//!
//! A cordon is undone when the annotation on the Node names a progress that is over, was set back to
//! `Hold`, or is gone. A node that somebody else cordoned carries no annotation. What somebody else
//! does in the middle is told apart like this: a cordon that was lifted and set again, or that an
//! applied object holds too, has another owner in `metadata.managedFields` and stays, and only the
//! annotation goes; one whose annotation was taken off stays; a second `kubectl cordon` changes
//! nothing that the API server keeps, so that cordon is lifted.

use std::{collections::HashMap, fmt::Write as _};

use monok8s_api::{
    osupgrade::OnDeadline,
    osupgradeprogress::Release,
    reason::{EventReason, ProgressPhase},
};

use super::{
    Moment, Settings,
    drain::{self, Blocker, Decision, Held, Look, Move, Rules},
    notice::{self, Notice},
    place::{NodeCase, Place},
    plan::{Amendment, Ask, Cordon, DrainWork, NodeSeen, Plan, Reboot, Uncordon},
    standing::Case,
    words::{cut, listed},
};
use crate::index::{DrainMemory, Index, Node, Origin, Progress};

/// How many pods a message names.
const NAMED: usize = 3;

/// What is told of one node whose image is staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Whether its drain is going on; otherwise it waits for its turn.
    pub(super) begun: bool,
    /// Whether a pod keeps it from being empty.
    pub(super) blocked: bool,
    /// In words.
    pub(super) words: String,
}

/// A node that waits for its reboot.
struct Staged<'a> {
    progress: &'a Progress,
    uid: &'a str,
    node: &'a Node,
    memory: Option<&'a DrainMemory>,
}

impl Staged<'_> {
    fn has_begun(&self) -> bool {
        self.memory.is_some() || self.node.cordoned_for.as_deref() == Some(self.uid)
    }
}

/// Whether an agent waits there for its node to be emptied.
pub(super) fn awaits_drain(progress: &Progress) -> bool {
    *progress.phase() == ProgressPhase::Staged && progress.object.spec.release == Release::Stage
}

/// Whether a progress takes its node down, or may any moment.
fn goes_down(progress: &Progress) -> bool {
    progress.has_place() && progress.object.spec.release == Release::Reboot
}

/// One look at all drains.
pub(super) struct Drains<'a, 'p> {
    pub(super) index: &'a Index,
    pub(super) settings: &'p Settings,
    pub(super) now: Moment,
    pub(super) cases: &'p [Case<'a>],
    pub(super) teams: &'p [Vec<NodeCase<'a>>],
    pub(super) strays: &'p [Vec<&'a Progress>],
}

impl<'a> Drains<'a, '_> {
    /// Adds what is to be done, and gives what is to be told for each upgrade.
    pub(super) fn plan(&self, plan: &mut Plan) -> Vec<Vec<Told>> {
        let open = self.index.nodes().filter(|n| n.ready && !n.cordoned);
        let mut open = open.count();
        let mut staged = self.staged();
        let told = (0..self.cases.len())
            .map(|at| {
                let queue = staged.remove(&at).unwrap_or_default();
                self.queue(at, &queue, &mut open, plan)
            })
            .collect();
        self.uncordon(&mut plan.drain);
        told
    }

    /// Whose image is staged, by upgrade.
    fn staged(&self) -> HashMap<usize, Vec<Staged<'a>>> {
        let by_uid: HashMap<&str, usize> = (0..)
            .zip(self.cases)
            .map(|(at, case)| (case.upgrade.uid(), at))
            .collect();
        let mut staged: HashMap<usize, Vec<Staged<'_>>> = HashMap::new();
        for progress in self.index.progresses().filter(|p| awaits_drain(p)) {
            let Origin::Controller { upgrade, .. } = &progress.origin else {
                continue;
            };
            let spec = &progress.object.spec;
            let node = self
                .index
                .node(progress.node_name())
                .filter(|n| spec.node_uid.as_deref() == Some(n.uid.as_str()));
            let (Some(at), Some(node), Some(uid)) = (
                by_uid.get(upgrade.as_str()),
                node,
                progress.object.metadata.uid.as_deref(),
            ) else {
                continue;
            };
            if spec.cancel || progress.is_being_deleted() {
                continue;
            }
            staged.entry(*at).or_default().push(Staged {
                progress,
                uid,
                node,
                memory: self.index.drain(uid),
            });
        }
        for queue in staged.values_mut() {
            queue.sort_by_key(|s| (!s.has_begun(), s.node.name.as_str()));
        }
        staged
    }

    fn queue(
        &self,
        at: usize,
        queue: &[Staged<'a>],
        open: &mut usize,
        plan: &mut Plan,
    ) -> Vec<Told> {
        let (Some(case), false) = (self.cases.get(at), queue.is_empty()) else {
            return Vec::new();
        };
        let team = self.teams.get(at).map_or(&[][..], Vec::as_slice);
        let rollout = &case.upgrade.object.spec.rollout;
        let max = rollout.max_unavailable_of(team.len());
        let down = self.down(at, queue);
        let rules = Rules::new(&rollout.drain, &self.settings.own);
        let mut free = max.saturating_sub(down.len());
        let mut told = Vec::new();
        for staged in queue {
            let node = staged.node;
            let itself = usize::from(node.ready && !node.cordoned);
            let elsewhere = *open > itself;
            let held = if !node.ready {
                Some(Held::NotReady)
            } else if free == 0 {
                Some(Held::Others {
                    down: down.clone(),
                    max,
                })
            } else if let Some(other) = self.other_control_plane(staged, &plan.drain) {
                Some(Held::ControlPlane(other))
            } else if elsewhere || !rollout.drain.enabled {
                None
            } else if let Some(other) = self.soon_back(staged, &plan.drain) {
                Some(Held::NowhereElse(other))
            } else {
                self.is_cut_short(staged).then_some(Held::NoneLeft)
            };
            if held.is_none() {
                free -= 1;
            }
            let decision = drain::decide(&Look {
                rules: rules.as_ref(),
                node,
                progress_uid: staged.uid,
                pods: self.index.pods_of(&node.name),
                memory: staged.memory,
                held: held.as_ref(),
                elsewhere,
                now: self.now,
            });
            if matches!(decision.next, Move::Cordon | Move::Reboot { .. }) {
                *open = open.saturating_sub(itself);
            }
            let held = held.or(rules.is_none().then_some(Held::Selector));
            told.push(Told {
                begun: decision.begun || decision.alone,
                blocked: !decision.blockers.is_empty(),
                words: words(case, staged, &decision, held.as_ref()),
            });
            tell(case, staged, &decision, &mut plan.notices);
            carry(staged, decision, rules.as_ref(), plan);
        }
        told
    }

    /// Nodes of this upgrade that are down or on their way, whatever becomes of those in the queue.
    fn down(&self, at: usize, queue: &[Staged<'_>]) -> Vec<String> {
        let queued = |name: &str| queue.iter().any(|s| s.node.name == name);
        let team = self.teams.get(at).into_iter().flatten().filter(|n| {
            let goes = match n.place {
                Place::Active(progress) => goes_down(progress),
                _ => n.occupant.is_some_and(goes_down),
            };
            !n.node.ready || (!queued(&n.node.name) && goes)
        });
        let strays = self.strays.get(at).into_iter().flatten();
        let strays = strays.filter(|p| goes_down(p) && !queued(p.node_name()));
        team.map(|n| n.node.name.clone())
            .chain(strays.map(|p| p.node_name().to_owned()))
            .collect()
    }

    /// Another node of the control plane that is not Ready, goes down, or is emptied.
    fn other_control_plane(&self, staged: &Staged<'_>, work: &DrainWork) -> Option<String> {
        if !staged.node.control_plane {
            return None;
        }
        self.index
            .nodes()
            .filter(|n| n.control_plane && n.name != staged.node.name)
            .find(|n| !n.ready || self.goes_before(n, staged, work))
            .map(|n| n.name.clone())
    }

    /// Whether a drain that has begun lost the last other node that took pods. Its pods were promised
    /// their budgets: a node that blinks, or that somebody cordons, does not end that. Two drains
    /// that have begun beside each other would wait for each other, though.
    fn is_cut_short(&self, staged: &Staged<'_>) -> bool {
        let mut others = self.index.nodes().filter(|n| n.name != staged.node.name);
        staged.has_begun() && !others.any(|n| n.ready && n.cordoned_for.is_some())
    }

    /// Another node that takes no pods now and will again without anybody's doing.
    fn soon_back(&self, staged: &Staged<'_>, work: &DrainWork) -> Option<String> {
        self.index
            .nodes()
            .filter(|n| n.name != staged.node.name)
            .find(|n| self.goes_before(n, staged, work))
            .map(|n| n.name.clone())
    }

    /// Whether another node goes down, or is emptied, before this one is. Of two that are emptied
    /// already the first by name goes on, or each would wait for the other.
    fn goes_before(&self, other: &Node, staged: &Staged<'_>, work: &DrainWork) -> bool {
        if self.index.progresses_of(&other.name).any(goes_down)
            || work.reboots.iter().any(|r| r.node == other.name)
        {
            return true;
        }
        if staged.has_begun() && staged.node.name < other.name {
            return false;
        }
        other.cordoned_for.is_some() || work.cordons.iter().any(|c| c.node.name == other.name)
    }

    /// Whether the node of a progress is not being emptied for it any more: it is over or set back, or
    /// it waits in vain for the end of a drain because it was cancelled or nobody drives it.
    fn is_let_go(&self, progress: &Progress) -> bool {
        let gate = progress.object.spec.release;
        let driven = match &progress.origin {
            Origin::Controller { upgrade, .. } => {
                self.cases.iter().any(|c| c.upgrade.uid() == upgrade)
            }
            Origin::HandMade => false,
        };
        let stopped = progress.object.spec.cancel || progress.is_being_deleted() || !driven;
        progress.is_over() || gate == Release::Hold || (gate == Release::Stage && stopped)
    }

    fn uncordon(&self, work: &mut DrainWork) {
        for node in self.index.nodes().filter(|n| n.ready) {
            let Some(uid) = node.cordoned_for.as_deref() else {
                continue;
            };
            let progress = self
                .index
                .progresses_of(&node.name)
                .find(|p| p.object.metadata.uid.as_deref() == Some(uid));
            let over = progress.is_none_or(|p| self.is_let_go(p));
            if over {
                work.uncordons.push(Uncordon {
                    node: NodeSeen::of(node),
                    lift: node.cordoned && !node.cordoned_by_others,
                });
            }
        }
    }
}

fn held_words(held: &Held) -> String {
    match held {
        Held::NotReady => "until it is Ready".to_owned(),
        Held::Others { down, max } => format!(
            "for others that are down ({}; rollout.maxUnavailable is {max})",
            if down.is_empty() {
                "others are drained before it".to_owned()
            } else {
                listed(down)
            }
        ),
        Held::ControlPlane(other) => format!(
            "for {other}: nodes of the control plane go one at a time, and only while the others \
             are Ready"
        ),
        Held::NowhereElse(other) => {
            format!("for {other} to come back: until then there is no other node for its pods")
        }
        Held::NoneLeft => {
            "until another node is Ready and schedulable: the last one went away in the middle"
                .to_owned()
        }
        Held::Selector => "because rollout.drain.podSelector cannot be read: correct it".to_owned(),
    }
}

fn until_words(on_deadline: OnDeadline, until: Option<jiff::Timestamp>) -> String {
    let what = match on_deadline {
        OnDeadline::Wait => return String::new(),
        OnDeadline::Abort => "given up",
        OnDeadline::Force => "forced",
    };
    until.map_or_else(String::new, |until| format!(", {what} at {until:.0}"))
}

fn named(blockers: &[Blocker]) -> String {
    let first: Vec<String> = blockers
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    let mut text = first.join(", ");
    if blockers.len() > NAMED {
        write!(text, " and {} more", blockers.len() - NAMED).ok();
    }
    text
}

/// What a drain waited for when its time was up.
fn waited_for(blockers: &[Blocker]) -> String {
    if blockers.is_empty() {
        "its pods to end".to_owned()
    } else {
        cut(&named(blockers))
    }
}

/// What is said of a node in the upgrade's message.
fn words(case: &Case<'_>, staged: &Staged<'_>, decision: &Decision, held: Option<&Held>) -> String {
    let name = &staged.node.name;
    let drain = &case.upgrade.object.spec.rollout.drain;
    let mut text = match staged.memory {
        _ if decision.alone => {
            return format!(
                "{name} is staged, and no other node is Ready and schedulable: nothing is \
                 evicted, its pods go down with it"
            );
        }
        Some(memory) => format!("{name} is drained since {:.0}", memory.began_wall),
        None if decision.begun => format!("{name} is drained"),
        None => format!("{name} is staged"),
    };
    if let Some(held) = held {
        text.push_str(", and waits ");
        text.push_str(&held_words(held));
    }
    let blockers = &decision.blockers;
    if !blockers.is_empty() {
        text.push_str(", waiting for ");
        text.push_str(&named(blockers));
        if let Some(memory) = staged.memory {
            let until = memory.began_wall.checked_add(drain.deadline.0);
            text.push_str(&until_words(drain.on_deadline, until.ok()));
        }
    }
    text
}

fn tell(case: &Case<'_>, staged: &Staged<'_>, decision: &Decision, notices: &mut Vec<Notice>) {
    let attempt = staged.progress.status().map_or(0, |s| s.attempt);
    let about = |warning: bool, reason: EventReason, detail: &str, message: String| {
        let key = format!("{}/{attempt}/{reason}/{detail}", staged.uid);
        notice::about(&case.upgrade.object, warning, reason.as_str(), message, key)
    };
    let name = &staged.node.name;
    if decision.alone {
        notices.push(about(
            false,
            EventReason::PodsGoDown,
            "",
            format!(
                "node {name} reboots with its pods on it: no other node is Ready and schedulable"
            ),
        ));
    } else if decision.next == Move::Cordon && staged.memory.is_none() {
        let message = format!("node {name} is cordoned and drained before its reboot");
        notices.push(about(false, EventReason::Draining, "", message));
    }
    for blocker in &decision.blockers {
        let message = format!("the drain of node {name} waits for {blocker}");
        notices.push(about(
            true,
            EventReason::DrainBlocked,
            &blocker.uid,
            message,
        ));
    }
    if decision.next == Move::Abort {
        let message = format!(
            "node {name} was not empty in time and is not rebooted: it waited for {}",
            waited_for(&decision.blockers)
        );
        notices.push(about(true, EventReason::DrainTimedOut, "", message));
    }
}

fn carry(staged: &Staged<'_>, decision: Decision, rules: Option<&Rules>, plan: &mut Plan) {
    let work = &mut plan.drain;
    let name = &staged.node.name;
    if decision.begun {
        work.going_on.push(staged.uid.to_owned());
        work.follow.insert(name.clone());
    }
    let amend = |release: Release| Amendment {
        release: Some(release),
        ..Amendment::of(staged.progress)
    };
    match decision.next {
        Move::Wait => {}
        Move::Cordon => work.cordons.push(Cordon {
            node: NodeSeen::of(staged.node),
            progress_uid: staged.uid.to_owned(),
        }),
        Move::Ask(pods) => work.asks.extend(pods.into_iter().map(|pod| Ask {
            progress_uid: staged.uid.to_owned(),
            node: name.clone(),
            pod,
        })),
        Move::Reboot { checked } => work.reboots.push(Reboot {
            amendment: amend(Release::Reboot),
            node: name.clone(),
            empty_by: rules.filter(|_| checked).cloned(),
        }),
        Move::Abort => plan.amendments.push(Amendment {
            drain_note: Some(waited_for(&decision.blockers)),
            ..amend(Release::Hold)
        }),
    }
    plan.look_again_at = plan
        .look_again_at
        .into_iter()
        .chain(decision.look_again_at)
        .min();
}
