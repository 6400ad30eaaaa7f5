//! What stops an upgrade by itself: more failures than may be, or an image that is another one than
//! was handed out.
//!
//! A halted upgrade releases nothing: no node begins, and a node whose image is staged is not emptied
//! and not rebooted. One that was being emptied takes pods again; it is emptied anew, with its whole
//! time, once the upgrade goes on. Held are the nodes that the upgrade governs. What it began on
//! nodes that are another upgrade's by now goes on to its end, or that one would wait for somebody to
//! cure this one; on a node that nobody governs any more, because it was taken out of the selection,
//! it is held too.

use std::collections::{BTreeSet, HashSet};

use monok8s_api::osupgrade::PinnedImage;

use super::{
    place::{NodeCase, Place},
    standing::Case,
    tally::Tally,
};
use crate::index::Progress;

/// Why an upgrade stands still, if it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Halt {
    /// More nodes failed than may.
    pub failures: Option<Failures>,
    /// Versions whose checksum in the catalog is another than was handed out.
    pub image_changed: Option<String>,
    /// That is known from the status alone: the catalog is still to be read.
    pub(super) unread: bool,
    /// Names of the progresses that are held: their image is staged.
    held: HashSet<String>,
}

/// What has changed as long as that is known from the status alone.
const UNREAD: &str = "an image";

/// How many nodes failed, and how many may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// Nodes that failed or fell back.
    pub failed: i32,
    /// `rollout.maxFailures`.
    pub max: i32,
}

impl Halt {
    /// Of an upgrade with these nodes, and with these of its progresses on nodes that nobody governs.
    /// `fresh` is whether its catalog was found to be current.
    ///
    /// Once told, a changed image is taken back by a catalog that was found to be current, and by
    /// nothing else: a leader that has not read it yet, or long ago, knows no better than the one
    /// before it.
    pub(super) fn of<'a>(
        case: &Case<'_>,
        team: &[NodeCase<'a>],
        nobodys: impl Iterator<Item = &'a Progress>,
        tally: &Tally,
        fresh: bool,
    ) -> Self {
        let (failed, max) = (
            tally.failed(),
            case.upgrade.object.spec.rollout.max_failures,
        );
        let seen = changed_images(case, team);
        let unread = seen.is_none() && !fresh && case.is_image_told_changed();
        let mut halt = Self {
            failures: (failed > max).then_some(Failures { failed, max }),
            image_changed: seen.or_else(|| unread.then(|| UNREAD.to_owned())),
            unread,
            held: HashSet::new(),
        };
        if halt.is_on() {
            let governed = team.iter().filter_map(|node| match node.place {
                Place::Active(progress) => Some(progress),
                _ => None,
            });
            let held = governed.chain(nobodys).filter(|p| is_holdable(p));
            halt.held = held.map(|p| p.name().to_owned()).collect();
        }
        halt
    }

    /// Whether nothing is released.
    pub fn is_on(&self) -> bool {
        self.failures.is_some() || self.image_changed.is_some()
    }

    /// Whether the node of this progress is neither emptied nor rebooted for now.
    pub(super) fn holds(&self, progress: &Progress) -> bool {
        self.held.contains(progress.name())
    }

    /// How many nodes it holds at that point.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }
}

/// Whether the image is staged, and the controller still decides about it.
fn is_holdable(progress: &Progress) -> bool {
    let stopped = progress.object.spec.cancel || progress.is_being_deleted();
    progress.awaits_drain() && !stopped
}

/// What the catalog now says otherwise about images that were handed out. Compared is what a node
/// would be given, whatever entry of the catalog that comes from.
fn changed_images(case: &Case<'_>, team: &[NodeCase<'_>]) -> Option<String> {
    let catalog = case.catalog()?;
    let pins = case.recorded_pins();
    let platforms: BTreeSet<&str> = team
        .iter()
        .filter_map(|n| Some(n.node.facts.as_ref().ok()?.platform.as_str()))
        .collect();
    let mut changed = BTreeSet::new();
    for pin in pins.iter().filter(|pin| !pin.checksum.is_empty()) {
        let Ok(version) = pin.version.parse() else {
            continue;
        };
        let choices = platforms
            .iter()
            // A pin for all platforms gives way to one for the node's own.
            .filter(|platform| {
                let own = |p: &PinnedImage| p.version == pin.version && p.platform == **platform;
                pin.platform == **platform || (pin.platform.is_empty() && !pins.iter().any(own))
            })
            .filter_map(|platform| catalog.image_for(&version, platform));
        for choice in choices {
            if !choice.checksum.eq_ignore_ascii_case(&pin.checksum) {
                changed.insert(pin.version.as_str());
            }
        }
    }
    let changed: Vec<&str> = changed.into_iter().collect();
    (!changed.is_empty()).then(|| changed.join(", "))
}
