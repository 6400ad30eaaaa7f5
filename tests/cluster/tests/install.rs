//! Installed as its users install it.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::bench::{Bench, FIRST, NAMESPACE};

/// `kubectl apply -k manifests` and a label have brought up every agent with a token of its own.
pub async fn the_manifests_as_they_stand_make_a_working_fleet(bench: &Bench) -> Result<()> {
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
pub async fn a_node_creates_the_controller(bench: &Bench) -> Result<()> {
    remove_controller(bench).await?;
    bench
        .shell(
            "kubectl exec -i -n mono-system ds/node-agent -- ctl create controller \
             | kubectl apply -f -",
        )
        .await?;
    bench.wait_idle().await?;
    ensure!(image(bench).await? == monok8s_cluster::product::NAME);
    Ok(())
}

/// The same with `--image`, from a registry; then back.
pub async fn a_node_creates_the_controller_from_a_registry(bench: &Bench) -> Result<()> {
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
