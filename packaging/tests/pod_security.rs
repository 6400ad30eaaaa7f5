//! Which Pod Security level each pod passes, as a real API server judges it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use monok8s_sandbox::{
    assets::Assets,
    control_plane::{ControlPlane, Options},
    kubectl::{Kubectl, Output},
    scratch, wait,
};
use serde_json::{Value, json};
use std::time::Duration;

/// How long the controller manager may take to make a new namespace's service account.
const SETTLED: Duration = Duration::from_secs(60);

/// A pod made of the template of the workload in `path` of `manifests/`, in `namespace`.
fn pod(path: &str, namespace: &str) -> Result<Value> {
    let text = std::fs::read_to_string(scratch::repository().join("manifests").join(path))?;
    let objects: Vec<Value> = serde_yaml::from_multiple(&text)?;
    let workload = objects
        .iter()
        .find(|o| o["spec"]["template"].is_object())
        .context("there is no workload")?;
    let mut spec = workload["spec"]["template"]["spec"].clone();
    // Of another namespace; Pod Security does not look at it.
    spec["serviceAccountName"] = json!("default");
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "judged", "namespace": namespace},
        "spec": spec,
    }))
}

/// What the API server says of the pod of `path` in the namespace that enforces `level`.
async fn judged(kubectl: &Kubectl, path: &str, level: &str) -> Result<Output> {
    let pod = pod(path, level)?.to_string();
    kubectl
        .run_with_input(["create", "--dry-run=server", "-f", "-"], &pod)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_is_restricted_and_the_agent_cannot_be() -> Result<()> {
    let folder = scratch::folder("pod-security")?;
    let assets = Assets::find(|line| eprintln!("{line}")).await?;
    let plane = ControlPlane::start(&assets, folder.path(), Options::default()).await?;
    let kubectl = plane.kubectl();
    let levels = ["privileged", "baseline", "restricted"];
    let mut namespaces = String::new();
    for level in levels {
        write!(
            namespaces,
            "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {level}\n  labels: \
             {{pod-security.kubernetes.io/enforce: {level}}}\n"
        )?;
    }
    kubectl.apply(&namespaces).await?;
    for level in levels {
        wait::until("the service account", SETTLED, || async {
            let account = kubectl
                .run(["get", "serviceaccount", "default", "-n", level])
                .await?;
            Ok(account.success().then_some(()))
        })
        .await?;
    }

    let controller = "controller/deployment.yaml";
    let agent = "agent/daemonset.yaml";
    for level in levels {
        let output = judged(&kubectl, controller, level).await?;
        ensure!(output.success(), "controller, {level}: {}", output.stderr);
        let output = judged(&kubectl, agent, level).await?;
        ensure!(
            output.success() == (level == "privileged"),
            "agent, {level}: {}",
            output.stderr
        );
    }
    let refused = judged(&kubectl, agent, "baseline").await?.stderr;
    // The level's objections, all of which docs/security.md gives reasons for, and no others.
    let (_, objections) = refused.split_once("baseline:latest\": ").context("words")?;
    let mut kinds: Vec<&str> = objections
        .trim()
        .split("), ")
        .filter_map(|objection| objection.split(" (").next())
        .collect();
    kinds.sort_unstable();
    ensure!(
        kinds == ["host namespaces", "hostPath volumes", "privileged"],
        "{refused}"
    );

    // The namespace as it is shipped takes both.
    let shipped = scratch::repository().join("manifests/namespace.yaml");
    kubectl
        .ok(["apply".as_ref(), "-f".as_ref(), shipped.as_os_str()])
        .await?;
    let label = "jsonpath={.metadata.labels['pod-security\\.kubernetes\\.io/enforce']}";
    let level = kubectl
        .ok(["get", "namespace", "mono-system", "-o", label])
        .await?;
    ensure!(level == "privileged", "{level}");
    plane.stop().await;
    Ok(())
}
