//! Watches of the pods on the nodes that are being drained: one per node, opened with its drain and
//! closed after it. The API server finds pods by their node without looking at the others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    core::DeserializeGuard,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::task::{AbortHandle, JoinSet};

use super::{metrics::Metrics, watches::Shared};
use crate::index::{Effect, Index, PodObject};

/// The running watches. Dropping this ends them.
pub(super) struct PodWatches {
    client: Client,
    shared: Arc<Shared>,
    metrics: Metrics,
    tasks: JoinSet<()>,
    running: HashMap<String, AbortHandle>,
}

impl PodWatches {
    pub(super) fn new(client: Client, shared: Arc<Shared>, metrics: Metrics) -> Self {
        Self {
            client,
            shared,
            metrics,
            tasks: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// Follows the pods of these nodes and of no others.
    pub(super) fn follow(&mut self, nodes: &BTreeSet<String>) {
        while self.tasks.try_join_next().is_some() {}
        self.running.retain(|node, task| {
            let stays = nodes.contains(node) && !task.is_finished();
            if !stays {
                task.abort();
                self.shared.forget_pods(node);
            }
            stays
        });
        for node in nodes {
            if self.running.contains_key(node) {
                continue;
            }
            let api = Api::all(self.client.clone());
            let feed = feed(api, node.clone(), self.shared.clone(), self.metrics.clone());
            let task = self.tasks.spawn(feed);
            self.running.insert(node.clone(), task);
        }
    }
}

async fn feed(
    api: Api<DeserializeGuard<PodObject>>,
    node: String,
    shared: Arc<Shared>,
    metrics: Metrics,
) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = watcher(api, config).default_backoff().boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => shared.amend(|index, clock| {
                let take = |pod: DeserializeGuard<PodObject>, index: &mut Index| match pod.0 {
                    Ok(pod) => index.apply_pod(&node, pod, clock, Timestamp::now()),
                    Err(invalid) => {
                        let name = invalid.metadata.name.unwrap_or_default();
                        let error = invalid.error;
                        tracing::warn!(node, name, error, "a pod cannot be read");
                        Effect::None
                    }
                };
                match event {
                    watcher::Event::Init => {
                        index.begin_pods(&node);
                        Effect::None
                    }
                    watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => take(pod, index),
                    watcher::Event::Delete(pod) => {
                        index.remove_pod(&node, &pod.uid().unwrap_or_default())
                    }
                    watcher::Event::InitDone => index.finish_pods(&node),
                }
            }),
            Ok(None) => return,
            Err(error) => {
                metrics.watch_broke("pods");
                tracing::warn!(node, %error, "the watch of a node's pods broke off and begins anew");
            }
        }
    }
}
