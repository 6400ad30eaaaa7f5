use monok8s_api::reason::ProgressPhase;
use serde_json::{Value, json};

use super::*;

fn node(uid: &str, version: u64, ready: &str) -> NodeObject {
    serde_json::from_value(json!({
        "metadata": {"name": "n", "uid": uid, "resourceVersion": version.to_string(),
                     "labels": {"monok8s.io/managed": "true"}},
        "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {"conditions": [{"type": "Ready", "status": ready}], "images": [{"names": ["x"]}]}
    }))
    .unwrap()
}

fn report(uid: &str, version: u64, os: &str) -> OSNode {
    serde_json::from_value(json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSNode",
        "metadata": {"name": "n", "uid": "r", "resourceVersion": version.to_string()},
        "spec": {}, "status": {"nodeUID": uid, "version": os, "platform": "linux/amd64"}
    }))
    .unwrap()
}

fn progress(version: u64, change: impl FnOnce(&mut Value)) -> OSUpgradeProgress {
    let hop: monok8s_api::Version = "v1.35.1".parse().unwrap();
    let name = monok8s_api::names::progress("u", 3, "nu", &hop);
    let mut object = json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgradeProgress",
        "metadata": {
            "name": name, "uid": "p", "resourceVersion": version.to_string(),
            "labels": {"monok8s.io/upgrade": "up", "monok8s.io/revision": "3"},
            "ownerReferences": [{"apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade",
                "name": "up", "uid": "u", "controller": true, "blockOwnerDeletion": false}],
        },
        "spec": {"sourceRef": {"name": "up"}, "nodeName": "n", "nodeUID": "nu",
                 "image": {"version": "v1.35.1"}, "release": "Hold"},
    });
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

#[test]
fn facts_follow_node_and_report_in_whatever_order_they_come() {
    let mut index = Index::default();
    // Without its Node a report changes nothing.
    assert_eq!(index.apply_report(report("a", 1, "v1.34.1")), Effect::None);
    assert_eq!(index.apply_node(node("a", 2, "True")), Effect::Relevant);
    assert!(index.node("n").unwrap().facts.is_ok());
    assert_eq!(index.apply_node(node("b", 3, "True")), Effect::Relevant);
    assert!(index.node("n").unwrap().facts.is_err(), "made again");
    assert_eq!(
        index.apply_report(report("b", 4, "v1.34.1")),
        Effect::Relevant
    );
    assert!(index.node("n").unwrap().facts.is_ok());
    index.begin_reports();
    index.finish_reports();
    assert!(index.node("n").unwrap().facts.is_err());
}

#[test]
fn a_heartbeat_is_no_reason_to_plan() {
    let mut index = Index::default();
    let _ = index.apply_node(node("a", 2, "True"));
    assert_eq!(index.apply_node(node("a", 3, "True")), Effect::None);
    assert_eq!(index.apply_node(node("a", 4, "False")), Effect::Relevant);
}

#[test]
fn bytes_that_flow_are_no_reason_to_plan_but_a_sign_of_life() {
    let at = Duration::from_secs;
    let mut index = Index::default();
    let downloading = |version: u64, bytes: u64| {
        progress(version, |p| {
            p["status"] = json!({"phase": "Downloading", "bytesDone": bytes});
        })
    };
    assert_eq!(
        index.apply_progress(downloading(1, 0), at(1)),
        Effect::Relevant
    );
    assert_eq!(index.apply_progress(downloading(2, 9), at(5)), Effect::None);
    let known = index.progresses_of("n").next().unwrap();
    assert_eq!(known.moved_at, at(5));
    assert_eq!(*known.phase(), ProgressPhase::Downloading);
    // The same again is no sign of life.
    let _ = index.apply_progress(downloading(3, 9), at(8));
    assert_eq!(index.progresses_of("n").next().unwrap().moved_at, at(5));
}

type Change = fn(&mut Value);

#[test]
fn only_the_computed_name_makes_a_progress_ours() {
    let ours = Origin::Controller {
        upgrade: "u".into(),
        revision: 3,
    };
    let cases: [(Change, bool); 6] = [
        (|_| {}, true),
        (
            |p| p["metadata"]["name"] = json!("osupgrade-aaaaaaaaaa"),
            false,
        ),
        (
            |p| p["metadata"]["labels"]["monok8s.io/revision"] = json!("4"),
            false,
        ),
        (|p| p["metadata"]["ownerReferences"] = json!([]), false),
        (|p| p["spec"]["nodeUID"] = json!("other"), false),
        (|p| p["spec"]["image"]["version"] = json!("v1.35.2"), false),
    ];
    for (at, (change, is_ours)) in cases.into_iter().enumerate() {
        let mut index = Index::default();
        let _ = index.apply_progress(progress(1, change), Duration::ZERO);
        let known = index.progresses().next().unwrap();
        assert_eq!(known.origin == ours, is_ours, "case {at}");
    }
}

#[test]
fn an_answer_and_the_watch_may_come_in_any_order() {
    let mut index = Index::default();
    let held = progress(5, |_| {});
    let released = progress(6, |p| p["spec"]["release"] = json!("Reboot"));
    let name = held.name_any();
    let _ = index.apply_progress(held.clone(), Duration::ZERO);
    let _ = index.apply_progress(released.clone(), Duration::ZERO);
    assert_eq!(index.apply_progress(held, Duration::ZERO), Effect::None);
    assert!(index.progress(&name).unwrap().has_place());
    assert_eq!(index.remove_progress(&name, "another"), Effect::None);
    assert_eq!(index.remove_progress(&name, "p"), Effect::Relevant);
    assert_eq!(index.progresses_of("n").count(), 0);
}

#[test]
fn a_reading_counts_only_for_the_source_it_was_made_of() {
    let upgrade = |version: u64, url: &str| -> OSUpgrade {
        serde_json::from_value(json!({
            "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade",
            "metadata": {"name": "up", "uid": "u", "resourceVersion": version.to_string()},
            "spec": {"version": "v1.35.1", "catalog": {"url": url}},
        }))
        .unwrap()
    };
    let reading = |url: &str| Reading {
        source: monok8s_api::osupgrade::CatalogSource {
            url: Some(url.to_owned()),
            ..Default::default()
        },
        clock: Duration::from_secs(1),
        wall: jiff::Timestamp::UNIX_EPOCH,
        outcome: Ok(Some((
            Arc::new(monok8s_api::catalog::Catalog::parse("images: []").unwrap()),
            "d".to_owned(),
        ))),
    };
    let mut index = Index::default();
    let _ = index.apply_upgrade(upgrade(1, "https://a.x/"));
    assert!(index.upgrade("up").unwrap().catalog.is_unread());
    assert_eq!(
        index.apply_reading("up", "u", reading("https://b.x/")),
        Effect::None
    );
    assert_eq!(
        index.apply_reading("up", "w", reading("https://a.x/")),
        Effect::None
    );
    assert_eq!(
        index.apply_reading("up", "u", reading("https://a.x/")),
        Effect::Relevant
    );
    let _ = index.apply_upgrade(upgrade(2, "https://a.x/"));
    assert!(!index.upgrade("up").unwrap().catalog.is_unread(), "kept");
    let _ = index.apply_upgrade(upgrade(3, "https://b.x/"));
    assert!(
        index.upgrade("up").unwrap().catalog.is_unread(),
        "another source"
    );
}
