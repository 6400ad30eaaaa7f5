//! Which upgrade a node obeys, whether the node can take part, and what the nodes together make
//! of an upgrade. Shared by the controller, which acts on it, and `ctl plan`, which shows it.

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeMap,
};

use jiff::Timestamp;
use kube::{
    ResourceExt,
    core::{ParseExpressionError, Selector},
};

use crate::{
    MANAGED_LABEL, OSNode, OSUpgrade, Version,
    condition::{self, Truth},
    reason::{AcceptedReason, UpgradePhase},
    resolve::{NodeFacts, Refusal},
};

/// How many names or messages a summary spells out before it only counts.
const SPELLED_OUT: usize = 3;

/// Whether a Node with these labels is under this system's care at all.
pub fn is_managed(labels: &BTreeMap<String, String>) -> bool {
    labels.get(MANAGED_LABEL).is_some_and(|v| v == "true")
}

/// The node selector of an upgrade, ready to be matched against many nodes.
pub fn selector(upgrade: &OSUpgrade) -> Result<Selector, ParseExpressionError> {
    upgrade.spec.node_selector.clone().try_into()
}

/// Order of upgrades by age: the greatest governs. The name decides between two of one second.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seniority {
    created: Option<Timestamp>,
    name: String,
}

impl Seniority {
    /// Of this upgrade.
    pub fn of(upgrade: &OSUpgrade) -> Self {
        Self {
            created: upgrade.creation_timestamp().map(|t| t.0),
            name: upgrade.name_any(),
        }
    }
}

/// Compares two upgrades so that sorting puts the one that governs first.
pub fn newest_first(a: &OSUpgrade, b: &OSUpgrade) -> Ordering {
    Reverse(Seniority::of(a)).cmp(&Reverse(Seniority::of(b)))
}

/// Whether the last verdict on an upgrade's present spec was that it is wrong in itself, so that it
/// governs no node. For those who cannot judge it anew.
pub fn stands_rejected(upgrade: &OSUpgrade) -> bool {
    upgrade.status.as_ref().is_some_and(|status| {
        status.phase == UpgradePhase::Rejected
            && status.observed_generation == upgrade.metadata.generation
            && condition::find(&status.conditions, "Accepted")
                .is_some_and(|c| AcceptedReason::from(c.reason.as_str()).on_own_account())
    })
}

/// Why a managed node cannot take part, whatever the version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ineligible {
    /// There is no OSNode of that name, or it is still empty.
    #[error(
        "its agent has not reported which version it runs: check the node-agent pod on that node"
    )]
    NotReported,
    /// The OSNode was written for an earlier Node of the same name.
    #[error(
        "its OSNode speaks of an earlier Node of the same name (UID {reported}): the agent on the new one has not reported yet"
    )]
    OtherNode {
        /// UID in the OSNode.
        reported: String,
    },
    /// The reported version is no semantic version.
    #[error(
        "it reports {text:?}, which is no semantic version: check IMAGE_VERSION in its /etc/os-release"
    )]
    VersionUnreadable {
        /// What it reports, cut at 64 characters.
        text: String,
    },
    /// The agent says that the node cannot be upgraded.
    #[error("its agent cannot upgrade it ({reason}): {message}")]
    NotUpgradable {
        /// Reason of the Upgradable condition.
        reason: String,
        /// Its message.
        message: String,
    },
}

/// What resolution may know of a node: what its OSNode says, if that speaks of this very Node.
pub fn node_facts(node_uid: &str, report: Option<&OSNode>) -> Result<NodeFacts, Ineligible> {
    let status = report
        .and_then(|o| o.status.as_ref())
        .filter(|s| !s.version.is_empty())
        .ok_or(Ineligible::NotReported)?;
    if status.node_uid != node_uid {
        return Err(Ineligible::OtherNode {
            reported: status.node_uid.clone(),
        });
    }
    let upgradable = condition::find(&status.conditions, "Upgradable");
    if let Some(refusal) = upgradable.filter(|c| c.status == Truth::False.as_str()) {
        return Err(Ineligible::NotUpgradable {
            reason: refusal.reason.clone(),
            message: refusal.message.clone(),
        });
    }
    let version: Version = status
        .version
        .parse()
        .map_err(|_| Ineligible::VersionUnreadable {
            text: status.version.chars().take(64).collect(),
        })?;
    Ok(NodeFacts {
        version,
        platform: status.platform.clone(),
    })
}

/// Why one node does not go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeRefusal {
    /// Not with any version.
    #[error(transparent)]
    Ineligible(#[from] Ineligible),
    /// Not with this one.
    #[error(transparent)]
    Policy(#[from] Refusal),
    /// The catalog no longer lets anybody be taken to the version that was pinned.
    #[error("{message}")]
    Withdrawn {
        /// What the catalog objects to.
        reason: AcceptedReason,
        /// The same in words.
        message: String,
    },
}

impl NodeRefusal {
    /// The reason in one word, as `status.failures` shows it.
    pub fn reason(&self) -> String {
        match self {
            Self::Ineligible(Ineligible::NotUpgradable { reason, .. }) => reason.clone(),
            Self::Ineligible(_) => AcceptedReason::NodeVersionUnknown.to_string(),
            Self::Policy(refusal) => refusal.reason().to_string(),
            Self::Withdrawn { reason, .. } => reason.to_string(),
        }
    }

    /// Whether the node may yet turn out to be able: its version is only not known.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Ineligible(i) if !matches!(i, Ineligible::NotUpgradable { .. }))
    }

    fn accepted_reason(&self) -> AcceptedReason {
        match self {
            Self::Ineligible(Ineligible::NotUpgradable { .. }) => AcceptedReason::NodesRefused,
            Self::Ineligible(_) => AcceptedReason::NodeVersionUnknown,
            Self::Policy(refusal) => refusal.reason(),
            Self::Withdrawn { reason, .. } => reason.clone(),
        }
    }

    fn condemns_upgrade(&self) -> bool {
        matches!(self, Self::Policy(refusal) if refusal.condemns_upgrade())
    }
}

/// What the selected nodes together make of an upgrade: status, reason and message of its Accepted
/// condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// True (Accepted), False (Rejected) or Unknown (Pending).
    pub truth: Truth,
    /// The reason.
    pub reason: AcceptedReason,
    /// The reason in words, naming the first few nodes.
    pub message: String,
}

/// Judges an upgrade by its nodes: each by name, with why it refuses, or nothing when it may go or
/// is there already.
///
/// A fault of the catalog on one chosen path condemns the upgrade. Otherwise one node that may go
/// is enough; and as long as a node's version is not known it may still turn out to be that one.
pub fn verdict<'a>(nodes: impl IntoIterator<Item = (&'a str, Option<&'a NodeRefusal>)>) -> Verdict {
    let mut willing = 0_usize;
    let mut condemned = None;
    let mut unknown = Vec::new();
    let mut refusing = Vec::new();
    for (name, refusal) in nodes {
        match refusal {
            None => willing += 1,
            Some(r) if r.condemns_upgrade() => {
                condemned.get_or_insert((name, r));
            }
            Some(r) if r.is_unknown() => unknown.push((name, r)),
            Some(r) => refusing.push((name, r)),
        }
    }
    let judged = |truth, reason, message| Verdict {
        truth,
        reason,
        message,
    };
    if let Some((name, refusal)) = condemned {
        let message = format!("{refusal} (on the path of {name})");
        return judged(Truth::False, refusal.accepted_reason(), message);
    }
    if willing > 0 {
        return judged(Truth::True, AcceptedReason::Resolved, String::new());
    }
    if !unknown.is_empty() {
        let message = spell_out(&unknown);
        return judged(Truth::Unknown, AcceptedReason::NodeVersionUnknown, message);
    }
    let Some((_, first)) = refusing.first() else {
        return judged(
            Truth::Unknown,
            AcceptedReason::NoMatchingNodes,
            format!("no node is both labelled {MANAGED_LABEL}=true and matched by nodeSelector"),
        );
    };
    let reason = first.accepted_reason();
    let unanimous = refusing.iter().all(|(_, r)| r.accepted_reason() == reason);
    let reason = if unanimous {
        reason
    } else {
        AcceptedReason::NodesRefused
    };
    judged(Truth::False, reason, spell_out(&refusing))
}

/// `n1: why; n2: why; n3: why; and 4 more`.
fn spell_out(nodes: &[(&str, &NodeRefusal)]) -> String {
    let mut texts: Vec<String> = nodes
        .iter()
        .take(SPELLED_OUT)
        .map(|(name, refusal)| format!("{name}: {refusal}"))
        .collect();
    if nodes.len() > SPELLED_OUT {
        texts.push(format!("and {} more", nodes.len() - SPELLED_OUT));
    }
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn upgrade(name: &str, created: &str) -> OSUpgrade {
        serde_json::from_value(json!({
            "apiVersion": crate::API_VERSION, "kind": "OSUpgrade",
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"version": "v1.35.1"}
        }))
        .unwrap()
    }

    fn report(status: &serde_json::Value) -> OSNode {
        serde_json::from_value(json!({
            "apiVersion": crate::API_VERSION, "kind": "OSNode",
            "metadata": {"name": "n"}, "spec": {}, "status": status
        }))
        .unwrap()
    }

    #[test]
    fn the_newest_governs_and_the_name_breaks_a_tie() {
        let old = upgrade("z", "2026-01-01T00:00:00Z");
        let tie_a = upgrade("a", "2026-01-02T00:00:00Z");
        let tie_b = upgrade("b", "2026-01-02T00:00:00Z");
        let mut all = [&old, &tie_a, &tie_b];
        all.sort_by(|a, b| newest_first(a, b));
        assert_eq!(all.map(ResourceExt::name_any), ["b", "a", "z"]);
    }

    #[test]
    fn only_a_fault_of_its_own_takes_an_upgrade_out_of_the_running() {
        let rejected = |reason: &str, phase: &str, observed: i64| -> OSUpgrade {
            serde_json::from_value(json!({
                "apiVersion": crate::API_VERSION, "kind": "OSUpgrade",
                "metadata": {"name": "u", "generation": 2},
                "spec": {"version": "v1.35.1"},
                "status": {"phase": phase, "observedGeneration": observed, "conditions": [
                    {"type": "Accepted", "status": "False", "reason": reason, "message": "m",
                     "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
            }))
            .unwrap()
        };
        for (reason, phase, observed, stands) in [
            ("VersionBlocked", "Rejected", 2, true),
            ("VersionBlocked", "Rejected", 1, false),
            ("Downgrade", "Rejected", 2, false),
            ("Superseded", "Rejected", 2, false),
            ("CatalogUnreachable", "Pending", 2, false),
        ] {
            let upgrade = rejected(reason, phase, observed);
            assert_eq!(stands_rejected(&upgrade), stands, "{reason} {observed}");
        }
        assert!(!stands_rejected(&upgrade("u", "2026-01-01T00:00:00Z")));
    }

    #[test]
    fn only_the_label_true_means_managed() {
        for (value, managed) in [
            ("true", true),
            ("false", false),
            ("True", false),
            ("", false),
        ] {
            let labels = BTreeMap::from([(MANAGED_LABEL.to_owned(), value.to_owned())]);
            assert_eq!(is_managed(&labels), managed, "{value}");
        }
        assert!(!is_managed(&BTreeMap::new()));
    }

    #[test]
    fn a_nodes_version_comes_from_its_own_report_only() {
        let good = report(&json!({"nodeUID": "u", "version": "1.35.1", "platform": "linux/amd64"}));
        let facts = node_facts("u", Some(&good)).unwrap();
        assert_eq!(facts.version.to_string(), "v1.35.1");
        assert_eq!(facts.platform, "linux/amd64");
        assert_eq!(node_facts("u", None), Err(Ineligible::NotReported));
        let empty = report(&json!({"nodeUID": "u"}));
        assert_eq!(node_facts("u", Some(&empty)), Err(Ineligible::NotReported));
        assert_eq!(
            node_facts("w", Some(&good)),
            Err(Ineligible::OtherNode {
                reported: "u".into()
            })
        );
        let odd = report(&json!({"nodeUID": "u", "version": "rolling"}));
        assert_eq!(
            node_facts("u", Some(&odd)),
            Err(Ineligible::VersionUnreadable {
                text: "rolling".into()
            })
        );
        let unfit = report(&json!({"nodeUID": "u", "version": "1.35.1", "conditions": [
            {"type": "Upgradable", "status": "False", "reason": "StateNotPersistent",
             "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}));
        let refusal = NodeRefusal::from(node_facts("u", Some(&unfit)).unwrap_err());
        assert_eq!(refusal.reason(), "StateNotPersistent");
        assert!(!refusal.is_unknown());
    }

    fn withdrawn(reason: AcceptedReason) -> NodeRefusal {
        NodeRefusal::Withdrawn {
            message: format!("because of {reason}"),
            reason,
        }
    }

    #[test]
    fn one_node_that_may_go_is_enough() {
        let down = withdrawn(AcceptedReason::Downgrade);
        let unknown = NodeRefusal::from(Ineligible::NotReported);
        let rows: &[(&[Option<&NodeRefusal>], Truth, AcceptedReason)] = &[
            (&[], Truth::Unknown, AcceptedReason::NoMatchingNodes),
            (&[None, Some(&down)], Truth::True, AcceptedReason::Resolved),
            (
                &[Some(&down), Some(&unknown)],
                Truth::Unknown,
                AcceptedReason::NodeVersionUnknown,
            ),
            (
                &[Some(&down), Some(&down)],
                Truth::False,
                AcceptedReason::Downgrade,
            ),
            (
                &[
                    Some(&down),
                    Some(&withdrawn(AcceptedReason::NoImageForPlatform)),
                ],
                Truth::False,
                AcceptedReason::NodesRefused,
            ),
        ];
        for (nodes, truth, reason) in rows {
            let verdict = verdict(nodes.iter().map(|r| ("n", *r)));
            assert_eq!((&verdict.truth, &verdict.reason), (truth, reason));
        }
    }

    #[test]
    fn a_message_names_the_first_few_and_counts_the_rest() {
        let down = withdrawn(AcceptedReason::Downgrade);
        let names = ["n1", "n2", "n3", "n4", "n5"];
        let verdict = verdict(names.map(|n| (n, Some(&down))));
        assert!(verdict.message.starts_with("n1: because of Downgrade; n2"));
        assert!(verdict.message.ends_with("; and 2 more"));
    }
}
