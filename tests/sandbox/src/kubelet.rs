//! What a kubelet tells the API server of its node, under the node's own identity: the Node object,
//! its Ready condition, and a Lease that is renewed as long as the system runs.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::watch;

/// How often the Lease is renewed; a quarter of what it says, as a kubelet does it.
const RENEWAL: Duration = Duration::from_secs(2);
/// The Lease's duration in seconds.
const LEASE_SECONDS: i32 = 8;
/// Pause after a request that failed.
const RETRY: Duration = Duration::from_millis(300);
/// A request that takes longer is given up.
const REQUEST: Duration = Duration::from_secs(5);

/// What a kubelet knows of the system it runs on.
#[derive(Clone, Debug)]
pub struct System {
    /// The boot's identifier.
    pub boot_id: String,
    /// os-release's `PRETTY_NAME`.
    pub os_image: String,
    /// The system's version, which the kubelet in it shares.
    pub version: String,
}

/// A node's voice at the API server.
#[derive(Clone)]
pub struct Kubelet {
    name: String,
    labels: BTreeMap<String, String>,
    nodes: Api<Node>,
    leases: Api<Lease>,
}

impl Kubelet {
    /// `client` is the node's own: user `system:node:NAME` in the group `system:nodes`.
    pub fn new(client: Client, name: &str, labels: &BTreeMap<String, String>) -> Self {
        let mut all = BTreeMap::from(
            [
                ("kubernetes.io/hostname", name),
                ("kubernetes.io/os", "linux"),
                ("kubernetes.io/arch", architecture()),
                ("monok8s.io/managed", "true"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        all.extend(labels.clone());
        Self {
            name: name.to_owned(),
            labels: all,
            nodes: Api::all(client.clone()),
            leases: Api::namespaced(client, "kube-node-lease"),
        }
    }

    /// Registers the node, then keeps its Lease and its Ready condition, until it is dropped.
    /// `uid` is told the Node object's UID once it is registered.
    pub async fn run(&self, system: &System, uid: &watch::Sender<Option<String>>) {
        let registered = loop {
            match limited(self.register(system)).await {
                Ok(registered) => break registered,
                Err(error) => tracing::debug!(node = self.name, "not registered yet: {error:#}"),
            }
            tokio::time::sleep(RETRY).await;
        };
        uid.send_replace(Some(registered));
        let mut beat = tokio::time::interval(RENEWAL);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            if let Err(error) = limited(self.heartbeat(system)).await {
                tracing::debug!(node = self.name, "heartbeat: {error:#}");
            }
        }
    }

    /// Makes the Node object or finds it, reports Ready, and returns the UID.
    pub async fn register(&self, system: &System) -> Result<String> {
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                ..ObjectMeta::default()
            },
            ..Node::default()
        };
        match self.nodes.create(&PostParams::default(), &node).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let labels = json!({"metadata": {"labels": self.labels}});
                self.nodes
                    .patch(&self.name, &PatchParams::default(), &Patch::Merge(labels))
                    .await
                    .context("cannot label the Node")?;
            }
            Err(error) => return Err(error).context("cannot make the Node"),
        }
        let node = self.report_ready(system).await?;
        self.renew_lease(&node).await?;
        node.uid().context("a Node without UID")
    }

    /// A Node that was deleted stays so until the next start: a kubelet registers once.
    async fn heartbeat(&self, system: &System) -> Result<()> {
        let Some(node) = self
            .nodes
            .get_opt(&self.name)
            .await
            .context("cannot read the Node")?
        else {
            return Ok(());
        };
        self.renew_lease(&node).await?;
        if !is_ready(&node) || boot_id(&node) != Some(&system.boot_id) {
            self.report_ready(system).await?;
        }
        Ok(())
    }

    async fn report_ready(&self, system: &System) -> Result<Node> {
        let now = Timestamp::now();
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": "the sandbox says so",
                   "lastHeartbeatTime": now, "lastTransitionTime": now})
        };
        let resources = json!({"cpu": "2", "memory": "2Gi", "pods": "110"});
        let status = json!({"status": {
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "addresses": [
                {"type": "Hostname", "address": self.name},
                {"type": "InternalIP", "address": "127.0.0.1"},
            ],
            "capacity": resources,
            "allocatable": resources,
            "nodeInfo": {
                "architecture": architecture(),
                "operatingSystem": "linux",
                "bootID": system.boot_id,
                "machineID": self.name,
                "systemUUID": self.name,
                "osImage": system.os_image,
                "kernelVersion": "sandbox",
                "containerRuntimeVersion": "sandbox://0",
                "kubeletVersion": system.version,
                "kubeProxyVersion": "",
            },
        }});
        self.nodes
            .patch_status(
                &self.name,
                &PatchParams::default(),
                &Patch::Strategic(status),
            )
            .await
            .context("cannot report the node's status")
    }

    async fn renew_lease(&self, node: &Node) -> Result<()> {
        let spec = LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        let found = self
            .leases
            .get_opt(&self.name)
            .await
            .context("cannot read the Lease")?;
        if let Some(mut lease) = found {
            lease.spec = Some(spec);
            self.leases
                .replace(&self.name, &PostParams::default(), &lease)
                .await
                .context("cannot renew the Lease")?;
            return Ok(());
        }
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.name.clone(),
            uid: node.uid().context("a Node without UID")?,
            ..OwnerReference::default()
        };
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
        };
        self.leases
            .create(&PostParams::default(), &lease)
            .await
            .context("cannot make the Lease")?;
        Ok(())
    }
}

/// Whether a Node's Ready condition is True.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The boot that a Node reports.
pub fn boot_id(node: &Node) -> Option<&String> {
    node.status
        .as_ref()?
        .node_info
        .as_ref()
        .map(|info| &info.boot_id)
}

/// The processor's name as Kubernetes and container images write it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn limited<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(REQUEST, work)
        .await
        .context("no answer from the API server")?
}
