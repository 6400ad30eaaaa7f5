//! `ctl plan` against a cluster and against what `kubectl get -o yaml` saved of it: the same answer,
//! and nothing changed.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use monok8s_e2e::install;
use monok8s_sandbox::{
    assets::Assets,
    binaries,
    control_plane::{ControlPlane, Options},
    kubectl::Kubectl,
    scratch,
};

/// Registers a node and what its agent would have reported.
async fn register(kubectl: &Kubectl, name: &str, version: &str) -> Result<()> {
    kubectl
        .apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{monok8s.io/managed: 'true'}}}}\n---\n\
             apiVersion: monok8s.io/v1alpha1\nkind: OSNode\nmetadata: {{name: {name}}}\nspec: {{}}\n"
        ))
        .await?;
    let uid = kubectl
        .ok(["get", "node", name, "-o", "jsonpath={.metadata.uid}"])
        .await?;
    let status = format!(
        r#"{{"status":{{"nodeUID":"{uid}","version":"{version}","platform":"linux/amd64"}}}}"#
    );
    kubectl
        .ok([
            "patch",
            "osnode",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ])
        .await?;
    Ok(())
}

const SAVED: [&str; 4] = [
    "get",
    "nodes,osnodes,osupgrades,osupgradeprogresses",
    "-o",
    "yaml",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_reads_the_cluster_and_changes_nothing() -> Result<()> {
    let folder = scratch::folder("plan")?;
    let assets = Assets::find(|line| eprintln!("{line}")).await?;
    let plane = ControlPlane::start(
        &assets,
        &folder.path().join("control-plane"),
        Options::default(),
    )
    .await?;
    let kubectl = plane.kubectl();
    install::apply(&kubectl).await?;
    register(&kubectl, "behind", "v1.33.2").await?;
    register(&kubectl, "there", "v1.35.1").await?;
    register(&kubectl, "ahead", "v1.36.0").await?;
    let before = kubectl.ok(SAVED).await?;
    let saved = folder.path().join("saved.yaml");
    std::fs::write(&saved, &before)?;

    let plan = |more: &[&str]| -> Result<String> {
        let output = Command::new(binaries::find("ctl")?)
            .args(["plan", "-f", "examples/upgrade.yaml"])
            .args(more)
            .current_dir(scratch::repository())
            .env("KUBECONFIG", plane.admin_kubeconfig())
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    let asked = plan(&[])?;
    for line in [
        "to-stable: Accepted (Resolved), stable is v1.35.1",
        "1 of 3 nodes would go, at most 1 at a time",
        "behind  v1.33.2  go to v1.34.6, then v1.35.1",
        "there   v1.35.1  stay: it is there already",
        "ahead   v1.36.0  refuse (Downgrade)",
    ] {
        ensure!(asked.contains(line), "{line:?} is not in:\n{asked}");
    }
    let saved = saved.to_str().context("a path of UTF-8")?;
    ensure!(
        plan(&["--objects", saved])? == asked,
        "saved objects differ"
    );
    ensure!(
        kubectl.ok(SAVED).await? == before,
        "the plan changed something"
    );
    plane.stop().await;
    Ok(())
}
