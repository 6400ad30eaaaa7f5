//! What the planner does to progresses: who gets one, who goes, who waits, who is left alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

mod fleet;

use std::fmt::Write as _;

use fleet::{Fate, Fleet, catalog, phase, spec};
use kube::ResourceExt;
use monok8s_api::{
    GoDuration, OSUpgradeProgress, names,
    osupgrade::Health,
    osupgradeprogress::Release,
    reason::{ProgressPhase, UpgradePhase},
};
use monok8s_controller::decide::plan::{Urgency, Why};
use serde_json::json;

const VERSIONS: [&str; 4] = ["v1.33.4", "v1.34.6", "v1.35.1", "v1.35.3"];

fn started(count: usize, version: &str, wanted: &str) -> Fleet {
    let mut fleet = Fleet::of(count, version);
    fleet.apply("up", spec(wanted, &VERSIONS));
    fleet.settle();
    fleet
}

fn hand_made(fleet: &mut Fleet, name: &str, node: &str) {
    let progress: OSUpgradeProgress = serde_json::from_value(json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgradeProgress",
        "metadata": {"name": name},
        "spec": {"sourceRef": {"name": "up"}, "nodeName": node},
    }))
    .unwrap();
    fleet.put_progress(progress);
}

#[test]
fn every_selected_node_has_its_progress_at_once_and_one_goes() {
    let fleet = started(3, "v1.34.1", "v1.35.1");
    assert_eq!(fleet.progresses.len(), 3);
    assert_eq!(fleet.released(), ["n00000"]);
    let upgrade = &fleet.upgrades["up"];
    for (name, progress) in &fleet.progresses {
        let node = &fleet.nodes[&progress.spec.node_name];
        let version: monok8s_api::Version = "v1.35.1".parse().unwrap();
        let computed = names::progress(&upgrade.uid().unwrap(), 1, &node.uid().unwrap(), &version);
        assert_eq!(*name, computed);
        assert_eq!(progress.labels()["monok8s.io/upgrade"], "up");
        assert_eq!(progress.labels()["monok8s.io/revision"], "1");
        let owner = &progress.owner_references()[0];
        assert_eq!(
            (owner.controller, owner.block_owner_deletion),
            (Some(true), Some(false))
        );
        assert_eq!(owner.uid, upgrade.uid().unwrap());
        assert_eq!(progress.spec.node_uid, node.uid());
        assert_eq!(progress.spec.final_version, None);
        assert!(progress.finalizers().is_empty());
    }
}

#[test]
fn what_is_handed_out_is_written_down_first() {
    let mut fleet = Fleet::of(2, "v1.34.1");
    fleet.apply("up", spec("stable", &VERSIONS));
    let plan = fleet.plan();
    assert!(plan.creations.is_empty() && plan.releases.is_empty());
    fleet.carry_out(plan);
    let status = fleet.status("up");
    assert_eq!(status.revision, Some(1));
    assert_eq!(status.pinned.len(), 1);
    assert_eq!(status.pinned[0].version, "v1.35.3");
    let plan = fleet.plan();
    assert_eq!(plan.creations.len(), 2);
    assert!(
        plan.creations
            .iter()
            .all(|p| p.spec.release == Release::Hold)
    );
    fleet.carry_out(plan);
    assert_eq!(fleet.plan().releases.len(), 1);
}

#[test]
fn one_minor_at_a_time_and_the_place_is_kept_to_the_last_hop() {
    let mut fleet = started(2, "v1.33.1", "v1.35.1");
    let first = fleet.progress_of("n00000").clone();
    assert_eq!(first.spec.image.as_ref().unwrap().version, "v1.34.6");
    assert_eq!(first.spec.final_version.as_deref(), Some("v1.35.1"));
    for _ in 0..5 {
        fleet.step(&first.name_any(), Fate::Well);
        fleet.settle();
        assert_eq!(fleet.released(), ["n00000"], "the other waits");
    }
    // Completed, but the report still shows the old version: the next hop is not made yet.
    let behind = fleet.reports["n00000"].clone();
    fleet.step(&first.name_any(), Fate::Well);
    let current = fleet.reports.insert("n00000".into(), behind).unwrap();
    fleet.settle();
    assert_eq!(fleet.progresses.len(), 2);
    assert!(fleet.released().is_empty(), "the other still waits");
    fleet.reports.insert("n00000".into(), current);
    fleet.settle();
    let second = fleet.progress_of("n00000");
    assert_eq!(second.spec.image.as_ref().unwrap().version, "v1.35.1");
    assert_eq!(fleet.released(), ["n00000"]);
    assert_eq!(fleet.status("up").nodes.as_ref().unwrap().active, 1);
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
    assert_eq!(fleet.version_of("n00001"), "v1.35.1");
}

#[test]
fn a_node_that_is_not_ready_counts_and_is_not_released() {
    let mut fleet = Fleet::of(3, "v1.34.1");
    fleet.set_ready("n00000", false);
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.settle();
    assert!(fleet.released().is_empty());
    assert!(
        fleet.status("up").message.contains("not Ready"),
        "{}",
        fleet.status("up").message
    );
    fleet.amend("up", |s| {
        s.rollout.max_unavailable =
            k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(2);
    });
    fleet.settle();
    assert_eq!(fleet.released(), ["n00001"]);
}

#[test]
fn a_failure_halts_until_it_is_retried_and_the_retry_waits_for_its_turn() {
    let mut fleet = started(3, "v1.34.1", "v1.35.1");
    let failed = fleet.progress_of("n00000").name_any();
    fleet.step(&failed, Fate::Well);
    fleet.step(&failed, Fate::Badly);
    fleet.settle();
    assert_eq!(fleet.status("up").phase, UpgradePhase::Failed);
    assert!(fleet.released().is_empty());
    assert_eq!(
        fleet.progresses[&failed].spec.release,
        Release::Hold,
        "set back"
    );

    // More failures allowed: the others go on, the failed one stays where it is.
    fleet.amend("up", |s| s.rollout.max_failures = 1);
    fleet.settle();
    assert_eq!(fleet.released(), ["n00001"]);
    fleet.touch(&failed, |p| p.spec.retry_nonce = "retry-1".into());
    fleet.step(&failed, Fate::Well);
    fleet.settle();
    assert_eq!(phase(&fleet.progresses[&failed]), ProgressPhase::Pending);
    assert_eq!(
        fleet.released(),
        ["n00001"],
        "there is one place, and it is taken"
    );
    assert_eq!(fleet.status("up").phase, UpgradePhase::Accepted);
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
}

#[test]
fn paused_releases_no_further_node_and_lets_the_begun_one_arrive() {
    let mut fleet = started(2, "v1.33.1", "v1.35.1");
    fleet.amend("up", |s| s.paused = true);
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.version_of("n00000"), "v1.35.1", "both hops");
    assert_eq!(fleet.version_of("n00001"), "v1.33.1");
    fleet.amend("up", |s| s.paused = false);
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.version_of("n00001"), "v1.35.1");
}

#[test]
fn a_hand_made_progress_occupies_its_node_and_is_never_touched() {
    let mut fleet = Fleet::of(1, "v1.34.1");
    hand_made(&mut fleet, "by-hand", "n00000");
    let before = fleet.progresses["by-hand"].clone();
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.settle();
    assert_eq!(fleet.progresses["by-hand"], before);
    let own = fleet
        .progresses
        .values()
        .find(|p| p.name_any() != "by-hand")
        .unwrap();
    assert_eq!(own.spec.release, Release::Hold);
    assert!(fleet.status("up").message.contains("by-hand"));
    fleet.finish("by-hand", ProgressPhase::Failed, "DownloadNotFound");
    fleet.settle();
    assert_eq!(fleet.released(), ["n00000"]);
    assert_eq!(
        fleet.progresses["by-hand"].spec.release,
        Release::Reboot,
        "not even set back"
    );
}

#[test]
fn the_newest_governs_and_the_older_acts_no_more() {
    let mut fleet = started(3, "v1.34.1", "v1.35.1");
    let begun = fleet.progress_of("n00000").name_any();
    fleet.step(&begun, Fate::Well);
    fleet.clock += 1;
    fleet.apply("newer", spec("v1.35.3", &VERSIONS));
    fleet.carry_out(fleet.plan());
    let deletions = fleet.plan().deletions;
    assert!(deletions.iter().all(|d| d.why == Why::Superseded));
    fleet.settle();
    let of = |fleet: &Fleet, source: &str| {
        fleet
            .progresses
            .values()
            .filter(|p| p.spec.source_ref.name == source)
            .count()
    };
    assert_eq!(of(&fleet, "up"), 1, "only the begun one is left");
    assert_eq!(of(&fleet, "newer"), 3);
    assert_eq!(fleet.released(), ["n00000"], "it still takes the one place");
    assert_eq!(fleet.condition("up", "Accepted").1, "Superseded");
    assert!(fleet.status("up").message.contains("newer"));
    fleet.run(|_| Fate::Well);
    assert!(fleet.nodes.keys().all(|n| fleet.version_of(n) == "v1.35.3"));
}

#[test]
fn one_that_is_wrong_on_its_own_account_governs_nothing() {
    let mut fleet = started(1, "v1.34.1", "v1.35.1");
    fleet.clock += 1;
    fleet.apply("wrong", spec("v9.9.9", &VERSIONS));
    fleet.settle();
    assert_eq!(
        fleet.condition("wrong", "Accepted").1,
        "VersionNotInCatalog"
    );
    assert_eq!(fleet.released(), ["n00000"]);
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
}

#[test]
fn a_deletion_loses_against_the_agents_first_write() {
    let mut fleet = started(1, "v1.34.1", "v1.35.1");
    fleet.clock += 1;
    fleet.apply("newer", spec("v1.35.3", &VERSIONS));
    let plan = fleet.plan();
    assert_eq!(plan.deletions.len(), 1, "released, but not begun");
    let begun = fleet.progress_of("n00000").name_any();
    fleet.step(&begun, Fate::Well);
    fleet.carry_out(plan);
    assert_eq!(phase(&fleet.progresses[&begun]), ProgressPhase::Downloading);
    fleet.settle();
    assert!(fleet.progresses.contains_key(&begun));
}

#[test]
fn a_new_revision_waits_for_what_the_old_one_began() {
    let mut fleet = started(2, "v1.34.1", "v1.35.1");
    let begun = fleet.progress_of("n00000").name_any();
    fleet.step(&begun, Fate::Well);
    fleet.amend("up", |s| "v1.35.3".clone_into(&mut s.version));
    fleet.settle();
    assert_eq!(fleet.status("up").revision, Some(2));
    assert_eq!(fleet.released(), ["n00000"]);
    fleet.run(|_| Fate::Well);
    assert_eq!(
        fleet.version_of("n00000"),
        "v1.35.3",
        "one step after the other"
    );
    // The pace is no new revision.
    fleet.amend("up", |s| s.rollout.max_failures = 7);
    fleet.settle();
    assert_eq!(fleet.status("up").revision, Some(2));
}

#[test]
fn a_node_that_drifted_is_not_rewritten() {
    let mut fleet = started(2, "v1.34.1", "v1.35.1");
    fleet.run(|_| Fate::Well);
    fleet.report("n00001", "v1.34.6", None);
    let before = fleet.progresses.clone();
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.progresses, before);
    assert_eq!(fleet.condition("up", "Degraded").1, "Drifted");
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
}

#[test]
fn a_node_made_again_gets_a_progress_of_its_own() {
    let mut fleet = started(2, "v1.34.1", "v1.35.1");
    let old = fleet.progress_of("n00000").name_any();
    fleet.step(&old, Fate::Well);
    fleet.nodes.remove("n00000");
    fleet.add_node("n00000", "v1.34.1");
    fleet.settle();
    assert!(
        fleet.progresses.contains_key(&old),
        "begun: its agent ends it"
    );
    assert_eq!(
        fleet.released(),
        ["n00000"],
        "and until then it has the place"
    );
    fleet.step(&old, Fate::Well);
    assert_eq!(
        fleet.progresses[&old]
            .status
            .as_ref()
            .unwrap()
            .failure_reason,
        "NodeReplaced"
    );
    assert!(
        fleet
            .plan()
            .deletions
            .iter()
            .any(|d| d.why == Why::NodeReplaced && d.name == old)
    );
    fleet.settle();
    assert!(!fleet.progresses.contains_key(&old));
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
}

#[test]
fn a_foreign_object_under_a_computed_name_is_never_adopted() {
    let mut fleet = Fleet::of(1, "v1.34.1");
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.carry_out(fleet.plan());
    let name = fleet.plan().creations[0].name_any();
    hand_made(&mut fleet, &name, "another-node");
    let before = fleet.progresses[&name].clone();
    fleet.carry_out(fleet.plan());
    fleet.carry_out(fleet.plan());
    assert_eq!(fleet.progresses[&name], before);
    assert!(fleet.plan().releases.is_empty());
    let notice = fleet.told.iter().find(|n| n.reason == "NameTaken").unwrap();
    assert!(notice.warning && notice.message.contains(&name));
}

#[test]
fn the_last_three_finished_are_kept_per_node_and_upgrade() {
    let mut fleet = started(1, "v1.34.1", "v1.35.1");
    fleet.run(|_| Fate::Well);
    for (round, version) in ["v1.35.3", "v1.35.1", "v1.35.3"].into_iter().enumerate() {
        fleet.clock += 10;
        fleet.amend("up", |s| {
            s.allow_downgrade = true;
            version.clone_into(&mut s.version);
        });
        fleet.run(|_| Fate::Well);
        assert_eq!(fleet.version_of("n00000"), version);
        assert_eq!(fleet.progresses.len(), (round + 2).min(3));
    }
    let newest = fleet.progress_of("n00000");
    assert_eq!(newest.labels()["monok8s.io/revision"], "4");
}

#[test]
fn download_settings_are_copied_while_it_runs_and_nothing_else_is() {
    // None of them a default.
    let health: Health = serde_json::from_value(json!({
        "deadline": "7m",
        "soak": "90s",
        "checks": [
            {"name": "kubelet", "systemdUnit": "kubelet.service"},
            {"name": "own", "exec": ["/bin/check", "--quick"]},
        ],
    }))
    .unwrap();
    let mut fleet = Fleet::of(2, "v1.34.1");
    let mut wanted = spec("v1.35.1", &VERSIONS);
    wanted["health"] = serde_json::to_value(&health).unwrap();
    fleet.apply("up", wanted);
    fleet.settle();
    assert_eq!(fleet.progresses.len(), 2);
    let assert_health_is_as_made = |fleet: &Fleet| {
        for progress in fleet.progresses.values() {
            let made = &progress.spec.health;
            assert_eq!(made.deadline, GoDuration::from_secs(420));
            assert_eq!(made.soak, GoDuration::from_secs(90));
            assert_eq!(made.checks, health.checks);
        }
    };
    assert_health_is_as_made(&fleet);
    let begun = fleet.progress_of("n00000").name_any();
    fleet.step(&begun, Fate::Well);
    fleet.amend("up", |s| {
        s.download.max_bytes_per_second = Some(1 << 20);
        s.health.deadline = GoDuration::from_secs(1);
        s.health.soak = GoDuration::from_secs(2);
        s.health.checks.pop();
    });
    let plan = fleet.plan();
    assert_eq!(plan.amendments.len(), 2);
    assert!(plan.amendments.iter().all(|a| a.release.is_none()));
    fleet.settle();
    for progress in fleet.progresses.values() {
        assert_eq!(progress.spec.download.max_bytes_per_second, Some(1 << 20));
    }
    assert_health_is_as_made(&fleet);
    // Nor is it copied with the release of the second, nor is it a reason for a new revision.
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.progresses.len(), 2);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
    assert_health_is_as_made(&fleet);
}

#[test]
fn a_cancelled_one_is_not_released_and_does_not_halt_the_rest() {
    let mut fleet = Fleet::of(2, "v1.34.1");
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.amend("up", |s| s.paused = true);
    fleet.settle();
    let name = fleet.progress_of("n00000").name_any();
    fleet.touch(&name, |p| p.spec.cancel = true);
    fleet.amend("up", |s| s.paused = false);
    fleet.settle();
    assert_eq!(fleet.released(), ["n00001"]);
    fleet.run(|_| Fate::Well);
    assert_eq!(phase(&fleet.progresses[&name]), ProgressPhase::Cancelled);
    assert_eq!(fleet.version_of("n00001"), "v1.35.1");
    assert_eq!(fleet.condition("up", "Degraded").1, "AsExpected");
    // Nobody failed, and not everybody is done.
    let status = fleet.status("up");
    assert_eq!(status.phase, UpgradePhase::Accepted);
    let counts = status.nodes.clone().unwrap();
    assert_eq!((counts.pending, counts.completed, counts.failed), (1, 1, 0));
    assert_eq!(status.failures[0].reason, "Cancelled");
    assert!(
        status
            .message
            .contains("1 node cancelled; set another spec.retryNonce"),
        "{}",
        status.message
    );
    assert_eq!(fleet.condition("up", "Completed").1, "NodesRemaining");
    assert_eq!(fleet.condition("up", "Progressing").1, "Done");
}

#[test]
fn a_catalog_is_read_again_before_each_hop() {
    let mut fleet = Fleet::of(2, "v1.34.1");
    fleet.served.insert("up".into(), Ok(catalog(&VERSIONS)));
    fleet.apply(
        "up",
        json!({"version": "stable", "catalog": {"configMap": "images"}}),
    );
    fleet.settle();
    assert_eq!(fleet.released(), ["n00000"]);
    let name = fleet.progress_of("n00000").name_any();
    fleet.arrive(&name);
    // Read long ago: the next node waits for a reading, which is asked for.
    fleet.read_at = Some(fleet.clock);
    fleet.clock += 31;
    let plan = fleet.plan();
    assert!(plan.releases.is_empty());
    assert!(
        plan.readings
            .iter()
            .any(|r| r.upgrade == "up" && r.urgency == Urgency::Now)
    );
    fleet.read_at = None;
    assert_eq!(fleet.plan().releases.len(), 1);
    // It cannot be read: nobody is released, and the message says what is waited for.
    fleet.served.insert(
        "up".into(),
        Err(monok8s_controller::index::ReadError {
            reason: monok8s_api::reason::AcceptedReason::CatalogForbidden,
            message: "may not".into(),
        }),
    );
    fleet.settle();
    assert!(fleet.released().is_empty());
    assert_eq!(fleet.status("up").phase, UpgradePhase::Accepted);
}

#[test]
fn a_rollback_carries_its_version_alone() {
    let mut fleet = Fleet::of(2, "v1.35.1");
    fleet.apply(
        "up",
        json!({"version": "previous", "operation": "Rollback"}),
    );
    fleet.settle();
    assert_eq!(fleet.status("up").resolved_version, None);
    let progress = fleet.progress_of("n00000");
    let image = progress.spec.image.as_ref().unwrap();
    assert_eq!(
        (image.version.as_str(), &image.url, &image.checksum),
        ("previous", &None, &None)
    );
    assert_eq!(fleet.released(), ["n00000"]);
    fleet.apply(
        "explicit",
        json!({"version": "v1.34.1", "operation": "Rollback"}),
    );
    fleet.clock += 1;
    fleet.apply(
        "newest",
        json!({"version": "v1.35.1", "operation": "Rollback"}),
    );
    fleet.settle();
    assert_eq!(
        fleet.status("newest").phase,
        UpgradePhase::Completed,
        "all there already"
    );
}

#[test]
fn an_unselected_nodes_progress_goes_away_unless_it_has_begun() {
    let mut fleet = started(2, "v1.34.1", "v1.35.1");
    let begun = fleet.progress_of("n00000").name_any();
    fleet.step(&begun, Fate::Well);
    for node in ["n00000", "n00001"] {
        fleet.label(node, "monok8s.io/managed", "false");
    }
    fleet.settle();
    assert_eq!(fleet.progresses.keys().collect::<Vec<_>>(), [&begun]);
}

#[test]
fn a_held_hop_that_became_pointless_is_replaced() {
    let mut fleet = Fleet::of(1, "v1.33.1");
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.amend("up", |s| s.paused = true);
    fleet.settle();
    let hop = fleet.progress_of("n00000").name_any();
    // Somebody brought the node further by hand.
    fleet.report("n00000", "v1.34.6", None);
    assert_eq!(fleet.plan().deletions[0].why, Why::Obsolete);
    fleet.settle();
    assert!(!fleet.progresses.contains_key(&hop));
    let next = fleet.progress_of("n00000");
    assert_eq!(next.spec.image.as_ref().unwrap().version, "v1.35.1");
}

#[test]
fn nothing_is_deleted_on_the_word_of_a_catalog_not_read_yet() {
    let mut fleet = Fleet::of(2, "v1.34.1");
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.settle();
    fleet.clock += 1;
    fleet.apply(
        "newer",
        json!({"version": "stable", "catalog": {"url": "https://e.x/catalog.yaml"}}),
    );
    let plan = fleet.plan();
    assert!(plan.deletions.is_empty() && plan.releases.is_empty());
    assert!(plan.readings.iter().any(|r| r.upgrade == "newer"));
    fleet.settle();
    assert!(fleet.upgrades["newer"].status.is_none());
    assert_eq!(
        fleet.condition("up", "Accepted").1,
        "Resolved",
        "not superseded yet"
    );
    // Once it is read it governs, and the progresses of the older one go.
    fleet.served.insert("newer".into(), Ok(catalog(&VERSIONS)));
    fleet.settle();
    assert!(
        fleet
            .progresses
            .values()
            .all(|p| p.spec.source_ref.name == "newer")
    );
    assert_eq!(fleet.condition("up", "Accepted").1, "Superseded");
}

#[test]
fn a_node_that_leaves_the_selection_keeps_its_place_until_it_arrives() {
    let leave: [fn(&mut Fleet); 3] = [
        |fleet| fleet.label("n00000", "monok8s.io/managed", "false"),
        |fleet| drop(fleet.nodes.remove("n00000")),
        |fleet| {
            fleet.label("n00001", "pool", "a");
            fleet.label("n00002", "pool", "a");
            fleet.amend("up", |s| {
                s.node_selector.match_labels = Some([("pool".into(), "a".into())].into());
            });
        },
    ];
    for (at, leave) in leave.into_iter().enumerate() {
        let mut fleet = started(3, "v1.34.1", "v1.35.1");
        let begun = fleet.progress_of("n00000").name_any();
        fleet.step(&begun, Fate::Well);
        leave(&mut fleet);
        fleet.settle();
        assert_eq!(fleet.released(), ["n00000"], "case {at}: nobody else yet");
        assert_eq!(fleet.status("up").nodes.as_ref().unwrap().active, 1);
        fleet.touch(&begun, |p| {
            p.status.as_mut().unwrap().phase = ProgressPhase::Completed;
        });
        fleet.settle();
        assert_eq!(fleet.released(), ["n00001"], "case {at}");
    }
}

#[test]
fn a_failure_halts_even_when_its_node_leaves() {
    let mut fleet = started(3, "v1.34.1", "v1.35.1");
    let failed = fleet.progress_of("n00000").name_any();
    fleet.step(&failed, Fate::Well);
    fleet.step(&failed, Fate::Badly);
    fleet.label("n00000", "monok8s.io/managed", "false");
    fleet.settle();
    assert!(fleet.released().is_empty());
    assert_eq!(fleet.status("up").phase, UpgradePhase::Failed);
    assert_eq!(fleet.status("up").failures[0].node_name, "n00000");
    // Deleted by a person, it is settled.
    fleet.progresses.remove(&failed);
    fleet.settle();
    assert_eq!(fleet.released(), ["n00001"]);
}

#[test]
fn a_failed_reading_takes_no_verdict_back() {
    let unreachable = || {
        Err(monok8s_controller::index::ReadError {
            reason: monok8s_api::reason::AcceptedReason::CatalogUnreachable,
            message: "away".into(),
        })
    };
    let mut fleet = started(2, "v1.34.1", "v1.35.1");
    fleet.clock += 1;
    fleet.served.insert("newer".into(), Ok(catalog(&VERSIONS)));
    fleet.apply(
        "newer",
        json!({"version": "edge", "catalog": {"url": "https://e.x/catalog.yaml"}}),
    );
    fleet.settle();
    assert_eq!(fleet.condition("newer", "Accepted").1, "AliasNotFound");
    let before = fleet.progresses.clone();
    // The controller that read it, and one that never did.
    fleet.served.insert("newer".into(), unreachable());
    fleet.settle();
    let plan = fleet.plan();
    assert!(plan.deletions.is_empty() && plan.statuses.is_empty());
    assert!(
        plan.readings.iter().any(|r| r.upgrade == "newer"),
        "asked again"
    );
    assert_eq!(fleet.condition("newer", "Accepted").1, "AliasNotFound");
    assert_eq!(fleet.progresses, before);
    assert_eq!(fleet.condition("up", "Accepted").1, "Resolved");
}

#[test]
fn an_object_under_our_name_with_another_image_is_not_ours() {
    let mut fleet = started(2, "v1.34.1", "v1.35.1");
    let name = fleet.progress_of("n00001").name_any();
    fleet.touch(&name, |p| {
        let image = p.spec.image.as_mut().unwrap();
        image.checksum = Some(fleet::checksum(0xee));
        image.url = Some("https://elsewhere.example.com/".into());
    });
    fleet.run(|_| Fate::Well);
    assert_eq!(
        fleet.progresses[&name].spec.release,
        Release::Hold,
        "never released"
    );
    assert_eq!(fleet.version_of("n00001"), "v1.34.1");
    assert!(fleet.told.iter().any(|n| n.reason == "NameTaken"));
}

#[test]
fn an_image_that_changed_behind_another_entry_halts_too() {
    let mut fleet = Fleet::of(2, "v1.34.1");
    fleet.served.insert("up".into(), Ok(catalog(&VERSIONS)));
    fleet.apply(
        "up",
        json!({"version": "v1.35.3", "catalog": {"url": "https://e.x/c"}}),
    );
    fleet.settle();
    assert_eq!(fleet.released(), ["n00000"]);
    let beside = format!(
        "{}- {{version: v1.35.3, platform: linux/amd64, url: \"https://e.x/\", checksum: \"{}\"}}\n",
        catalog(&VERSIONS),
        fleet::checksum(0xee)
    );
    fleet.served.insert("up".into(), Ok(beside));
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.condition("up", "Progressing").1, "ImageChanged");
    assert_eq!(fleet.version_of("n00001"), "v1.34.1");
}

#[test]
fn a_path_begins_only_where_the_last_hop_has_led_to() {
    let mut fleet = Fleet::of(1, "v1.33.1");
    fleet.served.insert("up".into(), Ok(catalog(&VERSIONS)));
    fleet.apply(
        "up",
        json!({"version": "v1.35.1", "catalog": {"url": "https://e.x/c"}}),
    );
    fleet.settle();
    let first = fleet.progress_of("n00000").name_any();
    let behind = fleet.reports["n00000"].clone();
    fleet.arrive(&first);
    let current = fleet.reports.insert("n00000".into(), behind).unwrap();
    // A better hop has appeared, but the report is not up to date yet.
    let better = catalog(&["v1.33.4", "v1.34.6", "v1.34.9", "v1.35.1"]);
    fleet.served.insert(
        "up".into(),
        Ok(better.replace(&fleet::checksum(3), &fleet::checksum(2))),
    );
    fleet.settle();
    assert_eq!(fleet.progresses.len(), 1);
    fleet.reports.insert("n00000".into(), current);
    fleet.settle();
    let second = fleet.progress_of("n00000");
    assert_eq!(second.spec.image.as_ref().unwrap().version, "v1.35.1");
}

#[test]
fn failures_and_pins_are_capped() {
    let mut fleet = Fleet::of(12, "v1.36.0");
    fleet.add_node("z", "v1.34.1");
    fleet.apply("up", spec("v1.35.1", &VERSIONS));
    fleet.settle();
    let status = fleet.status("up");
    assert_eq!(status.nodes.as_ref().unwrap().refused, 12);
    assert_eq!(status.failures.len(), 10);

    let mut fleet = Fleet::default();
    let mut text = "images:\n".to_owned();
    for platform in 0..70 {
        let node = format!("n{platform:02}");
        fleet.add_node(&node, "v1.34.1");
        let report = fleet.reports.get_mut(&node).unwrap();
        report.status.as_mut().unwrap().platform = format!("linux/p{platform}");
        let checksum = fleet::checksum(u8::try_from(platform).unwrap());
        writeln!(
            text,
            "- {{version: v1.35.1, platform: linux/p{platform}, url: \"https://e.x/\", checksum: \"{checksum}\"}}"
        )
        .unwrap();
    }
    fleet.apply(
        "up",
        json!({"version": "v1.35.1", "catalog": {"inline": text}, "rollout": {"maxUnavailable": "100%"}}),
    );
    fleet.settle();
    assert_eq!(fleet.status("up").pinned.len(), 64);
    assert_eq!(fleet.progresses.len(), 70, "all have theirs all the same");
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
}

/// A node that somebody has taken over writes its own status, and nothing bounds what is in it.
#[test]
fn what_one_agent_says_cannot_fill_an_upgrades_status() {
    let mut fleet = started(1, "v1.34.1", "v1.35.1");
    let name = fleet.progress_of("n00000").name_any();
    let long = "x".repeat(1 << 20);
    fleet.finish(&name, ProgressPhase::Failed, &long);
    fleet.touch(&name, |p| p.status.as_mut().unwrap().message = long);
    fleet.settle();
    let status = fleet.status("up");
    assert_eq!(status.failures.len(), 1);
    assert!(status.failures[0].reason.starts_with("xxx"));
    let size = serde_json::to_vec(status).unwrap().len();
    assert!(size < 32 << 10, "{size} bytes");
}
