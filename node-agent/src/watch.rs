//! The watch of this node's progresses, and of which Node this is.

use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use monok8s_api::OSUpgradeProgress;
use monok8s_telemetry::server::Gate;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::{calls, next::View, objects::Objects};

/// Pause between two questions for a Node that is not there.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Which Node this machine is, as the API server said last.
#[derive(Clone)]
pub struct NodeUid {
    nodes: Api<Node>,
    name: String,
    uid: watch::Sender<Option<String>>,
}

impl std::fmt::Debug for NodeUid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeUid({}: {:?})", self.name, self.get())
    }
}

impl NodeUid {
    /// The Node called `name`.
    pub fn new(client: Client, name: &str) -> Self {
        Self {
            nodes: Api::all(client),
            name: name.to_owned(),
            uid: watch::Sender::new(None),
        }
    }

    /// Its UID; `None` while it is not known or there is no such Node.
    pub fn get(&self) -> Option<String> {
        self.uid.borrow().clone()
    }

    /// Asks again. When there is no answer the UID is not known any more.
    pub async fn ask(&self) {
        let answer = calls::limited(self.nodes.get_opt(&self.name)).await;
        let uid = match answer {
            Ok(Some(node)) => node.uid(),
            Ok(None) => {
                warn!("there is no Node {}", self.name);
                None
            }
            Err(e) => {
                warn!("the Node {} could not be read: {e}", self.name);
                None
            }
        };
        self.uid.send_if_modified(|known| {
            let changed = *known != uid;
            *known = uid;
            changed
        });
    }
}

/// Keeps `objects` up to date, for ever.
///
/// Faults are bridged with a jittered backoff and change nothing: an API server that answers 403, 404 or 410 to a
/// watch is away, it has not deleted anything.
pub async fn run(client: Client, node_name: &str, node: NodeUid, objects: Objects, heard: Gate) {
    let api: Api<OSUpgradeProgress> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
    let stream = watcher(api, config).default_backoff();
    pin_mut!(stream);
    let mut listing = Vec::new();
    loop {
        let unknown = node.get().is_none() && objects.view() != View::Away;
        let event = tokio::select! {
            event = stream.next() => event,
            () = tokio::time::sleep(calls::jittered(ASK_AGAIN)), if unknown => {
                node.ask().await;
                if node.get().is_some() {
                    objects.touch();
                }
                continue;
            }
        };
        match event {
            Some(Ok(watcher::Event::Init)) => listing.clear(),
            Some(Ok(watcher::Event::InitApply(object))) => listing.push(object),
            Some(Ok(watcher::Event::InitDone)) => {
                // A new list follows a long silence or a new token: the Node may be another one.
                node.ask().await;
                objects.list(std::mem::take(&mut listing));
                heard.open();
            }
            Some(Ok(watcher::Event::Apply(object))) => objects.put(object),
            Some(Ok(watcher::Event::Delete(object))) => {
                objects.remove(&object.uid().unwrap_or_default());
            }
            Some(Err(e)) => debug!("watch: {e}"),
            None => return,
        }
    }
}
