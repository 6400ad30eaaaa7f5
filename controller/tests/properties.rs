//! Random fleets under random trouble: what must hold whatever happens.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure here is a failed test"
)]

mod fleet;

use std::time::Duration;

use fleet::{Fate, Fleet, phase, spec};
use kube::ResourceExt;
use monok8s_api::{
    CORDON_ANNOTATION,
    osupgrade::OnDeadline,
    osupgradeprogress::Release,
    reason::{ProgressPhase, UpgradePhase},
};
use monok8s_controller::decide::{plan::Plan, planner};
use proptest::prelude::*;
use serde_json::json;

const VERSIONS: [&str; 4] = ["v1.33.4", "v1.34.6", "v1.35.1", "v1.35.2"];

/// What happens between two plans.
#[derive(Clone, Debug)]
enum Happening {
    Agent(prop::sample::Index, Fate),
    /// A second controller that sees the same objects plans too, and both write.
    TwoLeaders,
    /// The index is thrown away and made anew.
    NewLeader,
    Ready(prop::sample::Index, bool),
    Retry(prop::sample::Index),
    Cancel(prop::sample::Index),
    Pause(bool),
    Pace(i32),
    MaxFailures(i32),
    Wish(prop::sample::Index),
    SecondUpgrade,
    DeleteUpgrade(prop::sample::Index),
    MakeNodeAgain(prop::sample::Index),
    /// A machine is taken away, and its `OSNode` with the Node.
    DeleteNode(prop::sample::Index),
    DeleteProgress(prop::sample::Index),
    Managed(prop::sample::Index, bool),
    /// A pod appears on a node, whatever its cordon: a DaemonSet's, a budget's, one that takes its
    /// time, one that nobody makes again.
    Pod(prop::sample::Index, u8),
    /// A budget that refused allows it.
    Allow(prop::sample::Index),
    CordonByHand(prop::sample::Index, bool),
    Drain(bool),
    OnDeadline(OnDeadline),
    ControlPlane(prop::sample::Index),
    Taint(prop::sample::Index, bool),
    Time(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    let which = any::<prop::sample::Index>;
    let fate = || prop_oneof![5 => Just(Fate::Well), 1 => Just(Fate::Badly)];
    prop_oneof![
        30 => (which(), fate()).prop_map(|(i, f)| H::Agent(i, f)),
        3 => Just(H::TwoLeaders),
        2 => Just(H::NewLeader),
        2 => (which(), any::<bool>()).prop_map(|(i, r)| H::Ready(i, r)),
        3 => which().prop_map(H::Retry),
        1 => which().prop_map(H::Cancel),
        1 => any::<bool>().prop_map(H::Pause),
        1 => (1..4).prop_map(H::Pace),
        1 => (0..3).prop_map(H::MaxFailures),
        1 => which().prop_map(H::Wish),
        1 => Just(H::SecondUpgrade),
        1 => which().prop_map(H::DeleteUpgrade),
        1 => which().prop_map(H::MakeNodeAgain),
        1 => which().prop_map(H::DeleteNode),
        1 => which().prop_map(H::DeleteProgress),
        1 => (which(), any::<bool>()).prop_map(|(i, m)| H::Managed(i, m)),
        8 => (which(), 0..6_u8).prop_map(|(i, kind)| H::Pod(i, kind)),
        2 => which().prop_map(H::Allow),
        3 => (which(), any::<bool>()).prop_map(|(i, c)| H::CordonByHand(i, c)),
        1 => any::<bool>().prop_map(H::Drain),
        1 => prop_oneof![Just(OnDeadline::Abort), Just(OnDeadline::Force), Just(OnDeadline::Wait)]
            .prop_map(H::OnDeadline),
        1 => which().prop_map(H::ControlPlane),
        1 => (which(), any::<bool>()).prop_map(|(i, t)| H::Taint(i, t)),
        2 => prop_oneof![Just(1_u64), Just(40), Just(901)].prop_map(H::Time),
    ]
}

fn pick<T>(index: prop::sample::Index, from: &[T]) -> Option<&T> {
    (!from.is_empty()).then(|| index.get(from))
}

fn happen(fleet: &mut Fleet, happening: &Happening) {
    use Happening as H;
    fleet.clock += 1;
    let nodes: Vec<String> = fleet.nodes.keys().cloned().collect();
    let progresses: Vec<String> = fleet.progresses.keys().cloned().collect();
    let upgrades: Vec<String> = fleet.upgrades.keys().cloned().collect();
    match happening {
        H::Agent(i, fate) => {
            if let Some(name) = pick(*i, &progresses) {
                fleet.step(name, *fate);
            }
        }
        H::TwoLeaders | H::NewLeader => {}
        H::Ready(i, ready) => {
            if let Some(node) = pick(*i, &nodes) {
                fleet.set_ready(node, *ready);
            }
        }
        H::Retry(i) => {
            if let Some(name) = pick(*i, &progresses) {
                let nonce = fleet.clock.to_string();
                retry(fleet, name, nonce);
            }
        }
        H::Cancel(i) => {
            if let Some(name) = pick(*i, &progresses) {
                fleet.touch(name, |p| p.spec.cancel = true);
            }
        }
        H::Pause(paused) => fleet.amend("first", |s| s.paused = *paused),
        H::Pace(max) => fleet.amend("first", |s| {
            s.rollout.max_unavailable =
                k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(*max);
        }),
        H::MaxFailures(max) => fleet.amend("first", |s| s.rollout.max_failures = *max),
        H::Wish(i) => fleet.amend("first", |s| {
            (*i.get(&VERSIONS[1..])).clone_into(&mut s.version);
        }),
        H::SecondUpgrade => fleet.apply("second", spec("v1.35.1", &VERSIONS)),
        H::DeleteUpgrade(i) => {
            // The garbage collector takes its progresses along.
            if let Some(name) = pick(*i, &upgrades).filter(|n| *n != "first") {
                let uid = fleet.upgrades.remove(name).unwrap().uid();
                fleet
                    .progresses
                    .retain(|_, p| p.owner_references().first().map(|o| o.uid.clone()) != uid);
            }
        }
        H::MakeNodeAgain(i) => {
            if let Some(node) = pick(*i, &nodes) {
                let version = fleet.version_of(node).to_owned();
                fleet.nodes.remove(node);
                fleet.add_node(node, &version);
            }
        }
        H::DeleteNode(i) => {
            if let Some(node) = pick(*i, &nodes).filter(|_| nodes.len() > 1) {
                fleet.nodes.remove(node);
                fleet.reports.remove(node);
            }
        }
        H::Managed(i, managed) => {
            if let Some(node) = pick(*i, &nodes) {
                fleet.label(node, "monok8s.io/managed", &managed.to_string());
            }
        }
        H::Pod(i, kind) => {
            if let Some(node) = pick(*i, &nodes) {
                add_pod(fleet, node, *kind);
            }
        }
        H::Allow(i) => {
            let names: Vec<String> = fleet.refused.keys().cloned().collect();
            if let Some(name) = pick(*i, &names) {
                fleet.refused.remove(name);
            }
        }
        H::CordonByHand(i, cordon) => {
            if let Some(node) = pick(*i, &nodes) {
                fleet.cordon_by_hand(node, *cordon);
            }
        }
        H::Drain(enabled) => fleet.amend("first", |s| s.rollout.drain.enabled = *enabled),
        H::OnDeadline(what) => fleet.amend("first", |s| s.rollout.drain.on_deadline = *what),
        H::ControlPlane(i) => {
            if let Some(node) = pick(*i, &nodes) {
                fleet.label(node, "node-role.kubernetes.io/control-plane", "");
            }
        }
        H::Taint(i, tainted) => {
            if let Some(node) = pick(*i, &nodes) {
                taint(fleet, node, *tainted);
            }
        }
        H::Time(seconds) => fleet.clock += seconds,
        H::DeleteProgress(i) => {
            if let Some(name) = pick(*i, &progresses) {
                fleet.progresses.remove(name);
            }
        }
    }
}

fn retry(fleet: &mut Fleet, progress: &str, nonce: String) {
    fleet.touch(progress, |p| {
        p.spec.retry_nonce = nonce;
        p.spec.cancel = false;
    });
}

fn taint(fleet: &mut Fleet, node: &str, tainted: bool) {
    let taint = json!([{"key": "pool", "effect": "NoSchedule"}]);
    let taints = if tainted { taint } else { json!([]) };
    fleet.change_node(node, |n| {
        n.spec.taints = serde_json::from_value(taints).unwrap();
    });
}

fn add_pod(fleet: &mut Fleet, node: &str, kind: u8) {
    let name = format!(
        "{}-{}",
        ["web", "daemon", "budget", "slow", "lonely", "cache"][usize::from(kind)],
        fleet.clock
    );
    let change = match kind {
        1 => json!({"metadata": {"ownerReferences": [
            {"kind": "DaemonSet", "apiVersion": "apps/v1", "name": "d", "uid": "d", "controller": true}]}}),
        3 => json!({"spec": {"terminationGracePeriodSeconds": 300}}),
        4 => json!({"metadata": {"ownerReferences": null}}),
        5 => json!({"spec": {"priority": 7, "volumes": [{"name": "v", "emptyDir": {}}]}}),
        _ => json!({}),
    };
    if kind == 2 {
        fleet
            .refused
            .insert(name.clone(), "PodDisruptionBudget default/b: no".into());
    }
    fleet.add_pod(&name, node, &change);
}

/// What must hold of every pod that is asked to go, whatever happens.
fn check_asks(fleet: &Fleet, plan: &Plan) -> Result<(), TestCaseError> {
    let work = &plan.drain;
    for ask in &work.asks {
        let own_taints = &fleet.nodes[&ask.node].spec.taints;
        let tolerates = |n: &String| {
            fleet.nodes[n]
                .spec
                .taints
                .iter()
                .all(|t| own_taints.contains(t))
        };
        let pod = &fleet.pods[&ask.pod.uid];
        prop_assert!(!pod.name_any().starts_with("daemon"), "a DaemonSet's pod");
        prop_assert!(
            !pod.name_any().starts_with("lonely"),
            "deleteUnmanaged is false"
        );
        prop_assert!(fleet.is_cordoned(&ask.node), "{} is not cordoned", ask.node);
        prop_assert!(fleet.is_ready(&ask.node), "{} is not Ready", ask.node);
        let elsewhere = fleet
            .nodes
            .keys()
            .any(|n| *n != ask.node && fleet.is_ready(n) && !fleet.is_cordoned(n) && tolerates(n));
        prop_assert!(
            elsewhere,
            "there is nowhere else for the pods of {}",
            ask.node
        );
        let drained = fleet
            .progresses
            .values()
            .find(|p| p.uid().as_ref() == Some(&ask.progress_uid));
        let drained = drained.expect("a drain has its progress");
        prop_assert_eq!(&drained.spec.node_name, &ask.node);
        prop_assert_eq!(phase(drained), ProgressPhase::Staged);
        prop_assert_eq!(drained.spec.release, Release::Stage);
        prop_assert!(!drained.spec.cancel);
    }
    for node in work.asks.iter().map(|ask| &ask.node) {
        let asks = work.asks.iter().filter(|ask| ask.node == *node);
        let priorities: Vec<i32> = asks
            .map(|ask| fleet.pods[&ask.pod.uid].spec.priority.unwrap_or(0))
            .collect();
        prop_assert!(priorities.is_sorted(), "{priorities:?}");
    }
    Ok(())
}

/// What must hold of every node that is let go, into its reboot or after it.
fn check_let_go(fleet: &Fleet, plan: &Plan) -> Result<(), TestCaseError> {
    let work = &plan.drain;
    for reboot in &work.reboots {
        let progress = &fleet.progresses[&reboot.amendment.name];
        prop_assert_eq!(phase(progress), ProgressPhase::Staged);
        prop_assert_eq!(progress.spec.release, Release::Stage);
        prop_assert!(fleet.is_ready(&reboot.node));
    }
    for uncordon in &work.uncordons {
        let node = &fleet.nodes[&uncordon.node.name];
        let uid = node.annotations().get(CORDON_ANNOTATION);
        prop_assert!(uid.is_some(), "nobody's cordon but ours");
        let by_others = node
            .metadata
            .managed_fields
            .iter()
            .flatten()
            .any(|f| f.manager.as_deref() == Some("kubectl"));
        prop_assert!(!(uncordon.lift && by_others), "a person's cordon is lifted");
        let drained = fleet.progresses.values().find(|p| p.uid().as_ref() == uid);
        // What was stopped at `Stage` cannot reboot any more, even if its agent has not answered yet.
        let over = drained.is_none_or(|p| {
            let stopped = p.spec.cancel
                || p.metadata.deletion_timestamp.is_some()
                || !fleet.upgrades.contains_key(&p.spec.source_ref.name);
            let held = work.held.contains(&p.name_any());
            phase(p).is_terminal()
                || p.spec.release == Release::Hold
                || (p.spec.release == Release::Stage && (stopped || held))
        });
        prop_assert!(over, "{} is still under way", uncordon.node.name);
    }
    // At most one node of the control plane is let go down, and none while another one is not Ready.
    let is_control_plane = |name: &str| {
        fleet.nodes[name]
            .labels()
            .contains_key("node-role.kubernetes.io/control-plane")
    };
    let let_go: Vec<&String> = work
        .reboots
        .iter()
        .map(|r| &r.node)
        .filter(|n| is_control_plane(n))
        .collect();
    prop_assert!(let_go.len() <= 1, "{let_go:?}");
    if let Some(node) = let_go.first() {
        let down = fleet
            .nodes
            .keys()
            .find(|n| n != node && is_control_plane(n) && !fleet.is_ready(n));
        prop_assert!(down.is_none(), "{node} is to go down beside {down:?}");
    }
    Ok(())
}

/// A halted upgrade neither empties nor reboots the nodes that it governs.
fn check_halts(fleet: &Fleet, plan: &Plan) -> Result<(), TestCaseError> {
    let work = &plan.drain;
    let touched = (work.cordons.iter().map(|c| &c.progress_uid))
        .chain(work.asks.iter().map(|a| &a.progress_uid))
        .chain(work.reboots.iter().map(|r| &r.amendment.uid));
    for uid in touched {
        let drained = fleet.progresses.values();
        let mut drained = drained.filter(|p| p.uid().as_ref() == Some(uid));
        let progress = drained.next().expect("a drain has its progress");
        let node = &progress.spec.node_name;
        let upgrade = &fleet.upgrades[&progress.spec.source_ref.name];
        // The status that goes with what is done: written before it, or up to date.
        let written = plan
            .statuses
            .iter()
            .find(|write| write.upgrade.uid() == upgrade.uid())
            .map(|write| &write.status);
        let Some(status) = written.or(upgrade.status.as_ref()) else {
            continue;
        };
        let revision = status.revision.unwrap_or(0).to_string();
        let managed = fleet.nodes[node].labels()["monok8s.io/managed"] == "true";
        let governs = (upgrade.name_any() == newest(fleet) || !managed)
            && progress.labels()["monok8s.io/revision"] == revision;
        let failed = status
            .nodes
            .as_ref()
            .map_or(0, |n| n.failed + n.rolled_back);
        prop_assert!(
            !governs || failed <= upgrade.spec.rollout.max_failures,
            "{node} is drained or rebooted after {failed} failures"
        );
    }
    Ok(())
}

/// Of the upgrades that select all managed nodes the one that governs them, unless it is rejected.
fn newest(fleet: &Fleet) -> &'static str {
    if fleet.upgrades.contains_key("second") {
        "second"
    } else {
        "first"
    }
}

/// Nodes that count against the pace of an upgrade: of those it selects the ones that are not Ready
/// or have a released progress, and of the others the ones with a released progress of its own.
fn unavailable(fleet: &Fleet, upgrade: &str) -> usize {
    let released = fleet.released();
    let own = fleet.released_by(upgrade);
    fleet
        .nodes
        .iter()
        .filter(|(name, node)| {
            if node.labels()["monok8s.io/managed"] == "true" {
                released.contains(name) || !fleet.is_ready(name)
            } else {
                own.contains(name)
            }
        })
        .count()
}

/// Each case is a whole rollout: fewer than usual, unless `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default.cases,
        None => 64,
    };
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens(
        count in 1..6_usize,
        max in 1..4_i32,
        max_failures in 0..3_i32,
        happenings in prop::collection::vec(happening(), 1..120),
    ) {
        let mut fleet = Fleet::of(count, VERSIONS[0]);
        // How long something has stood still is the one other thing that is remembered.
        fleet.settings.stall_after = Duration::from_secs(1 << 20);
        let mut first = spec("v1.35.2", &VERSIONS);
        first["rollout"] =
            serde_json::json!({"maxUnavailable": max, "maxFailures": max_failures});
        fleet.apply("first", first);
        let mut index = fleet.index();

        for happening in &happenings {
            happen(&mut fleet, happening);
            if matches!(happening, Happening::NewLeader) {
                index = fleet.index();
            }
            fleet.feed(&mut index);
            let plan = planner::plan(&index, &fleet.settings, fleet.now());
            let anew = fleet.plan();
            check_asks(&fleet, &plan)?;
            check_let_go(&fleet, &plan)?;
            check_halts(&fleet, &plan)?;

            // No memory: who begins now decides the same, but for the clock of a drain and for how
            // long there has been no other node.
            prop_assert_eq!(&plan.releases, &anew.releases);
            prop_assert_eq!(&plan.deletions, &anew.deletions);
            prop_assert_eq!(&plan.creations, &anew.creations);
            if plan.drain.going_on.is_empty() && anew.drain.nowhere.is_empty() {
                prop_assert_eq!(&plan.amendments, &anew.amendments);
                prop_assert_eq!(plan.statuses.len(), anew.statuses.len());
                for (a, b) in plan.statuses.iter().zip(&anew.statuses) {
                    prop_assert_eq!(&a.status, &b.status);
                }
            }

            // A release is only ever of what was held, and of one progress per node.
            let mut released_nodes = Vec::new();
            for release in &plan.releases {
                let progress = &fleet.progresses[&release.name];
                prop_assert_eq!(phase(progress), ProgressPhase::Pending);
                let node = progress.spec.node_name.clone();
                prop_assert!(!released_nodes.contains(&node));
                prop_assert!(!fleet.released().contains(&node), "{} is occupied", node);
                released_nodes.push(node);
            }

            let releasing = plan
                .releases
                .first()
                .map(|r| fleet.progresses[&r.name].spec.source_ref.name.clone());
            for upgrade in fleet.upgrades.values() {
                let of_this = plan.releases.iter().any(|r| {
                    fleet.progresses[&r.name].spec.source_ref.name == upgrade.name_any()
                });
                if !of_this {
                    continue;
                }
                let status = upgrade.status.clone().unwrap_or_default();
                let revision = status.revision.unwrap_or(0).to_string();
                let failed = fleet
                    .progresses
                    .values()
                    .filter(|p| p.spec.source_ref.name == upgrade.name_any())
                    .filter(|p| p.labels().get("monok8s.io/revision") == Some(&revision))
                    .filter(|p| {
                        matches!(phase(p), ProgressPhase::Failed | ProgressPhase::RolledBack)
                            && fleet.nodes.get(&p.spec.node_name).and_then(ResourceExt::uid).as_deref()
                                == p.spec.node_uid.as_deref()
                    })
                    .count();
                let max_failures = usize::try_from(upgrade.spec.rollout.max_failures).unwrap();
                prop_assert!(failed <= max_failures, "released after {failed} failures");
            }

            // Two that saw the same write the same; the second's preconditions fail.
            let twice = matches!(happening, Happening::TwoLeaders);
            fleet.end_pods();
            fleet.carry_out(plan.clone());
            if twice {
                fleet.carry_out(plan);
            }
            fleet.remember(&mut index);
            if let Some(upgrade) = releasing {
                let max = fleet.upgrades[&upgrade]
                    .spec
                    .rollout
                    .max_unavailable_of(fleet.nodes.len());
                prop_assert!(
                    unavailable(&fleet, &upgrade) <= max,
                    "{} of {} unavailable", unavailable(&fleet, &upgrade), max
                );
            }
        }

        // And when the trouble ends, so does the rollout.
        fleet.amend("first", |s| {
            s.paused = false;
            s.rollout.drain.delete_unmanaged = true;
            // A person's cordon and a taint stay: with nowhere to go, a pod is waited for as long as that is wished.
            if s.rollout.drain.on_deadline == OnDeadline::Wait {
                s.rollout.drain.on_deadline = OnDeadline::Abort;
            }
        });
        if fleet.upgrades.contains_key("second") {
            fleet.amend("second", |s| s.rollout.drain.delete_unmanaged = true);
        }
        fleet.refused.clear();
        // A person deletes what is left of machines that will not come back.
        let Fleet { nodes, progresses, .. } = &mut fleet;
        progresses.retain(|_, p| nodes.contains_key(&p.spec.node_name));
        for node in fleet.nodes.keys().cloned().collect::<Vec<_>>() {
            fleet.set_ready(&node, true);
            fleet.label(&node, "monok8s.io/managed", "true");
        }
        for round in 0..200 {
            fleet.run(|_| Fate::Well);
            let failed: Vec<String> = fleet
                .progresses
                .values()
                .filter(|p| phase(p).can_retry())
                .map(ResourceExt::name_any)
                .collect();
            let newest = newest(&fleet);
            let done = matches!(
                fleet.status(newest).phase,
                UpgradePhase::Completed | UpgradePhase::Rejected
            );
            if done {
                break;
            }
            prop_assert!(round < 199, "no end: {:#?}", fleet.status(newest));
            for node in fleet.nodes.keys() {
                prop_assert_eq!(fleet.cordoned_for(node), None, "{} is not let go", node);
            }
            for name in failed {
                retry(&mut fleet, &name, format!("again-{round}"));
                fleet.settle();
                fleet.step(&name, Fate::Well);
            }
        }
    }
}
