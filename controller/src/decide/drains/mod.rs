//! All drains: which of the staged nodes may be emptied now, and which nodes are let go again.
//!
//! A cordon is undone when the annotation on the Node names a progress that is over, was set back to
//! `Hold`, or is gone. A node that somebody else cordoned carries no annotation. What somebody else
//! does in the middle is told apart like this: a cordon that was lifted and set again, or that an
//! applied object holds too, has another owner in `metadata.managedFields` and stays, and only the
//! annotation goes; one whose annotation was taken off stays; a second `kubectl cordon` changes
//! nothing that the API server keeps, so that cordon is lifted.

mod told;

use std::{collections::HashMap, time::Duration};

use monok8s_api::osupgradeprogress::Release;

pub(super) use self::told::Told;
use super::{
    Moment, Settings,
    drain::{self, Decision, Held, Look, Move, Rules},
    elsewhere::Open,
    halt::Halt,
    place::{NodeCase, Place},
    plan::{Amendment, Ask, Cordon, DrainWork, NodeSeen, Plan, Reboot, Uncordon},
    standing::Case,
    tally::Tally,
};
use crate::index::{DrainMemory, Index, Node, Origin, Progress};

/// How long a node waits for another one to take its pods, where there are others. A kubelet that is
/// started again or cut off for a moment is told not Ready and is back within that: the node monitor's
/// grace period is 50 s (`k8s.io/kubernetes/cmd/kube-controller-manager/app/options`). It costs a cluster
/// whose other nodes stay away a minute per node.
const NOWHERE_FOR: Duration = Duration::from_secs(60);

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

/// One look at all drains.
pub(super) struct Drains<'a, 'p> {
    pub(super) index: &'a Index,
    pub(super) settings: &'p Settings,
    pub(super) now: Moment,
    pub(super) cases: &'p [Case<'a>],
    pub(super) teams: &'p [Vec<NodeCase<'a>>],
    pub(super) strays: &'p [Vec<&'a Progress>],
    /// How many nodes of each upgrade stand where, and whether that stops it.
    pub(super) counted: &'p [(Tally, Halt)],
}

/// The staged nodes of one upgrade, as they are gone through.
struct Round<'q, 'a> {
    case: &'q Case<'a>,
    rules: Option<Rules>,
    /// Nodes that are down, whatever becomes of these.
    down: Vec<String>,
    /// `maxUnavailable`.
    max: usize,
    /// How many more may be emptied at once.
    free: usize,
}

impl<'a> Drains<'a, '_> {
    /// Adds what is to be done, and gives what is to be told for each upgrade.
    pub(super) fn plan(&self, plan: &mut Plan) -> Vec<Vec<Told>> {
        let mut open = Open::of(self.index);
        let mut staged = self.staged();
        let told = self
            .cases
            .iter()
            .zip(self.counted)
            .enumerate()
            .map(|(at, (case, (_, halt)))| {
                let queue = staged.remove(&at).unwrap_or_default();
                self.queue(at, (case, halt), queue, &mut open, plan)
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
        for progress in self.index.progresses().filter(|p| p.awaits_drain()) {
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
        staged
    }

    /// Decides for the staged nodes of one upgrade, one after the other.
    fn queue(
        &self,
        at: usize,
        (case, halt): (&Case<'a>, &Halt),
        mut queue: Vec<Staged<'a>>,
        open: &mut Open<'_>,
        plan: &mut Plan,
    ) -> Vec<Told> {
        if queue.is_empty() {
            return Vec::new();
        }
        let mut round = self.round(at, case, halt, &queue);
        // What began goes on before another begins, and what is emptied leaves before another is: whose pods have nowhere
        // to go may be waiting for it to come back. Of what is held all that is forgotten.
        queue.sort_by_cached_key(|s| {
            let goes_on = s.has_begun() && !halt.holds(s.progress);
            let leaves = goes_on && self.is_emptied(&round, s);
            (!goes_on, !leaves, s.node.name.as_str())
        });
        let mut told = Vec::new();
        for staged in &queue {
            if halt.holds(staged.progress) {
                plan.drain.held.push(staged.progress.name().to_owned());
                told.push(Told::held(staged, halt));
                continue;
            }
            // A node that is emptied already needs no other one for its pods.
            let elsewhere = open.beside(staged.node) || self.is_emptied(&round, staged);
            let held = self.held(&round, staged, elsewhere, &plan.drain);
            if held.is_none() {
                round.free -= 1;
            }
            let decision = drain::decide(&Look {
                rules: round.rules.as_ref(),
                node: staged.node,
                progress_uid: staged.uid,
                pods: self.index.pods_of(&staged.node.name),
                memory: staged.memory,
                held: held.as_ref(),
                elsewhere,
                now: self.now,
            });
            if matches!(decision.next, Move::Cordon | Move::Reboot { .. }) {
                open.close(staged.node);
            }
            // Remembered until it has gone: a reboot that could not be written waits no second time.
            let waited = decision.alone && self.index.nowhere_since(staged.uid).is_some();
            if waited || matches!(held, Some(Held::NowhereYet { .. })) {
                plan.drain.nowhere.push(staged.uid.to_owned());
            }
            let held = held.or(round.rules.is_none().then_some(Held::Selector));
            told.push(Told::of(round.case, staged, &decision, held.as_ref()));
            told::notices(round.case, staged, &decision, &mut plan.notices);
            carry(&round, staged, decision, plan);
        }
        told
    }

    fn round<'q>(
        &self,
        at: usize,
        case: &'q Case<'a>,
        halt: &'q Halt,
        queue: &[Staged<'a>],
    ) -> Round<'q, 'a> {
        let team = self.teams.get(at).map_or(&[][..], Vec::as_slice);
        let rollout = &case.upgrade.object.spec.rollout;
        let max = rollout.max_unavailable_of(team.len());
        let queue: Vec<&Staged<'_>> = queue.iter().filter(|s| !halt.holds(s.progress)).collect();
        let down = self.down(at, &queue);
        Round {
            case,
            rules: Rules::new(&rollout.drain, &self.settings.own),
            free: max.saturating_sub(down.len()),
            down,
            max,
        }
    }

    /// Why nothing may be done to a staged node for now.
    fn held(
        &self,
        round: &Round<'_, 'a>,
        staged: &Staged<'a>,
        elsewhere: bool,
        work: &DrainWork,
    ) -> Option<Held> {
        if !staged.node.ready {
            return Some(Held::NotReady);
        }
        if round.free == 0 {
            return Some(Held::Others {
                down: round.down.clone(),
                max: round.max,
            });
        }
        if let Some(other) = self.other_control_plane(staged, work) {
            return Some(Held::ControlPlane(other));
        }
        if elsewhere || !round.case.upgrade.object.spec.rollout.drain.enabled {
            return None;
        }
        if let Some(other) = self.soon_back(staged, work) {
            return Some(Held::NowhereElse(other));
        }
        if staged.has_begun() && self.is_cut_short(staged) {
            return Some(Held::NoneLeft);
        }
        self.is_worth_waiting(staged)
    }

    /// Whether there are other nodes, one of which may take pods again in a moment.
    fn is_worth_waiting(&self, staged: &Staged<'_>) -> Option<Held> {
        let others = self.index.nodes().any(|n| n.name != staged.node.name);
        let since = self.index.nowhere_since(staged.uid);
        let due = since.map(|since| since.clock + NOWHERE_FOR);
        let over = due.is_some_and(|due| due <= self.now.clock);
        (others && !over).then(|| Held::NowhereYet {
            due,
            until: since.and_then(|since| since.wall.checked_add(NOWHERE_FOR).ok()),
        })
    }

    /// Nodes of this upgrade that are down or on their way, whatever becomes of those in the queue.
    fn down(&self, at: usize, queue: &[&Staged<'_>]) -> Vec<String> {
        let queued = |name: &str| queue.iter().any(|s| s.node.name == name);
        let team = self.teams.get(at).into_iter().flatten().filter(|n| {
            let goes = match n.place {
                Place::Active(progress) => progress.goes_down(),
                _ => n.occupant.is_some_and(Progress::goes_down),
            };
            !n.node.ready || (!queued(&n.node.name) && goes)
        });
        let strays = self.strays.get(at).into_iter().flatten();
        let strays = strays.filter(|p| p.goes_down() && !queued(p.node_name()));
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
    /// that have begun beside each other would wait for each other, though: of these one waits no longer
    /// than a node whose drain has not begun.
    fn is_cut_short(&self, staged: &Staged<'_>) -> bool {
        let mut others = self.index.nodes().filter(|n| n.name != staged.node.name);
        !others.any(|n| n.ready && n.cordoned_for.is_some())
    }

    /// Whether a drain has done its work, and nothing but the reboot is left of it.
    fn is_emptied(&self, round: &Round<'_, 'a>, staged: &Staged<'a>) -> bool {
        let pods = self.index.pods_of(&staged.node.name);
        let empty = |rules: &Rules| pods.is_some_and(|pods| rules.is_empty(pods.values()));
        staged.has_begun() && staged.node.cordoned && round.rules.as_ref().is_some_and(empty)
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
        if self
            .index
            .progresses_of(&other.name)
            .any(Progress::goes_down)
            || work.reboots.iter().any(|r| r.node == other.name)
        {
            return true;
        }
        if staged.has_begun() && staged.node.name < other.name {
            return false;
        }
        self.is_to_be_let_go(other) || work.cordons.iter().any(|c| c.node.name == other.name)
    }

    /// Whether a node is cordoned for its drain, and that cordon will be undone: not where the drain is over and the node
    /// stays away.
    fn is_to_be_let_go(&self, node: &Node) -> bool {
        let goes_on = |p: &Progress| !self.is_let_go(p);
        node.cordoned_for.is_some() && (node.ready || self.drained_on(node).is_some_and(goes_on))
    }

    /// The progress that a node is cordoned for, if it is still there.
    fn drained_on(&self, node: &Node) -> Option<&'a Progress> {
        let uid = node.cordoned_for.as_deref()?;
        self.index
            .progresses_of(&node.name)
            .find(|p| p.object.metadata.uid.as_deref() == Some(uid))
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
        let cordoned = |n: &&Node| n.ready && n.cordoned_for.is_some();
        for node in self.index.nodes().filter(cordoned) {
            let progress = self.drained_on(node);
            let held = |p: &Progress| work.held.iter().any(|name| name == p.name());
            let over = progress.is_none_or(|p| self.is_let_go(p) || held(p));
            if over {
                work.uncordons.push(Uncordon {
                    node: NodeSeen::of(node),
                    lift: node.cordoned && !node.cordoned_by_others,
                });
            }
        }
    }
}

fn carry(round: &Round<'_, '_>, staged: &Staged<'_>, decision: Decision, plan: &mut Plan) {
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
            empty_by: round.rules.clone().filter(|_| checked),
            alone: decision.alone.then(|| told::goes_down(round.case, staged)),
        }),
        Move::Abort => plan.amendments.push(Amendment {
            drain_note: Some(told::waited_for(&decision.blockers)),
            ..amend(Release::Hold)
        }),
    }
    plan.look_again_at = plan
        .look_again_at
        .into_iter()
        .chain(decision.look_again_at)
        .min();
}
