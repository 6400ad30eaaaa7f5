//! How many nodes stand where.

use monok8s_api::{
    osupgrade::{NodeCounts, NodeFailure},
    reason::ProgressPhase,
};

use super::{
    place::{NodeCase, Place},
    standing::Case,
    words::cut,
};
use crate::index::Progress;

/// How many nodes `status.failures` lists.
const LISTED: usize = 10;

/// How many nodes stand where, and who they are where that is told.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The counts.
    pub counts: NodeCounts,
    /// Of the pending ones, how many were cancelled. Nothing failed there, and nothing more happens
    /// until a person retries them.
    pub cancelled: i32,
    /// Nodes that had completed and run another version now.
    pub drifted: Vec<String>,
    /// Nodes under way, with their phase.
    pub(super) under_way: Vec<(String, String)>,
    /// Nodes that a node's turn waits for: it is occupied by somebody else's progress.
    pub(super) occupied: Vec<(String, String)>,
    /// Nodes that are not Ready and not under way.
    pub(super) not_ready: Vec<String>,
    /// Nodes whose next progress cannot be made, because its name is taken.
    pub(super) name_taken: Vec<String>,
    /// Failed, fallen back and cancelled first, then refusing; by name.
    pub(super) failures: Vec<NodeFailure>,
    /// Of those under way, nodes that really move: neither held between two hops nor staged while the
    /// upgrade stands still.
    pub(super) moving: usize,
}

impl Tally {
    /// Counts the nodes that an upgrade governs, and of its progresses on others (`strays`) those that
    /// still take a place, or whose failure still counts.
    pub fn of(case: &Case<'_>, team: &[NodeCase<'_>], strays: &[&Progress]) -> Self {
        let current = |p: &Progress| p.belongs_to(case.upgrade.uid(), case.revision);
        let strays = strays
            .iter()
            .filter(|p| p.has_place() || (p.phase().can_retry() && current(p)));
        let mut tally = Self::default();
        let mut refusing = Vec::new();
        for node in team {
            tally.count(node, &mut refusing);
        }
        for stray in strays {
            tally.counts.selected += 1;
            if stray.has_place() {
                tally.count_active(stray);
            } else {
                tally.count_ended(stray);
            }
        }
        tally.failures.extend(refusing);
        tally.failures.truncate(LISTED);
        tally
    }

    /// So many of those under way are held where they are.
    pub(super) fn hold(&mut self, held: usize) {
        self.moving = self.moving.saturating_sub(held);
    }

    fn count(&mut self, case: &NodeCase<'_>, refusing: &mut Vec<NodeFailure>) {
        let name = || case.node.name.clone();
        let counts = &mut self.counts;
        counts.selected += 1;
        if !case.node.ready && !matches!(case.place, Place::Active(_)) {
            self.not_ready.push(name());
        }
        match &case.place {
            Place::Done => counts.completed += 1,
            Place::Drifted => {
                counts.completed += 1;
                self.drifted.push(name());
            }
            Place::Refused(refusal) => {
                counts.refused += 1;
                if refusing.len() < LISTED {
                    refusing.push(NodeFailure {
                        node_name: name(),
                        progress: None,
                        reason: refusal.reason(),
                        message: cut(&refusal.to_string()),
                    });
                }
            }
            Place::Ended(progress) => self.count_ended(progress),
            Place::Active(progress) => self.count_active(progress),
            Place::Between => {
                counts.active += 1;
                self.moving += 1;
                self.under_way.push((name(), "between hops".to_owned()));
            }
            Place::Held(_)
            | Place::Obsolete(_)
            | Place::Make { .. }
            | Place::NameTaken(_)
            | Place::Unjudged => {
                if case.midway {
                    counts.active += 1;
                    self.under_way.push((name(), "between hops".to_owned()));
                } else {
                    counts.pending += 1;
                }
                if let Some(occupant) = case.occupant {
                    self.occupied.push((name(), occupant.name().to_owned()));
                } else if matches!(case.place, Place::NameTaken(_)) {
                    self.name_taken.push(name());
                }
            }
        }
    }

    fn count_ended(&mut self, progress: &Progress) {
        match progress.phase() {
            ProgressPhase::RolledBack => self.counts.rolled_back += 1,
            ProgressPhase::Cancelled => {
                self.counts.pending += 1;
                self.cancelled += 1;
            }
            _ => self.counts.failed += 1,
        }
        if self.failures.len() < LISTED {
            let status = progress.status();
            let reason = status.map_or("", |s| s.failure_reason.as_str());
            let said = status.map_or("", |s| s.message.as_str());
            self.failures.push(NodeFailure {
                node_name: progress.node_name().to_owned(),
                progress: Some(progress.name().to_owned()),
                reason: if reason.is_empty() {
                    progress.phase().to_string()
                } else {
                    reason.to_owned()
                },
                message: cut(&match progress.drain_note() {
                    Some(note) => format!("{said}; it waited for {note}"),
                    None => said.to_owned(),
                }),
            });
        }
    }

    fn count_active(&mut self, progress: &Progress) {
        self.counts.active += 1;
        self.moving += 1;
        let phase = if progress.has_begun() {
            progress.phase().to_string()
        } else {
            "released".to_owned()
        };
        self.under_way
            .push((progress.node_name().to_owned(), phase));
    }

    /// How many nodes are still to be released, midway ones included.
    pub(super) fn remaining(&self) -> usize {
        let pending = self.counts.pending + self.counts.active - self.cancelled;
        usize::try_from(pending)
            .unwrap_or(0)
            .saturating_sub(self.moving)
    }

    /// How many ended otherwise than well. A cancelled one did not: somebody wanted that.
    pub(super) fn failed(&self) -> i32 {
        self.counts.failed + self.counts.rolled_back
    }
}
