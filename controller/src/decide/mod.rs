//! What should happen, from what was observed: pure functions over the index.
//!
//! [`planner::plan`] is the whole decision, and a [`plan::Plan`] its answer. It asks [`standing`] what can be said of an upgrade before
//! its nodes are looked at, [`place`] where one node stands under the upgrade that governs it,
//! [`judge`] what is made and released for those nodes, [`release`] who goes next, [`status`] what
//! to tell, and [`tidy`] what is to go.

pub mod election;
pub mod judge;
pub mod notice;
pub mod place;
pub mod plan;
pub mod planner;
pub mod release;
pub mod standing;
pub mod status;
pub mod tally;
pub mod tidy;
mod words;

use std::time::Duration;

use jiff::Timestamp;

/// Two clocks, read at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// This process's own, counted from its start; the only one that anything is decided by.
    pub clock: Duration,
    /// The wall clock; for people.
    pub wall: Timestamp,
}

/// What the planner is told once.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a released progress may stand still before the upgrade is called stalled.
    pub stall_after: Duration,
    /// How long ago a catalog from a URL or ConfigMap may have been read when a hop begins. Long
    /// enough for nodes that become free together to share a reading.
    pub catalog_age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stall_after: Duration::from_secs(15 * 60),
            catalog_age: Duration::from_secs(2),
        }
    }
}
