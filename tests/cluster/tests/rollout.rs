//! The whole fleet, the controller's own pods on nodes that go down.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};
use futures::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use monok8s_api::{
    OSUpgradeProgress,
    osupgradeprogress::Release,
    reason::{ProgressPhase, UpgradePhase},
};
use monok8s_cluster::node::Node;
use monok8s_e2e::objects;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::bench::{Bench, FLEET, NAMESPACE};

/// Everybody upgrades, one after the other, and the leader is among them.
pub(crate) async fn all_nodes_go_down_one_by_one_and_the_controllers_with_them(
    bench: &Bench,
) -> Result<()> {
    let before: Vec<_> = bench.cluster.nodes().iter().map(Node::running).collect();
    let watched = Watched::start(bench.client.clone());
    let upgrade = json!({
        "apiVersion": "monok8s.io/v1alpha1",
        "kind": "OSUpgrade",
        "metadata": {"name": "fleet"},
        "spec": {
            "version": FLEET,
            "catalog": objects::inline(bench.cluster.catalog(&[FLEET])?),
        },
    });
    objects::apply(&bench.kubectl, &upgrade).await?;
    objects::wait_upgrade_phase(&bench.client, "fleet", UpgradePhase::Completed).await?;
    let seen = watched.end()?;
    ensure!(
        seen.most_at_once <= 1,
        "{} nodes were under way at once",
        seen.most_at_once
    );
    ensure!(
        seen.leaders.len() > 1,
        "the leader did not move, although its node went down: {:?}",
        seen.leaders
    );
    for (node, before) in bench.cluster.nodes().iter().zip(before) {
        let (before, now) = (before?, node.running()?);
        ensure!(
            now.number == before.number + 1,
            "{} booted {now:?}",
            node.name()
        );
        ensure!(
            !now.booted.trial || now.booted.slot != before.booted.slot,
            "{now:?}"
        );
        let names = seen
            .progresses
            .get(node.name())
            .cloned()
            .unwrap_or_default();
        ensure!(
            names.len() == 1,
            "{} was released for {names:?}",
            node.name()
        );
        let object: Api<OSUpgradeProgress> = Api::all(bench.client.clone());
        for name in names {
            let status = object.get(&name).await?.status.unwrap_or_default();
            ensure!(status.attempt == 1, "{name}: {status:?}");
        }
        let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(bench.client.clone());
        let cordoned = api
            .get(node.name())
            .await?
            .spec
            .and_then(|spec| spec.unschedulable);
        ensure!(cordoned != Some(true), "{} is still cordoned", node.name());
    }
    bench.forget_upgrades().await?;
    bench.wait_idle().await
}

/// What was seen of a rollout.
#[derive(Debug, Default)]
struct Seen {
    /// Who held the Lease.
    leaders: BTreeSet<String>,
    /// By node, the progresses that were released.
    progresses: BTreeMap<String, BTreeSet<String>>,
    /// By node, whether it is between its release and its end now.
    under_way: BTreeSet<String>,
    /// The most nodes that were so at once.
    most_at_once: usize,
}

/// A watch on a rollout.
struct Watched {
    seen: Arc<Mutex<Seen>>,
    tasks: [JoinHandle<Result<()>>; 2],
}

impl Watched {
    fn start(client: Client) -> Self {
        let seen = Arc::default();
        let tasks = [
            tokio::spawn(leaders(client.clone(), Arc::clone(&seen))),
            tokio::spawn(progresses(client, Arc::clone(&seen))),
        ];
        Self { seen, tasks }
    }

    fn end(self) -> Result<Seen> {
        for task in self.tasks {
            if task.is_finished() {
                bail!("a watch ended before the rollout did");
            }
            task.abort();
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut seen))
    }
}

async fn leaders(client: Client, seen: Arc<Mutex<Seen>>) -> Result<()> {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut stream = std::pin::pin!(stream);
    while let Some(lease) = stream.try_next().await.context("cannot watch the Lease")? {
        let holder = lease
            .spec
            .and_then(|spec| spec.holder_identity)
            .unwrap_or_default();
        if !holder.is_empty() {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .leaders
                .insert(holder);
        }
    }
    Ok(())
}

async fn progresses(client: Client, seen: Arc<Mutex<Seen>>) -> Result<()> {
    use ProgressPhase::{Cancelled, Completed, Failed, RolledBack};
    let api: Api<OSUpgradeProgress> = Api::all(client);
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut stream = std::pin::pin!(stream);
    while let Some(progress) = stream
        .try_next()
        .await
        .context("cannot watch the progresses")?
    {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let node = progress.spec.node_name.clone();
        let phase = progress.status.clone().unwrap_or_default().phase;
        let ended = matches!(phase, Completed | Failed | RolledBack | Cancelled);
        if progress.spec.release == Release::Hold || ended {
            seen.under_way.remove(&node);
            continue;
        }
        let name = progress.metadata.name.unwrap_or_default();
        seen.progresses
            .entry(node.clone())
            .or_default()
            .insert(name);
        seen.under_way.insert(node);
        seen.most_at_once = seen.most_at_once.max(seen.under_way.len());
    }
    Ok(())
}
