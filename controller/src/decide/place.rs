//! Where one node stands under the upgrade that governs it.

use kube::ResourceExt;
use monok8s_api::{
    govern::NodeRefusal, names, osnode::LastResult, osupgrade::Operation, reason::ProgressPhase,
};

use super::standing::{Case, Step, Target};
use crate::index::{Index, Node, Progress};

/// Where a node stands.
#[derive(Clone, Debug)]
pub enum Place<'a> {
    /// On the target, or done with it.
    Done,
    /// It had completed and was later found on another version; it is not rewritten.
    Drifted,
    /// It does not go.
    Refused(NodeRefusal),
    /// Its attempt is over, and it is not on the target.
    Ended(&'a Progress),
    /// It was released, or has begun.
    Active(&'a Progress),
    /// Its progress waits for its turn.
    Held(&'a Progress),
    /// Its progress has become pointless or may no longer be installed, and has not begun.
    Obsolete(&'a Progress),
    /// One hop is done, and its agent has not reported the new version yet.
    Between,
    /// Its next progress is to be made.
    Make {
        /// What is to be installed.
        step: Step,
        /// The progress's name.
        name: String,
    },
    /// The name of its next progress belongs to an object that is not ours.
    NameTaken(&'a Progress),
    /// Without a catalog nothing can be said.
    Unjudged,
}

/// One node under the upgrade that governs it.
#[derive(Clone, Debug)]
pub struct NodeCase<'a> {
    /// The node.
    pub node: &'a Node,
    /// Where it stands.
    pub place: Place<'a>,
    /// Whether a hop is behind it and another before it: then it keeps its place among the
    /// unavailable nodes.
    pub midway: bool,
    /// Somebody else's progress that is under way on it.
    pub occupant: Option<&'a Progress>,
}

impl NodeCase<'_> {
    /// Whether the node is down, or may go down any moment, for whatever reason.
    pub fn is_down(&self) -> bool {
        !self.node.ready || self.occupant.is_some() || matches!(self.place, Place::Active(_))
    }

    /// Whether the node counts against `maxUnavailable`.
    pub fn holds_place(&self) -> bool {
        self.is_down() || self.is_underway()
    }

    /// Whether it was released and is not at its end.
    pub fn is_underway(&self) -> bool {
        match self.place {
            Place::Active(_) | Place::Between => true,
            Place::Held(_)
            | Place::Obsolete(_)
            | Place::Make { .. }
            | Place::NameTaken(_)
            | Place::Unjudged => self.midway,
            Place::Done | Place::Drifted | Place::Refused(_) | Place::Ended(_) => false,
        }
    }
}

/// Finds where a node stands under the upgrade that governs it.
pub fn place<'a>(case: &Case<'a>, node: &'a Node, index: &'a Index) -> NodeCase<'a> {
    let (own, others): (Vec<_>, Vec<_>) = index.progresses_of(&node.name).partition(|p| {
        p.belongs_to(case.upgrade.uid(), case.revision)
            && p.object.spec.node_uid.as_deref() == Some(node.uid.as_str())
            && case.handed_out(p)
    });
    let completed = |p: &&Progress| *p.phase() == ProgressPhase::Completed;
    let look = Look {
        case,
        node,
        index,
        midway: own.iter().any(|p| completed(p) && !p.is_last_hop()),
        own,
    };
    NodeCase {
        node,
        place: look.place(),
        midway: look.midway,
        occupant: others.into_iter().find(|p| p.has_place()),
    }
}

struct Look<'a, 'c> {
    case: &'c Case<'a>,
    node: &'a Node,
    index: &'a Index,
    /// The progresses that this revision of the upgrade made for this very Node.
    own: Vec<&'a Progress>,
    midway: bool,
}

impl<'a> Look<'a, '_> {
    fn place(&self) -> Place<'a> {
        let find = |which: fn(&Progress) -> bool| self.own.iter().copied().find(|p| which(p));
        if let Some(active) = find(Progress::has_place) {
            return Place::Active(active);
        }
        if let Some(held) = find(|p| !p.is_over()) {
            return self.held(held);
        }
        if let Some(ended) = find(|p| p.phase().can_retry()) {
            // A trial boot's report shows the target too: only a later success takes the failure away.
            return if self.is_there() && self.succeeded_after(ended) {
                Place::Done
            } else {
                Place::Ended(ended)
            };
        }
        if let Some(last) = find(Progress::is_last_hop) {
            let elsewhere = !self.is_there() && self.case.target() != Some(&Target::Previous);
            return if elsewhere && self.has_reported_since(last) {
                Place::Drifted
            } else {
                Place::Done
            };
        }
        self.next()
    }

    fn is_there(&self) -> bool {
        self.node
            .facts
            .as_ref()
            .is_ok_and(|facts| self.case.is_there(facts))
    }

    fn held(&self, held: &'a Progress) -> Place<'a> {
        let facts = match &self.node.facts {
            Ok(facts) => facts,
            Err(why) => return Place::Refused(why.clone().into()),
        };
        if self.case.is_there(facts) {
            return Place::Obsolete(held);
        }
        match self.case.way(self.node) {
            None => Place::Unjudged,
            Some(Err(refusal)) => Place::Refused(refusal),
            Some(Ok(_)) if self.case.upgrade.object.spec.operation == Operation::Rollback => {
                Place::Held(held)
            }
            Some(Ok(steps)) => {
                // Another hop may be better by now; the one that was made is kept while it is good.
                let good = held.hop.as_ref().is_some_and(|version| {
                    let is_next = steps
                        .first()
                        .is_some_and(|s| s.version == version.to_string());
                    is_next || self.case.allows_step(version, facts)
                });
                if good {
                    Place::Held(held)
                } else {
                    Place::Obsolete(held)
                }
            }
        }
    }

    fn next(&self) -> Place<'a> {
        // A path may only begin where the last hop has led to.
        let last = self
            .own
            .iter()
            .max_by_key(|p| p.object.creation_timestamp());
        if let (Some(last), Ok(facts)) = (last, &self.node.facts)
            && !self.is_there()
            && last.hop.as_ref() != Some(&facts.version)
            && self.report_is_older_than(last)
        {
            return Place::Between;
        }
        let steps = match self.case.way(self.node) {
            None => return Place::Unjudged,
            Some(Err(refusal)) => return Place::Refused(refusal),
            Some(Ok(steps)) => steps,
        };
        let Some(step) = steps.first() else {
            return Place::Done;
        };
        let name = names::progress(
            self.case.upgrade.uid(),
            self.case.revision,
            &self.node.uid,
            &step.version,
        );
        if let Some(own) = self.own.iter().find(|p| p.name() == name) {
            // That hop is done, yet the node shows what was before it.
            return if self.has_reported_since(own) {
                Place::Drifted
            } else {
                Place::Between
            };
        }
        match self.index.progress(&name) {
            Some(foreign) => Place::NameTaken(foreign),
            None => Place::Make {
                step: step.clone(),
                name,
            },
        }
    }

    fn last_result(&self) -> Option<&'a LastResult> {
        let status = self.index.report(&self.node.name)?.status.as_ref()?;
        status.last_result.as_ref()
    }

    /// Whether the agent's report was written after this progress ended. The timestamps compared
    /// are both the API server's.
    fn has_reported_since(&self, progress: &Progress) -> bool {
        self.last_result().is_some_and(|result| {
            result.progress == progress.name() || self.is_later(&result.progress, progress)
        })
    }

    /// Whether the agent's report certainly was written before this progress ended: it tells of an
    /// earlier one, or of none. What names a progress that is gone could be either.
    fn report_is_older_than(&self, progress: &Progress) -> bool {
        self.last_result().is_none_or(|result| {
            self.index.progress(&result.progress).is_some() && !self.has_reported_since(progress)
        })
    }

    fn succeeded_after(&self, failed: &Progress) -> bool {
        self.last_result().is_some_and(|result| {
            result.phase == ProgressPhase::Completed && self.is_later(&result.progress, failed)
        })
    }

    fn is_later(&self, name: &str, than: &Progress) -> bool {
        name != than.name()
            && self.index.progress(name).is_some_and(|other| {
                other.node_name() == self.node.name
                    && other.object.creation_timestamp() > than.object.creation_timestamp()
            })
    }
}
