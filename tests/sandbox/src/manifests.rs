//! Installing the project into a cluster whose nodes run no pods: everything of `manifests/` but the
//! workloads, which run as processes of this machine instead.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{kubectl::Kubectl, scratch, wait};

/// Kinds that only make pods.
const WORKLOADS: [&str; 2] = ["Deployment", "DaemonSet"];

/// How long the API server may take to serve new kinds.
const ESTABLISHED: Duration = Duration::from_secs(60);

/// Applies `manifests/` without its workloads and waits until the new kinds are served.
pub async fn install(kubectl: &Kubectl) -> Result<()> {
    let folder = scratch::repository().join("manifests");
    let all = kubectl
        .ok(["kustomize".as_ref(), folder.as_os_str()])
        .await?;
    kubectl
        .apply(&without_workloads(&all))
        .await
        .context("the manifests cannot be applied")?;
    let timeout = format!("--timeout={}s", ESTABLISHED.as_secs());
    let crds = ["osupgrades", "osupgradeprogresses", "osnodes"]
        .map(|name| format!("crd/{name}.monok8s.io"));
    let wait = ["wait", "--for=condition=Established", &timeout].map(str::to_owned);
    kubectl.ok(wait.into_iter().chain(crds)).await?;
    // What is established is served, and found by those who look for it, a moment later.
    let kinds = ["get", "osupgrades,osupgradeprogresses,osnodes"];
    wait::until("the new kinds to be served", ESTABLISHED, || async {
        Ok(kubectl.run(kinds).await?.success().then_some(()))
    })
    .await
}

/// The documents that are no workloads. In what `kubectl kustomize` prints an object's kind stands
/// at the beginning of a line, and nothing else that is called `kind` does.
fn without_workloads(all: &str) -> String {
    let is_workload = |document: &str| {
        let kind = document
            .lines()
            .find_map(|line| line.strip_prefix("kind: "));
        kind.is_some_and(|kind| WORKLOADS.contains(&kind.trim()))
    };
    let kept: Vec<&str> = all
        .split("\n---\n")
        .filter(|document| !is_workload(document))
        .collect();
    kept.join("\n---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_left_out_and_nothing_else() {
        let all = "kind: Namespace\n---\nspec:\n  kind: DaemonSet\nkind: Role\n---\nkind: Deployment\n---\nkind: DaemonSet\n";
        assert_eq!(
            without_workloads(all),
            "kind: Namespace\n---\nspec:\n  kind: DaemonSet\nkind: Role"
        );
    }
}
