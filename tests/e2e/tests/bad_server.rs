//! Image servers that refuse, fail and recover: what cannot get better ends the attempt at once, what
//! can is retried inside it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use monok8s_api::reason::ProgressPhase;
use monok8s_e2e::{
    cases::{self, case},
    objects,
    served::Served,
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::Fault,
    wait,
};
use serde_json::json;

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";
/// Bytes of an image that do not compress.
const PAYLOAD: u64 = 12 << 20;

/// Refused or failing for good: the attempt ends with this reason on the old system.
async fn fails<'a>(
    cluster: &'a Cluster,
    name: &'static str,
    fault: Fault,
    reason: &str,
) -> Result<Served<'a>> {
    let served = Served::faulty(cluster, name, NEW, fault)?;
    served.begin_upgrade().await?;
    let node = cluster.node(name)?;
    let (failed, reasons) = (ProgressPhase::Failed, [reason]);
    objects::wait_end(&cluster.client(), name, node, failed, &reasons).await?;
    objects::boots(node, OLD).await?;
    Ok(served)
}

/// What cannot get better is not asked for again.
async fn refused(cluster: &Cluster, name: &'static str, status: u16, reason: &str) -> Result<()> {
    let served = fails(cluster, name, Fault::status(status), reason).await?;
    let asked = served.asked();
    ensure!(asked == 1, "{name}: asked {asked} times");
    Ok(())
}

async fn unavailable(cluster: &Cluster, name: &'static str) -> Result<()> {
    let served = fails(cluster, name, Fault::status(503), "DownloadFailed").await?;
    ensure!(served.asked() > 1, "{name}: it was not asked again");
    Ok(())
}

async fn never_answers(cluster: &Cluster, name: &'static str) -> Result<()> {
    fails(cluster, name, Fault::NeverAnswer, "DownloadFailed")
        .await
        .map(drop)
}

/// Faults that are waited out, one after the other, inside one attempt.
async fn survives<'a>(
    cluster: &'a Cluster,
    name: &'static str,
    faults: Vec<Fault>,
) -> Result<Served<'a>> {
    let served = Served::new(cluster, name, NEW)?;
    let expected = faults.len() + 1;
    served.fault_next(faults);
    let mut upgrade = served.upgrade();
    // Enough for all of them, one after the other.
    upgrade["spec"]["download"]["retryFor"] = json!("2m");
    objects::apply(&cluster.kubectl(), &upgrade).await?;
    let node = cluster.node(name)?;
    let ended =
        objects::wait_end(&cluster.client(), name, node, ProgressPhase::Completed, &[]).await?;
    ensure!(
        ended.status.is_some_and(|status| status.attempt == 1),
        "it took more than one attempt"
    );
    let asked = served.asked();
    ensure!(
        asked >= expected,
        "asked {asked} times only: the faults were not met"
    );
    objects::boots(node, NEW).await?;
    Ok(served)
}

async fn recovers(cluster: &Cluster, name: &'static str) -> Result<()> {
    let faults = vec![
        Fault::status(503),
        Fault::retry_after(429, "1"),
        Fault::status(408),
        Fault::ResetBeforeAnswer,
        Fault::ResetAfter(1 << 20),
    ];
    survives(cluster, name, faults).await.map(drop)
}

/// Each connection brings a little more; only standing still counts against `retryFor`.
async fn keeps_dropping(cluster: &Cluster, name: &'static str) -> Result<()> {
    let faults = (0..6).map(|_| Fault::ResetAfter(700 << 10)).collect();
    survives(cluster, name, faults).await.map(drop)
}

/// The image is at the last of three places: one that has it no longer is left at once, one that is
/// overloaded after `retryFor`.
async fn mirrored(cluster: &Cluster, name: &'static str) -> Result<()> {
    let served = Served::new(cluster, name, NEW)?;
    let images = cluster.image_server();
    let (gone, busy) = (format!("/{name}/gone"), format!("/{name}/busy"));
    images.fault(&gone, Fault::status(404));
    images.fault(&busy, Fault::status(503));
    let catalog = json!({"images": [{
        "version": NEW,
        "url": images.url(&gone),
        "mirrors": [images.url(&busy), served.url()],
        "checksum": format!("sha256:{}", served.image().file_sha256),
    }]});
    let upgrade = objects::upgrade(name, NEW, name, &objects::inline(catalog.to_string()));
    objects::apply(&cluster.kubectl(), &upgrade).await?;
    let node = cluster.node(name)?;
    let (client, completed) = (cluster.client(), ProgressPhase::Completed);
    let ended = objects::wait_end(&client, name, node, completed, &[]).await?;
    let status = ended.status.unwrap_or_default();
    ensure!(
        status.attempt == 1,
        "{name}: {} attempts for one image",
        status.attempt
    );
    let requests = images.requests();
    let asked = |path: &str| requests.iter().filter(|r| r.path() == path).count();
    ensure!(
        asked(&gone) == 1 && asked(&busy) > 1 && served.asked() == 1,
        "{name}: asked {}, {} and {} times",
        asked(&gone),
        asked(&busy),
        served.asked()
    );
    objects::boots(node, NEW).await
}

/// `maxBytesPerSecond`, lowered and lifted in the OSUpgrade while bytes flow: they flow on over one
/// connection.
async fn limited(cluster: &Cluster, name: &'static str) -> Result<()> {
    /// Enough for the whole image in 24 s; for a part of it that no test has the time to wait for.
    const LIMITS: [u64; 2] = [512 << 10, 16 << 10];
    /// Half as long again as the first limit would take.
    const WATCHED: Duration = Duration::from_secs(36);
    let (client, kubectl, node) = (cluster.client(), cluster.kubectl(), cluster.node(name)?);
    let served = Served::new(cluster, name, NEW)?;
    let mut upgrade = served.upgrade();
    upgrade["spec"]["download"]["maxBytesPerSecond"] = json!(LIMITS[0]);
    objects::apply(&kubectl, &upgrade).await?;
    objects::wait_phase(&client, name, node, ProgressPhase::Downloading).await?;
    upgrade["spec"]["download"]["maxBytesPerSecond"] = json!(LIMITS[1]);
    objects::apply(&kubectl, &upgrade).await?;
    let begin = Instant::now();
    wait::until("the time the first limit takes", objects::LIMIT, || async {
        let progress = objects::progresses(&client, name, name).await?.remove(0);
        let status = progress.status.unwrap_or_default();
        ensure!(
            status.phase == ProgressPhase::Downloading,
            "{name} is {} {} s after the limit was lowered",
            status.phase,
            begin.elapsed().as_secs()
        );
        Ok((begin.elapsed() > WATCHED).then_some(()))
    })
    .await?;
    upgrade["spec"]["download"]["maxBytesPerSecond"] = json!(null);
    objects::apply(&kubectl, &upgrade).await?;
    let ended = objects::wait_end(&client, name, node, ProgressPhase::Completed, &[]).await?;
    let attempts = ended.status.unwrap_or_default().attempt;
    ensure!(
        (attempts, served.asked()) == (1, 1),
        "{attempts} attempts, asked {} times",
        served.asked()
    );
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
        "mirrored",
        "limited",
    ];
    let cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&names),
        version: OLD.into(),
        images: vec![NEW.into()],
        image_payload: PAYLOAD,
        ..ClusterOptions::default()
    })
    .await?;
    let refused = |name, status, reason| case(name, refused(&cluster, name, status, reason));
    cases::all(vec![
        // The longest first.
        case("never-answers", never_answers(&cluster, "never-answers")),
        case("limited", limited(&cluster, "limited")),
        refused("not-found", 404, "DownloadNotFound"),
        refused("gone", 410, "DownloadNotFound"),
        refused("unauthorized", 401, "DownloadForbidden"),
        refused("forbidden", 403, "DownloadForbidden"),
        case("unavailable", unavailable(&cluster, "unavailable")),
        case("recovers", recovers(&cluster, "recovers")),
        case("keeps-dropping", keeps_dropping(&cluster, "keeps-dropping")),
        case("mirrored", mirrored(&cluster, "mirrored")),
    ])
    .await?;
    cluster.stop().await
}
