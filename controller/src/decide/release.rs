//! Who goes next.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use monok8s_api::{osupgrade::Rollout, osupgradeprogress::Release};

use super::place::{NodeCase, Place};
use crate::index::Progress;

/// How many nodes may be unavailable at once, of this many selected. A share is rounded down; the
/// answer is at least 1, or a rollout could never move.
pub fn max_unavailable(rollout: &Rollout, selected: usize) -> usize {
    let wanted = match &rollout.max_unavailable {
        IntOrString::Int(n) => usize::try_from(*n).unwrap_or(0),
        IntOrString::String(share) => {
            let percent: usize = share
                .strip_suffix('%')
                .and_then(|p| p.parse().ok())
                .unwrap_or(0);
            selected.saturating_mul(percent.min(100)) / 100
        }
    };
    wanted.max(1)
}

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
pub fn choose<'a>(
    nodes: &[NodeCase<'a>],
    max: usize,
    brakes: Brakes,
) -> Vec<(&'a Progress, Release)> {
    if brakes.halted {
        return Vec::new();
    }
    let mut down = nodes.iter().filter(|n| n.is_down()).count();
    let mut places = nodes.iter().filter(|n| n.holds_place()).count();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_down_and_never_nothing() {
        for (wanted, selected, expected) in [
            (IntOrString::Int(3), 10, 3),
            (IntOrString::Int(0), 10, 1),
            (IntOrString::Int(-4), 10, 1),
            (IntOrString::String("1%".into()), 10, 1),
            (IntOrString::String("25%".into()), 10, 2),
            (IntOrString::String("100%".into()), 10, 10),
            (IntOrString::String("33%".into()), 10_000, 3_300),
            (IntOrString::String("nonsense".into()), 10, 1),
        ] {
            let rollout = Rollout {
                max_unavailable: wanted.clone(),
                ..Rollout::default()
            };
            assert_eq!(max_unavailable(&rollout, selected), expected, "{wanted:?}");
        }
    }
}
