//! Image servers that refuse, fail and recover: what cannot get better ends the attempt at once, what
//! can is retried inside it.

use anyhow::{Context, Result, ensure};
use monok8s_api::reason::ProgressPhase;
use monok8s_e2e::{
    cases::{self, case},
    objects::{self, entry},
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::{Content, Fault},
};
use serde_json::json;

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";

async fn begin(
    cluster: &Cluster,
    name: &str,
    faults: Vec<Fault>,
    forever: Option<Fault>,
) -> Result<String> {
    let image = cluster.image(NEW)?;
    let path = format!("/{name}/rootfs.ext4.zst");
    let server = cluster.image_server();
    server.publish(
        &path,
        Content::file(&image.file).context("the image is gone")?,
    );
    if let Some(fault) = &forever {
        server.fault(&path, fault.clone());
    }
    server.fault_next(&path, faults);
    let catalog = format!(
        "images:\n{}",
        entry(
            NEW,
            &server.url(&path),
            &image.file_sha256,
            Some(image.size)
        )
    );
    let mut upgrade = objects::upgrade(name, NEW, name, &objects::inline(catalog));
    if forever.is_none() {
        // Enough for all of them, one after the other.
        upgrade["spec"]["download"]["retryFor"] = json!("2m");
    }
    objects::apply(&cluster.kubectl(), &upgrade).await?;
    Ok(path)
}

async fn fails(
    cluster: &Cluster,
    name: &'static str,
    fault: Fault,
    reason: &str,
    retried: bool,
) -> Result<()> {
    let path = begin(cluster, name, Vec::new(), Some(fault)).await?;
    let node = cluster.node(name)?;
    objects::wait_end(
        &cluster.client(),
        name,
        node,
        ProgressPhase::Failed,
        &[reason],
    )
    .await?;
    let asked = cluster
        .image_server()
        .requests()
        .iter()
        .filter(|request| request.path() == path)
        .count();
    ensure!(retried == (asked > 1), "{name}: asked {asked} times");
    objects::boots(node, OLD).await
}

async fn never_answers(cluster: &Cluster) -> Result<()> {
    let name = "never-answers";
    begin(cluster, name, Vec::new(), Some(Fault::NeverAnswer)).await?;
    let node = cluster.node(name)?;
    objects::wait_end(
        &cluster.client(),
        name,
        node,
        ProgressPhase::Failed,
        &["DownloadFailed"],
    )
    .await?;
    objects::boots(node, OLD).await
}

/// Every fault that can be waited out, one after the other, inside one attempt.
async fn recovers(cluster: &Cluster) -> Result<()> {
    let name = "recovers";
    let faults = vec![
        Fault::status(503),
        Fault::retry_after(429, "1"),
        Fault::status(408),
        Fault::ResetBeforeAnswer,
        Fault::ResetAfter(1 << 20),
    ];
    let path = begin(cluster, name, faults, None).await?;
    let node = cluster.node(name)?;
    let ended =
        objects::wait_end(&cluster.client(), name, node, ProgressPhase::Completed, &[]).await?;
    ensure!(
        ended.status.is_some_and(|status| status.attempt == 1),
        "it took more than one attempt"
    );
    let asked = cluster
        .image_server()
        .requests()
        .iter()
        .filter(|request| request.path() == path)
        .count();
    ensure!(
        asked >= 6,
        "asked {asked} times only: the faults were not met"
    );
    objects::boots(node, NEW).await
}

/// Each connection brings a little more; only standing still counts against `retryFor`.
async fn keeps_dropping(cluster: &Cluster) -> Result<()> {
    let name = "keeps-dropping";
    let faults = (0..6).map(|_| Fault::ResetAfter(700 << 10)).collect();
    begin(cluster, name, faults, None).await?;
    let node = cluster.node(name)?;
    objects::wait_end(&cluster.client(), name, node, ProgressPhase::Completed, &[]).await?;
    objects::boots(node, NEW).await
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_end_the_attempt_and_faults_are_retried() -> Result<()> {
    let names = [
        "not-found",
        "gone",
        "unauthorized",
        "forbidden",
        "unavailable",
        "never-answers",
        "recovers",
        "keeps-dropping",
    ];
    let cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&names),
        version: OLD.into(),
        images: vec![NEW.into()],
        ..ClusterOptions::default()
    })
    .await?;
    let refused = |name, status, reason| {
        case(
            name,
            fails(&cluster, name, Fault::status(status), reason, false),
        )
    };
    cases::all(vec![
        // The longest first.
        case("never-answers", never_answers(&cluster)),
        refused("not-found", 404, "DownloadNotFound"),
        refused("gone", 410, "DownloadNotFound"),
        refused("unauthorized", 401, "DownloadForbidden"),
        refused("forbidden", 403, "DownloadForbidden"),
        case(
            "unavailable",
            fails(
                &cluster,
                "unavailable",
                Fault::status(503),
                "DownloadFailed",
                true,
            ),
        ),
        case("recovers", recovers(&cluster)),
        case("keeps-dropping", keeps_dropping(&cluster)),
    ])
    .await?;
    cluster.stop().await
}
