//! `ctl plan` against a cluster and against what `kubectl get -o yaml` saved of it: the same answer,
//! by somebody who may read and nothing else, and by whichever way `kubectl` would ask.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use monok8s_e2e::{install, objects};
use monok8s_fault_server::Tunnels;
use monok8s_sandbox::{
    assets::Assets,
    binaries,
    control_plane::{ControlPlane, Options},
    kubectl::Kubectl,
    scratch, wait,
};
use tokio::process::Command;

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

/// What a plan looks at.
const KINDS: &str = "nodes,osnodes,osupgrades,osupgradeprogresses";
const SAVED: [&str; 4] = ["get", KINDS, "-o", "yaml"];

/// Writes the kubeconfig of a user who may read what a plan looks at, and change nothing. (Saved objects
/// would be no proof of that: the control plane itself writes to its nodes at any time.)
async fn may_read(plane: &ControlPlane, kubeconfig: &Path) -> Result<()> {
    const USER: &str = "planner";
    let kubectl = plane.kubectl();
    let resources = format!("--resource={KINDS}");
    kubectl
        .ok(["create", "clusterrole", USER, "--verb=get,list", &resources])
        .await?;
    let (role, user) = (format!("--clusterrole={USER}"), format!("--user={USER}"));
    kubectl
        .ok(["create", "clusterrolebinding", USER, &role, &user])
        .await?;
    // The API server hears of new roles a moment later.
    let user = format!("--as={USER}");
    for kind in KINDS.split(',') {
        let may = ["auth", "can-i", "list", kind, &user];
        wait::until("the reader to be let read", objects::LIMIT, async || {
            Ok(kubectl.run(may).await?.success().then_some(()))
        })
        .await?;
    }
    plane.write_certificate_kubeconfig(kubeconfig, USER, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_needs_leave_to_read_and_no_more() -> Result<()> {
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
    let saved = folder.path().join("saved.yaml");
    std::fs::write(&saved, kubectl.ok(SAVED).await?)?;
    let reader = folder.path().join("reader.kubeconfig");
    may_read(&plane, &reader).await?;

    let proxy = Tunnels::start(plane.api_address()).await?;
    let plan = async |variables: &[(&str, &str)], more: &[&str]| -> Result<String> {
        let output = Command::new(binaries::find("ctl")?)
            .args(["plan", "-f", "examples/upgrade.yaml"])
            .args(more)
            .current_dir(scratch::repository())
            .env("KUBECONFIG", &reader)
            .envs(variables.iter().copied())
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    let asked = plan(&[], &[]).await?;
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
        plan(&[], &["--objects", saved]).await? == asked,
        "saved objects differ"
    );

    // As kubectl would go, and not where it would not.
    let by_proxy = ("HTTPS_PROXY", &*proxy.url());
    let directly = [by_proxy, ("NO_PROXY", "127.0.0.1")];
    ensure!(plan(&directly, &[]).await? == asked, "without the proxy");
    ensure!(proxy.asked().is_empty(), "{:?}", proxy.asked());
    ensure!(plan(&[by_proxy], &[]).await? == asked, "by the proxy");
    let tunnel = format!("CONNECT {} HTTP/1.1", plane.api_address());
    ensure!(proxy.asked().contains(&tunnel), "{:?}", proxy.asked());
    plane.stop().await;
    Ok(())
}
