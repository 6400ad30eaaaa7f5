//! What is told as an Event.

use kube::ResourceExt;
use monok8s_api::{
    OSUpgrade, OSUpgradeProgress, OSUpgradeStatus,
    condition::{self, Truth},
    reason::{EventReason, ProgressingReason, UpgradePhase},
};

/// Something to be told about an upgrade, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Name of the upgrade.
    pub upgrade: String,
    /// Its UID.
    pub uid: String,
    /// Whether somebody should look at it.
    pub warning: bool,
    /// The reason in one word.
    pub reason: String,
    /// The same in words.
    pub message: String,
    /// What makes this notice different from every other about the same upgrade. The Event's name
    /// is computed from it, so that a second controller, or the same one after a restart, cannot
    /// tell the same thing again.
    pub key: String,
}

/// What a change of status is worth telling: a change of phase if there is one, else changed
/// conditions. A first status that is still Pending for want of a look tells its reason.
pub fn transitions(upgrade: &OSUpgrade, next: &OSUpgradeStatus) -> Vec<Notice> {
    let old = upgrade.status.as_ref();
    let conditions = |status: &OSUpgradeStatus, type_: &str| {
        condition::find(&status.conditions, type_).map(|c| (c.status.clone(), c.reason.clone()))
    };
    let before = |type_: &str| old.and_then(|s| conditions(s, type_));
    let notice = |warning: bool, reason: &str, message: &str| {
        // The write that this status goes out with succeeds at most once per resource version.
        let version = upgrade.resource_version().unwrap_or_default();
        let key = format!("{version}/{reason}");
        about(upgrade, warning, reason, message.to_owned(), key)
    };
    let first = old.is_none_or(|s| s.conditions.is_empty());
    if first || old.is_some_and(|s| s.phase != next.phase) {
        let warning = matches!(next.phase, UpgradePhase::Rejected | UpgradePhase::Failed);
        let reason = match next.phase {
            UpgradePhase::Pending | UpgradePhase::Rejected => {
                condition::find(&next.conditions, "Accepted")
                    .map_or_else(|| next.phase.to_string(), |c| c.reason.clone())
            }
            _ => next.phase.to_string(),
        };
        let message = format!("{}: {}", next.phase, next.message);
        return vec![notice(warning, &reason, &message)];
    }
    [
        "Accepted",
        "Progressing",
        "Degraded",
        "Stalled",
        "CatalogChanged",
    ]
    .into_iter()
    .filter_map(|type_| {
        let now = condition::find(&next.conditions, type_)?;
        let was = before(type_);
        // Each drain is told on its own.
        let drained = ProgressingReason::Draining.as_str();
        let of_a_drain = type_ == "Progressing"
            && (now.reason == drained
                || (now.reason == ProgressingReason::Releasing.as_str()
                    && was.as_ref().is_some_and(|(_, reason)| reason == drained)));
        let changed = !of_a_drain && was != Some((now.status.clone(), now.reason.clone()));
        let warning = match type_ {
            "Degraded" | "Stalled" | "CatalogChanged" => now.status == Truth::True.as_str(),
            "Progressing" => {
                matches!(now.reason.as_str(), "TooManyFailures" | "ImageChanged")
            }
            _ => now.status == Truth::False.as_str(),
        };
        let (stalled, catalog_changed) = (EventReason::Stalled, EventReason::CatalogChanged);
        let reason = match type_ {
            "Stalled" => stalled.as_str(),
            "CatalogChanged" => catalog_changed.as_str(),
            _ => now.reason.as_str(),
        };
        changed.then(|| notice(warning, reason, &now.message))
    })
    .collect()
}

/// Something to be told about an upgrade. `key` tells it from everything else about the same one.
pub fn about(
    upgrade: &OSUpgrade,
    warning: bool,
    reason: &str,
    message: String,
    key: String,
) -> Notice {
    Notice {
        upgrade: upgrade.name_any(),
        uid: upgrade.uid().unwrap_or_default(),
        warning,
        reason: reason.to_owned(),
        message,
        key,
    }
}

/// An object that is not ours stands under the name that a progress would have.
pub fn name_taken(upgrade: &OSUpgrade, node: &str, foreign: &OSUpgradeProgress) -> Notice {
    let message = format!(
        "the progress for node {node} cannot be made: an OSUpgradeProgress {} that this \
         controller did not make has its name; delete that object",
        foreign.name_any()
    );
    let reason = EventReason::NameTaken;
    let key = format!("{reason}/{}", foreign.uid().unwrap_or_default());
    about(upgrade, true, reason.as_str(), message, key)
}
