//! What should happen, from what was observed: pure functions over the index.
//!
//! [`planner::plan`] is the whole decision, and a [`plan::Plan`] its answer. It asks [`standing`] what can be said of an upgrade before
//! its nodes are looked at, [`place`] where one node stands under the upgrade that governs it,
//! [`judge`] what is made and released for those nodes, [`release`] who goes next, `drains` and
//! [`drain`] how the released are emptied before they reboot, [`status`] what
//! to tell, and [`tidy`] what is to go.

pub mod drain;
mod drains;
pub mod election;
pub mod elsewhere;
pub mod halt;
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

use crate::index::Pod;

/// Two clocks, read at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// This process's own, counted from its start; the only one that anything is decided by.
    pub clock: Duration,
    /// The wall clock; for people.
    pub wall: Timestamp,
}

/// How the controller's own pods are told from others: they are never evicted, but end with their
/// node's reboot, and the other replica carries on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPods {
    /// The namespace that the controller runs in.
    pub namespace: String,
}

impl OwnPods {
    /// Labels of the Deployment's pods, as `manifests/controller` and `ctl create controller` write
    /// them.
    pub const LABELS: [(&'static str, &'static str); 2] = [
        ("app.kubernetes.io/part-of", "monok8s-ota"),
        ("app.kubernetes.io/component", "controller"),
    ];

    /// Whether a pod is one of them.
    pub fn contains(&self, pod: &Pod) -> bool {
        pod.namespace == self.namespace
            && Self::LABELS
                .iter()
                .all(|(key, value)| pod.labels.get(*key).is_some_and(|v| v == value))
    }
}

/// What the planner is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The controller's own pods.
    pub own: OwnPods,
    /// How long a released progress may stand still before the upgrade is called stalled.
    pub stall_after: Duration,
    /// How long ago a catalog from a URL or ConfigMap may have been read when a hop begins. Long
    /// enough for nodes that become free together to share a reading.
    pub catalog_age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            own: OwnPods {
                namespace: monok8s_api::NAMESPACE.to_owned(),
            },
            stall_after: Duration::from_secs(15 * 60),
            catalog_age: Duration::from_secs(2),
        }
    }
}
