//! Who goes next.

use monok8s_api::osupgradeprogress::Release;

use super::place::{NodeCase, Place};
use crate::index::Progress;

/// How far a node is let at its turn. Here a node that has to be emptied first is to be let to
/// `Stage`, and on to `Reboot` once it is empty.
pub fn first_gate(_node: &NodeCase<'_>) -> Release {
    Release::Reboot
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
/// `strays` is how many progresses of the same upgrade have a place on nodes outside `nodes`.
pub fn choose<'a>(
    nodes: &[NodeCase<'a>],
    strays: usize,
    max: usize,
    brakes: Brakes,
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
            if *taken >= max {
                continue;
            }
            *taken += 1;
            chosen.push((progress, first_gate(node)));
        }
    }
    chosen
}
