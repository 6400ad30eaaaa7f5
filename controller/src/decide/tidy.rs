//! Progresses that nobody wants any more, that wait for another turn, or that are history.

use std::collections::{HashMap, HashSet};

use kube::ResourceExt;
use monok8s_api::osupgradeprogress::Release;

use super::{
    plan::{Amendment, Deletion, Plan, Why},
    standing::{Case, Standing},
};
use crate::index::{Index, Origin, Progress};

/// Most progresses that one plan deletes or amends; the rest follows in the next.
pub const MAX_DELETIONS: usize = 200;
/// Finished progresses kept per node and upgrade.
pub const KEPT_FINISHED: usize = 3;

/// What is to be done about progresses whatever becomes of their upgrade: those that nobody wants
/// any more, those that ended and have to wait for another turn, those that are history.
pub(super) fn tidy(
    plan: &mut Plan,
    index: &Index,
    cases: &[Case<'_>],
    stands: &HashMap<&str, usize>,
) {
    let by_uid: HashMap<&str, usize> = cases
        .iter()
        .enumerate()
        .map(|(at, case)| (case.upgrade.uid(), at))
        .collect();
    let living: HashSet<&str> = index.nodes().map(|n| n.uid.as_str()).collect();
    let mut finished: HashMap<(&str, &str), Vec<&Progress>> = HashMap::new();
    for progress in index.progresses() {
        let Origin::Controller { upgrade, revision } = &progress.origin else {
            continue;
        };
        // Without its upgrade a progress belongs to the garbage collector.
        let Some((at, case)) = by_uid
            .get(upgrade.as_str())
            .and_then(|at| Some((*at, cases.get(*at)?)))
        else {
            continue;
        };
        if progress.is_being_deleted() {
            continue;
        }
        let node = index.node(progress.node_name());
        // Ours by its name, but not for the node that the name was made of: somebody wrote it.
        let of_another = node
            .is_none_or(|n| progress.object.spec.node_uid.as_deref() != Some(&n.uid))
            && progress
                .object
                .spec
                .node_uid
                .as_deref()
                .is_some_and(|uid| living.contains(uid));
        if of_another {
            continue;
        }
        let same_node =
            node.is_some_and(|n| progress.object.spec.node_uid.as_deref() == Some(n.uid.as_str()));
        let governor = stands.get(progress.node_name()).copied();
        let wanted = same_node && governor == Some(at) && *revision == case.revision;
        let undecided = case.standing == Standing::Undecided
            || governor
                .and_then(|by| cases.get(by))
                .is_some_and(|by| by.standing == Standing::Undecided);

        if node.is_some() && !same_node && progress.is_over() {
            plan.deletions
                .push(Deletion::of(progress, Why::NodeReplaced));
        } else if !wanted && !progress.has_begun() {
            if !undecided {
                plan.deletions.push(Deletion::of(progress, Why::Superseded));
            }
        } else if progress.phase().can_retry() && progress.object.spec.release != Release::Hold {
            plan.amendments.push(Amendment {
                release: Some(Release::Hold),
                ..Amendment::of(progress)
            });
        } else if progress.is_over() {
            finished
                .entry((progress.node_name(), upgrade))
                .or_default()
                .push(progress);
        }
    }
    for mut finished in finished.into_values().filter(|f| f.len() > KEPT_FINISHED) {
        finished.sort_by_key(|p| {
            let revision = match p.origin {
                Origin::Controller { revision, .. } => revision,
                Origin::HandMade => 0,
            };
            std::cmp::Reverse((
                revision,
                // What ended badly is what a person may still want to retry.
                p.phase().can_retry(),
                p.object.creation_timestamp(),
                p.name(),
            ))
        });
        let old = finished.into_iter().skip(KEPT_FINISHED);
        plan.deletions
            .extend(old.map(|p| Deletion::of(p, Why::History)));
    }
    plan.deletions.sort_by(|a, b| a.name.cmp(&b.name));
    plan.more |= plan.deletions.len() > MAX_DELETIONS || plan.amendments.len() > MAX_DELETIONS;
    plan.deletions.truncate(MAX_DELETIONS);
    plan.amendments.truncate(MAX_DELETIONS);
}
