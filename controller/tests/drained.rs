//! What a drain does to nodes and pods, by whom it is held up, and what it says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

mod fleet;

use fleet::{Fate, Fleet, catalog, phase, spec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use monok8s_api::{
    GoDuration, OSUpgradeProgress,
    osupgrade::OnDeadline,
    osupgradeprogress::Release,
    reason::{ProgressPhase, UpgradePhase},
};
use monok8s_controller::{
    decide::{plan::Urgency, planner},
    index::{Index, Taint},
};
use serde_json::{Value, json};

const VERSIONS: [&str; 4] = ["v1.33.4", "v1.34.6", "v1.35.1", "v1.35.3"];
/// What somebody does to the fleet.
type Act = fn(&mut Fleet);

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

fn started(mut fleet: Fleet) -> Fleet {
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.settle();
    fleet
}

/// So many nodes, and another one that is not upgraded.
fn beside_z(count: usize) -> Fleet {
    let mut fleet = Fleet::of(count, "v1.34.1");
    fleet.add_node("z", "v1.35.1");
    fleet.label("z", "monok8s.io/managed", "false");
    fleet
}

/// Takes the first node's progress to `Staged`, and the controller with it.
fn staged(fleet: &mut Fleet, node: &str) -> String {
    let name = fleet.progress_of(node).name_any();
    for _ in 0..3 {
        fleet.step(&name, Fate::Well);
    }
    assert_eq!(phase(&fleet.progresses[&name]), ProgressPhase::Staged);
    fleet.settle();
    name
}

/// Lets time pass, with a look of the controller every second.
fn pass(fleet: &mut Fleet, seconds: u64) {
    for _ in 0..seconds {
        fleet.clock += 1;
        fleet.end_pods();
        fleet.settle();
    }
}

fn release(fleet: &Fleet, name: &str) -> Release {
    fleet.progresses[name].spec.release
}

fn message(fleet: &Fleet) -> &str {
    &fleet.status("up").message
}

fn drain(fleet: &mut Fleet, change: impl FnOnce(&mut monok8s_api::osupgrade::Drain)) {
    fleet.amend("up", |spec| change(&mut spec.rollout.drain));
}

fn unmanaged() -> Value {
    json!({"metadata": {"ownerReferences": null}})
}

fn empty_dir() -> Value {
    json!({"spec": {"volumes": [{"name": "cache", "emptyDir": {}}]}})
}

fn priority(priority: i32) -> Value {
    json!({"spec": {"priority": priority}})
}

fn slow(seconds: i64) -> Value {
    json!({"spec": {"terminationGracePeriodSeconds": seconds}})
}

#[test]
fn a_node_is_cordoned_emptied_rebooted_and_let_go() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    fleet.add_pod("web", "n00000", &json!({}));
    fleet.add_pod("elsewhere", "n00001", &json!({}));
    let name = fleet.progress_of("n00000").name_any();
    assert_eq!(release(&fleet, &name), Release::Stage);
    for _ in 0..2 {
        fleet.step(&name, Fate::Well);
        fleet.settle();
    }
    assert!(!fleet.is_cordoned("n00000"), "pods run while bytes flow");
    assert_eq!(fleet.pods_on("n00000"), ["web"]);
    fleet.step(&name, Fate::Well);
    fleet.settle();
    assert!(fleet.is_cordoned("n00000"));
    let uid = fleet.progresses[&name].uid();
    assert_eq!(fleet.cordoned_for("n00000"), uid.as_ref());
    assert!(fleet.pods_on("n00000").is_empty());
    assert_eq!(fleet.pods_on("n00001"), ["elsewhere"]);
    assert_eq!(release(&fleet, &name), Release::Reboot);
    fleet.step(&name, Fate::Well);
    fleet.settle();
    assert!(fleet.is_cordoned("n00000"), "until its end");
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
    for node in ["n00000", "n00001"] {
        assert!(!fleet.is_cordoned(node));
        assert_eq!(fleet.cordoned_for(node), None);
    }
}

#[test]
fn some_pods_stay_and_the_others_go_lowest_priority_first() {
    let owner = |kind: &str, api: &str| {
        json!({"metadata": {"ownerReferences": [
            {"kind": kind, "apiVersion": api, "name": "o", "uid": "o", "controller": true}]}})
    };
    let own = json!({"metadata": {"namespace": "mono-system", "labels": {
        "app.kubernetes.io/part-of": "monok8s-ota", "app.kubernetes.io/component": "controller"}}});
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    for (name, change) in [
        ("a-daemon", owner("DaemonSet", "apps/v1")),
        (
            "a-mirror",
            json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
        ),
        ("a-static", owner("Node", "v1")),
        ("done", json!({"status": {"phase": "Succeeded"}})),
        ("failed", json!({"status": {"phase": "Failed"}})),
        ("our-own", own.clone()),
        ("left", json!({"metadata": {"labels": {"keep": "yes"}}})),
        ("precious", priority(1001)),
    ] {
        fleet.add_pod(name, "n00000", &change);
    }
    let mut elsewhere = own;
    elsewhere["metadata"]["namespace"] = json!("default");
    elsewhere["spec"] = json!({"priority": 1000});
    fleet.add_pod("looks-like-ours", "n00000", &elsewhere);
    for at in 0..12 {
        fleet.add_pod(&format!("web-{at:02}"), "n00000", &priority(100 - at));
    }
    drain(&mut fleet, |drain| {
        drain.skip_pods_with_priority_above = Some(1000);
        drain.pod_selector =
            Some(serde_json::from_value(json!({"matchLabels": {"keep": "yes"}})).unwrap());
    });
    let name = staged(&mut fleet, "n00000");
    assert_eq!(fleet.gone.len(), 10, "not all at once");
    assert_eq!(release(&fleet, &name), Release::Stage);
    pass(&mut fleet, 2);
    let gone: Vec<&str> = fleet.gone_names.iter().map(String::as_str).collect();
    let mut expected: Vec<String> = (0..12).rev().map(|at| format!("web-{at:02}")).collect();
    expected.push("looks-like-ours".to_owned());
    assert_eq!(gone, expected);
    let stay = [
        "a-daemon", "a-mirror", "a-static", "done", "failed", "our-own", "left", "precious",
    ];
    assert_eq!(fleet.pods_on("n00000"), stay);
    assert_eq!(release(&fleet, &name), Release::Reboot);
}

#[test]
fn a_budget_blocks_is_named_and_is_tried_again() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    fleet.add_pod("web", "n00000", &json!({}));
    let why = "PodDisruptionBudget default/web: it needs 1 healthy pods and has 1 currently";
    fleet.refused.insert("web".into(), why.into());
    let name = staged(&mut fleet, "n00000");
    pass(&mut fleet, 100);
    assert_eq!(
        fleet.condition("up", "Progressing"),
        ("True".into(), "Draining".into())
    );
    assert_eq!(
        message(&fleet),
        format!(
            "0 of 2 nodes done; under way: n00000 (Staged); 1 waits for a place \
             (rollout.maxUnavailable is 1); n00000 is drained since 2027-01-15T08:00:03Z, waiting \
             for pod default/web: {why} (since 2027-01-15T08:00:03Z), given up at \
             2027-01-15T08:15:03Z"
        )
    );
    let told: Vec<_> = fleet
        .told
        .iter()
        .filter(|n| n.reason == "DrainBlocked")
        .collect();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].warning
            && told[0].message.contains("default/web")
            && told[0].message.contains("since")
    );
    fleet.refused.clear();
    pass(&mut fleet, 31);
    assert_eq!(release(&fleet, &name), Release::Reboot);
}

#[test]
fn what_a_setting_protects_is_named_and_nobody_else_is_disturbed() {
    for (pod, words, allow) in [
        (
            unmanaged(),
            "pod default/lonely: no controller would make it again elsewhere (rollout.drain.deleteUnmanaged is false)",
            (|drain| drain.delete_unmanaged = true) as fn(&mut monok8s_api::osupgrade::Drain),
        ),
        (
            empty_dir(),
            "pod default/lonely: the data of its emptyDir volume would be lost (rollout.drain.deleteEmptyDir is false)",
            |drain| drain.delete_empty_dir = true,
        ),
    ] {
        let mut fleet = started(Fleet::of(2, "v1.34.1"));
        drain(&mut fleet, |drain| drain.delete_empty_dir = false);
        fleet.add_pod("lonely", "n00000", &pod);
        fleet.add_pod("web", "n00000", &json!({}));
        let name = staged(&mut fleet, "n00000");
        pass(&mut fleet, 30);
        assert!(message(&fleet).contains(words), "{}", message(&fleet));
        assert!(
            fleet.gone.is_empty(),
            "a drain that may be given up disturbs nobody"
        );
        drain(&mut fleet, allow);
        pass(&mut fleet, 3);
        assert!(fleet.pods_on("n00000").is_empty());
        assert_eq!(release(&fleet, &name), Release::Reboot);
    }
}

#[test]
fn abort_gives_up_uncordons_and_says_what_it_waited_for() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    fleet.add_pod("web", "n00000", &json!({}));
    fleet
        .refused
        .insert("web".into(), "PodDisruptionBudget default/web: no".into());
    let name = staged(&mut fleet, "n00000");
    pass(&mut fleet, 899);
    assert_eq!(release(&fleet, &name), Release::Stage);
    pass(&mut fleet, 1);
    assert_eq!(release(&fleet, &name), Release::Hold);
    assert!(!fleet.is_cordoned("n00000"));
    fleet.step(&name, Fate::Well);
    fleet.settle();
    let failure = &fleet.status("up").failures[0];
    assert_eq!(failure.reason, "DrainTimedOut");
    assert!(
        failure
            .message
            .contains("it waited for pod default/web: PodDisruptionBudget default/web"),
        "{}",
        failure.message
    );
    assert_eq!(fleet.status("up").phase, UpgradePhase::Failed);
    assert_eq!(fleet.pods_on("n00000"), ["web"]);
    let told = fleet
        .told
        .iter()
        .find(|n| n.reason == "DrainTimedOut")
        .unwrap();
    assert!(
        told.warning && told.message.contains("default/web"),
        "{}",
        told.message
    );

    // Tried again it has its whole time again, and the note is gone.
    fleet.refused.clear();
    fleet.touch(&name, |p| p.spec.retry_nonce = "again".into());
    fleet.step(&name, Fate::Well);
    fleet.settle();
    assert!(fleet.progresses[&name].annotations().is_empty());
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
}

#[test]
fn force_deletes_with_little_time_and_never_what_is_protected() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    drain(&mut fleet, |drain| {
        drain.on_deadline = OnDeadline::Force;
        drain.deadline = GoDuration::from_secs(60);
    });
    fleet.add_pod("guarded", "n00000", &slow(5));
    fleet.add_pod("lonely", "n00000", &unmanaged());
    fleet.add_pod("slow", "n00000", &slow(3600));
    fleet.add_pod(
        "stuck",
        "n00000",
        &json!({"metadata": {"finalizers": ["example.com/hook"]}}),
    );
    fleet.refused.insert(
        "guarded".into(),
        "PodDisruptionBudget default/guarded: no".into(),
    );
    let name = staged(&mut fleet, "n00000");
    pass(&mut fleet, 59);
    assert_eq!(fleet.pods_on("n00000").len(), 4);
    assert!(
        message(&fleet).contains("pod default/slow: it is ending and has a grace period of 3600 s"),
        "{}",
        message(&fleet)
    );
    pass(&mut fleet, 20);
    assert_eq!(fleet.pods_on("n00000"), ["lonely", "slow", "stuck"]);
    assert!(
        message(&fleet).contains("kept by the finalizer example.com/hook"),
        "{}",
        message(&fleet)
    );
    assert_eq!(release(&fleet, &name), Release::Stage, "they may still end");
    pass(&mut fleet, 20);
    assert_eq!(fleet.pods_on("n00000"), ["lonely", "stuck"]);
    assert_eq!(release(&fleet, &name), Release::Reboot);
    let forced: Vec<&str> = fleet
        .gone
        .iter()
        .zip(&fleet.gone_names)
        .filter(|((_, forced), _)| *forced)
        .map(|(_, name)| name.as_str())
        .collect();
    assert_eq!(forced, ["guarded", "slow"]);
}

#[test]
fn force_ends_although_pods_are_made_again_on_the_node() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    drain(&mut fleet, |drain| {
        drain.on_deadline = OnDeadline::Force;
        drain.deadline = GoDuration::from_secs(60);
    });
    fleet.add_pod("first", "n00000", &json!({}));
    fleet.refused.insert("first".into(), "no".into());
    let name = staged(&mut fleet, "n00000");
    for again in 0..182 {
        let until_then = again < 180;
        assert!(
            !until_then || release(&fleet, &name) == Release::Stage,
            "{again}"
        );
        fleet.add_pod(&format!("again-{again}"), "n00000", &slow(5));
        pass(&mut fleet, 1);
    }
    assert!(!fleet.pods_on("n00000").is_empty());
    assert_eq!(release(&fleet, &name), Release::Reboot);
}

#[test]
fn a_staged_node_that_is_deleted_stalls_its_upgrade() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    drain(&mut fleet, |drain| drain.on_deadline = OnDeadline::Wait);
    fleet.add_pod("guarded", "n00000", &json!({}));
    fleet.refused.insert("guarded".into(), "no".into());
    let name = staged(&mut fleet, "n00000");
    pass(&mut fleet, 2);
    fleet.clock += 3600;
    fleet.settle();
    assert_eq!(fleet.condition("up", "Stalled").0, "", "it is drained");
    fleet.nodes.remove("n00000");
    fleet.settle();
    assert_eq!(
        fleet.condition("up", "Stalled"),
        ("True".to_owned(), "NoMovement".to_owned())
    );
    assert!(fleet.released_by("up").contains(&"n00000".to_owned()));
    // As troubleshoot.md has it.
    fleet.progresses.remove(&name);
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
}

#[test]
fn wait_goes_on_for_ever() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    drain(&mut fleet, |drain| drain.on_deadline = OnDeadline::Wait);
    fleet.add_pod("web", "n00000", &json!({}));
    fleet.refused.insert("web".into(), "no".into());
    let name = staged(&mut fleet, "n00000");
    for _ in 0..100 {
        fleet.clock += 300;
        fleet.settle();
    }
    assert_eq!(release(&fleet, &name), Release::Stage);
    assert!(fleet.is_cordoned("n00000"));
    assert_eq!(
        fleet.condition("up", "Stalled"),
        Default::default(),
        "time spent draining does not count"
    );
}

#[test]
fn a_new_leader_counts_anew_and_knows_whose_the_cordon_is() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    fleet.add_pod("web", "n00000", &json!({}));
    fleet.refused.insert("web".into(), "no".into());
    let name = staged(&mut fleet, "n00000");
    pass(&mut fleet, 600);
    fleet.new_leader();
    pass(&mut fleet, 600);
    assert_eq!(release(&fleet, &name), Release::Stage);
    pass(&mut fleet, 301);
    assert_eq!(release(&fleet, &name), Release::Hold);

    // Nobody leads while the attempt ends, or while its progress is deleted.
    for end in [
        (|fleet: &mut Fleet, name: &str| fleet.finish(name, ProgressPhase::Cancelled, ""))
            as fn(&mut Fleet, &str),
        |fleet, name| fleet.finish(name, ProgressPhase::Failed, "ReadBackMismatch"),
        |fleet, name| fleet.finish(name, ProgressPhase::RolledBack, "FellBack"),
        |fleet, name| drop(fleet.progresses.remove(name)),
        |fleet, name| {
            drop(fleet.progresses.remove(name));
            drop(fleet.upgrades.remove("up"));
        },
    ] {
        let mut fleet = started(Fleet::of(2, "v1.34.1"));
        fleet.add_pod("web", "n00000", &json!({}));
        fleet.refused.insert("web".into(), "no".into());
        let name = staged(&mut fleet, "n00000");
        end(&mut fleet, &name);
        fleet.set_ready("n00000", false);
        fleet.new_leader();
        fleet.settle();
        assert!(fleet.is_cordoned("n00000"), "not before it is Ready");
        fleet.set_ready("n00000", true);
        fleet.settle();
        assert!(!fleet.is_cordoned("n00000") && fleet.cordoned_for("n00000").is_none());
    }
}

#[test]
fn a_persons_cordon_stays() {
    // Before the drain, or between its download and its end.
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    fleet.add_pod("web", "n00000", &json!({}));
    fleet.cordon_by_hand("n00000", true);
    fleet.run(|_| Fate::Well);
    assert!(fleet.pods_on("n00000").is_empty(), "emptied all the same");
    assert!(fleet.is_cordoned("n00000"));
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);

    // In the middle: told apart where the API server keeps a trace.
    let cases: [(Act, bool); 4] = [
        (|fleet| fleet.cordon_by_hand("n00000", true), false),
        (
            |fleet| {
                fleet.cordon_by_hand("n00000", false);
                fleet.cordon_by_hand("n00000", true);
            },
            true,
        ),
        (
            |fleet| {
                fleet.change_node("n00000", |node| {
                    node.annotations_mut()
                        .remove(monok8s_api::CORDON_ANNOTATION);
                });
            },
            true,
        ),
        // Lifted in the middle: set again, for pods must not come.
        (|fleet| fleet.cordon_by_hand("n00000", false), false),
    ];
    for (at, (act, stays)) in cases.into_iter().enumerate() {
        let mut fleet = started(Fleet::of(2, "v1.34.1"));
        fleet.add_pod("web", "n00000", &json!({}));
        fleet.refused.insert("web".into(), "no".into());
        staged(&mut fleet, "n00000");
        act(&mut fleet);
        fleet.settle();
        assert!(fleet.is_cordoned("n00000"), "case {at}");
        fleet.refused.clear();
        fleet.run(|_| Fate::Well);
        assert_eq!(fleet.is_cordoned("n00000"), stays, "case {at}");
        assert_eq!(fleet.cordoned_for("n00000"), None, "case {at}");
    }
}

#[test]
fn with_nowhere_else_the_pods_go_down_with_their_node() {
    let others: [fn(&mut Fleet); 3] = [
        |_| {},
        |fleet| {
            fleet.add_node("z", "v1.35.1");
            fleet.cordon_by_hand("z", true);
        },
        |fleet| {
            fleet.add_node("z", "v1.35.1");
            fleet.label("z", "monok8s.io/managed", "false");
            fleet.set_ready("z", false);
        },
    ];
    for (at, add) in others.into_iter().enumerate() {
        let mut fleet = Fleet::of(1, "v1.34.1");
        add(&mut fleet);
        fleet.apply("up", spec("v1.35.1", &VERSIONS));
        fleet.settle();
        fleet.add_pod("web", "n00000", &json!({}));
        let name = fleet.progress_of("n00000").name_any();
        for _ in 0..3 {
            fleet.step(&name, Fate::Well);
        }
        // Where there are others, one of them may be back in a moment.
        if at > 0 {
            fleet.settle();
            assert!(message(&fleet).contains(
                "n00000 is staged, and waits for another node to be Ready and schedulable until 2027-01-15T08:01:03Z: after that its pods go down with it"), "{}", message(&fleet));
            pass(&mut fleet, 59);
            assert_eq!(release(&fleet, &name), Release::Stage);
            fleet.clock += 1;
        }
        let said = fleet.look();
        let said = &said.statuses[0].status.message;
        assert!(said.contains(
            "n00000 is staged, and no other node is Ready and schedulable: nothing is evicted, its pods go down with it"), "{said}");
        fleet.settle();
        assert_eq!(release(&fleet, &name), Release::Reboot);
        fleet.run(|_| Fate::Well);
        assert_eq!(fleet.pods_on("n00000"), ["web"]);
        assert!(fleet.gone.is_empty() && fleet.told.iter().any(|n| n.reason == "PodsGoDown"));
    }
}

#[test]
fn a_node_waits_a_minute_for_another_one_to_come_back() {
    let mut fleet = beside_z(1);
    fleet.set_ready("z", false);
    let mut fleet = started(fleet);
    fleet.add_pod("web", "n00000", &json!({}));
    let name = staged(&mut fleet, "n00000");
    pass(&mut fleet, 50);
    // Whoever leads next counts anew.
    fleet.new_leader();
    pass(&mut fleet, 50);
    // So does whoever saw another node in between, if only for a moment.
    fleet.set_ready("n00000", false);
    fleet.settle();
    fleet.set_ready("n00000", true);
    pass(&mut fleet, 59);
    assert_eq!(release(&fleet, &name), Release::Stage);
    assert!(fleet.gone.is_empty() && !fleet.is_cordoned("n00000"));
    fleet.set_ready("z", true);
    fleet.settle();
    assert_eq!(fleet.gone_names, ["web"]);
    assert_eq!(release(&fleet, &name), Release::Reboot);
    assert!(!fleet.told.iter().any(|n| n.reason == "PodsGoDown"));
}

#[test]
fn a_reboot_that_could_not_be_written_waits_no_second_minute() {
    let mut fleet = beside_z(1);
    fleet.set_ready("z", false);
    let mut fleet = started(fleet);
    let name = staged(&mut fleet, "n00000");
    let mut index = Index::default();
    for second in 0..120 {
        fleet.clock += 1;
        fleet.feed(&mut index);
        let mut plan = planner::plan(&index, &fleet.settings, fleet.now());
        let reboots = std::mem::take(&mut plan.drain.reboots);
        assert_eq!(reboots.len(), usize::from(second >= 60), "{second}");
        fleet.carry_out(plan);
        fleet.remember(&mut index);
    }
    assert_eq!(release(&fleet, &name), Release::Stage);
}

#[test]
fn a_node_takes_pods_that_tolerate_its_taints() {
    let taint = |key: &str, effect: &str| json!({"key": key, "value": "v", "effect": effect});
    let pool = || taint("pool", "NoSchedule");
    for (of_other, own, takes) in [
        (vec![], vec![], true),
        (vec![], vec![pool()], true),
        (vec![pool()], vec![], false),
        (vec![taint("pool", "NoExecute")], vec![], false),
        (vec![taint("pool", "NoExecute")], vec![pool()], false),
        (vec![taint("other", "NoSchedule")], vec![pool()], false),
        (vec![pool()], vec![pool(), taint("x", "NoExecute")], true),
        (vec![taint("pool", "PreferNoSchedule")], vec![], true),
        // A cordon's goes a moment after the cordon.
        (
            vec![taint("node.kubernetes.io/unschedulable", "NoSchedule")],
            vec![],
            true,
        ),
    ] {
        let mut fleet = Fleet::of(1, "v1.34.1");
        fleet.add_node("z", "v1.35.1");
        for (node, taints) in [("z", &of_other), ("n00000", &own)] {
            let taints: Vec<Taint> = serde_json::from_value(json!(taints)).unwrap();
            fleet.change_node(node, |node| node.spec.taints = taints);
        }
        let mut fleet = started(fleet);
        fleet.add_pod("web", "n00000", &json!({}));
        staged(&mut fleet, "n00000");
        pass(&mut fleet, 60);
        let alone = fleet.told.iter().any(|n| n.reason == "PodsGoDown");
        assert_eq!(!fleet.gone.is_empty(), takes, "{of_other:?} {own:?}");
        assert_eq!(alone, !takes, "{of_other:?} {own:?}");
    }
}

/// Four nodes, two of them released; the image of the second is staged, and its drain has begun when
/// a pod guards it.
fn two_released(guarded: bool) -> Fleet {
    let mut fleet = Fleet::of(4, "v1.34.1");
    fleet.served.insert("up".into(), Ok(catalog(&VERSIONS)));
    let mut spec = spec("v1.35.1", &VERSIONS);
    spec["catalog"] = json!({"url": "https://e.x/c"});
    spec["rollout"] = json!({"maxUnavailable": 2, "drain": {"deadline": "60s"}});
    fleet.apply("up", spec);
    fleet.settle();
    assert_eq!(fleet.released(), ["n00000", "n00001"]);
    let first = fleet.progress_of("n00000").name_any();
    fleet.step(&first, Fate::Well);
    let second = fleet.progress_of("n00001").name_any();
    for _ in 0..3 {
        fleet.step(&second, Fate::Well);
    }
    if guarded {
        fleet.add_pod("web", "n00001", &json!({}));
        fleet.refused.insert("web".into(), "no".into());
        pass(&mut fleet, 10);
        assert!(fleet.is_cordoned("n00001"));
    }
    fleet
}

fn fail_the_first(fleet: &mut Fleet) {
    let first = fleet.progress_of("n00000").name_any();
    fleet.step(&first, Fate::Badly);
}

fn change_the_image(fleet: &mut Fleet) {
    let other = catalog(&VERSIONS).replace(&fleet::checksum(2), &fleet::checksum(0xee));
    fleet.served.insert("up".into(), Ok(other));
}

#[test]
fn a_halted_upgrade_holds_staged_nodes_until_the_cure() {
    let retry: Act = |fleet| {
        let first = fleet.progress_of("n00000").name_any();
        fleet.touch(&first, |p| p.spec.retry_nonce = "again".into());
        fleet.step(&first, Fate::Well);
    };
    let allow: Act = |fleet| fleet.amend("up", |s| s.rollout.max_failures = 1);
    let put_back: Act = |fleet| drop(fleet.served.insert("up".into(), Ok(catalog(&VERSIONS))));
    let another: Act = |fleet| fleet.amend("up", |s| "v1.35.3".clone_into(&mut s.version));
    let failed = "n00001 is staged, and held: 1 node failed, rollout.maxFailures is 0";
    let changed = "n00001 is staged, and held: the checksum of v1.35.1 has changed";
    for (trouble, words, reason, cure) in [
        (fail_the_first as Act, failed, "TooManyFailures", retry),
        (fail_the_first, failed, "TooManyFailures", allow),
        (fail_the_first, failed, "TooManyFailures", another),
        (change_the_image, changed, "ImageChanged", put_back),
        (change_the_image, changed, "ImageChanged", another),
    ] {
        for guarded in [false, true] {
            let what = format!("{reason}, guarded {guarded}");
            let mut fleet = two_released(guarded);
            trouble(&mut fleet);
            fleet.settle();
            let held = fleet.progress_of("n00001").name_any();
            // A drain that has begun is taken back, and no deadline runs.
            pass(&mut fleet, 300);
            assert!(!fleet.is_cordoned("n00001"), "{what}");
            assert_eq!(fleet.cordoned_for("n00001"), None, "{what}");
            assert_eq!(release(&fleet, &held), Release::Stage, "{what}");
            assert!(message(&fleet).contains(words), "{}", message(&fleet));
            assert_eq!(
                fleet.condition("up", "Progressing"),
                ("False".into(), reason.into()),
                "{what}"
            );
            assert!(fleet.gone.is_empty(), "{what}");
            // Who waits for the end of an upgrade that somebody has to look at need not wait longer.
            let failed = reason == "TooManyFailures";
            assert_eq!(
                fleet.status("up").phase == UpgradePhase::Failed,
                failed,
                "{what}"
            );
            cure(&mut fleet);
            fleet.settle();
            if guarded {
                // Emptied anew, with its whole time.
                assert!(fleet.is_cordoned("n00001"), "{what}");
                pass(&mut fleet, 20);
                assert_eq!(release(&fleet, &held), Release::Stage, "{what}");
                fleet.refused.clear();
            }
            fleet.run(|_| Fate::Well);
            let target = fleet.status("up").resolved_version.clone().unwrap();
            assert_eq!(fleet.version_of("n00001"), target, "{what}");
        }
    }
}

#[test]
fn a_leader_that_knows_no_better_leaves_the_brake_on() {
    for drained in [true, false] {
        for unread in [true, false] {
            let what = format!("drained {drained}, unread {unread}");
            let mut fleet = two_released(true);
            drain(&mut fleet, |drain| drain.enabled = drained);
            let before = fleet.clock;
            change_the_image(&mut fleet);
            fleet.settle();
            let held = fleet.progress_of("n00001").name_any();

            fleet.served.insert("up".into(), Ok(catalog(&VERSIONS)));
            fleet.clock += 600;
            if unread {
                fleet.served.clear();
            } else {
                // It led before, and has read nothing since.
                fleet.read_at = Some(before);
            }
            fleet.new_leader();
            let wanted = fleet.look().readings;
            assert!(wanted.iter().any(|r| r.urgency == Urgency::Now), "{what}");
            pass(&mut fleet, 100);
            assert!(!fleet.is_cordoned("n00001"), "{what}");
            assert_eq!(release(&fleet, &held), Release::Stage, "{what}");
            let told = ("False".into(), "ImageChanged".into());
            assert_eq!(fleet.condition("up", "Progressing"), told, "{what}");

            fleet.read_at = None;
            fleet.served.insert("up".into(), Ok(catalog(&VERSIONS)));
            fleet.refused.clear();
            fleet.run(|_| Fate::Well);
            assert_eq!(fleet.version_of("n00001"), "v1.35.1", "{what}");
        }
    }
}

#[test]
fn a_held_node_that_is_taken_out_of_the_selection_stays_held() {
    let mut fleet = two_released(true);
    fail_the_first(&mut fleet);
    fleet.settle();
    let held = fleet.progress_of("n00001").name_any();
    fleet.label("n00001", "monok8s.io/managed", "false");
    pass(&mut fleet, 100);
    assert!(!fleet.is_cordoned("n00001"));
    assert_eq!(release(&fleet, &held), Release::Stage);
    let words = "n00001 is staged, and held";
    assert!(message(&fleet).contains(words), "{}", message(&fleet));
    assert_eq!(fleet.status("up").phase, UpgradePhase::Failed);
    fleet.refused.clear();
    fleet.amend("up", |s| s.rollout.max_failures = 1);
    fleet.settle();
    pass(&mut fleet, 5);
    assert_eq!(release(&fleet, &held), Release::Reboot);
}

#[test]
fn what_is_halted_and_governed_by_another_upgrade_finishes() {
    for guarded in [false, true] {
        let mut fleet = two_released(guarded);
        fail_the_first(&mut fleet);
        fleet.settle();
        assert!(!fleet.is_cordoned("n00001"));
        fleet.clock += 1;
        fleet.apply("newer", spec("v1.35.3", &VERSIONS));
        fleet.refused.clear();
        fleet.run(|_| Fate::Well);
        assert_eq!(fleet.status("newer").phase, UpgradePhase::Completed);
    }
}

#[test]
fn a_held_node_of_the_control_plane_keeps_no_other_upgrade_waiting() {
    let mut fleet = two_released(false);
    for node in ["n00001", "n00003"] {
        fleet.label(node, CONTROL_PLANE, "");
    }
    fail_the_first(&mut fleet);
    fleet.settle();
    let held = fleet.progress_of("n00001").name_any();
    fleet.clock += 1;
    fleet.label("n00003", "pool", "new");
    let mut newer = spec("v1.35.3", &VERSIONS);
    newer["nodeSelector"] = json!({"matchLabels": {"pool": "new"}});
    fleet.apply("newer", newer);
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("newer").phase, UpgradePhase::Completed);
    assert_eq!(release(&fleet, &held), Release::Stage);
}

#[test]
fn a_held_node_can_be_cancelled_and_is_held_without_a_drain_too() {
    let mut fleet = two_released(false);
    fail_the_first(&mut fleet);
    drain(&mut fleet, |drain| drain.enabled = false);
    pass(&mut fleet, 5);
    let held = fleet.progress_of("n00001").name_any();
    assert_eq!(release(&fleet, &held), Release::Stage);
    fleet.touch(&held, |p| p.spec.cancel = true);
    fleet.step(&held, Fate::Well);
    fleet.settle();
    assert_eq!(phase(&fleet.progresses[&held]), ProgressPhase::Cancelled);
}

#[test]
fn a_node_that_is_not_ready_after_its_end_is_named_while_it_is_cordoned() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    let name = fleet.progress_of("n00000").name_any();
    fleet.arrive(&name);
    fleet.set_ready("n00000", false);
    fleet.run(|_| Fate::Well);
    let words = "not Ready since the upgrade, and cordoned until then: n00000";
    assert!(message(&fleet).ends_with(words), "{}", message(&fleet));
    fleet.amend("up", |s| s.rollout.max_unavailable = IntOrString::Int(2));
    fleet.add_node("n00002", "v1.35.1");
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
    assert_eq!(message(&fleet), format!("3 nodes done; {words}"));
    fleet.set_ready("n00000", true);
    fleet.run(|_| Fate::Well);
    assert_eq!(message(&fleet), "3 nodes done");
    assert!(!fleet.is_cordoned("n00000"));
}

#[test]
fn a_drain_that_began_is_not_cut_short_when_the_other_nodes_go_away() {
    let cordon: Act = |fleet| fleet.cordon_by_hand("z", true);
    let blink: Act = |fleet| fleet.set_ready("z", false);
    for (leave, on_deadline) in [
        (cordon, OnDeadline::Abort),
        (blink, OnDeadline::Abort),
        (cordon, OnDeadline::Force),
    ] {
        let mut fleet = started(beside_z(1));
        drain(&mut fleet, |drain| {
            drain.on_deadline = on_deadline;
            drain.deadline = GoDuration::from_secs(60);
        });
        fleet.add_pod("guarded", "n00000", &json!({}));
        fleet
            .refused
            .insert("guarded".into(), "the budget: no".into());
        let name = staged(&mut fleet, "n00000");
        pass(&mut fleet, 5);
        leave(&mut fleet);
        pass(&mut fleet, 50);
        assert_eq!(release(&fleet, &name), Release::Stage);
        assert!(
            message(&fleet).contains("until another node is Ready and schedulable"),
            "{}",
            message(&fleet)
        );
        pass(&mut fleet, 10);
        let ending = match on_deadline {
            OnDeadline::Force => Release::Reboot,
            _ => Release::Hold,
        };
        assert_eq!(release(&fleet, &name), ending, "{on_deadline:?}");
    }
}

#[test]
fn a_node_that_is_emptied_already_waits_for_no_other_one() {
    let mut fleet = started(beside_z(1));
    drain(&mut fleet, |drain| drain.on_deadline = OnDeadline::Wait);
    fleet.add_pod("slow", "n00000", &slow(60));
    let name = staged(&mut fleet, "n00000");
    pass(&mut fleet, 5);
    fleet.cordon_by_hand("z", true);
    pass(&mut fleet, 50);
    assert!(fleet.gone_names.contains(&"slow".to_owned()));
    assert_eq!(release(&fleet, &name), Release::Stage, "its pod still ends");
    pass(&mut fleet, 10);
    assert_eq!(release(&fleet, &name), Release::Reboot);
    assert!(
        fleet
            .told
            .iter()
            .all(|n| !n.message.contains("with its pods on it"))
    );
}

#[test]
fn a_drain_that_nobody_drives_any_more_leaves_no_cordon() {
    let acts: [Act; 2] = [
        |fleet| {
            let name = fleet.progress_of("n00000").name_any();
            fleet.touch(&name, |p| p.spec.cancel = true);
        },
        // kubectl delete --cascade=orphan
        |fleet| {
            let name = fleet.progress_of("n00000").name_any();
            fleet.touch(&name, |p| p.metadata.owner_references = None);
            fleet.upgrades.remove("up");
        },
    ];
    for act in acts {
        let mut fleet = started(Fleet::of(2, "v1.34.1"));
        fleet.add_pod("guarded", "n00000", &json!({}));
        fleet
            .refused
            .insert("guarded".into(), "the budget: no".into());
        let name = staged(&mut fleet, "n00000");
        pass(&mut fleet, 3);
        assert!(fleet.is_cordoned("n00000"));
        act(&mut fleet);
        pass(&mut fleet, 3);
        assert!(!fleet.is_cordoned("n00000"));
        assert_eq!(release(&fleet, &name), Release::Stage);
    }
}

#[test]
fn two_nodes_are_never_emptied_into_each_other() {
    let mut fleet = Fleet::of(2, "v1.34.1");
    for node in ["n00000", "n00001"] {
        fleet.add_pod(&format!("web-on-{node}"), node, &json!({}));
    }
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.amend("up", |s| s.rollout.max_unavailable = IntOrString::Int(2));
    fleet.settle();
    for node in ["n00000", "n00001"] {
        let name = fleet.progress_of(node).name_any();
        for _ in 0..3 {
            fleet.step(&name, Fate::Well);
        }
    }
    fleet.settle();
    assert!(fleet.is_cordoned("n00000") && !fleet.is_cordoned("n00001"));
    assert_eq!(fleet.pods_on("n00001"), ["web-on-n00001"]);
    assert!(message(&fleet).contains(
        "n00001 is staged, and waits for n00000 to come back: until then there is no other node for its pods"), "{}", message(&fleet));
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.gone.len(), 2, "both were emptied");
    assert!(!fleet.told.iter().any(|n| n.reason == "PodsGoDown"));
}

/// The first two nodes may both go down, each with a pod that is refused to go.
fn two_refuse(fleet: Fleet, pod: &Value) -> Fleet {
    let mut fleet = started(fleet);
    fleet.amend("up", |s| {
        s.rollout.max_unavailable = IntOrString::Int(2);
        s.rollout.drain.on_deadline = OnDeadline::Wait;
    });
    fleet.settle();
    for node in ["n00000", "n00001"] {
        let name = format!("web-on-{node}");
        fleet.refused.insert(name.clone(), "no".into());
        fleet.add_pod(&name, node, pod);
    }
    fleet
}

/// Two of these beside another node that is not upgraded; the drains of the first so many have begun.
fn drains_begun(begun: usize) -> Fleet {
    let mut fleet = two_refuse(beside_z(2), &slow(20));
    for node in ["n00000", "n00001"].iter().take(begun) {
        staged(&mut fleet, node);
        assert!(fleet.is_cordoned(node));
    }
    fleet
}

#[test]
fn two_that_are_emptied_already_do_not_wait_for_each_other() {
    let emptied = |count: usize| {
        let mut fleet = two_refuse(Fleet::of(count, "v1.34.1"), &json!({}));
        for node in ["n00000", "n00001"] {
            let name = fleet.progress_of(node).name_any();
            for _ in 0..3 {
                fleet.step(&name, Fate::Well);
            }
        }
        fleet
    };
    // Both begin, then turn out to be the control plane.
    let mut fleet = emptied(3);
    fleet.settle();
    for node in ["n00000", "n00001"] {
        assert!(fleet.is_cordoned(node));
        fleet.label(node, CONTROL_PLANE, "");
    }
    fleet.refused.clear();
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
    assert_eq!(fleet.gone.len(), 2);
    // Known before: one of them begins.
    let mut fleet = emptied(3);
    for node in ["n00000", "n00001"] {
        fleet.label(node, CONTROL_PLANE, "");
    }
    fleet.settle();
    assert!(fleet.is_cordoned("n00000") && !fleet.is_cordoned("n00001"));
    // Both begin, then the only other node leaves.
    let mut fleet = emptied(3);
    fleet.settle();
    fleet.nodes.remove("n00002");
    fleet.refused.clear();
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
    assert_eq!(fleet.gone_names, ["web-on-n00001"]);
    assert_eq!(
        fleet.pods_on("n00000"),
        ["web-on-n00000"],
        "it went down with its node"
    );
}

#[test]
fn two_drains_whose_last_other_node_blinks_wait_for_it() {
    let mut fleet = drains_begun(2);
    fleet.set_ready("z", false);
    pass(&mut fleet, 30);
    fleet.set_ready("z", true);
    pass(&mut fleet, 30);
    fleet.set_ready("z", false);
    pass(&mut fleet, 30);
    let releases =
        |fleet: &Fleet| ["n00000", "n00001"].map(|node| fleet.progress_of(node).spec.release);
    assert_eq!(releases(&fleet), [Release::Stage; 2]);
    assert!(
        message(&fleet).contains("for another node to be Ready and schedulable until"),
        "{}",
        message(&fleet)
    );
    // It stays away, and each would wait for the other.
    pass(&mut fleet, 31);
    assert_eq!(releases(&fleet), [Release::Reboot, Release::Stage]);
}

#[test]
fn what_is_emptied_leaves_before_what_waits() {
    let mut fleet = drains_begun(2);
    fleet.refused.remove("web-on-n00001");
    pass(&mut fleet, 10);
    // While its pod ends the pace is lowered: only one of them may go.
    fleet.amend("up", |s| s.rollout.max_unavailable = IntOrString::Int(1));
    pass(&mut fleet, 30);
    let release = |node: &str| fleet.progress_of(node).spec.release;
    assert_eq!(release("n00000"), Release::Stage);
    assert_eq!(release("n00001"), Release::Reboot);
}

#[test]
fn a_node_that_died_with_our_cordon_keeps_no_other_one_waiting() {
    let mut fleet = drains_begun(1);
    drain(&mut fleet, |drain| {
        drain.on_deadline = OnDeadline::Abort;
        drain.deadline = GoDuration::from_secs(60);
    });
    fleet.amend("up", |s| s.rollout.max_failures = 1);
    fleet.set_ready("n00000", false);
    pass(&mut fleet, 61);
    let dead = fleet.progress_of("n00000").name_any();
    assert_eq!(release(&fleet, &dead), Release::Hold, "it is given up");
    fleet.step(&dead, Fate::Well);
    // There is no third one.
    fleet.change_node("z", |node| node.spec.unschedulable = true);
    staged(&mut fleet, "n00001");
    pass(&mut fleet, 61);
    assert!(fleet.is_cordoned("n00000"), "it is not Ready");
    assert_eq!(
        fleet.progress_of("n00001").spec.release,
        Release::Reboot,
        "{}",
        message(&fleet)
    );
}

#[test]
fn not_ready_nodes_hold_a_drain_up_and_a_lower_pace_does_not_wedge_it() {
    let mut fleet = started(Fleet::of(3, "v1.34.1"));
    fleet.add_pod("web", "n00000", &json!({}));
    // Its own node.
    let name = fleet.progress_of("n00000").name_any();
    fleet.set_ready("n00000", false);
    for _ in 0..3 {
        fleet.step(&name, Fate::Well);
    }
    fleet.settle();
    assert!(
        message(&fleet).contains("n00000 is staged, and waits until it is Ready"),
        "{}",
        message(&fleet)
    );
    fleet.set_ready("n00000", true);
    // Another one.
    fleet.set_ready("n00001", false);
    fleet.settle();
    assert!(!fleet.is_cordoned("n00000"));
    assert!(message(&fleet).contains(
        "n00000 is staged, and waits for others that are down (n00001; rollout.maxUnavailable is 1)"), "{}", message(&fleet));
    fleet.set_ready("n00001", true);
    fleet.settle();
    assert_eq!(release(&fleet, &name), Release::Reboot);

    let mut fleet = Fleet::of(4, "v1.34.1");
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.amend("up", |s| s.rollout.max_unavailable = IntOrString::Int(3));
    fleet.settle();
    for node in ["n00000", "n00001", "n00002"] {
        let name = fleet.progress_of(node).name_any();
        for _ in 0..3 {
            fleet.step(&name, Fate::Well);
        }
    }
    fleet.amend("up", |s| s.rollout.max_unavailable = IntOrString::Int(1));
    fleet.settle();
    let rebooting = |fleet: &Fleet| {
        fleet
            .progresses
            .values()
            .filter(|p| p.spec.release == Release::Reboot)
            .count()
    };
    assert_eq!(rebooting(&fleet), 1);
    assert!(
        message(&fleet).contains("waits for others that are down (n00000;"),
        "{}",
        message(&fleet)
    );
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
}

#[test]
fn a_drain_that_began_is_given_up_on_a_node_that_went_down() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    fleet.add_pod("web", "n00000", &json!({}));
    fleet.refused.insert("web".into(), "no".into());
    let name = staged(&mut fleet, "n00000");
    fleet.set_ready("n00000", false);
    fleet.refused.clear();
    pass(&mut fleet, 60);
    assert_eq!(
        fleet.pods_on("n00000"),
        ["web"],
        "nothing is asked of a node that is not Ready"
    );
    assert!(
        message(&fleet).contains("is drained since"),
        "{}",
        message(&fleet)
    );
    pass(&mut fleet, 900);
    assert_eq!(release(&fleet, &name), Release::Hold);
    assert!(fleet.is_cordoned("n00000"), "until it is Ready");
    fleet.set_ready("n00000", true);
    fleet.settle();
    assert!(!fleet.is_cordoned("n00000"));
}

#[test]
fn the_control_plane_goes_one_at_a_time() {
    let mut fleet = Fleet::of(4, "v1.34.1");
    for node in ["n00000", "n00001", "n00002"] {
        fleet.label(node, CONTROL_PLANE, "");
    }
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.amend("up", |s| {
        s.rollout.max_unavailable = IntOrString::String("100%".into());
    });
    fleet.settle();
    assert_eq!(
        fleet.released(),
        ["n00000", "n00003"],
        "one of them, and whoever else may"
    );
    assert!(message(&fleet).contains(
        "n00001 waits for n00000: nodes of the control plane go one at a time, and only while the others are Ready"), "{}", message(&fleet));
    // Another upgrade counts them too.
    let mut fleet = Fleet::of(3, "v1.34.1");
    for (node, pool) in [("n00000", "a"), ("n00001", "b"), ("n00002", "b")] {
        fleet.label(node, CONTROL_PLANE, "");
        fleet.label(node, "pool", pool);
    }
    for (name, pool) in [("up", "a"), ("other", "b")] {
        let mut spec = spec("v1.35.1", &VERSIONS);
        spec["nodeSelector"] = json!({"matchLabels": {"pool": pool}});
        fleet.apply(name, spec);
    }
    fleet.settle();
    assert_eq!(fleet.released().len(), 1);
    // None while another is not Ready, at the gate and at the drain.
    let first = fleet.released()[0].clone();
    let name = fleet.progress_of(&first).name_any();
    fleet.set_ready("n00002", false);
    for _ in 0..3 {
        fleet.step(&name, Fate::Well);
    }
    fleet.settle();
    assert!(!fleet.is_cordoned(&first));
    assert_eq!(release(&fleet, &name), Release::Stage);
    let said = fleet.status("up").message.clone() + &fleet.status("other").message;
    assert!(
        said.contains("nodes of the control plane go one at a time"),
        "{said}"
    );
    fleet.set_ready("n00002", true);
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
    assert_eq!(fleet.status("other").phase, UpgradePhase::Completed);
}

#[test]
fn nodes_of_the_control_plane_between_two_hops_do_not_wait_for_each_other() {
    let mut fleet = Fleet::of(2, "v1.33.1");
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.amend("up", |s| s.rollout.max_unavailable = IntOrString::Int(2));
    fleet.settle();
    for node in ["n00000", "n00001"] {
        let name = fleet.progress_of(node).name_any();
        fleet.finish(&name, ProgressPhase::Completed, "");
        fleet.report(node, "v1.34.6", None);
        fleet.label(node, CONTROL_PLANE, "");
    }
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").summary.as_deref(), Some("2/2"));
}

#[test]
fn without_a_drain_nodes_go_straight_to_their_reboot() {
    let mut fleet = Fleet::of(2, "v1.34.1");
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    drain(&mut fleet, |drain| drain.enabled = false);
    fleet.add_pod("web", "n00000", &json!({}));
    fleet.settle();
    let name = fleet.progress_of("n00000").name_any();
    assert_eq!(release(&fleet, &name), Release::Reboot);
    fleet.run(|_| Fate::Well);
    assert!(fleet.gone.is_empty());

    // Turned off in the middle: it goes on, and the cordon is undone at the end.
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    fleet.add_pod("web", "n00000", &json!({}));
    fleet.refused.insert("web".into(), "no".into());
    let name = staged(&mut fleet, "n00000");
    assert_eq!(release(&fleet, &name), Release::Stage);
    drain(&mut fleet, |drain| drain.enabled = false);
    fleet.settle();
    assert_eq!(release(&fleet, &name), Release::Reboot);
    fleet.run(|_| Fate::Well);
    assert!(!fleet.is_cordoned("n00000"));
}

#[test]
fn between_two_hops_a_node_takes_pods_again() {
    let mut fleet = Fleet::of(2, "v1.33.1");
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.settle();
    let first = fleet.progress_of("n00000").name_any();
    fleet.arrive(&first);
    fleet.settle();
    assert!(!fleet.is_cordoned("n00000"));
    let second = fleet.progress_of("n00000").name_any();
    assert_ne!(first, second);
    assert_eq!(release(&fleet, &second), Release::Stage);
    fleet.add_pod("came-back", "n00000", &json!({}));
    fleet.arrive(&second);
    fleet.settle();
    assert!(fleet.pods_on("n00000").is_empty());
    assert!(!fleet.is_cordoned("n00000"));
}

#[test]
fn a_progress_made_by_hand_is_not_drained() {
    let mut fleet = Fleet::of(2, "v1.34.1");
    let progress: OSUpgradeProgress = serde_json::from_value(json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgradeProgress",
        "metadata": {"name": "by-hand"},
        "spec": {"sourceRef": {"name": "up"}, "nodeName": "n00000", "release": "Stage"},
        "status": {"phase": "Staged"},
    }))
    .unwrap();
    fleet.put_progress(progress.clone());
    fleet.add_pod("web", "n00000", &json!({}));
    fleet.settle();
    assert!(!fleet.is_cordoned("n00000"));
    assert_eq!(fleet.progresses["by-hand"].spec, progress.spec);
    assert_eq!(fleet.pods_on("n00000"), ["web"]);
}

#[test]
fn a_cancelled_drain_stops_where_it_is() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    fleet.add_pod("web", "n00000", &slow(1));
    let name = fleet.progress_of("n00000").name_any();
    for _ in 0..3 {
        fleet.step(&name, Fate::Well);
    }
    fleet.touch(&name, |p| p.spec.cancel = true);
    pass(&mut fleet, 5);
    assert!(fleet.gone.is_empty() && !fleet.is_cordoned("n00000"));
    assert_eq!(release(&fleet, &name), Release::Stage);
}

#[test]
fn what_a_fresh_look_finds_keeps_a_node_up() {
    let mut fleet = started(Fleet::of(2, "v1.34.1"));
    let name = fleet.progress_of("n00000").name_any();
    for _ in 0..3 {
        fleet.step(&name, Fate::Well);
    }
    // Cordoned, and its pods listed; the next pod is bound after that.
    let mut index = fleet.index();
    let plan = loop {
        fleet.feed(&mut index);
        let plan = planner::plan(&index, &fleet.settings, fleet.now());
        if !plan.drain.reboots.is_empty() {
            break plan;
        }
        fleet.carry_out(plan);
        fleet.remember(&mut index);
    };
    fleet.add_pod("late", "n00000", &json!({}));
    fleet.carry_out(plan);
    assert_eq!(release(&fleet, &name), Release::Stage);
    fleet.settle();
    assert!(fleet.pods_on("n00000").is_empty());
    assert_eq!(release(&fleet, &name), Release::Reboot);
}
