//! The user's own commands, from `kubectl apply` to every node on the new version.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, ResourceExt as _, api::ListParams};
use monok8s_api::{
    OSNode, OSUpgrade, OSUpgradeProgress, OSUpgradeProgressStatus, condition,
    osupgradeprogress::Release,
    reason::{BootLoaderKind, ProgressPhase, SlotState},
};
use monok8s_e2e::{
    objects::{self, entry},
    pages,
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    kubectl::Kubectl,
    node::{Boot, Node, NodeOptions},
    wait,
};
use serde_json::json;

/// Samples, so that no moment at which two nodes are under way goes unnoticed for long.
const SAMPLE: Duration = Duration::from_millis(50);

const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// This machine's platform and another one, as catalogs write them.
const PLATFORMS: [&str; 2] = if cfg!(target_arch = "aarch64") {
    ["linux/arm64", "linux/amd64"]
} else {
    ["linux/amd64", "linux/arm64"]
};

/// The catalog of the story: beside what is needed a blocked version, a prerelease, an older version
/// and images for another platform, none of which anybody is to be taken to. The checksum of v1.34.6
/// is the expanded image's.
fn catalog(cluster: &Cluster) -> Result<String> {
    let server = cluster.image_server();
    let none = |version, platform| {
        let entry = entry(version, &server.url("/none"), &"0".repeat(64), None);
        format!("{entry}  platform: {platform}\n")
    };
    let [own, other] = PLATFORMS;
    let mut catalog = String::from("stable: v1.35.1\nimages:\n");
    catalog.push_str(&none("v1.35.1", other));
    for version in ["v1.35.1", "v1.34.9-rc.1", "v1.34.6", "v1.34.1"] {
        let image = cluster.image(version)?;
        let url = server.publish_image(image)?;
        let sha256 = match version {
            "v1.34.6" => &image.expanded_sha256,
            _ => &image.file_sha256,
        };
        catalog.push_str(&entry(version, &url, sha256, Some(image.size)));
        if version == "v1.35.1" {
            writeln!(catalog, "  platform: {own}")?;
        }
    }
    catalog.push_str(&none("v1.34.7", other));
    catalog.push_str(&none("v1.34.8", own));
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
        "--timeout=280s",
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
    // Two hops: into B with v1.34.6, back into A with v1.35.1. The last is told a moment after its progress has ended.
    let cells = ["v1.35.1", "A", "v1.35.1", "v1.34.6", "Completed"];
    let rows = NAMES.map(|name| [&[name][..], &cells].concat());
    let told = wait::until("the nodes to tell of both hops", objects::LIMIT, || async {
        let nodes = objects::get(kubectl, &["osnodes"]).await?;
        Ok((nodes.rows == rows).then_some(()))
    });
    if told.await.is_err() {
        let nodes = objects::get(kubectl, &["osnodes"]).await?;
        bail!("{:?} instead of {rows:?}", nodes.rows);
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
    hops_are_told(&hops, &boot)?;
    node_is_told(cluster, node, &hops[1].name_any(), &boot).await?;
    objects::boots(node, "v1.35.1").await
}

/// What the two hops' statuses say about times, slots, boots and checksums.
fn hops_are_told(hops: &[OSUpgradeProgress], boot: &Boot) -> Result<()> {
    let [first, second] = hops else {
        bail!("{} hops", hops.len());
    };
    let status = |hop: &OSUpgradeProgress| hop.status.clone().context("no status");
    let (first_status, second_status) = (status(first)?, status(second)?);
    for (hop, status) in [(first, &first_status), (second, &second_status)] {
        let times = [
            hop.creation_timestamp(),
            status.started_at.clone(),
            status.completed_at.clone(),
            status.last_updated_at.clone(),
        ];
        ensure!(
            times.iter().all(Option::is_some) && times.is_sorted(),
            "created, startedAt, completedAt, lastUpdatedAt: {times:?}"
        );
    }
    ensure!(
        first_status.completed_at <= second_status.started_at,
        "the second hop began before the first had ended: {first_status:?}, {second_status:?}"
    );
    let told = |status: &OSUpgradeProgressStatus| {
        (
            status.inactive_partition.clone(),
            status.checksum_matched.clone().unwrap_or_default(),
        )
    };
    ensure!(
        told(&first_status) == ("B".into(), "Image".into()),
        "{first_status:?}"
    );
    ensure!(
        told(&second_status) == ("A".into(), "File".into()),
        "{second_status:?}"
    );
    ensure!(
        second_status.trial_boot_id == boot.boot_id
            && !first_status.trial_boot_id.is_empty()
            && first_status.trial_boot_id != boot.boot_id,
        "the trial boots are {} and {}, this boot is {}",
        first_status.trial_boot_id,
        second_status.trial_boot_id,
        boot.boot_id
    );
    Ok(())
}

/// What the OSNode says once it tells of `progress`.
async fn node_is_told(cluster: &Cluster, node: &Node, progress: &str, boot: &Boot) -> Result<()> {
    objects::wait_slot(&cluster.client(), node, "A", &SlotState::Good).await?;
    let api: Api<OSNode> = Api::all(cluster.client());
    let what = format!("{} to tell of {progress}", node.name());
    let status = wait::until(&what, objects::LIMIT, || async {
        let status = api.get(node.name()).await?.status.unwrap_or_default();
        let last = status.last_result.as_ref();
        Ok(last
            .is_some_and(|last| last.progress == progress)
            .then_some(status))
    })
    .await?;
    ensure!(
        status.platform == PLATFORMS[0]
            && status.boot_id == boot.boot_id
            && status.boot_loader == Some(BootLoaderKind::GRUB)
            && status.agent_version == env!("CARGO_PKG_VERSION")
            && status.last_result.as_ref().is_some_and(|r| r.at.is_some()),
        "{status:?}"
    );
    let slots: Vec<_> = status
        .slots
        .iter()
        .map(|slot| {
            (
                slot.name.as_str(),
                slot.size,
                slot.image_checksum.clone(),
                slot.state.clone(),
            )
        })
        .collect();
    let size = i64::try_from(NodeOptions::new("").slot_size)?;
    let checksum = |sha256: &str| format!("sha256:{sha256}");
    let (new, hop) = (cluster.image("v1.35.1")?, cluster.image("v1.34.6")?);
    let promised = [
        ("A", size, checksum(&new.file_sha256), SlotState::Good),
        ("B", size, checksum(&hop.expanded_sha256), SlotState::Good),
    ];
    ensure!(slots == promised, "{slots:?} instead of {promised:?}");
    Ok(())
}

/// When and what the controller read.
async fn catalog_is_told(cluster: &Cluster) -> Result<()> {
    let upgrades: Api<OSUpgrade> = Api::all(cluster.client());
    let upgrade = upgrades.get("to-stable").await?;
    let status = upgrade.status.clone().context("no status")?;
    let catalog = status.catalog.context("no status.catalog")?;
    let completed = condition::find(&status.conditions, "Completed")
        .map(|condition| condition.last_transition_time.clone());
    ensure!(
        catalog.digest.starts_with("sha256:")
            && upgrade.creation_timestamp() <= catalog.fetched_at
            && catalog.fetched_at <= completed,
        "{catalog:?}"
    );
    Ok(())
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
    catalog_is_told(&cluster).await?;
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
async fn there_already(cluster: &Cluster) -> Result<()> {
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
            "--timeout=240s",
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
    Ok(())
}

/// The block of the page on upgrades that has this word in it.
fn block(word: &str) -> Result<String> {
    pages::blocks()?
        .into_iter()
        .find(|b| b.place.starts_with("docs/upgrade.md:") && b.text.contains(word))
        .map(|b| b.text)
        .with_context(|| format!("docs/upgrade.md shows no {word}"))
}

/// The page's progress made by hand, for a catalog in a ConfigMap: refused as shipped, and done once
/// the page's Role is there.
async fn by_hand(cluster: &Cluster) -> Result<()> {
    let (kubectl, client, node) = (cluster.kubectl(), cluster.client(), cluster.node("node-1")?);
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "images", "namespace": "mono-system"},
            "data": {"catalog.yaml": cluster.catalog(&["v1.34.2"])?},
        },
        {
            "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgrade",
            "metadata": {"name": "my-upgrade"},
            "spec": {
                "version": "stable",
                "catalog": {"configMap": "images"},
                "nodeSelector": {"matchLabels": {"case": "nobody"}},
            },
        },
    ]});
    objects::apply(&kubectl, &objects).await?;
    kubectl.apply(&block("kind: OSUpgradeProgress")?).await?;
    let (failed, forbidden) = (ProgressPhase::Failed, ["DownloadForbidden"]);
    let held = objects::wait_end(&client, "my-upgrade", node, failed, &forbidden).await?;

    kubectl.apply(&block("kind: RoleBinding")?).await?;
    // The API server hears of new roles a moment later.
    let may = [
        "auth",
        "can-i",
        "get",
        "configmaps",
        "--namespace=mono-system",
        "--as=system:serviceaccount:mono-system:node-agent",
    ];
    wait::until("the agents to be let", objects::LIMIT, || async {
        Ok(kubectl.run(may).await?.success().then_some(()))
    })
    .await?;
    let again = json!({"retryNonce": "let"});
    objects::patch(&kubectl, &held.name_any(), &again).await?;
    let completed = ProgressPhase::Completed;
    objects::wait_phase(&client, "my-upgrade", node, completed).await?;
    objects::boots(node, "v1.34.2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_releases_nothing_where_all_is_done_or_done_by_hand() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: vec![NodeOptions::new("node-1")],
        version: "v1.34.1".into(),
        images: vec!["v1.34.2".into()],
        ..ClusterOptions::default()
    })
    .await?;
    there_already(&cluster).await?;
    by_hand(&cluster).await?;
    cluster.stop().await
}
