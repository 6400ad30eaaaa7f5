//! Two replicas on a real control plane, killed, ended and stopped in the middle of a rollout.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

mod cluster;

use std::{collections::BTreeSet, sync::atomic::Ordering};

use cluster::{ALONE, Cluster, IN_TURN, LEASE, PATIENCE, Replica};
use kube::api::{DeleteParams, ListParams};
use monok8s_sandbox::wait;
use rustix::process::Signal;

const NODES: usize = 5;

/// A rollout over five nodes, led by `first`, with one node done and another under way.
async fn in_the_middle(flags: &[&str]) -> (Cluster, Replica, Replica) {
    let mut cluster = Cluster::start(NODES).await;
    let first = cluster.controller("first", flags).await;
    first.until_ready().await;
    cluster.until_leads("first").await;
    let second = cluster.controller("second", flags).await;
    // A standby is ready too.
    second.until_ready().await;
    cluster.begin_upgrade().await;
    cluster.until_done("up", 1).await;
    // Whoever is killed now takes nothing along that had not been told.
    cluster.told_until("up", "Accepted").await;
    (cluster, first, second)
}

/// Everybody arrived, by one release each, and it was told once.
async fn arrived(cluster: &Cluster) {
    cluster.until_phase_is("up", "Completed").await;
    cluster.until_released(NODES).await;
    cluster.assert_nothing_broken();
    let released = cluster.seen.lock().unwrap().released.clone();
    assert_eq!(released.len(), NODES);
    assert_eq!(released.iter().collect::<BTreeSet<_>>().len(), NODES);
    let told = cluster.told_until("up", "Completed").await;
    let (drains, told): (Vec<_>, Vec<_>) = told.iter().partition(|reason| *reason == "Draining");
    assert_eq!(told, ["Accepted", "Completed"]);
    // One for each node, and none of them by both leaders.
    assert!(drains.len() <= NODES, "{} drains", drains.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_is_replaced() {
    let (cluster, first, second) = in_the_middle(IN_TURN).await;
    first.process.kill().await;
    cluster.until_leads("second").await;
    arrived(&cluster).await;
    // The index learns of a status by its watch, a moment after everybody else may.
    let metrics = wait::until("the metrics to tell the end", PATIENCE, || async {
        let metrics = second.get("/metrics").await;
        let told = metrics.contains("monok8s_controller_leading 1")
            && metrics.contains(r#"monok8s_controller_upgrades{phase="Completed"} 1"#);
        Ok(told.then_some(metrics))
    })
    .await
    .unwrap();
    for name in ["n0", "n1", "up\"", "osupgrade-"] {
        assert!(!metrics.contains(name), "a label names {name}: {metrics}");
    }
    cluster.end().await;
}

/// The Lease outlasts the test: who takes over got it handed back.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_end_hands_over_at_once() {
    let (cluster, first, _second) = in_the_middle(ALONE).await;
    first.process.signal(Signal::TERM);
    let status = first.process.wait().await.unwrap();
    assert!(status.success(), "{status}: {}", first.log());
    cluster.until_leads("second").await;
    arrived(&cluster).await;
    cluster.end().await;
}

/// The Lease outlasts the test again, and both replicas run on nodes that are upgraded.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_hands_over_before_its_own_node_reboots() {
    let mut cluster = Cluster::start(NODES).await;
    let on = |node: &'static str| [ALONE, &[node]].concat();
    let first = cluster.controller("first", &on("--node-name=n0")).await;
    cluster.until_leads("first").await;
    let second = cluster.controller("second", &on("--node-name=n1")).await;
    second.until_ready().await;
    // n0 goes first, then n1, and each is down until the other one's replica leads.
    let agents = cluster.agents.clone();
    let stays_down = |node| *agents.down.lock().unwrap() = node;
    stays_down(Some("n0"));
    cluster.begin_upgrade().await;
    cluster.until_leads("second").await;
    stays_down(Some("n1"));
    cluster.until_leads("first").await;
    stays_down(None);
    arrived(&cluster).await;
    for replica in [&first, &second] {
        let log = replica.log();
        let times = log.matches("gave the Lease back").count();
        assert_eq!(times, 1, "{log}");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_nobody_takes_over_from_leads_again() {
    let mut cluster = Cluster::start(2).await;
    let flags = [IN_TURN, &["--node-name=n0"]].concat();
    let only = cluster.controller("only", &flags).await;
    cluster.begin_upgrade().await;
    cluster.until_phase_is("up", "Completed").await;
    cluster.assert_nothing_broken();
    let log = only.log();
    assert_eq!(log.matches("gave the Lease back").count(), 1, "{log}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_for_three_leases_does_nothing_more() {
    let (cluster, first, _second) = in_the_middle(IN_TURN).await;
    // It is stopped with places to give out: as soon as it went on it would.
    first.process.signal(Signal::STOP);
    cluster.until_leads("second").await;
    cluster.until_done("up", 2).await;
    // Three durations as the one that took over counts them: its renewals.
    let renewals = |cluster: &Cluster| {
        let leases = cluster.leases();
        async move {
            leases
                .get("monok8s-controller")
                .await
                .unwrap()
                .spec
                .unwrap()
                .renew_time
                .unwrap()
                .0
        }
    };
    let begin = renewals(&cluster).await;
    wait::until("three lease durations of renewals", PATIENCE, || async {
        let passed = renewals(&cluster).await.duration_since(begin);
        Ok((passed.as_secs() >= 3 * LEASE).then_some(()))
    })
    .await
    .unwrap();
    cluster.agents.running.store(false, Ordering::SeqCst);
    let before = first.log();
    let released = cluster.seen.lock().unwrap().released.clone();
    first.process.signal(Signal::CONT);
    let status = first.process.wait().await.unwrap();
    assert!(!status.success(), "{}", first.log());
    let after = first.log()[before.len()..].to_owned();
    assert!(after.contains("lost the Lease"), "{after}");
    // It may tell of what it had sent before it was stopped, and of nothing else.
    for line in after.lines().filter(|line| line.contains("released")) {
        let known = released.iter().any(|name| line.contains(name.as_str()));
        assert!(known, "{line}");
    }
    cluster.agents.running.store(true, Ordering::SeqCst);
    arrived(&cluster).await;
    cluster.end().await;
}

/// Whoever deletes the Lease may have anything in mind, a new election most likely: the leader ends,
/// and nobody leads before it must have noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_was_deleted_ends_and_another_leads_later() {
    let (cluster, first, second) = in_the_middle(IN_TURN).await;
    let deleted = cluster.leases().get("monok8s-controller").await.unwrap();
    cluster
        .leases()
        .delete("monok8s-controller", &DeleteParams::default())
        .await
        .unwrap();
    let status = first.process.wait().await.unwrap();
    assert!(!status.success(), "{}", first.log());
    assert!(first.log().contains("lost the Lease"), "{}", first.log());
    cluster.until_leads("second").await;
    let made = cluster.leases().get("monok8s-controller").await.unwrap();
    assert_ne!(made.metadata.uid, deleted.metadata.uid);
    // Both times are this machine's, and only the test compares them.
    let acquired = made.spec.unwrap().acquire_time.unwrap().0;
    let renewed = deleted.spec.unwrap().renew_time.unwrap().0;
    let between = acquired.duration_since(renewed);
    assert!(
        between.as_secs() >= LEASE,
        "the other leads {between} after the last renewal: {}",
        second.log()
    );
    arrived(&cluster).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_comes_back_decides_nothing_anew() {
    let (cluster, first, second) = in_the_middle(IN_TURN).await;
    arrived(&cluster).await;
    let versions = |cluster: &Cluster| {
        let (upgrades, progresses) = (cluster.upgrades(), cluster.progresses());
        async move {
            let mut versions = Vec::new();
            for upgrade in upgrades.list(&ListParams::default()).await.unwrap() {
                versions.push(upgrade.metadata.resource_version);
            }
            for progress in progresses.list(&ListParams::default()).await.unwrap() {
                versions.push(progress.metadata.resource_version);
            }
            versions
        }
    };
    let before = versions(&cluster).await;
    let told = cluster.events("up").await;
    for replica in [first, second] {
        replica.process.kill().await;
    }
    let third = cluster.controller("third", IN_TURN).await;
    cluster.until_leads("third").await;
    wait::until("a plan to be carried out", PATIENCE, || async {
        let metrics = third.get("/metrics").await;
        let carried_out = metrics
            .lines()
            .find_map(|l| l.strip_prefix("monok8s_controller_act_duration_seconds_count "))
            .and_then(|n| n.trim().parse::<u64>().ok());
        Ok(carried_out.filter(|n| *n >= 1))
    })
    .await
    .unwrap();
    assert_eq!(versions(&cluster).await, before, "{}", third.log());
    assert_eq!(cluster.events("up").await, told);
    cluster.end().await;
}
