//! Two upgrades for one node: the newest governs, what has begun finishes first, and nothing is
//! installed twice.

use anyhow::{Result, ensure};
use kube::ResourceExt as _;
use monok8s_api::{
    condition,
    reason::{ProgressPhase, UpgradePhase},
};
use monok8s_e2e::{
    cases::{self, case},
    objects::{self, entry},
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::{Content, Fault},
};
use serde_json::{Value, json};

const OLD: &str = "v1.34.1";
const FIRST: &str = "v1.34.2";
const SECOND: &str = "v1.34.3";

fn upgrade(cluster: &Cluster, name: &str, case: &str, version: &str, url: &str) -> Result<Value> {
    let image = cluster.image(version)?;
    let catalog = format!(
        "images:\n{}",
        entry(version, url, &image.file_sha256, Some(image.size))
    );
    Ok(objects::upgrade(
        name,
        version,
        case,
        &objects::inline(catalog),
    ))
}

/// Creation times have whole seconds and the name decides within one: the names are chosen so that
/// age and name agree.
async fn not_begun(cluster: &Cluster) -> Result<()> {
    let (kubectl, client, node) = (
        cluster.kubectl(),
        cluster.client(),
        cluster.node("not-begun")?,
    );
    let url =
        |version| Ok::<_, anyhow::Error>(cluster.image_server().url(&cluster.image_path(version)?));
    let mut older = upgrade(cluster, "not-begun-1", "not-begun", FIRST, &url(FIRST)?)?;
    older["spec"]["paused"] = json!(true);
    objects::apply(&kubectl, &older).await?;
    let held =
        objects::wait_progress(&client, "not-begun-1", node, "a held progress", |_| true).await?;

    objects::apply(
        &kubectl,
        &upgrade(cluster, "not-begun-2", "not-begun", SECOND, &url(SECOND)?)?,
    )
    .await?;
    let rejected =
        objects::wait_upgrade_phase(&client, "not-begun-1", UpgradePhase::Rejected).await?;
    let status = rejected.status.unwrap_or_default();
    let accepted = condition::find(&status.conditions, "Accepted");
    ensure!(
        accepted.is_some_and(|c| c.reason == "Superseded" && c.message.contains("not-begun-2")),
        "{:?}",
        status.conditions
    );
    objects::wait_upgrade_phase(&client, "not-begun-2", UpgradePhase::Completed).await?;
    objects::wait_runs(&client, node, SECOND).await?;
    // Nor does its progress stay.
    let held = format!("osupgradeprogress/{}", held.name_any());
    kubectl
        .ok(["wait", "--for=delete", "--timeout=180s", &held])
        .await?;

    // Taking the pause away changes nothing: the older one does not act on this node again.
    older["spec"]["paused"] = json!(false);
    objects::apply(&kubectl, &older).await?;
    let generation = |status: &monok8s_api::OSUpgradeStatus| status.observed_generation == Some(2);
    let seen =
        objects::wait_upgrade(&client, "not-begun-1", "the change to be seen", generation).await?;
    ensure!(
        seen.status
            .is_some_and(|s| s.phase == UpgradePhase::Rejected),
        "a superseded upgrade acts again"
    );
    ensure!(
        node.boot().is_some_and(|boot| boot.number == 2),
        "{:?}",
        node.boot()
    );
    objects::boots(node, SECOND).await
}

async fn begun(cluster: &Cluster) -> Result<()> {
    let (kubectl, client, node) = (cluster.kubectl(), cluster.client(), cluster.node("begun")?);
    let server = cluster.image_server();
    let path = "/begun/rootfs.ext4.zst";
    server.publish(path, Content::file(&cluster.image(FIRST)?.file)?);
    server.fault(
        path,
        Fault::Drip {
            bytes: 512 << 10,
            every: std::time::Duration::from_secs(1),
        },
    );
    objects::apply(
        &kubectl,
        &upgrade(cluster, "begun-1", "begun", FIRST, &server.url(path))?,
    )
    .await?;
    objects::wait_phase(&client, "begun-1", node, ProgressPhase::Downloading).await?;

    let second = server.url(&cluster.image_path(SECOND)?);
    objects::apply(
        &kubectl,
        &upgrade(cluster, "begun-2", "begun", SECOND, &second)?,
    )
    .await?;
    objects::wait_end(&client, "begun-1", node, ProgressPhase::Completed, &[]).await?;
    objects::wait_upgrade_phase(&client, "begun-2", UpgradePhase::Completed).await?;
    objects::wait_runs(&client, node, SECOND).await?;
    ensure!(
        node.boot().is_some_and(|boot| boot.number == 3),
        "{:?}",
        node.boot()
    );
    objects::boots(node, SECOND).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_upgrade_governs_a_node() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&["not-begun", "begun"]),
        version: OLD.into(),
        images: vec![FIRST.into(), SECOND.into()],
        ..ClusterOptions::default()
    })
    .await?;
    cases::all(vec![
        case("not-begun", not_begun(&cluster)),
        case("begun", begun(&cluster)),
    ])
    .await?;
    cluster.stop().await
}
