//! A cluster without controllers, and what the cases do with it.

use std::time::{Duration, Instant};

use kube::Api;
use monok8s_api::{OSNode, OSUpgradeProgress, OSUpgradeProgressStatus, reason::ProgressPhase};
use monok8s_node_agent::record::{Record, Store};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::{Content, Fault},
    node::{Node, NodeOptions},
    wait,
};
use serde_json::{Value, json};

/// What the nodes begin with.
pub(crate) const OLD: &str = "v1.34.1";
/// What they are upgraded to.
pub(crate) const NEW: &str = "v1.34.2";

/// How long anything may take; the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// A cluster without controllers and what the cases do with it.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
}

impl Scene {
    pub(crate) async fn start(nodes: Vec<NodeOptions>) -> Self {
        let cluster = Cluster::start(ClusterOptions {
            nodes,
            version: OLD.into(),
            images: vec![NEW.into()],
            controllers: 0,
            ..ClusterOptions::default()
        })
        .await
        .unwrap();
        cluster.wait_observed().await.unwrap();
        Self { cluster }
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        self.cluster.node(name).unwrap()
    }

    pub(crate) fn progresses(&self) -> Api<OSUpgradeProgress> {
        Api::all(self.cluster.client())
    }

    /// The case's own copy of the image, served with a fault.
    pub(crate) fn serve(&self, name: &str, fault: Option<Fault>) -> String {
        let path = format!("/{name}/rootfs.ext4.zst");
        let server = self.cluster.image_server();
        let image = self.cluster.image(NEW).unwrap();
        server.publish(&path, Content::file(&image.file).unwrap());
        if let Some(fault) = fault {
            server.fault(&path, fault);
        }
        server.url(&path)
    }

    pub(crate) fn image(&self, url: &str) -> Value {
        let image = self.cluster.image(NEW).unwrap();
        json!({"version": NEW, "url": url, "checksum": format!("sha256:{}", image.file_sha256), "size": image.size})
    }

    pub(crate) async fn apply(&self, object: Value) {
        let text = object.to_string();
        self.cluster.kubectl().apply(&text).await.unwrap();
    }

    /// A progress called like its node unless `spec` says otherwise.
    pub(crate) async fn progress(&self, name: &str, spec: Value) {
        let mut object = json!({
            "apiVersion": "monok8s.io/v1alpha1",
            "kind": "OSUpgradeProgress",
            "metadata": {"name": name},
            "spec": {"sourceRef": {"name": name}, "nodeName": name, "download": {"retryFor": "5s"}},
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        self.apply(object).await;
    }

    pub(crate) async fn patch(&self, name: &str, spec: Value) {
        let patch = json!({"spec": spec}).to_string();
        let kubectl = self.cluster.kubectl();
        kubectl
            .ok([
                "patch",
                "osupgradeprogress",
                name,
                "--type=merge",
                "-p",
                patch.as_str(),
            ])
            .await
            .unwrap();
    }

    pub(crate) async fn status(&self, name: &str) -> OSUpgradeProgressStatus {
        let found = self.progresses().get_opt(name).await;
        found
            .ok()
            .flatten()
            .and_then(|p| p.status)
            .unwrap_or_default()
    }

    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        done: impl Fn(&OSUpgradeProgressStatus) -> bool,
    ) -> OSUpgradeProgressStatus {
        let end = Instant::now() + LIMIT;
        loop {
            let status = self.status(name).await;
            if done(&status) {
                return status;
            }
            let phase = &status.phase;
            assert!(
                Instant::now() < end,
                "{name}: waited in vain for {what}; it is {phase}: {}\n{}",
                status.message,
                self.node_of(name).map(Node::agent_log).unwrap_or_default()
            );
            tokio::time::sleep(wait::INTERVAL).await;
        }
    }

    pub(crate) fn node_of(&self, progress: &str) -> Option<&Node> {
        self.cluster
            .nodes()
            .iter()
            .find(|n| progress.starts_with(n.name()))
    }

    pub(crate) async fn phase(&self, name: &str, phase: ProgressPhase) -> OSUpgradeProgressStatus {
        self.until(name, phase.as_str(), |s| s.phase == phase).await
    }

    pub(crate) async fn fails(&self, name: &str, reason: &str) -> OSUpgradeProgressStatus {
        let status = self.until(name, "an end", |s| s.phase.is_terminal()).await;
        assert_eq!(
            (status.phase.as_str(), status.failure_reason.as_str()),
            ("Failed", reason),
            "{name}: {}",
            status.message
        );
        status
    }

    pub(crate) async fn os_node(&self, name: &str) -> monok8s_api::OSNodeStatus {
        let api: Api<OSNode> = Api::all(self.cluster.client());
        api.get(name).await.unwrap().status.unwrap()
    }

    pub(crate) fn record(&self, node: &str) -> Option<Record> {
        Store::new(self.node(node).machine().data().join("monok8s"))
            .load()
            .unwrap()
    }

    /// What the inactive slot holds: nothing but zeros when it was never written to.
    pub(crate) fn slot_b_is_untouched(&self, node: &str) -> bool {
        let path = self
            .node(node)
            .slot_device(monok8s_boot::SlotName::B)
            .unwrap();
        std::fs::read(path).unwrap().iter().all(|b| *b == 0)
    }
}

/// So slow that it does not end within a test, but bytes flow.
pub(crate) fn drip() -> Fault {
    Fault::Drip {
        bytes: 64 << 10,
        every: Duration::from_millis(200),
    }
}

/// Some bytes, then nothing for as long as it is tried.
pub(crate) fn stall() -> Fault {
    Fault::StallAfter(2 << 20)
}
