//! The whole fleet, the controller's own pods on nodes that go down.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use monok8s_api::{OSUpgradeProgress, osupgradeprogress::Release, reason::UpgradePhase};
use monok8s_cluster::node::Node;
use monok8s_e2e::objects;
use monok8s_sandbox::wait;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::bench::{Bench, FLEET, LIMIT, NAMESPACE};

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
    let nodes = bench.cluster.nodes();
    let seen = watched.end(nodes.len()).await?;
    ensure!(
        seen.most_at_once == 1,
        "{} nodes were under way at once",
        seen.most_at_once
    );
    for (node, before) in nodes.iter().zip(before) {
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
        let names = seen.released.get(node.name()).cloned().unwrap_or_default();
        ensure!(
            names.len() == 1,
            "{} was released for {names:?}",
            node.name()
        );
        for name in names {
            let progress = seen.progresses.get(&name).context("it is gone")?;
            let status = progress.status.clone().unwrap_or_default();
            ensure!(status.attempt == 1, "{name}: {status:?}");
        }
        // Lifted after the end of the upgrade's last attempt, so perhaps after that of the upgrade.
        bench.wait_schedulable(node, true).await?;
    }
    bench.forget_upgrades().await?;
    bench.wait_idle().await
}

/// What was seen of a rollout.
#[derive(Debug, Default)]
struct Seen {
    /// Who held the Lease.
    leaders: BTreeSet<String>,
    /// The progresses as they were last seen, by name.
    progresses: BTreeMap<String, OSUpgradeProgress>,
    /// By node, the progresses that were released.
    released: BTreeMap<String, BTreeSet<String>>,
    /// The most nodes that were between their release and their end at once.
    most_at_once: usize,
}

impl Seen {
    /// Counts; what `progresses` holds was so at one moment.
    fn look(&mut self) {
        let mut under_way = BTreeSet::new();
        for (name, progress) in &self.progresses {
            if progress.spec.release == Release::Hold {
                continue;
            }
            let node = &progress.spec.node_name;
            let released = self.released.entry(node.clone()).or_default();
            released.insert(name.clone());
            if !has_ended(progress) {
                under_way.insert(node);
            }
        }
        self.most_at_once = self.most_at_once.max(under_way.len());
    }

    /// Whether the end of the rollout of so many nodes was seen, and that the leader moved, whose
    /// node went down with the others.
    fn is_all(&self, nodes: usize) -> bool {
        let ended = self.progresses.values().filter(|one| has_ended(one));
        ended.count() == nodes && self.leaders.len() > 1
    }
}

fn has_ended(progress: &OSUpgradeProgress) -> bool {
    let status = progress.status.as_ref();
    status.is_some_and(|status| status.phase.is_terminal())
}

/// A watch on a rollout.
struct Watched {
    seen: Arc<Mutex<Seen>>,
    tasks: [JoinHandle<()>; 2],
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

    /// Waits until the end was seen by watching too, which may come later than by asking.
    async fn end(self, nodes: usize) -> Result<Seen> {
        let caught_up = wait::until("the watches to see the end", LIMIT, || async {
            if self.tasks.iter().any(JoinHandle::is_finished) {
                bail!("a watch ended before the rollout did");
            }
            Ok(self.lock().is_all(nodes).then_some(()))
        });
        let outcome = caught_up.await;
        self.tasks.iter().for_each(JoinHandle::abort);
        outcome.with_context(|| format!("{:?}", self.lock()))?;
        Ok(std::mem::take(&mut self.lock()))
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn leaders(client: Client, seen: Arc<Mutex<Seen>>) {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let stream = watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut stream = std::pin::pin!(stream);
    // A watch that fails begins again by itself.
    while let Some(event) = stream.next().await {
        let Ok(lease) = event else { continue };
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
}

async fn progresses(client: Client, seen: Arc<Mutex<Seen>>) {
    let api: Api<OSUpgradeProgress> = Api::all(client);
    let stream = watcher::watcher(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    // A list in the making: its objects come one by one, and are of one moment together only.
    let mut listed = BTreeMap::new();
    while let Some(event) = stream.next().await {
        let Ok(event) = event else { continue };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(one) => {
                listed.insert(one.name_any(), one);
                continue;
            }
            Event::InitDone => seen.progresses = std::mem::take(&mut listed),
            Event::Apply(one) => {
                seen.progresses.insert(one.name_any(), one);
            }
            Event::Delete(one) => {
                seen.progresses.remove(&one.name_any());
            }
        }
        seen.look();
    }
}
