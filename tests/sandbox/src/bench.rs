//! `make bench`: what one status write costs the API server while agents watch.
//!
//! Each agent watches the progresses of its own node by a field selector, which the API server
//! evaluates for every watch at every write: this is why agents write rarely.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::TryStreamExt as _;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams, WatchParams},
};
use monok8s_api::OSUpgradeProgress;
use monok8s_sandbox::{
    assets::Assets,
    control_plane::{ControlPlane, Options},
    manifests, scratch,
};
use serde_json::json;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

/// How many watches are open.
const WATCHES: [usize; 3] = [0, 1000, 5000];
/// Status writes measured for each.
const WRITES: i32 = 100;
/// Watches that are being opened at a time.
const AT_ONCE: usize = 50;
/// Watches that share a client, and with it a connection.
const PER_CLIENT: usize = 100;

pub(crate) async fn run() -> Result<()> {
    allow_many_files();
    let folder = scratch::folder("bench")?;
    let assets = Assets::find(|line| println!("{line}")).await?;
    let plane = ControlPlane::start(&assets, folder.path(), Options::default()).await?;
    manifests::install(&plane.kubectl()).await?;
    let api: Api<OSUpgradeProgress> = Api::all(plane.client().await?);
    let progress: OSUpgradeProgress = serde_json::from_value(json!({
        "apiVersion": "monok8s.io/v1alpha1",
        "kind": "OSUpgradeProgress",
        "metadata": {"name": "bench"},
        "spec": {"sourceRef": {"name": "bench"}, "nodeName": "node-0"},
    }))
    .context("the progress is none")?;
    api.create(&PostParams::default(), &progress)
        .await
        .context("cannot make a progress")?;
    println!(
        "{:>8}  {:>22}  {:>12}",
        "watches", "API server per write", "latency"
    );
    for watches in WATCHES {
        let open = watch(&plane, watches).await?;
        let (cpu, latency) = measure(&plane, &api).await?;
        println!(
            "{watches:>8}  {:>19.2} ms  {:>9.2} ms",
            cpu.as_secs_f64() * 1e3,
            latency.as_secs_f64() * 1e3
        );
        drop(open);
    }
    plane.stop().await;
    Ok(())
}

/// Opens watches, each of another node's progresses, and returns when the API server serves all.
async fn watch(plane: &ControlPlane, count: usize) -> Result<JoinSet<Result<()>>> {
    let mut tasks = JoinSet::new();
    let (tell, mut opened) = mpsc::channel(64);
    let few = Arc::new(Semaphore::new(AT_ONCE));
    let mut client: Option<Client> = None;
    for number in 0..count {
        if number % PER_CLIENT == 0 {
            client = Some(plane.client().await?);
        }
        let api: Api<OSUpgradeProgress> = Api::all(client.clone().context("there is no client")?);
        let (tell, few) = (tell.clone(), Arc::clone(&few));
        tasks.spawn(async move {
            let params = WatchParams::default()
                .fields(&format!("spec.nodeName=node-{number}"))
                .timeout(290);
            let turn = few.acquire().await.context("no place to open a watch")?;
            let stream = api
                .watch(&params, "0")
                .await
                .with_context(|| format!("watch {number} was refused"))?;
            drop(turn);
            tell.send(())
                .await
                .context("nobody waits for the watches")?;
            let mut stream = std::pin::pin!(stream);
            while let Ok(Some(_)) = stream.try_next().await {}
            Ok(())
        });
    }
    drop(tell);
    for number in 0..count {
        opened
            .recv()
            .await
            .with_context(|| format!("only {number} of {count} watches were opened"))?;
    }
    Ok(tasks)
}

/// Processor time and time of one write.
async fn measure(
    plane: &ControlPlane,
    api: &Api<OSUpgradeProgress>,
) -> Result<(Duration, Duration)> {
    // What the API server does anyway, in as much time as the writes will take at least.
    let idle_begin = plane.api_server_cpu()?;
    let idle_time = Duration::from_secs(5);
    tokio::time::sleep(idle_time).await;
    let idle = plane
        .api_server_cpu()?
        .saturating_sub(idle_begin)
        .as_secs_f64()
        / idle_time.as_secs_f64();

    let (cpu, begin) = (plane.api_server_cpu()?, Instant::now());
    for percent in 0..WRITES {
        let status = json!({"status": {"percent": percent}});
        api.patch_status("bench", &PatchParams::default(), &Patch::Merge(status))
            .await
            .context("a status write failed")?;
    }
    let elapsed = begin.elapsed();
    let busy =
        plane.api_server_cpu()?.saturating_sub(cpu).as_secs_f64() - idle * elapsed.as_secs_f64();
    let writes = WRITES.unsigned_abs();
    Ok((
        Duration::from_secs_f64(busy.max(0.0)) / writes,
        elapsed / writes,
    ))
}

/// A watch may be a connection, and a connection is an open file here and in the API server.
fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}
