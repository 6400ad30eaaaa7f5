//! The record on the data partition lost, damaged, or written by another release, while an attempt is
//! under way: it is never guessed at, and the node stays on its old system.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use monok8s_api::reason::ProgressPhase;
use monok8s_e2e::{
    cases::{self, case},
    objects, record,
    served::Served,
};
use monok8s_sandbox::cluster::{Cluster, ClusterOptions};
use serde_json::{Value, json};

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";

/// Brings the case's node to `Staged`, takes its agent away, changes the record and brings it back
/// released.
async fn with_record(
    cluster: &Cluster,
    name: &str,
    change: impl FnOnce(PathBuf) -> Result<()>,
) -> Result<()> {
    let node = cluster.node(name)?;
    Served::new(cluster, name, NEW)?.begin("Stage").await?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Staged).await?;
    node.stop_agent().await;
    change(record::path(node))?;
    objects::patch(&cluster.kubectl(), name, &json!({"release": "Reboot"})).await?;
    node.start_agent();
    Ok(())
}

async fn fails(
    cluster: &Cluster,
    name: &'static str,
    reason: &str,
    change: impl FnOnce(PathBuf) -> Result<()>,
) -> Result<()> {
    with_record(cluster, name, change).await?;
    let node = cluster.node(name)?;
    objects::wait_end(
        &cluster.client(),
        name,
        node,
        ProgressPhase::Failed,
        &[reason],
    )
    .await?;
    ensure!(
        node.boot().is_some_and(|boot| boot.number == 1),
        "{name}: it was rebooted: {:?}",
        node.boot()
    );
    objects::boots(node, OLD).await
}

/// Rewrites the record as JSON.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("no record at {}", path.display()))?;
    let mut record: Value = serde_json::from_str(&text).context("the record is no JSON")?;
    change(&mut record);
    std::fs::write(path, record.to_string()).context("cannot write the record")
}

/// A record of the release after this one is read, with what it has of its own.
async fn one_format_newer(cluster: &Cluster) -> Result<()> {
    let name = "one-newer";
    with_record(cluster, name, |path| {
        edit(&path, |record| {
            let format = record["format"].as_u64().unwrap_or_default();
            record["format"] = json!(format + 1);
            record["ofTheNextRelease"] = json!({"kept": true});
        })
    })
    .await?;
    let node = cluster.node(name)?;
    objects::wait_end(&cluster.client(), name, node, ProgressPhase::Completed, &[]).await?;
    let text = std::fs::read_to_string(record::path(node))?;
    ensure!(
        text.contains("ofTheNextRelease"),
        "what another release wrote was dropped: {text}"
    );
    objects::boots(node, NEW).await
}

/// After the cure and a nonce the node is upgraded all the same.
async fn missing_then_retried(cluster: &Cluster) -> Result<()> {
    let name = "missing";
    fails(cluster, name, "StateLost", |path| {
        std::fs::remove_file(path).context("cannot remove the record")
    })
    .await?;
    objects::patch(&cluster.kubectl(), name, &json!({"retryNonce": "again"})).await?;
    let node = cluster.node(name)?;
    objects::wait_phase(&cluster.client(), name, node, ProgressPhase::Completed).await?;
    objects::boots(node, NEW).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_trusted_is_not_acted_on() -> Result<()> {
    let names = ["missing", "truncated", "empty", "far-newer", "one-newer"];
    let cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&names),
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    cases::all(vec![
        case("missing", missing_then_retried(&cluster)),
        case(
            "truncated",
            fails(&cluster, "truncated", "StateUnreadable", |path| {
                let whole = std::fs::read(&path)?;
                std::fs::write(&path, &whole[..whole.len() / 2])
                    .context("cannot truncate the record")
            }),
        ),
        case(
            "empty",
            fails(&cluster, "empty", "StateUnreadable", |path| {
                std::fs::write(path, "").context("cannot empty it")
            }),
        ),
        case(
            "far-newer",
            fails(&cluster, "far-newer", "StateUnreadable", |path| {
                edit(&path, |record| record["format"] = json!(1000))
            }),
        ),
        case("one-newer", one_format_newer(&cluster)),
    ])
    .await?;
    cluster.stop().await
}
