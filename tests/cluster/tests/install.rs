//! Installed as its users install it.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, ResourceExt as _, api::ListParams};

use monok8s_cluster::{container_image::TOOLBOX, node::Node, product::NAME};
use monok8s_sandbox::scratch;
use serde_json::json;

use crate::bench::{Bench, FIRST, NAMESPACE, is_ready};

/// `kubectl apply -k manifests` and a label have brought up every agent with a token of its own.
pub(crate) async fn the_manifests_as_they_stand_make_a_working_fleet(bench: &Bench) -> Result<()> {
    for node in bench.cluster.nodes() {
        bench.wait_version(node, Some(FIRST)).await?;
    }
    let table = bench.shell("kubectl get osnodes --no-headers").await?;
    for line in table.lines() {
        let columns: Vec<&str> = line.split_whitespace().collect();
        ensure!(columns.get(1..4) == Some(&[FIRST, "A", FIRST]), "{table}");
    }
    ensure!(table.lines().count() == 3, "{table}");
    Ok(())
}

/// The line of docs/install.md, with the controller gone.
pub(crate) async fn a_node_creates_the_controller(bench: &Bench) -> Result<()> {
    remove_controller(bench).await?;
    bench
        .shell(
            "kubectl exec -i -n mono-system ds/node-agent -- ctl create controller \
             | kubectl apply -f -",
        )
        .await?;
    bench.wait_idle().await?;
    ensure!(image(bench).await? == NAME);
    Ok(())
}

/// The same with `--image`, from a registry; then back.
pub(crate) async fn a_node_creates_the_controller_from_a_registry(bench: &Bench) -> Result<()> {
    remove_controller(bench).await?;
    let name = bench.cluster.pulled_image()?;
    let line = format!(
        "kubectl exec -i -n mono-system ds/node-agent -- ctl create controller --image {name} \
         | kubectl apply -f -"
    );
    bench.shell(&line).await?;
    bench.wait_idle().await?;
    ensure!(image(bench).await? == name);
    let pods: Api<Pod> = Api::namespaced(bench.client.clone(), NAMESPACE);
    let selected = ListParams::default().labels("app.kubernetes.io/component=controller");
    for pod in pods.list(&selected).await? {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|s| s.container_statuses.as_ref());
        let runs = statuses
            .and_then(|all| all.first())
            .map(|first| first.image_id.clone());
        let runs = runs.unwrap_or_default();
        ensure!(
            runs.starts_with(&name[..name.len() - 6]),
            "{}: {runs}",
            pod.name_any()
        );
    }
    bench.shell("kubectl apply -k manifests").await?;
    bench.wait_idle().await
}

/// The troubleshooting page's words for a node whose runtime does not have the image, and its cure, typed there.
pub(crate) async fn a_node_without_the_image_says_so_and_its_page_cures_it(
    bench: &Bench,
) -> Result<()> {
    const REASON: &str = "ErrImageNeverPull";
    let page = scratch::repository().join("docs/troubleshoot.md");
    let page = fs::read_to_string(page).context("no page")?;
    let (_, words) = page
        .split_once(REASON)
        .context("the page does not name the reason")?;
    let cure = words
        .lines()
        .find(|line| line.starts_with("ctr "))
        .context("the page has no cure")?;

    let node = bench.cluster.nodes().last().context("no node")?;
    forget_image(node).await?;
    let old = bench.wait_agent(node, "ready", is_ready).await?;
    let delete = format!(
        "kubectl delete pod -n {NAMESPACE} {} --wait=true",
        old.name_any()
    );
    bench.shell(&delete).await?;
    let stuck = bench
        .wait_agent(node, REASON, |pod| waiting_for(pod) == Some(REASON))
        .await?;
    // What an operator sees.
    let seen = bench
        .shell(&format!("kubectl -n {NAMESPACE} get pods -o wide"))
        .await?;
    let line = seen
        .lines()
        .find(|line| line.starts_with(&stuck.name_any()));
    ensure!(line.is_some_and(|line| line.contains(REASON)), "{seen}");
    let described = format!("kubectl -n {NAMESPACE} describe pod {}", stuck.name_any());
    let seen = bench.shell(&described).await?;
    ensure!(seen.contains(NAME), "{seen}");

    let typed = format!("cd /run/images && {cure}");
    node.run(["sh", "-c", &typed]).await?;
    let cured = bench.wait_agent(node, "ready", is_ready).await?;
    ensure!(
        cured.name_any() == stuck.name_any(),
        "another pod took its place: the cure was not needed"
    );
    Ok(())
}

/// Takes the product's image out of the node's runtime, under each of its names.
async fn forget_image(node: &Node) -> Result<()> {
    let list = ["ctr", "-n", "k8s.io", "images", "ls"];
    let listed = node.run(list).await?;
    let digest = listed
        .lines()
        .filter_map(|line| {
            line.split_whitespace()
                .collect::<Vec<_>>()
                .get(..3)
                .map(<[_]>::to_vec)
        })
        .find(|columns| columns[0] == NAME)
        .with_context(|| format!("there is no {NAME}:\n{listed}"))?[2]
        .to_owned();
    for line in listed.lines().filter(|line| line.contains(&digest)) {
        let name = line.split_whitespace().next().context("no name")?;
        let remove = ["ctr", "-n", "k8s.io", "images", "rm", "--sync", name];
        node.run(remove).await?;
    }
    Ok(())
}

/// What a pod's container waits for.
fn waiting_for(pod: &Pod) -> Option<&str> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let waiting = statuses.first()?.state.as_ref()?.waiting.as_ref()?;
    waiting.reason.as_deref()
}

/// What docs/security.md says of both pods, by the kernel's and by the API server's account.
pub(crate) async fn the_pods_have_the_rights_that_the_page_says(bench: &Bench) -> Result<()> {
    bench.wait_idle().await?;
    // The API server names the pods that a level would refuse.
    let warned = bench
        .shell(&format!(
            "kubectl label namespace {NAMESPACE} --overwrite --dry-run=server \
             pod-security.kubernetes.io/enforce=restricted 2>&1"
        ))
        .await?;
    let refused: Vec<&str> = warned
        .lines()
        .filter_map(|line| line.strip_prefix("Warning: "))
        .filter(|line| !line.starts_with("existing pods"))
        .collect();
    ensure!(
        !refused.is_empty() && refused.iter().all(|line| line.starts_with("node-agent-")),
        "{warned}"
    );
    let mut controllers = 0;
    for node in bench.cluster.nodes() {
        let agents = processes(node, "node-agent").await?;
        ensure!(agents.len() == 1, "{agents:?}");
        for agent in agents {
            ensure!(agent.value("Uid:") == Some("0"), "{agent:?}");
            ensure!(agent.read_only_root, "{agent:?}");
        }
        for controller in processes(node, "controller").await? {
            controllers += 1;
            ensure!(controller.value("Uid:") == Some("65532"), "{controller:?}");
            ensure!(controller.value("Gid:") == Some("65532"), "{controller:?}");
            for kind in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                let none = controller
                    .value(kind)
                    .is_some_and(|set| set.bytes().all(|digit| digit == b'0'));
                ensure!(none, "{kind} {controller:?}");
            }
            ensure!(
                controller.value("NoNewPrivs:") == Some("1"),
                "{controller:?}"
            );
            // SECCOMP_MODE_FILTER
            ensure!(controller.value("Seccomp:") == Some("2"), "{controller:?}");
            ensure!(controller.read_only_root, "{controller:?}");
        }
    }
    ensure!(controllers == 2, "{controllers} controllers run");
    Ok(())
}

/// A process as `/proc` tells of it.
#[derive(Debug)]
struct Process {
    status: String,
    read_only_root: bool,
}

impl Process {
    /// The first word of a line of its status.
    fn value(&self, key: &str) -> Option<&str> {
        let line = self
            .status
            .lines()
            .find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()
    }
}

/// The processes on a node that run `program` of the image.
async fn processes(node: &Node, program: &str) -> Result<Vec<Process>> {
    let find = format!(
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = {program} ] && echo $p; done; true"
    );
    let mut found = Vec::new();
    for folder in node.run(["sh", "-c", &find]).await?.lines() {
        let status = node.run(["cat", &format!("{folder}/status")]).await?;
        let mounts = node.run(["cat", &format!("{folder}/mountinfo")]).await?;
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .rfind(|fields| fields.get(4) == Some(&"/"));
        let read_only_root = root.is_some_and(|fields| fields[5].split(',').any(|o| o == "ro"));
        found.push(Process {
            status,
            read_only_root,
        });
    }
    Ok(found)
}

/// A node that sends everybody else away keeps its agent: it may be the one that needs the upgrade.
pub(crate) async fn an_agent_stays_where_nobody_else_may(bench: &Bench) -> Result<()> {
    let node = bench.cluster.nodes().first().context("no node")?;
    let agent = bench.wait_agent(node, "ready", is_ready).await?;
    let name = node.name();
    let other = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "sent-away", "namespace": "default"},
        "spec": {
            "nodeName": name,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "sleep",
                "image": TOOLBOX,
                "imagePullPolicy": "Never",
                "command": ["sleep", "1000000"],
            }],
        },
    });
    bench.kubectl.apply(&other.to_string()).await?;
    bench
        .shell("kubectl wait --for=condition=Ready pod/sent-away --timeout=120s")
        .await?;
    let taint = format!("kubectl taint node {name} monok8s.test/nobody=here:NoExecute");
    bench.shell(&taint).await?;
    let sent = bench
        .shell("kubectl wait --for=delete pod/sent-away --timeout=120s")
        .await;
    let stays = bench.agents(node).await;
    bench.shell(&format!("{taint}-")).await?;
    sent?;
    let stays = stays?;
    ensure!(
        stays.len() == 1 && stays[0].uid() == agent.uid() && is_ready(&stays[0]),
        "{stays:?}"
    );
    bench.wait_idle().await
}

/// `kubectl drain`, by whomever, never waits for the controller, not even for the only replica.
pub(crate) async fn nobodys_drain_waits_for_the_controller(bench: &Bench) -> Result<()> {
    bench
        .shell(&format!(
            "kubectl -n {NAMESPACE} scale deployment controller --replicas=1"
        ))
        .await?;
    bench.wait_idle().await?;
    let drained = async {
        // The budget counts the one replica a moment later.
        bench
            .shell(&format!(
                "kubectl -n {NAMESPACE} wait pdb/controller --timeout=60s \
                 --for=jsonpath={{.status.currentHealthy}}=1"
            ))
            .await?;
        for node in bench.cluster.nodes() {
            bench
                .shell(&format!(
                    "kubectl drain {} --dry-run=server --ignore-daemonsets --timeout=30s \
                     --pod-selector=app.kubernetes.io/component=controller",
                    node.name()
                ))
                .await?;
        }
        Ok(())
    };
    let drained = drained.await;
    bench.shell("kubectl apply -k manifests").await?;
    bench.wait_idle().await?;
    drained
}

async fn remove_controller(bench: &Bench) -> Result<()> {
    bench
        .shell("kubectl delete deployment controller -n mono-system --cascade=foreground")
        .await
        .map(drop)
}

async fn image(bench: &Bench) -> Result<String> {
    let deployments: Api<Deployment> = Api::namespaced(bench.client.clone(), NAMESPACE);
    let pod = deployments
        .get("controller")
        .await?
        .spec
        .context("no spec")?
        .template
        .spec;
    let container = pod.and_then(|pod| pod.containers.into_iter().next());
    container
        .and_then(|container| container.image)
        .context("no image")
}
