//! The system as its users install it.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use monok8s_sandbox::{
    assets::Assets,
    control_plane::{ControlPlane, Options},
    kubectl::Kubectl,
    scratch, wait,
};
use tempfile::TempDir;

/// How long the API server may take to act on what was installed. Generous: builds may be running.
const SETTLED: Duration = Duration::from_secs(60);

/// The contract's example, byte for byte.
pub const CONTRACT_EXAMPLE: &str = include_str!("../../../examples/my-upgrade-2.yaml");

/// The folder that `kubectl apply -k` takes.
pub fn manifests() -> PathBuf {
    scratch::repository().join("manifests")
}

/// A control plane without nodes, with everything installed, in a folder of its own named after `purpose`. It lives as
/// long as both.
pub async fn plane(purpose: &str) -> Result<(TempDir, ControlPlane)> {
    let folder = scratch::folder(purpose)?;
    let assets = Assets::find(|line| eprintln!("{line}")).await?;
    let plane = ControlPlane::start(
        &assets,
        &folder.path().join("control-plane"),
        Options::default(),
    )
    .await?;
    apply(&plane.kubectl()).await?;
    Ok((folder, plane))
}

/// `kubectl apply -k manifests`, and waits until the kinds are served and the fence stands: the API
/// server takes a new policy up a moment after it was written.
pub async fn apply(kubectl: &Kubectl) -> Result<String> {
    let folder = manifests();
    let printed = kubectl
        .ok(["apply".as_ref(), "-k".as_ref(), folder.as_os_str()])
        .await?;
    kubectl
        .ok([
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd/osupgrades.monok8s.io",
            "crd/osupgradeprogresses.monok8s.io",
            "crd/osnodes.monok8s.io",
        ])
        .await?;
    wait::until("the fence to refuse a token without a node", SETTLED, || async {
        let attempt = kubectl
            .run_with_input(
                [
                    "create",
                    "--dry-run=server",
                    "-f",
                    "-",
                    "--as=system:serviceaccount:mono-system:node-agent",
                ],
                "{apiVersion: monok8s.io/v1alpha1, kind: OSNode, metadata: {name: probe}, spec: {}}",
            )
            .await?;
        Ok(attempt.stderr.contains("ValidatingAdmissionPolicy").then_some(()))
    })
    .await?;
    Ok(printed)
}
