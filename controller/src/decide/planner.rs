//! The whole decision: from the index to what is to be written.

use std::collections::{BTreeSet, HashMap};

use kube::core::SelectorExt;

use super::{
    Moment, Settings,
    drains::Drains,
    halt::Halt,
    judge::Judge,
    place::{self, NodeCase},
    plan::Plan,
    release::ControlPlane,
    standing::{Case, Standing},
    tally::Tally,
    tidy::tidy,
};
use crate::index::{Index, Node, Origin, Progress, Upgrade};

/// A node that some upgrade selects, and who governs it.
struct Governed<'a> {
    node: &'a Node,
    /// Which of the cases; none when nobody does.
    by: Option<usize>,
}

/// Plans what is to be done now.
pub fn plan(index: &Index, settings: &Settings, now: Moment) -> Plan {
    let mut plan = Plan::default();
    let mut cases: Vec<Case<'_>> = index
        .upgrades()
        .filter(|u| !u.is_being_deleted())
        .map(Case::new)
        .collect();
    cases.sort_by(|a, b| b.upgrade.seniority.cmp(&a.upgrade.seniority));

    let managed: Vec<&Node> = index.nodes().filter(|n| n.managed).collect();
    let matched: Vec<Vec<usize>> = cases
        .iter()
        .map(|c| matching(c.upgrade, &managed))
        .collect();
    for (case, nodes) in cases.iter_mut().zip(&matched) {
        condemn(
            case,
            nodes.iter().filter_map(|at| managed.get(*at).copied()),
        );
    }

    let mut governed: Vec<Governed<'_>> = managed
        .iter()
        .map(|node| Governed { node, by: None })
        .collect();
    for (at, _) in cases.iter().enumerate().filter(|(_, c)| c.governs()) {
        for node in matched.get(at).into_iter().flatten() {
            if let Some(node) = governed.get_mut(*node) {
                node.by.get_or_insert(at);
            }
        }
    }

    let mut stands: HashMap<&str, usize> = HashMap::with_capacity(governed.len());
    let mut teams: Vec<Vec<NodeCase<'_>>> = cases.iter().map(|_| Vec::new()).collect();
    for node in &governed {
        if let Some((by, case)) = node.by.and_then(|by| Some((by, cases.get(by)?))) {
            stands.insert(&node.node.name, by);
            if let Some(team) = teams.get_mut(by) {
                team.push(place::place(case, node.node, index));
            }
        }
    }

    let strays = strays(index, &cases, &stands);
    tidy(&mut plan, index, &cases, &stands);
    let counted: Vec<(Tally, Halt)> = cases
        .iter()
        .zip(&teams)
        .zip(&strays)
        .map(|((case, team), strays)| {
            let fresh = case.has_fresh_catalog(now.clock, settings.catalog_age);
            count(case, team, strays, &stands, fresh)
        })
        .collect();
    let drains = Drains {
        index,
        settings,
        now,
        cases: &cases,
        teams: &teams,
        strays: &strays,
        counted: &counted,
    };
    let drained = drains.plan(&mut plan);
    let held = |p: &Progress| counted.iter().any(|(_, halt)| halt.holds(p));
    let control_plane = ControlPlane::of(index, &teams, held);
    for ((at, case), (tally, halt)) in cases.iter().enumerate().zip(&counted) {
        let team = teams.get(at).map_or(&[][..], Vec::as_slice);
        let reached = matched.get(at).map_or(&[][..], Vec::as_slice);
        let rivals = if team.is_empty() {
            rivals(reached, &governed, &cases)
        } else {
            Vec::new()
        };
        let judge = Judge {
            settings,
            now,
            case,
            team,
            tally,
            halt,
            strays: strays.get(at).map_or(&[][..], Vec::as_slice),
            drained: drained.get(at).map_or(&[][..], Vec::as_slice),
            control_plane: &control_plane,
        };
        judge.judge(reached.len(), &rivals, &mut plan);
    }
    plan
}

/// How many nodes of an upgrade stand where, and whether that stops it.
fn count(
    case: &Case<'_>,
    team: &[NodeCase<'_>],
    strays: &[&Progress],
    stands: &HashMap<&str, usize>,
    fresh: bool,
) -> (Tally, Halt) {
    let mut tally = Tally::of(case, team, strays);
    let current = |p: &Progress| p.belongs_to(case.upgrade.uid(), case.revision);
    let nobodys = strays.iter().copied();
    let nobodys = nobodys.filter(|p| current(p) && !stands.contains_key(p.node_name()));
    let halt = Halt::of(case, team, nobodys, &tally, fresh);
    tally.hold(halt.held());
    (tally, halt)
}

/// For each upgrade its progresses on nodes that it does not govern.
fn strays<'a>(
    index: &'a Index,
    cases: &[Case<'_>],
    stands: &HashMap<&str, usize>,
) -> Vec<Vec<&'a Progress>> {
    let mut strays: Vec<Vec<&Progress>> = cases.iter().map(|_| Vec::new()).collect();
    let by_uid: HashMap<&str, usize> = (0..)
        .zip(cases)
        .map(|(i, c)| (c.upgrade.uid(), i))
        .collect();
    for progress in index.progresses() {
        let Origin::Controller { upgrade, .. } = &progress.origin else {
            continue;
        };
        let at = by_uid.get(upgrade.as_str()).copied();
        if at != stands.get(progress.node_name()).copied()
            && let Some(strays) = at.and_then(|at| strays.get_mut(at))
        {
            strays.push(progress);
        }
    }
    strays
}

/// Who governs these nodes.
fn rivals<'c, 'a>(
    reached: &[usize],
    governed: &[Governed<'a>],
    cases: &'c [Case<'a>],
) -> Vec<&'c Case<'a>> {
    let by: BTreeSet<usize> = reached
        .iter()
        .filter_map(|node| governed.get(*node)?.by)
        .collect();
    by.into_iter().filter_map(|at| cases.get(at)).collect()
}

fn matching(upgrade: &Upgrade, nodes: &[&Node]) -> Vec<usize> {
    let Some(selector) = &upgrade.selector else {
        return Vec::new();
    };
    nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| selector.matches(&node.labels))
        .map(|(at, _)| at)
        .collect()
}

/// A fault of the catalog on the path of any node that is matched makes the whole upgrade wrong on
/// its own account. Judged before governance, or the two would chase each other.
fn condemn<'a>(case: &mut Case<'a>, nodes: impl Iterator<Item = &'a Node>) {
    if case.pinned || case.target().is_none() {
        return;
    }
    let fault = nodes
        .into_iter()
        .find_map(|node| case.is_condemned_by(node));
    if let Some((reason, message)) = fault {
        case.standing = Standing::Rejected { reason, message };
    }
}
