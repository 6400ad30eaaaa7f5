//! The cluster that all tests share, with the product installed as its users install it.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node as NodeObject, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use monok8s_api::{OSNode, OSUpgrade, OSUpgradeProgress};
use monok8s_cluster::{
    cluster::{Cluster, ClusterOptions},
    node::Node,
};
use monok8s_sandbox::{kubectl::Kubectl, scratch, wait};
use tokio::process::Command;

/// How long anything may take before a test gives up. Generous: the machine may be busy with builds.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// What the nodes begin with.
pub(crate) const FIRST: &str = "v1.34.1";
/// What the whole fleet is upgraded to.
pub(crate) const FLEET: &str = "v1.34.2";
/// What single nodes are switched between.
pub(crate) const SINGLE: [&str; 2] = ["v1.34.3", "v1.34.4"];

/// The namespace of the product.
pub(crate) const NAMESPACE: &str = "mono-system";

/// The cluster.
pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
    pub(crate) kubectl: Kubectl,
}

impl Bench {
    /// Brings it up, and the product in it.
    pub(crate) async fn start() -> Result<Self> {
        let cluster = Cluster::start(ClusterOptions {
            version: FIRST.into(),
            images: [FLEET, SINGLE[0], SINGLE[1]].map(str::to_owned).to_vec(),
            ..ClusterOptions::default()
        })
        .await?;
        let bench = Self {
            client: cluster.client(),
            kubectl: cluster.kubectl(),
            cluster,
        };
        bench.install().await?;
        Ok(bench)
    }

    /// By the five commands of docs/install.md. What the first two do, the nodes were started with.
    async fn install(&self) -> Result<()> {
        let page = fs::read_to_string(scratch::repository().join("docs/install.md"));
        let page = page.context("no page")?;
        let commands: Vec<&str> = page
            .split_once("## In five commands")
            .and_then(|(_, rest)| rest.split_once("```sh\n")?.1.split_once("```"))
            .map(|(commands, _)| commands.lines().collect())
            .unwrap_or_default();
        let [build, import, typed @ ..] = commands.as_slice() else {
            bail!("no commands: {commands:?}");
        };
        ensure!(
            *build == "make container"
                && import.contains("ctr -n k8s.io images import - < target/container/")
                && typed.len() == 3,
            "{commands:?}"
        );
        for line in typed {
            self.shell(line).await?;
        }
        self.wait_idle().await
    }

    /// Waits until the product's pods are up, those they took the place of are gone, and every node
    /// has said which version it runs.
    pub(crate) async fn wait_idle(&self) -> Result<()> {
        for workload in ["deployment/controller", "daemonset/node-agent"] {
            let status = format!("kubectl -n {NAMESPACE} rollout status {workload} --timeout=180s");
            self.shell(&status).await?;
        }
        wait::until("the end of the controllers before", LIMIT, || async {
            let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
            let spec = deployments.get("controller").await?.spec;
            let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
            let pods = self.controllers().await?;
            let ready = pods.iter().all(is_ready) && i32::try_from(pods.len()) == Ok(wanted);
            Ok(ready.then_some(()))
        })
        .await?;
        for node in self.cluster.nodes() {
            self.wait_version(node, None).await?;
        }
        Ok(())
    }

    /// The controllers' pods.
    pub(crate) async fn controllers(&self) -> Result<Vec<Pod>> {
        let api = Api::namespaced(self.client.clone(), NAMESPACE);
        let selected = ListParams::default().labels("app.kubernetes.io/component=controller");
        Ok(api.list(&selected).await?.items)
    }

    /// Waits until a node may have new pods, or may not.
    pub(crate) async fn wait_schedulable(&self, node: &Node, expected: bool) -> Result<()> {
        let api: Api<NodeObject> = Api::all(self.client.clone());
        let what = format!("{} to be schedulable: {expected}", node.name());
        let seen = wait::until(&what, LIMIT, || async {
            let object = api.get(node.name()).await?;
            let cordoned = object.spec.and_then(|spec| spec.unschedulable) == Some(true);
            Ok((cordoned != expected).then_some(()))
        });
        seen.await.context("the cordon is not as it should be")
    }

    /// Types a line at a prompt in the source tree, and returns what it prints.
    pub(crate) async fn shell(&self, line: &str) -> Result<String> {
        let output = self.prompt(line).output();
        let output = tokio::time::timeout(2 * LIMIT, output)
            .await
            .with_context(|| format!("{line} does not end"))?
            .context("cannot run sh")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{line}\n{text}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    fn prompt(&self, line: &str) -> Command {
        let program = self.kubectl.program().parent().unwrap_or(Path::new("/"));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-o", "pipefail", "-c", line])
            .current_dir(scratch::repository())
            .env("PATH", format!("{}:{path}", program.display()))
            .env("KUBECONFIG", self.kubectl.kubeconfig())
            .env("KUBECACHEDIR", self.cluster.folder().join("kubectl-cache"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// What a node says that it runs.
    pub(crate) async fn version(&self, node: &Node) -> Result<String> {
        let api: Api<OSNode> = Api::all(self.client.clone());
        let object = api.get_opt(node.name()).await?;
        Ok(object
            .and_then(|object| object.status)
            .unwrap_or_default()
            .version)
    }

    /// Waits until a node says that it runs `version`, or any.
    pub(crate) async fn wait_version(&self, node: &Node, version: Option<&str>) -> Result<()> {
        let wanted = version.unwrap_or("any version");
        let what = format!("{} to run {wanted}", node.name());
        let seen = wait::until(&what, LIMIT, || async {
            let runs = self.version(node).await.unwrap_or_default();
            let done = version.map_or(!runs.is_empty(), |version| runs == version);
            Ok(done.then_some(()))
        });
        seen.await.with_context(|| node.logs())
    }

    /// Waits until there is a pod of the product on a node for which `done` holds.
    pub(crate) async fn wait_agent(
        &self,
        node: &Node,
        what: &str,
        done: impl Fn(&Pod) -> bool,
    ) -> Result<Pod> {
        let what = format!("an agent on {}: {what}", node.name());
        let seen = wait::until(&what, LIMIT, || async {
            let pods = self.agents(node).await.unwrap_or_default();
            Ok(pods.into_iter().find(|pod| done(pod)))
        });
        seen.await.with_context(|| node.logs())
    }

    /// The agents' pods on a node.
    pub(crate) async fn agents(&self, node: &Node) -> Result<Vec<Pod>> {
        let api = Api::namespaced(self.client.clone(), NAMESPACE);
        let fields = format!("spec.nodeName={}", node.name());
        let selected = ListParams::default()
            .fields(&fields)
            .labels("app.kubernetes.io/component=node-agent");
        Ok(api.list(&selected).await?.items)
    }

    /// Deletes every upgrade and progress, and waits until they are gone.
    pub(crate) async fn forget_upgrades(&self) -> Result<()> {
        let all = ListParams::default();
        let upgrades: Api<OSUpgrade> = Api::all(self.client.clone());
        let progresses: Api<OSUpgradeProgress> = Api::all(self.client.clone());
        upgrades
            .delete_collection(&DeleteParams::default(), &all)
            .await?;
        progresses
            .delete_collection(&DeleteParams::default(), &all)
            .await?;
        wait::until("the end of all progresses", LIMIT, || async {
            Ok(progresses.list(&all).await?.items.is_empty().then_some(()))
        })
        .await
    }

    /// What can be seen of the cluster, for a failed test's message.
    pub(crate) async fn state(&self) -> String {
        let mut text = String::new();
        for line in [
            "kubectl get nodes",
            "kubectl get pods -A -o wide",
            "kubectl get osupgrades -o wide",
            "kubectl get osupgradeprogresses -o wide",
            "kubectl get osnodes",
            "kubectl get events -A --sort-by=.lastTimestamp | tail -20",
            "kubectl -n mono-system logs ds/node-agent --all-pods --prefix --tail=15",
            "kubectl -n mono-system logs deploy/controller --all-pods --prefix --tail=15",
        ] {
            let shown = self
                .shell(line)
                .await
                .unwrap_or_else(|error| format!("{error:#}"));
            text = format!("{text}$ {line}\n{shown}\n");
        }
        text
    }
}

/// Whether a pod's first container is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let ready = statuses
        .and_then(|all| all.first())
        .is_some_and(|first| first.ready);
    ready && pod.metadata.deletion_timestamp.is_none()
}
