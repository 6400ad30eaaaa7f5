//! Installed as its users install it.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, ResourceExt as _};

use monok8s_cluster::{container_image::TOOLBOX, node::Node, product::NAME};
use monok8s_sandbox::{scratch, wait};
use serde_json::json;

use crate::bench::{Bench, FIRST, LIMIT, NAMESPACE, is_ready};

/// `kubectl apply -k manifests` and a label have brought up every agent with a token of its own.
pub(crate) async fn the_manifests_as_they_stand_make_a_working_fleet(bench: &Bench) -> Result<()> {
    for node in bench.cluster.nodes() {
        bench.wait_version(node, Some(FIRST)).await?;
    }
    shown(bench, "kubectl get osnodes --no-headers", |table| {
        let row = |line: &str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            columns.get(1..4) == Some(&[FIRST, "A", FIRST])
        };
        table.lines().count() == 3 && table.lines().all(row)
    })
    .await
}

/// Waits until a line prints what it should.
async fn shown(bench: &Bench, line: &str, done: impl Fn(&str) -> bool) -> Result<()> {
    let what = format!("another answer to `{line}`");
    let seen = wait::until(&what, LIMIT, || async {
        Ok(done(&bench.shell(line).await?).then_some(()))
    });
    match seen.await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(bench.shell(line).await?)),
    }
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
    for pod in bench.controllers().await? {
        let statuses = pod.status.as_ref();
        let statuses = statuses.and_then(|status| status.container_statuses.as_ref());
        let runs = statuses.and_then(|all| all.first());
        let runs = runs.map(|first| first.image_id.clone()).unwrap_or_default();
        let repository = name
            .rsplit_once(':')
            .map_or("", |(repository, _)| repository);
        ensure!(runs.starts_with(repository), "{}: {runs}", pod.name_any());
    }
    let pulled = the_same_bytes_by_another_name(bench, &name).await;
    bench.shell("kubectl apply -k manifests").await?;
    bench.wait_idle().await?;
    pulled
}

/// What the troubleshooting page says of an image that the kubelet once pulled: it is refused to pods
/// that call it otherwise and may not pull it, although the runtime has it.
async fn the_same_bytes_by_another_name(bench: &Bench, pulled: &str) -> Result<()> {
    const OTHER: &str = "localhost/monok8s/other-name:test";
    let ran = bench.controllers().await?;
    let on = ran
        .first()
        .and_then(|pod| pod.spec.as_ref()?.node_name.clone());
    let node = bench.cluster.node(&on.context("no controller")?)?;
    let ctr = ["ctr", "-n", "k8s.io", "images"];
    node.run(ctr.iter().chain(&["tag", pulled, OTHER])).await?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other-name", "namespace": "default"},
        "spec": {
            "nodeName": node.name(),
            "containers": [{
                "name": "ctl",
                "image": OTHER,
                "imagePullPolicy": "Never",
                "command": ["ctl", "--version"],
            }],
        },
    });
    bench.kubectl.apply(&pod.to_string()).await?;
    let pods: Api<Pod> = Api::namespaced(bench.client.clone(), "default");
    let refused = wait::until("the pulled image to be refused", LIMIT, || async {
        let pod = pods.get("other-name").await?;
        Ok((waiting_for(&pod) == Some(NEVER_PULL)).then_some(()))
    });
    let refused = refused.await;
    bench
        .shell("kubectl delete pod other-name --force --grace-period=0 2>&1")
        .await?;
    node.run(ctr.iter().chain(&["rm", OTHER])).await?;
    refused
}

/// Of a container whose image the runtime does not have, or may not give it.
const NEVER_PULL: &str = "ErrImageNeverPull";

/// The troubleshooting page's words for a node whose runtime does not have the image, and its cure,
/// typed there: for the agent and for the controller.
pub(crate) async fn a_node_without_the_image_says_so_and_its_page_cures_it(
    bench: &Bench,
) -> Result<()> {
    let page = scratch::repository().join("docs/troubleshoot.md");
    let page = fs::read_to_string(page).context("no page")?;
    let (_, words) = page
        .split_once("## An agent or a controller that says nothing")
        .context("the page has no such part")?;
    let line = |begin: &str| {
        let line = words.lines().find(|line| line.starts_with(begin));
        line.with_context(|| format!("the page has no line that begins with {begin}"))
    };
    let (look, cure) = (line("kubectl -n mono-system get pods")?, line("ctr ")?);
    let describe = line("kubectl -n mono-system describe pod POD")?;
    ensure!(
        words.contains(NEVER_PULL),
        "the page does not name the reason"
    );

    let nodes = bench.cluster.nodes();
    let node = nodes.last().context("no node")?;
    forget_image(node).await?;
    let agent = bench.wait_agent(node, "ready", is_ready).await?;
    let controllers = bench.controllers().await?;
    let elsewhere = |pod: &&Pod| {
        pod.spec
            .as_ref()
            .is_some_and(|s| s.node_name.as_deref() != Some(node.name()))
    };
    let controller = controllers
        .iter()
        .find(elsewhere)
        .context("no controller")?;
    // The next one can go nowhere else.
    let others: Vec<&str> = nodes[..nodes.len() - 1].iter().map(Node::name).collect();
    let others = others.join(" ");
    bench.shell(&format!("kubectl cordon {others}")).await?;
    let cured = async {
        for old in [&agent, controller] {
            let delete = format!(
                "kubectl delete pod -n {NAMESPACE} {} --wait=true",
                old.name_any()
            );
            bench.shell(&delete).await?;
        }
        let stuck = wait::until("two pods without their image", LIMIT, || async {
            let mut all = bench.agents(node).await?;
            all.extend(bench.controllers().await?);
            all.retain(|pod| waiting_for(pod) == Some(NEVER_PULL));
            Ok((all.len() == 2).then_some(all))
        })
        .await?;
        // What an operator sees.
        for pod in &stuck {
            let name = pod.name_any();
            shown(bench, look, |seen| {
                let row = seen.lines().find(|line| line.starts_with(&name));
                row.is_some_and(|row| row.contains(NEVER_PULL) && row.contains(node.name()))
            })
            .await?;
            shown(bench, &describe.replace("POD", &name), |seen| {
                seen.contains(NAME)
            })
            .await?;
        }

        let typed = format!("cd /run/images && {cure}");
        node.run(["sh", "-c", &typed]).await?;
        // The same pods: nobody but the cure has helped them.
        let pods: Api<Pod> = Api::namespaced(bench.client.clone(), NAMESPACE);
        for pod in &stuck {
            let name = pod.name_any();
            wait::until(&format!("{name} to be ready"), LIMIT, || async {
                Ok(is_ready(&pods.get(&name).await?).then_some(()))
            })
            .await?;
        }
        anyhow::Ok(())
    };
    let cured = cured.await;
    bench.shell(&format!("kubectl uncordon {others}")).await?;
    cured?;
    bench.wait_idle().await
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
    let stays = async {
        let sent = "kubectl wait --for=delete pod/sent-away --timeout=120s";
        bench.shell(sent).await?;
        let stays = bench.agents(node).await?;
        ensure!(
            stays.len() == 1 && stays[0].uid() == agent.uid() && is_ready(&stays[0]),
            "{stays:?}"
        );
        // Where nobody is sent, an agent is: with both effects, since others begin with NoSchedule.
        bench
            .shell(&taint.replace("NoExecute", "NoSchedule"))
            .await?;
        let old = agent.name_any();
        bench
            .shell(&format!("kubectl -n {NAMESPACE} delete pod {old}"))
            .await?;
        let another = |pod: &Pod| pod.name_any() != old && is_ready(pod);
        bench.wait_agent(node, "another one", another).await
    };
    let stays = stays.await;
    let key = "monok8s.test/nobody-";
    bench
        .shell(&format!("kubectl taint node {name} {key}"))
        .await?;
    stays?;
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
