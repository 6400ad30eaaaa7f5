//! From an upgrade, its catalog and the objects that there are to who would go, and who would not.
//!
//! Pure. The decisions are those of `monok8s_api`; this puts them together for one upgrade that is
//! about to be applied.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    ResourceExt,
    core::{Selector, SelectorExt},
};
use monok8s_api::{
    OSNode, OSUpgrade, OSUpgradeProgress, UPGRADE_LABEL, Version,
    catalog::Catalog,
    condition::Truth,
    govern::{self, NodeRefusal, Verdict},
    osupgrade::{Operation, PREVIOUS},
    reason::{AcceptedReason, UpgradePhase},
    resolve::{self, NodeFacts},
};
use serde::Serialize;

use super::{source::NoCatalog, world::World};

/// What would become of one upgrade.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    /// Its name.
    pub(super) upgrade: String,
    /// What it asks for.
    pub(super) desired: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resolved_version: Option<String>,
    /// The phase that it would have to begin with.
    pub(super) phase: UpgradePhase,
    /// Reason of its Accepted condition.
    pub(super) reason: AcceptedReason,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) message: String,
    /// How many nodes would be down at once.
    pub(super) max_unavailable: usize,
    /// Whether nodes are emptied before they reboot.
    pub(super) drained: bool,
    /// Every managed node that it selects.
    pub(super) nodes: Vec<NodePlan>,
}

/// What would become of one node.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodePlan {
    pub(super) node: String,
    /// What it runs; absent when that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    /// What has to end first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waits_for: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "outcome")]
pub(super) enum Outcome {
    /// It is taken through these versions.
    Goes { hops: Vec<String> },
    /// It runs the version.
    There,
    /// It is not taken there.
    Refuses { reason: String, message: String },
    /// A newer upgrade selects it as well.
    GovernedBy { upgrade: String },
    /// Without a catalog that cannot be said.
    Unjudged,
}

impl Plan {
    /// Whether it would be taken as it stands: it is not Rejected, and its catalog could be read.
    /// That no node is there for it yet is no fault of its own.
    pub(super) fn is_sound(&self) -> bool {
        use AcceptedReason as Reason;
        let waits_for_nodes = matches!(
            self.reason,
            Reason::NoMatchingNodes | Reason::NodeVersionUnknown
        );
        self.is_accepted() || waits_for_nodes
    }

    /// Whether anything would come of it.
    pub(super) fn is_accepted(&self) -> bool {
        matches!(self.phase, UpgradePhase::Accepted | UpgradePhase::Completed)
    }
}

/// What would become of `upgrade`, were it applied now.
pub(super) fn plan(
    upgrade: &OSUpgrade,
    catalog: Result<&Option<Catalog>, &NoCatalog>,
    world: &World,
    now: Timestamp,
) -> Plan {
    let existing = world
        .upgrades
        .iter()
        .find(|u| u.name_any() == upgrade.name_any());
    let mut upgrade = upgrade.clone();
    upgrade.metadata.creation_timestamp = existing
        .and_then(|e| e.metadata.creation_timestamp.clone())
        .or(Some(Time(now)));
    let target = match catalog {
        Ok(Some(catalog)) => Target::of(&upgrade, existing, catalog),
        Ok(None) => Target::of_rollback(&upgrade),
        Err(error) => Target::Nowhere {
            named: explicit(&upgrade),
            reason: error.reason.clone(),
            message: error.message.clone(),
        },
    };
    let judge = Judge {
        upgrade: &upgrade,
        target: &target,
        catalog: catalog.ok().and_then(Option::as_ref),
        reports: world.reports.iter().map(|r| (r.name_any(), r)).collect(),
        occupied: occupied(world, &upgrade),
        rivals: rivals(world, &upgrade),
    };
    let selector = govern::selector(&upgrade);
    let mut selected: Vec<&Node> = world
        .nodes
        .iter()
        .filter(|node| govern::is_managed(node.labels()))
        .filter(|node| selector.as_ref().is_ok_and(|s| s.matches(node.labels())))
        .collect();
    selected.sort_by_key(|node| node.name_any());
    let mut judged: Vec<Judged> = selected.into_iter().map(|n| judge.node(n)).collect();
    let verdict = match (&target, selector) {
        (_, Err(error)) => Verdict {
            truth: Truth::False,
            reason: AcceptedReason::InvalidSource,
            message: format!("spec.nodeSelector is none: {error}"),
        },
        (
            Target::Nowhere {
                reason, message, ..
            },
            Ok(_),
        ) => Verdict {
            truth: if reason.on_own_account() {
                Truth::False
            } else {
                Truth::Unknown
            },
            reason: reason.clone(),
            message: message.clone(),
        },
        (Target::Version(_) | Target::Previous, Ok(_)) => verdict(&mut judged),
    };
    let message = match verdict.truth {
        Truth::True => not_yet(&upgrade).unwrap_or_default().to_owned(),
        Truth::False | Truth::Unknown => verdict.message,
    };
    let ours = judged.iter().filter(|j| j.plan.is_ours()).count();
    let all_there = judged
        .iter()
        .filter(|j| j.plan.is_ours())
        .all(|j| matches!(j.plan.outcome, Outcome::There | Outcome::Refuses { .. }));
    Plan {
        upgrade: upgrade.name_any(),
        desired: upgrade.spec.version.clone(),
        resolved_version: target.named().map(ToString::to_string),
        phase: match verdict.truth {
            Truth::True if all_there => UpgradePhase::Completed,
            Truth::True => UpgradePhase::Accepted,
            Truth::False => UpgradePhase::Rejected,
            Truth::Unknown => UpgradePhase::Pending,
        },
        reason: verdict.reason,
        message,
        max_unavailable: upgrade.spec.rollout.max_unavailable_of(ours),
        drained: upgrade.spec.rollout.drain.enabled,
        nodes: judged.into_iter().map(|j| j.plan).collect(),
    }
}

/// What this release accepts and cannot do yet: its agents end such a progress before the first
/// byte.
fn not_yet(upgrade: &OSUpgrade) -> Option<&'static str> {
    if upgrade.spec.operation == Operation::Rollback {
        return Some(
            "this release cannot roll back: each progress would end Failed (RollbackUnavailable)",
        );
    }
    let checks = !upgrade.spec.health.checks.is_empty();
    checks.then_some(
        "this release runs no health checks: each progress would end Failed (PolicyRefused)",
    )
}

/// Where an upgrade leads.
enum Target {
    Version(Version),
    /// Whatever the other slot holds.
    Previous,
    /// Nowhere, for these reasons; it may have named a version all the same.
    Nowhere {
        named: Option<Version>,
        reason: AcceptedReason,
        message: String,
    },
}

impl Target {
    fn of(upgrade: &OSUpgrade, existing: Option<&OSUpgrade>, catalog: &Catalog) -> Self {
        if let Some(version) = existing.and_then(|existing| pinned(upgrade, existing)) {
            return Self::Version(version);
        }
        match resolve::target(catalog, &upgrade.spec.version) {
            Ok(version) => Self::Version(version),
            Err(refusal) => Self::Nowhere {
                named: refusal.resolved_version().cloned(),
                reason: refusal.reason(),
                message: refusal.to_string(),
            },
        }
    }

    fn of_rollback(upgrade: &OSUpgrade) -> Self {
        match explicit(upgrade) {
            Some(version) => Self::Version(version),
            None if upgrade.spec.version == PREVIOUS => Self::Previous,
            None => Self::Nowhere {
                named: None,
                reason: AcceptedReason::InvalidVersion,
                message: "spec.version of a Rollback is a version such as v1.35.1, or previous"
                    .to_owned(),
            },
        }
    }

    fn named(&self) -> Option<&Version> {
        match self {
            Self::Version(version) => Some(version),
            Self::Previous => None,
            Self::Nowhere { named, .. } => named.as_ref(),
        }
    }
}

fn explicit(upgrade: &OSUpgrade) -> Option<Version> {
    upgrade.spec.version.parse().ok()
}

/// The version that the cluster's own upgrade of that name was pinned to, when applying this one
/// would begin no new revision.
fn pinned(upgrade: &OSUpgrade, existing: &OSUpgrade) -> Option<Version> {
    let (new, old) = (&upgrade.spec, &existing.spec);
    let same = new.version == old.version
        && new.operation == old.operation
        && new.catalog == old.catalog
        && new.allow_downgrade == old.allow_downgrade;
    let status = existing
        .status
        .as_ref()
        .filter(|s| same && !s.pinned.is_empty())?;
    status.resolved_version.as_deref()?.parse().ok()
}

/// The other upgrades that may govern a node instead, with their selectors, the newest first.
fn rivals<'w>(world: &'w World, upgrade: &OSUpgrade) -> Vec<(&'w OSUpgrade, Selector)> {
    let mut rivals: Vec<(&OSUpgrade, Selector)> = world
        .upgrades
        .iter()
        .filter(|other| other.name_any() != upgrade.name_any())
        .filter(|other| other.metadata.deletion_timestamp.is_none())
        .filter(|other| !govern::stands_rejected(other))
        .filter(|other| govern::newest_first(other, upgrade).is_lt())
        .filter_map(|other| Some((other, govern::selector(other).ok()?)))
        .collect();
    rivals.sort_by(|(a, _), (b, _)| govern::newest_first(a, b));
    rivals
}

/// The progresses that have begun and belong to somebody else, by node.
fn occupied<'w>(world: &'w World, upgrade: &OSUpgrade) -> HashMap<&'w str, &'w OSUpgradeProgress> {
    let under_way = |progress: &&OSUpgradeProgress| {
        let by_hand = !progress.labels().contains_key(UPGRADE_LABEL);
        let status = progress.status.as_ref();
        let has_begun = status.is_some_and(|s| s.attempt > 0);
        let is_over = status.is_some_and(|s| s.phase.is_terminal());
        !is_over && (by_hand || has_begun)
    };
    world
        .progresses
        .iter()
        .filter(under_way)
        .filter(|p| p.labels().get(UPGRADE_LABEL) != Some(&upgrade.name_any()))
        .map(|p| (p.spec.node_name.as_str(), p))
        .collect()
}

struct Judge<'w> {
    upgrade: &'w OSUpgrade,
    target: &'w Target,
    catalog: Option<&'w Catalog>,
    reports: HashMap<String, &'w OSNode>,
    occupied: HashMap<&'w str, &'w OSUpgradeProgress>,
    rivals: Vec<(&'w OSUpgrade, Selector)>,
}

/// A node's plan, and the refusal behind it.
struct Judged {
    plan: NodePlan,
    refusal: Option<NodeRefusal>,
    governor: Option<String>,
}

impl NodePlan {
    fn is_ours(&self) -> bool {
        !matches!(self.outcome, Outcome::GovernedBy { .. })
    }
}

impl Judge<'_> {
    fn node(&self, node: &Node) -> Judged {
        let name = node.name_any();
        let uid = node.uid().unwrap_or_default();
        let facts = govern::node_facts(&uid, self.reports.get(&name).copied());
        let version = facts.as_ref().ok().map(|f| f.version.to_string());
        let (outcome, refusal) = match facts.map_err(NodeRefusal::from).and_then(|f| self.way(&f)) {
            Ok(outcome) => (outcome, None),
            Err(refusal) => {
                let outcome = Outcome::Refuses {
                    reason: refusal.reason(),
                    message: refusal.to_string(),
                };
                (outcome, Some(refusal))
            }
        };
        let governor = self.rivals.iter().find(|(_, s)| s.matches(node.labels()));
        let occupant = self.occupied.get(name.as_str());
        let goes = matches!(outcome, Outcome::Goes { .. });
        Judged {
            plan: NodePlan {
                waits_for: occupant.filter(|_| goes).map(|p| p.name_any()),
                node: name,
                version,
                outcome,
            },
            refusal,
            governor: governor.map(|(upgrade, _)| upgrade.name_any()),
        }
    }

    fn way(&self, node: &NodeFacts) -> Result<Outcome, NodeRefusal> {
        let rolls_back = self.upgrade.spec.operation == Operation::Rollback;
        let hops = match (self.target, self.catalog) {
            (Target::Version(target), _) if *target == node.version => return Ok(Outcome::There),
            (Target::Version(target), _) if rolls_back => vec![target.to_string()],
            (Target::Previous, _) => vec![PREVIOUS.to_owned()],
            (Target::Version(target), Some(catalog)) => {
                let allow_downgrade = self.upgrade.spec.allow_downgrade;
                let hops = resolve::path(catalog, target, node, allow_downgrade)?;
                hops.iter().map(|hop| hop.version.to_string()).collect()
            }
            (Target::Version(_), None) | (Target::Nowhere { .. }, _) => {
                return Ok(Outcome::Unjudged);
            }
        };
        Ok(Outcome::Goes { hops })
    }
}

/// What the nodes make of the upgrade, and from then on who governs each of them. A fault of the
/// catalog on any node's path condemns the upgrade, and then it governs none.
fn verdict(judged: &mut [Judged]) -> Verdict {
    let of = |nodes: &[&Judged]| {
        let refusals = nodes
            .iter()
            .map(|j| (j.plan.node.as_str(), j.refusal.as_ref()));
        govern::verdict(refusals)
    };
    let over_all = of(&judged.iter().collect::<Vec<_>>());
    if over_all.truth == Truth::False && over_all.reason.on_own_account() {
        return over_all;
    }
    let (free, taken): (Vec<_>, Vec<_>) = judged.iter().partition(|j| j.governor.is_none());
    let verdict = if free.is_empty() && !taken.is_empty() {
        let names: BTreeSet<&str> = taken.iter().filter_map(|j| j.governor.as_deref()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        Verdict {
            truth: Truth::False,
            reason: AcceptedReason::Superseded,
            message: format!(
                "a newer OSUpgrade governs every node that this one selects: {}",
                names.join(", ")
            ),
        }
    } else {
        of(&free)
    };
    for node in judged {
        if let Some(upgrade) = node.governor.take() {
            node.plan.outcome = Outcome::GovernedBy { upgrade };
            node.plan.waits_for = None;
        }
    }
    verdict
}
