//! Who goes next.

use std::{cell::RefCell, collections::BTreeMap};

use monok8s_api::{osupgrade::Drain, osupgradeprogress::Release};

use super::place::{NodeCase, Place};
use crate::index::{Index, Node, Progress};

/// How far a node is let at its turn: one that is to be emptied first stops at `Stage`, and goes on
/// to `Reboot` once it is empty.
pub fn first_gate(drain: &Drain) -> Release {
    if drain.enabled {
        Release::Stage
    } else {
        Release::Reboot
    }
}

/// The nodes of the control plane that are down or on their way: they go one at a time, whatever
/// `maxUnavailable` is, and whichever upgrades they are for.
#[derive(Debug, Default)]
pub struct ControlPlane<'a> {
    busy: RefCell<BTreeMap<&'a str, Busy>>,
}

/// How a node of the control plane keeps others back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    /// It is up and between two hops: others do not begin before it has ended. Of several such nodes
    /// the first by name goes on.
    Midway,
    /// It is down, or may be any moment.
    Down,
}

impl<'a> ControlPlane<'a> {
    /// As the objects show it. A node that a halted upgrade holds (`held`) is up and stays up: others
    /// do not wait for somebody to look at that upgrade, and the one at a time is kept where nodes are
    /// emptied.
    pub(super) fn of(
        index: &'a Index,
        teams: &[Vec<NodeCase<'a>>],
        held: impl Fn(&Progress) -> bool,
    ) -> Self {
        let is_held = |n: &NodeCase<'_>| matches!(n.place, Place::Active(p) if held(p));
        let placed = teams
            .iter()
            .flatten()
            .filter(|n| n.node.control_plane && n.holds_place() && !is_held(n))
            .map(|n| (n.node.name.as_str(), Busy::Midway));
        let goes = |p: &Progress| p.has_place() && !held(p);
        let down = index
            .nodes()
            .filter(|n| n.control_plane)
            .filter(|n| !n.ready || index.progresses_of(&n.name).any(goes))
            .map(|n| (n.name.as_str(), Busy::Down));
        Self {
            busy: RefCell::new(placed.chain(down).collect()),
        }
    }

    /// The node that this one has to wait for.
    pub fn in_the_way_of(&self, case: &NodeCase<'_>) -> Option<&'a str> {
        let node = case.node;
        let busy = self.busy.borrow();
        let waits_for = |name: &str, busy: Busy| {
            name != node.name && (busy == Busy::Down || !case.midway || name < node.name.as_str())
        };
        let mut others = busy.iter().filter(|(name, busy)| waits_for(name, **busy));
        let other = others.next().map(|(name, _)| *name);
        other.filter(|_| node.control_plane)
    }

    fn take(&self, node: &'a Node) {
        if node.control_plane {
            self.busy.borrow_mut().insert(&node.name, Busy::Down);
        }
    }
}

/// What stands between the nodes and their turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brakes {
    /// No further node is to begin; those midway go on.
    pub paused: bool,
    /// Nothing at all is to be released.
    pub halted: bool,
}

/// The progresses to be released now, in the order of their nodes' names.
///
/// The answer follows from the objects alone and always prefers the same nodes, so that two
/// controllers that see the same objects mean the same progresses, and the second one's write
/// fails on its resource version instead of giving out another place.
///
/// A node that is not Ready is not sent into a reboot: its agent may not run, and nobody could
/// tell its trial from its trouble. It counts as unavailable all the same.
///
/// `gate` is how far they are let. `strays` is how many progresses of the same upgrade have a place on nodes outside `nodes`.
pub fn choose<'a>(
    nodes: &[NodeCase<'a>],
    strays: usize,
    max: usize,
    brakes: Brakes,
    gate: Release,
    control_plane: &ControlPlane<'a>,
) -> Vec<(&'a Progress, Release)> {
    if brakes.halted {
        return Vec::new();
    }
    let mut down = strays + nodes.iter().filter(|n| n.is_down()).count();
    let mut places = strays + nodes.iter().filter(|n| n.holds_place()).count();
    let mut chosen = Vec::new();
    // Nodes midway have their place already; they only must not all be down at once.
    for wanted in [true, false] {
        if brakes.paused && !wanted {
            break;
        }
        for node in nodes.iter().filter(|n| n.midway == wanted) {
            let Place::Held(progress) = node.place else {
                continue;
            };
            if node.is_down() || progress.object.spec.cancel || progress.is_being_deleted() {
                continue;
            }
            let taken = if node.midway { &mut down } else { &mut places };
            if *taken >= max || control_plane.in_the_way_of(node).is_some() {
                continue;
            }
            *taken += 1;
            control_plane.take(node.node);
            chosen.push((progress, gate));
        }
    }
    chosen
}
