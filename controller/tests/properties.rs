//! Random fleets under random trouble: what must hold whatever happens.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod fleet;

use fleet::{Fate, Fleet, phase, spec};
use kube::ResourceExt;
use monok8s_api::reason::{ProgressPhase, UpgradePhase};
use monok8s_controller::decide::planner;
use proptest::prelude::*;

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
    DeleteProgress(prop::sample::Index),
    Managed(prop::sample::Index, bool),
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
        1 => which().prop_map(H::DeleteProgress),
        1 => (which(), any::<bool>()).prop_map(|(i, m)| H::Managed(i, m)),
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
                fleet.touch(name, |p| {
                    p.spec.retry_nonce = nonce;
                    p.spec.cancel = false;
                });
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
        H::Managed(i, managed) => {
            if let Some(node) = pick(*i, &nodes) {
                fleet.label(node, "monok8s.io/managed", &managed.to_string());
            }
        }
        H::DeleteProgress(i) => {
            if let Some(name) = pick(*i, &progresses) {
                fleet.progresses.remove(name);
            }
        }
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

            // No memory: who begins now decides the same.
            prop_assert_eq!(&plan.releases, &anew.releases);
            prop_assert_eq!(&plan.deletions, &anew.deletions);
            prop_assert_eq!(&plan.amendments, &anew.amendments);
            prop_assert_eq!(&plan.creations, &anew.creations);
            prop_assert_eq!(plan.statuses.len(), anew.statuses.len());
            for (a, b) in plan.statuses.iter().zip(&anew.statuses) {
                prop_assert_eq!(&a.status, &b.status);
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
            fleet.carry_out(plan.clone());
            if twice {
                fleet.carry_out(plan);
            }
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
        fleet.amend("first", |s| s.paused = false);
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
            let newest = if fleet.upgrades.contains_key("second") { "second" } else { "first" };
            let done = matches!(
                fleet.status(newest).phase,
                UpgradePhase::Completed | UpgradePhase::Rejected
            );
            if done {
                break;
            }
            prop_assert!(round < 199, "no end: {:#?}", fleet.status(newest));
            for name in failed {
                fleet.touch(&name, |p| {
                    p.spec.retry_nonce = format!("again-{round}");
                    p.spec.cancel = false;
                });
                fleet.settle();
                fleet.step(&name, Fate::Well);
            }
        }
    }
}
