//! Nodes are emptied before their reboot, on a real control plane with its real eviction API and
//! disruption controller.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

mod cluster;

use cluster::{ALONE, Cluster, IN_TURN, PATIENCE, catalog};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Node, Pod, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use monok8s_api::{CORDON_ANNOTATION, OSUpgradeProgress, condition, osupgradeprogress::Release};
use monok8s_sandbox::wait;
use serde_json::{Value, json};

/// A cluster in which pods can be made, in the namespace `default`.
struct Pods {
    cluster: Cluster,
    owner: Value,
}

impl Pods {
    async fn start(nodes: usize) -> Self {
        let cluster = Cluster::start(nodes).await;
        let accounts: Api<ServiceAccount> = Api::default_namespaced(cluster.client.clone());
        wait::until("the service account of pods", PATIENCE, || async {
            Ok(accounts.get_opt("default").await?)
        })
        .await
        .unwrap();
        // Any object can be a pod's controller; this one makes none again.
        let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
        let owner = serde_json::from_value(json!({"metadata": {"name": "owner"}})).unwrap();
        let owner = maps.create(&PostParams::default(), &owner).await.unwrap();
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
                           "uid": owner.uid(), "controller": true});
        Self { cluster, owner }
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.cluster.client.clone())
    }

    fn budgets(&self) -> Api<PodDisruptionBudget> {
        Api::default_namespaced(self.cluster.client.clone())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.cluster.client.clone())
    }

    /// A Ready pod on a node, with its name as label `app`.
    async fn add(&self, name: &str, node: &str, managed: bool) {
        let owners = if managed { vec![&self.owner] } else { vec![] };
        let pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": name}, "ownerReferences": owners},
            "spec": {
                "nodeName": node, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "registry.invalid/none"}],
            },
        }))
        .unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
        let status = json!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}]}});
        self.pods()
            .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
            .await
            .unwrap();
    }

    /// A budget that never lets the pod of that name go, in force.
    async fn protect(&self, name: &str) {
        let budget = serde_json::from_value(json!({
            "metadata": {"name": format!("{name}-budget")},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": name}}},
        }))
        .unwrap();
        let budgets = self.budgets();
        let budget: PodDisruptionBudget = budgets
            .create(&PostParams::default(), &budget)
            .await
            .unwrap();
        wait::until("the budget to be in force", PATIENCE, || async {
            let status = budgets.get_status(&budget.name_any()).await?.status;
            Ok(status.filter(|s| s.current_healthy == Some(1)).map(drop))
        })
        .await
        .unwrap();
    }

    async fn unprotect(&self, name: &str) {
        self.budgets()
            .delete(&format!("{name}-budget"), &DeleteParams::default())
            .await
            .unwrap();
    }

    async fn has(&self, pod: &str) -> bool {
        self.pods().get_opt(pod).await.unwrap().is_some()
    }

    async fn node(&self, name: &str) -> Node {
        self.nodes().get(name).await.unwrap()
    }

    async fn is_cordoned(&self, name: &str) -> bool {
        self.node(name).await.spec.unwrap().unschedulable == Some(true)
    }

    async fn is_ours(&self, name: &str) -> bool {
        self.node(name)
            .await
            .annotations()
            .contains_key(CORDON_ANNOTATION)
    }

    async fn set_ready(&self, name: &str, ready: bool) {
        let status = json!({"status": {"conditions": [{
            "type": "Ready", "status": if ready { "True" } else { "False" },
            "lastHeartbeatTime": "2026-01-01T00:00:00Z",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        self.nodes()
            .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
            .await
            .unwrap();
    }

    async fn kubectl(&self, args: &[&str]) {
        self.cluster.plane.kubectl().ok(args).await.unwrap();
    }

    /// Waits until the upgrade is `Draining` and its message says all this.
    async fn until_told(&self, upgrade: &str, words: &[&str]) {
        let what = format!("{upgrade} to say {words:?}");
        self.cluster
            .until(upgrade, &what, |u| {
                let Some(status) = &u.status else {
                    return false;
                };
                let progressing = condition::find(&status.conditions, "Progressing");
                progressing.is_some_and(|c| c.reason == "Draining" && c.message == status.message)
                    && words.iter().all(|word| status.message.contains(word))
            })
            .await;
    }

    async fn until_let_go(&self, node: &str) {
        wait::until("the node to be let go", PATIENCE, || async {
            let free = !self.is_cordoned(node).await && !self.is_ours(node).await;
            Ok(free.then_some(()))
        })
        .await
        .unwrap();
    }

    /// The progress of that node to that version.
    async fn progress_of(&self, node: &str, version: &str) -> OSUpgradeProgress {
        let all = self
            .cluster
            .progresses()
            .list(&ListParams::default())
            .await
            .unwrap();
        let wanted = |p: &OSUpgradeProgress| {
            let image = p.spec.image.as_ref();
            p.spec.node_name == node && image.is_some_and(|image| image.version == version)
        };
        all.items.into_iter().find(wanted).unwrap()
    }
}

fn spec(version: &str, drain: &Value) -> Value {
    json!({
        "version": version,
        "catalog": {"inline": catalog(&["v1.35.1", "v1.35.2"])},
        "rollout": {"drain": drain},
    })
}

/// A budget that lets the pod go later; the leader killed in the middle; a person who cordons what
/// is cordoned, and one who had cordoned before; a node that is not Ready in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_emptied_when_its_budgets_allow_it_and_let_go_afterwards() {
    let mut pods = Pods::start(3).await;
    pods.add("web", "n0", true).await;
    pods.add("batch", "n0", true).await;
    pods.protect("web").await;
    pods.kubectl(&["cordon", "n1"]).await;
    let first = pods.cluster.controller("first", IN_TURN).await;
    pods.cluster.begin();
    pods.cluster.apply("up", spec("v1.35.1", &json!({}))).await;

    let blocked = [
        "n0 is drained since",
        "pod default/web",
        "PodDisruptionBudget default/web-budget",
        "(since ",
    ];
    pods.until_told("up", &blocked).await;
    assert!(pods.is_cordoned("n0").await && pods.is_ours("n0").await);
    assert!(!pods.is_cordoned("n2").await, "one node at a time");
    wait::until("the other pod to go", PATIENCE, || async {
        Ok((!pods.has("batch").await).then_some(()))
    })
    .await
    .unwrap();
    assert!(pods.has("web").await);
    pods.cluster
        .until_noted("up", "DrainBlocked", &["default/web-budget", "since"])
        .await;

    // The next leader finds the cordon and goes on.
    first.process.kill().await;
    let _second = pods.cluster.controller("second", IN_TURN).await;
    pods.cluster.until_leads("second").await;
    pods.kubectl(&["cordon", "n0"]).await;
    pods.until_told("up", &blocked).await;

    pods.set_ready("n0", false).await;
    pods.until_told("up", &["n0 is drained since", "waits until it is Ready"])
        .await;
    pods.unprotect("web").await;
    assert_eq!(
        pods.progress_of("n0", "v1.35.1").await.spec.release,
        Release::Stage
    );
    pods.set_ready("n0", true).await;

    pods.cluster.until_phase_is("up", "Completed").await;
    assert!(!pods.has("web").await);
    for node in ["n0", "n2"] {
        pods.until_let_go(node).await;
    }
    assert!(pods.is_cordoned("n1").await, "a person's cordon stays");
    assert!(!pods.is_ours("n1").await);
    pods.cluster.assert_nothing_broken();
    pods.cluster.end().await;
}

/// A node with nowhere else for its pods; then with another one: a budget that never lets its pod
/// go, given up, retried and forced; an unmanaged pod; a person who makes the cordon theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_cannot_wedge() {
    let mut pods = Pods::start(1).await;
    pods.add("web", "n0", true).await;
    pods.protect("web").await;
    let _replica = pods.cluster.controller("only", ALONE).await;
    pods.cluster.begin();
    pods.cluster.apply("up", spec("v1.35.1", &json!({}))).await;
    pods.cluster.until_phase_is("up", "Completed").await;
    assert!(pods.has("web").await, "it went down with the node");
    pods.cluster.told_until("up", "PodsGoDown").await;
    pods.until_let_go("n0").await;

    pods.cluster.add_node("n1", "v1.35.2").await;
    pods.add("lonely", "n0", false).await;
    let drain = json!({"deadline": "3s"});
    pods.cluster.apply("up", spec("v1.35.2", &drain)).await;
    pods.cluster.until_phase_is("up", "Failed").await;
    pods.until_let_go("n0").await;
    let progress = pods.progress_of("n0", "v1.35.2").await;
    assert_eq!(progress.spec.release, Release::Hold);
    let upgrade = pods.cluster.upgrades().get("up").await.unwrap();
    let failure = upgrade.status.unwrap().failures.remove(0);
    assert_eq!(failure.reason, "DrainTimedOut");
    assert!(
        failure.message.contains("default/lonely"),
        "{}",
        failure.message
    );
    assert!(pods.has("web").await && pods.has("lonely").await);
    pods.cluster.told_until("up", "DrainTimedOut").await;

    // Tried again without a deadline's end: the unmanaged pod is named, then allowed to go.
    let drain = json!({"deadline": "3s", "onDeadline": "Wait"});
    pods.cluster.apply("up", spec("v1.35.2", &drain)).await;
    let retry = Patch::Merge(json!({"spec": {"retryNonce": "again"}}));
    let progresses = pods.cluster.progresses();
    progresses
        .patch(&progress.name_any(), &PatchParams::default(), &retry)
        .await
        .unwrap();
    pods.until_told("up", &["pod default/lonely", "deleteUnmanaged"])
        .await;
    let drain = json!({"deadline": "3s", "onDeadline": "Wait", "deleteUnmanaged": true});
    pods.cluster.apply("up", spec("v1.35.2", &drain)).await;
    pods.until_told("up", &["pod default/web", "default/web-budget"])
        .await;
    wait::until("the unmanaged pod to go", PATIENCE, || async {
        Ok((!pods.has("lonely").await).then_some(()))
    })
    .await
    .unwrap();

    // A person makes the cordon theirs, and what is left is forced.
    assert!(pods.is_ours("n0").await);
    let theirs = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n0"}, "spec": {"unschedulable": true},
    }));
    let params = PatchParams::apply("a-person");
    pods.nodes().patch("n0", &params, &theirs).await.unwrap();
    let drain = json!({"deadline": "3s", "onDeadline": "Force"});
    pods.cluster.apply("up", spec("v1.35.2", &drain)).await;
    pods.cluster.until_phase_is("up", "Completed").await;
    assert!(!pods.has("web").await);
    wait::until("the annotation to go", PATIENCE, || async {
        Ok((!pods.is_ours("n0").await).then_some(()))
    })
    .await
    .unwrap();
    assert!(pods.is_cordoned("n0").await, "a person's cordon by now");
    pods.cluster.end().await;
}
