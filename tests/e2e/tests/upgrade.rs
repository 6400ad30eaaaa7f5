//! The user's own commands, from `kubectl apply` to every node on the new version.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use monok8s_api::{OSUpgradeProgress, osupgradeprogress::Release, reason::SlotState};
use monok8s_e2e::objects::{self, entry};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    kubectl::Kubectl,
    node::NodeOptions,
    wait,
};
use serde_json::json;

/// Samples, so that no moment at which two nodes are under way goes unnoticed for long.
const SAMPLE: Duration = Duration::from_millis(50);

const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// The catalog of the story: beside what is needed a blocked version, a prerelease, and an older
/// version, none of which anybody is to be taken to.
fn catalog(cluster: &Cluster) -> Result<String> {
    let mut catalog = String::from("stable: v1.35.1\nimages:\n");
    for version in ["v1.35.1", "v1.34.9-rc.1", "v1.34.6", "v1.34.1"] {
        let image = cluster.image(version)?;
        let url = cluster.image_server().publish_image(image)?;
        catalog.push_str(&entry(version, &url, &image.file_sha256, Some(image.size)));
    }
    catalog.push_str(&entry(
        "v1.34.8",
        &cluster.image_server().url("/none"),
        &"0".repeat(64),
        None,
    ));
    catalog.push_str("blocked: [v1.34.8]\n");
    Ok(catalog)
}

/// `kubectl wait`, and meanwhile a look at how many nodes are under way.
async fn wait_completed(cluster: &Cluster, name: &str) -> Result<()> {
    let kubectl = cluster.kubectl();
    let object = format!("osupgrade/{name}");
    let finished = kubectl.ok([
        "wait",
        "--for=condition=Completed",
        &object,
        "--timeout=240s",
    ]);
    tokio::pin!(finished);
    let progresses: Api<OSUpgradeProgress> = Api::all(cluster.client());
    let mut ticks = tokio::time::interval(SAMPLE);
    loop {
        tokio::select! {
            printed = &mut finished => {
                let printed = printed.with_context(|| objects::fleet(cluster))?;
                ensure!(printed.contains(&format!("osupgrade.monok8s.io/{name} condition met")), "{printed}");
                return Ok(());
            }
            _ = ticks.tick() => {
                let list = progresses.list(&ListParams::default()).await?;
                let under_way: BTreeSet<_> =
                    list.iter().filter(|p| is_under_way(p)).map(|p| &p.spec.node_name).collect();
                ensure!(under_way.len() <= 1, "more than maxUnavailable nodes are under way: {under_way:?}");
            }
        }
    }
}

/// What `kubectl get` prints at the end, wide and not.
async fn tables_are_the_contracts(kubectl: &Kubectl) -> Result<()> {
    let upgrades = objects::get(kubectl, &["osupgrades"]).await?;
    ensure!(
        upgrades.columns == ["NAME", "DESIRED", "RESOLVED", "PHASE"],
        "{:?}",
        upgrades.columns
    );
    ensure!(
        upgrades.rows == [["to-stable", "stable", "v1.35.1", "Completed"]],
        "{:?}",
        upgrades.rows
    );
    let wide = objects::get(kubectl, &["osupgrades", "-o", "wide"]).await?;
    let columns = [
        "NAME", "DESIRED", "RESOLVED", "PHASE", "SUMMARY", "AGE", "MESSAGE",
    ];
    ensure!(wide.columns == columns, "{:?}", wide.columns);
    ensure!(
        wide.cell("to-stable", "SUMMARY") == Some("3/3"),
        "{:?}",
        wide.rows
    );
    let progresses = objects::get(kubectl, &["osupgradeprogresses"]).await?;
    let columns = ["NAME", "NODE", "SOURCE", "CURRENT", "TARGET", "STATUS"];
    ensure!(progresses.columns == columns, "{:?}", progresses.columns);
    let wide = objects::get(kubectl, &["osupgradeprogresses", "-o", "wide"]).await?;
    ensure!(
        wide.columns[6..] == ["PERCENT", "AGE", "MESSAGE"],
        "{:?}",
        wide.columns
    );
    for row in &wide.rows {
        ensure!(
            row[2] == "to-stable" && row[5..7] == ["Completed", "100"],
            "{row:?}"
        );
    }
    let nodes = objects::get(kubectl, &["osnodes"]).await?;
    for name in NAMES {
        // Two hops: into B with v1.34.6, back into A with v1.35.1.
        let row = nodes
            .rows
            .iter()
            .find(|row| row[0] == name)
            .context("a node is missing")?;
        ensure!(
            row[1..] == ["v1.35.1", "A", "v1.35.1", "v1.34.6", "Completed"],
            "{row:?}"
        );
    }
    // Short names and the category.
    for short in ["osu", "osup", "osn", "monok8s"] {
        kubectl.ok(["get", short]).await?;
    }
    let described = kubectl.ok(["describe", "osupgradeprogress"]).await?;
    ensure!(
        described.contains("Checksum Matched:") && described.contains("Confirmed"),
        "{described}"
    );
    Ok(())
}

/// One node's two hops, each in one attempt and with one reboot.
async fn hops_are_whole(cluster: &Cluster, name: &str) -> Result<()> {
    let hops = objects::progresses(&cluster.client(), "to-stable", name).await?;
    let targets: Vec<_> = hops
        .iter()
        .filter_map(|p| p.status.as_ref())
        .map(|s| s.target_version.as_str())
        .collect();
    ensure!(
        targets == ["v1.34.6", "v1.35.1"],
        "{name} went through {targets:?}"
    );
    ensure!(
        hops[0].spec.final_version.as_deref() == Some("v1.35.1"),
        "{:?}",
        hops[0].spec.final_version
    );
    ensure!(
        hops[1].spec.final_version.is_none(),
        "{:?}",
        hops[1].spec.final_version
    );
    for hop in &hops {
        let status = hop.status.clone().unwrap_or_default();
        ensure!(status.attempt == 1 && status.retry_count == 0, "{status:?}");
        ensure!(
            status.checksum_matched.as_deref() == Some("File"),
            "{status:?}"
        );
        ensure!(
            status.bytes_done == status.bytes_total && status.bytes_done > 0,
            "{status:?}"
        );
        for condition in ["Verified", "Switched", "Confirmed", "Completed"] {
            let found = status.conditions.iter().find(|c| c.type_ == condition);
            ensure!(
                found.is_some_and(|c| c.status == "True"),
                "{condition}: {:?}",
                status.conditions
            );
        }
    }
    let node = cluster.node(name)?;
    let boot = node.boot().context("the node is down")?;
    ensure!(
        boot.number == 3,
        "{name} was booted {} times for two hops",
        boot.number
    );
    objects::wait_slot(&cluster.client(), node, "A", &SlotState::Good).await?;
    objects::boots(node, "v1.35.1").await
}

/// The controller tells of the end by an Event, in `default`.
async fn wait_event(cluster: &Cluster) -> Result<()> {
    let events: Api<Event> = Api::namespaced(cluster.client(), "default");
    let everything = ListParams::default();
    wait::until(
        "an Event about the upgrade's end",
        objects::LIMIT,
        || async {
            let found = events.list(&everything).await?.into_iter().any(|event| {
                let about = event.regarding.unwrap_or_default();
                about.kind.as_deref() == Some("OSUpgrade")
                    && about.name.as_deref() == Some("to-stable")
                    && event
                        .reason
                        .as_deref()
                        .is_some_and(|reason| reason.contains("Completed"))
            });
            Ok(found.then_some(()))
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_go_through_the_minor_version_between_one_at_a_time() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: NAMES.map(NodeOptions::new).into(),
        version: "v1.33.2".into(),
        images: ["v1.34.1", "v1.34.6", "v1.34.9-rc.1", "v1.35.1"]
            .map(Into::into)
            .into(),
        ..ClusterOptions::default()
    })
    .await?;
    let kubectl = cluster.kubectl();
    let before = objects::get(&kubectl, &["osnodes"]).await?;
    ensure!(
        before.columns == ["NAME", "VERSION", "ACTIVE", "A", "B", "RESULT"],
        "{:?}",
        before.columns
    );
    ensure!(
        before.rows[0] == ["node-1", "v1.33.2", "A", "v1.33.2", "", ""],
        "{:?}",
        before.rows
    );

    let upgrade = json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade", "metadata": {"name": "to-stable"},
        "spec": {"version": "stable", "catalog": {"inline": catalog(&cluster)?}},
    });
    objects::apply(&kubectl, &upgrade).await?;
    wait_completed(&cluster, "to-stable").await?;
    tables_are_the_contracts(&kubectl).await?;
    let fetched = cluster.image_server().requests();
    ensure!(
        fetched
            .iter()
            .all(|r| r.path().contains("v1.34.6") || r.path().contains("v1.35.1")),
        "something was fetched that nobody needs: {fetched:?}"
    );
    wait_event(&cluster).await?;
    for name in NAMES {
        hops_are_whole(&cluster, name).await?;
    }
    cluster.stop().await
}

/// Between its release and its end.
fn is_under_way(progress: &OSUpgradeProgress) -> bool {
    let ended = progress
        .status
        .as_ref()
        .is_some_and(|status| status.phase.is_terminal());
    progress.spec.release != Release::Hold && !ended
}

/// All nodes there already: nothing is made and nothing is fetched.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_the_running_version_is_completed_at_once() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: vec![NodeOptions::new("node-1")],
        version: "v1.34.1".into(),
        ..ClusterOptions::default()
    })
    .await?;
    let kubectl = cluster.kubectl();
    let catalog = format!(
        "images:\n{}",
        entry("v1.34.1", "http://127.0.0.1:9/none", &"0".repeat(64), None)
    );
    let upgrade = json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade", "metadata": {"name": "there"},
        "spec": {"version": "1.34.1", "catalog": {"inline": catalog}},
    });
    objects::apply(&kubectl, &upgrade).await?;
    kubectl
        .ok([
            "wait",
            "--for=condition=Completed",
            "osupgrade/there",
            "--timeout=120s",
        ])
        .await?;
    let progresses = objects::get(&kubectl, &["osupgradeprogresses"]).await?;
    ensure!(progresses.rows.is_empty(), "{:?}", progresses.rows);
    let table = objects::get(&kubectl, &["osupgrades"]).await?;
    ensure!(
        table.rows == [["there", "1.34.1", "v1.34.1", "Completed"]],
        "{:?}",
        table.rows
    );
    cluster.stop().await
}
