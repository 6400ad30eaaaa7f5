//! Every reason that the controller can give for the conditions of an OSUpgrade, produced.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    reason = "a failure here is a failed test; the tables are long because the sets are"
)]

mod fleet;

use fleet::{Fate, Fleet, catalog, checksum, phase, spec};
use kube::ResourceExt;
use monok8s_api::reason::{
    AcceptedReason, CompletedReason, DegradedReason, ProgressPhase, ProgressingReason, UpgradePhase,
};
use monok8s_controller::index::ReadError;
use serde_json::{Value, json};

const VERSIONS: [&str; 3] = ["v1.34.6", "v1.35.1", "v1.35.3"];

fn inline(version: &str, catalog: &str) -> Value {
    json!({"version": version, "catalog": {"inline": catalog}})
}

fn entry(version: &str, more: &str) -> String {
    let checksum = checksum(7);
    format!(
        "- {{version: {version}, url: \"https://e.x/{version}\", checksum: \"{checksum}\"{more}}}\n"
    )
}

/// A fleet of three on v1.34.1 with this upgrade, and the controller at rest.
fn judged(spec: Value) -> Fleet {
    judged_on(Fleet::of(3, "v1.34.1"), spec)
}

fn judged_on(mut fleet: Fleet, spec: Value) -> Fleet {
    fleet.apply("up", spec);
    fleet.settle();
    fleet
}

fn unread(reason: AcceptedReason) -> Fleet {
    let mut fleet = Fleet::of(3, "v1.34.1");
    fleet.served.insert(
        "up".into(),
        Err(ReadError {
            reason,
            message: "what happened".into(),
        }),
    );
    judged_on(
        fleet,
        json!({"version": "v1.35.1", "catalog": {"url": "https://e.x/catalog.yaml"}}),
    )
}

#[test]
fn every_reason_of_accepted() {
    use AcceptedReason as R;
    let rows: Vec<(AcceptedReason, UpgradePhase, &str, Fleet)> = vec![
        (
            R::Resolved,
            UpgradePhase::Accepted,
            "True",
            judged(spec("stable", &VERSIONS)),
        ),
        (
            R::InvalidVersion,
            UpgradePhase::Rejected,
            "False",
            judged(spec("1.35", &VERSIONS)),
        ),
        (
            R::AliasNotFound,
            UpgradePhase::Rejected,
            "False",
            judged(spec("edge", &VERSIONS)),
        ),
        (
            R::VersionNotInCatalog,
            UpgradePhase::Rejected,
            "False",
            judged(spec("v1.35.9", &VERSIONS)),
        ),
        (
            R::VersionBlocked,
            UpgradePhase::Rejected,
            "False",
            judged(inline(
                "v1.35.1",
                &(catalog(&VERSIONS) + "blocked: [v1.35.1]\n"),
            )),
        ),
        (R::Downgrade, UpgradePhase::Rejected, "False", {
            judged_on(Fleet::of(3, "v1.35.3"), spec("v1.35.1", &VERSIONS))
        }),
        (
            R::MajorVersionChange,
            UpgradePhase::Rejected,
            "False",
            judged(spec("v2.0.0", &["v1.34.6", "v2.0.0"])),
        ),
        (
            R::IntermediateVersionMissing,
            UpgradePhase::Rejected,
            "False",
            judged(spec("v1.36.0", &["v1.34.6", "v1.36.0"])),
        ),
        (
            R::UpgradeFromRefused,
            UpgradePhase::Rejected,
            "False",
            judged(inline(
                "v1.35.1",
                &format!(
                    "images:\n{}",
                    entry("v1.35.1", ", upgradeFrom: \">=1.34.3\"")
                ),
            )),
        ),
        (
            R::NoImageForPlatform,
            UpgradePhase::Rejected,
            "False",
            judged(inline(
                "v1.35.1",
                &format!("images:\n{}", entry("v1.35.1", ", platform: linux/arm64")),
            )),
        ),
        (
            R::InvalidChecksum,
            UpgradePhase::Rejected,
            "False",
            judged(inline(
                "v1.35.1",
                "images:\n- {version: v1.35.1, url: \"https://e.x/\", checksum: \"sha256:abc\"}\n",
            )),
        ),
        (
            R::InvalidCatalog,
            UpgradePhase::Rejected,
            "False",
            judged(inline("v1.35.1", "images: 7")),
        ),
        (
            R::CatalogTooLarge,
            UpgradePhase::Rejected,
            "False",
            judged(inline(
                "v1.35.1",
                &"#".repeat(monok8s_api::catalog::MAX_CATALOG_BYTES + 1),
            )),
        ),
        (
            R::InvalidSource,
            UpgradePhase::Rejected,
            "False",
            unread(R::InvalidSource),
        ),
        (R::Superseded, UpgradePhase::Rejected, "False", {
            let mut fleet = judged(spec("v1.35.1", &VERSIONS));
            fleet.clock += 1;
            fleet.apply("newer", spec("v1.35.3", &VERSIONS));
            fleet.settle();
            fleet
        }),
        (R::NodesRefused, UpgradePhase::Rejected, "False", {
            let mut fleet = Fleet::of(1, "v1.35.3");
            fleet.add_node("n9", "v1.33.1");
            judged_on(fleet, spec("v1.35.1", &["v1.35.1"]))
        }),
        (
            R::CatalogUnreachable,
            UpgradePhase::Pending,
            "Unknown",
            unread(R::CatalogUnreachable),
        ),
        (
            R::CatalogForbidden,
            UpgradePhase::Pending,
            "Unknown",
            unread(R::CatalogForbidden),
        ),
        (
            R::ConfigMapNotFound,
            UpgradePhase::Pending,
            "Unknown",
            unread(R::ConfigMapNotFound),
        ),
        (R::NoMatchingNodes, UpgradePhase::Pending, "Unknown", {
            let mut spec = spec("v1.35.1", &VERSIONS);
            spec["nodeSelector"] = json!({"matchLabels": {"pool": "none"}});
            judged(spec)
        }),
        (R::NodeVersionUnknown, UpgradePhase::Pending, "Unknown", {
            let mut fleet = Fleet::of(1, "v1.34.1");
            fleet.reports.clear();
            judged_on(fleet, spec("v1.35.1", &VERSIONS))
        }),
    ];
    for reason in AcceptedReason::ALL {
        assert!(
            rows.iter().any(|(r, ..)| r == reason),
            "no row for {reason}"
        );
    }
    for (reason, phase, truth, fleet) in rows {
        let told = fleet.condition("up", "Accepted");
        assert_eq!(told, (truth.to_owned(), reason.to_string()));
        let status = fleet.status("up");
        assert_eq!(status.phase, phase, "{reason}");
        assert!(!status.message.is_empty(), "{reason} says nothing");
        if phase != UpgradePhase::Accepted {
            let own = |p: &monok8s_api::OSUpgradeProgress| p.spec.source_ref.name == "up";
            assert!(
                !fleet.progresses.values().any(own),
                "{reason} made progresses"
            );
        }
    }
}

#[test]
fn a_mended_catalog_lifts_a_rejection() {
    let good = catalog(&VERSIONS);
    for (reason, broken) in [
        (AcceptedReason::InvalidCatalog, "images: 7".to_owned()),
        (
            AcceptedReason::AliasNotFound,
            good.replace("stable:", "edge:"),
        ),
        (
            AcceptedReason::VersionBlocked,
            good.clone() + "blocked: [v1.35.3]\n",
        ),
        (
            AcceptedReason::IntermediateVersionMissing,
            catalog(&["v1.33.4", "v1.36.0"]),
        ),
    ] {
        let mut fleet = Fleet::of(3, "v1.34.1");
        fleet.served.insert("up".into(), Ok(broken));
        let mut fleet = judged_on(
            fleet,
            json!({"version": "stable", "catalog": {"url": "https://e.x/catalog.yaml"}}),
        );
        assert_eq!(
            fleet.condition("up", "Accepted"),
            ("False".into(), reason.to_string())
        );
        assert!(fleet.progresses.is_empty(), "{reason}");
        let readings = fleet.plan().readings;
        assert!(
            readings.iter().any(|r| r.upgrade == "up"),
            "{reason} is never read again"
        );
        fleet.served.insert("up".into(), Ok(good.clone()));
        fleet.settle();
        assert_eq!(
            fleet.condition("up", "Accepted"),
            ("True".into(), "Resolved".into()),
            "after {reason}"
        );
        let status = fleet.status("up");
        assert_eq!(status.phase, UpgradePhase::Accepted);
        assert_eq!(status.revision, Some(1), "nobody changed the spec");
        assert_eq!(fleet.released(), ["n00000"]);
    }
}

#[test]
fn other_nodes_lift_a_rejection() {
    use AcceptedReason as R;
    type Act = fn(&mut Fleet);
    // One node is beyond the version, the other has a minor missing on its way.
    let both_refuse = || {
        let mut fleet = Fleet::of(1, "v1.35.3");
        fleet.add_node("n9", "v1.33.1");
        fleet
    };
    let rows: [(R, Fleet, &str, Act, &str); 5] = [
        (
            R::Downgrade,
            Fleet::of(2, "v1.35.3"),
            "a node joins that may go",
            |fleet| fleet.add_node("n9", "v1.35.0"),
            "n9",
        ),
        (
            R::Downgrade,
            Fleet::of(2, "v1.35.3"),
            "a node is made again with an older system",
            |fleet| {
                fleet.nodes.remove("n00001");
                fleet.add_node("n00001", "v1.34.1");
            },
            "n00001",
        ),
        (
            R::NodesRefused,
            both_refuse(),
            "a node joins that may go",
            |fleet| fleet.add_node("n5", "v1.34.1"),
            "n5",
        ),
        (
            R::NodesRefused,
            both_refuse(),
            "a node has come past the missing minor",
            |fleet| fleet.report("n9", "v1.34.6", None),
            "n9",
        ),
        (
            R::NodesRefused,
            both_refuse(),
            "both are replaced by another",
            |fleet| {
                fleet.nodes.clear();
                fleet.reports.clear();
                fleet.add_node("n5", "v1.35.0");
            },
            "n5",
        ),
    ];
    for (reason, fleet, what, act, goes) in rows {
        let mut fleet = judged_on(fleet, spec("v1.35.1", &["v1.35.1"]));
        assert_eq!(
            fleet.condition("up", "Accepted"),
            ("False".into(), reason.to_string())
        );
        assert_eq!(fleet.status("up").phase, UpgradePhase::Rejected);
        act(&mut fleet);
        fleet.settle();
        assert_eq!(
            fleet.condition("up", "Accepted"),
            ("True".into(), "Resolved".into()),
            "{reason}, and {what}"
        );
        assert_eq!(fleet.released(), [goes], "{reason}, and {what}");
        fleet.run(|_| Fate::Well);
        assert_eq!(fleet.version_of(goes), "v1.35.1");
        assert_eq!(fleet.status("up").phase, UpgradePhase::Completed, "{what}");
    }
}

/// Three nodes, one hop, in the state that `arrange` brings about.
fn rollout(more: Value, arrange: impl FnOnce(&mut Fleet)) -> Fleet {
    let mut spec = spec("v1.35.1", &VERSIONS);
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let mut fleet = judged(spec);
    arrange(&mut fleet);
    fleet.settle();
    fleet
}

fn end(fleet: &mut Fleet, node: &str, phase: ProgressPhase, reason: &str) {
    let name = fleet.progress_of(node).name_any();
    fleet.finish(&name, phase, reason);
    fleet.settle();
}

fn all_well(fleet: &mut Fleet) {
    fleet.run(|_| Fate::Well);
}

/// A catalog at a URL, accepted, and then served as `later`.
fn served(later: &str) -> Fleet {
    let mut fleet = Fleet::of(3, "v1.34.1");
    fleet.served.insert("up".into(), Ok(catalog(&VERSIONS)));
    let mut fleet = judged_on(
        fleet,
        json!({"version": "stable", "catalog": {"url": "https://e.x/catalog.yaml"}}),
    );
    fleet.served.insert("up".into(), Ok(later.to_owned()));
    fleet.settle();
    fleet
}

#[test]
fn every_reason_of_progressing() {
    use ProgressingReason as R;
    let rows: Vec<(ProgressingReason, &str, Fleet)> = vec![
        (R::Releasing, "True", rollout(json!({}), |_| {})),
        (R::Paused, "False", rollout(json!({"paused": true}), |_| {})),
        (R::WaitingForOtherUpgrade, "False", {
            let mut fleet = rollout(json!({}), |fleet| {
                let name = fleet.progress_of("n00000").name_any();
                fleet.step(&name, Fate::Well);
            });
            for node in ["n00001", "n00002"] {
                fleet.nodes.remove(node);
            }
            fleet.amend("up", |s| "v1.35.3".clone_into(&mut s.version));
            fleet.settle();
            fleet
        }),
        (
            R::TooManyFailures,
            "False",
            rollout(json!({}), |fleet| {
                end(fleet, "n00000", ProgressPhase::Failed, "ChecksumMismatch");
            }),
        ),
        (
            R::ImageChanged,
            "False",
            served(&catalog(&VERSIONS).replace(&checksum(2), &checksum(9))),
        ),
        (
            R::Draining,
            "True",
            rollout(json!({}), |fleet| {
                fleet.add_pod("web", "n00000", &json!({}));
                fleet.refused.insert("web".into(), "a budget".into());
                let name = fleet.progress_of("n00000").name_any();
                while phase(&fleet.progresses[&name]) != ProgressPhase::Staged {
                    fleet.step(&name, Fate::Well);
                }
            }),
        ),
        (R::Done, "False", rollout(json!({}), all_well)),
    ];
    for reason in ProgressingReason::ALL {
        assert!(
            rows.iter().any(|(r, ..)| r == reason),
            "no row for {reason}"
        );
    }
    for (reason, truth, fleet) in rows {
        let told = fleet.condition("up", "Progressing");
        assert_eq!(told, (truth.to_owned(), reason.to_string()));
        assert!(!fleet.status("up").message.is_empty());
    }
}

#[test]
fn every_reason_of_completed() {
    use CompletedReason as R;
    let rows: Vec<(CompletedReason, &str, UpgradePhase, Fleet)> = vec![
        (
            R::NodesRemaining,
            "False",
            UpgradePhase::Accepted,
            rollout(json!({}), |_| {}),
        ),
        (
            R::AllNodesDone,
            "True",
            UpgradePhase::Completed,
            rollout(json!({}), all_well),
        ),
        (
            R::NodesFailed,
            "False",
            UpgradePhase::Failed,
            rollout(json!({}), |fleet| {
                end(fleet, "n00000", ProgressPhase::RolledBack, "FellBack");
            }),
        ),
    ];
    for reason in CompletedReason::ALL {
        assert!(
            rows.iter().any(|(r, ..)| r == reason),
            "no row for {reason}"
        );
    }
    for (reason, truth, phase, fleet) in rows {
        let told = fleet.condition("up", "Completed");
        assert_eq!(told, (truth.to_owned(), reason.to_string()));
        assert_eq!(fleet.status("up").phase, phase);
    }
}

#[test]
fn every_reason_of_degraded() {
    use DegradedReason as R;
    let rows: Vec<(DegradedReason, &str, Fleet)> = vec![
        (R::AsExpected, "False", rollout(json!({}), all_well)),
        (
            R::NodesFailed,
            "True",
            rollout(json!({}), |fleet| {
                end(fleet, "n00000", ProgressPhase::Failed, "ChecksumMismatch");
            }),
        ),
        (
            R::NodesRolledBack,
            "True",
            rollout(json!({}), |fleet| {
                end(fleet, "n00000", ProgressPhase::RolledBack, "FellBack");
            }),
        ),
        (
            R::Drifted,
            "True",
            rollout(json!({}), |fleet| {
                all_well(fleet);
                fleet.report("n00001", "v1.34.1", None);
            }),
        ),
    ];
    for reason in DegradedReason::ALL {
        assert!(
            rows.iter().any(|(r, ..)| r == reason),
            "no row for {reason}"
        );
    }
    for (reason, truth, fleet) in rows {
        let told = fleet.condition("up", "Degraded");
        assert_eq!(told, (truth.to_owned(), reason.to_string()));
    }
}

#[test]
fn stalled_only_while_a_released_progress_stands_still() {
    let mut fleet = rollout(json!({}), |_| {});
    let mut index = fleet.index();
    let look = |fleet: &mut Fleet, index: &mut monok8s_controller::index::Index| {
        fleet.feed(index);
        let plan = monok8s_controller::decide::planner::plan(index, &fleet.settings, fleet.now());
        let again = plan.look_again_at;
        fleet.carry_out(plan);
        again
    };
    let again = look(&mut fleet, &mut index).unwrap();
    assert_eq!(
        again,
        fleet.settings.stall_after + std::time::Duration::from_secs(fleet.clock)
    );
    fleet.clock += 15 * 60 - 1;
    look(&mut fleet, &mut index);
    assert_eq!(
        fleet.condition("up", "Stalled"),
        (String::new(), String::new())
    );
    fleet.clock += 1;
    look(&mut fleet, &mut index);
    assert_eq!(fleet.condition("up", "Stalled").0, "True");
    // It keeps its place: nobody else is released.
    assert_eq!(fleet.released(), ["n00000"]);
    let name = fleet.progress_of("n00000").name_any();
    fleet.step(&name, Fate::Well);
    look(&mut fleet, &mut index);
    assert_eq!(fleet.condition("up", "Stalled").0, "");
}

#[test]
fn a_moved_alias_changes_nothing_until_the_spec_does() {
    let mut fleet = served(&catalog(&["v1.34.6", "v1.35.1", "v1.35.3", "v1.35.4"]));
    assert_eq!(fleet.condition("up", "CatalogChanged").0, "True");
    assert_eq!(
        fleet.status("up").resolved_version.as_deref(),
        Some("v1.35.3")
    );
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.status("up").phase, UpgradePhase::Completed);
    assert!(fleet.nodes.keys().all(|n| fleet.version_of(n) == "v1.35.3"));
    // A controller that begins now holds to it too, without having read the catalog.
    let served = std::mem::take(&mut fleet.served);
    fleet.settle();
    assert_eq!(
        fleet.status("up").resolved_version.as_deref(),
        Some("v1.35.3")
    );
    assert_eq!(fleet.condition("up", "CatalogChanged").0, "True");
    fleet.served = served;
    fleet.amend("up", |s| s.allow_downgrade = true);
    fleet.settle();
    assert_eq!(
        fleet.status("up").resolved_version.as_deref(),
        Some("v1.35.4")
    );
    assert_eq!(fleet.condition("up", "CatalogChanged").0, "");
}

#[test]
fn a_version_blocked_meanwhile_is_not_started() {
    let mut fleet = served(&(catalog(&VERSIONS) + "blocked: [v1.35.3]\n"));
    assert_eq!(fleet.released(), ["n00000"]);
    fleet.run(|_| Fate::Well);
    assert_eq!(fleet.version_of("n00000"), "v1.35.3");
    assert_eq!(fleet.version_of("n00001"), "v1.34.1");
    let status = fleet.status("up");
    assert_eq!(status.nodes.as_ref().unwrap().refused, 2);
    assert_eq!(status.failures[0].reason, "VersionBlocked");
    assert_eq!(status.phase, UpgradePhase::Completed);
}

#[test]
fn counts_add_up_and_refusing_nodes_do_not_hold_back_the_rest() {
    let mut fleet = Fleet::of(2, "v1.34.1");
    fleet.add_node("newer", "v1.36.0");
    fleet.add_node("silent", "v1.34.1");
    fleet.reports.remove("silent");
    let mut fleet = judged_on(fleet, spec("v1.35.1", &VERSIONS));
    let nodes = fleet.status("up").nodes.clone().unwrap();
    assert_eq!(
        (nodes.selected, nodes.active, nodes.pending, nodes.refused),
        (4, 1, 1, 2)
    );
    fleet.run(|_| Fate::Well);
    let status = fleet.status("up");
    assert_eq!(status.phase, UpgradePhase::Completed);
    assert_eq!(status.summary.as_deref(), Some("2/4"));
    let reasons: Vec<_> = status.failures.iter().map(|f| f.reason.as_str()).collect();
    assert_eq!(reasons, ["Downgrade", "NodeVersionUnknown"]);
}

#[test]
fn one_notice_per_change_of_phase_and_none_repeated() {
    let mut fleet = judged(spec("v1.35.1", &VERSIONS));
    let name = fleet.progress_of("n00000").name_any();
    fleet.step(&name, Fate::Well);
    fleet.step(&name, Fate::Badly);
    fleet.settle();
    fleet.touch(&name, |p| p.spec.retry_nonce = "retry-1".into());
    fleet.step(&name, Fate::Well);
    fleet.run(|_| Fate::Well);
    // A controller that begins now has nothing to tell.
    fleet.settle();
    let told: Vec<_> = fleet
        .told
        .iter()
        .map(|n| (n.reason.as_str(), n.warning))
        .collect();
    let expected = [
        ("Accepted", false),
        ("Failed", true),
        ("Accepted", false),
        ("Draining", false),
        ("Draining", false),
        ("Draining", false),
        ("Completed", false),
    ];
    assert_eq!(told, expected);
    let keys: std::collections::BTreeSet<_> = fleet.told.iter().map(|n| &n.key).collect();
    assert_eq!(keys.len(), fleet.told.len());
}

#[test]
fn transition_times_move_only_with_the_status() {
    let mut fleet = judged(spec("v1.35.1", &VERSIONS));
    let accepted = |fleet: &Fleet| {
        monok8s_api::condition::find(&fleet.status("up").conditions, "Accepted")
            .unwrap()
            .last_transition_time
            .clone()
    };
    let first = accepted(&fleet);
    fleet.clock += 100;
    fleet.run(|_| Fate::Well);
    assert_eq!(accepted(&fleet), first);
}
