//! `kubectl apply -k manifests`, and the contract's example with both of its endings.

use anyhow::{Context, Result, bail, ensure};
use monok8s_api::{condition, reason::UpgradePhase};
use monok8s_e2e::{
    cases,
    install::{self, CONTRACT_EXAMPLE},
    objects::{self, entry},
};
use monok8s_sandbox::{
    assets::Assets,
    cluster::{Cluster, ClusterOptions},
    control_plane::{ControlPlane, Options},
    scratch, wait,
};

#[tokio::test(flavor = "multi_thread")]
async fn one_command_installs_everything_and_another_removes_it() -> Result<()> {
    let folder = scratch::folder("install")?;
    let assets = Assets::find(|line| eprintln!("{line}")).await?;
    let plane = ControlPlane::start(&assets, folder.path(), Options::default()).await?;
    let kubectl = plane.kubectl();
    let first = install::apply(&kubectl).await?;
    for object in [
        "namespace/mono-system",
        "customresourcedefinition.apiextensions.k8s.io/osupgrades.monok8s.io",
        "customresourcedefinition.apiextensions.k8s.io/osupgradeprogresses.monok8s.io",
        "customresourcedefinition.apiextensions.k8s.io/osnodes.monok8s.io",
        "deployment.apps/controller",
        "daemonset.apps/node-agent",
        "validatingadmissionpolicy.admissionregistration.k8s.io/monok8s-node-agent",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/monok8s-node-agent",
    ] {
        ensure!(
            first.contains(&format!("{object} created")),
            "{object} was not created:\n{first}"
        );
    }
    let manifests = install::manifests();
    // What the controller manager makes of new objects differs for a moment too.
    let diff = || kubectl.run(["diff".as_ref(), "-k".as_ref(), manifests.as_os_str()]);
    let settled = wait::until(
        "a second apply to change nothing",
        objects::LIMIT,
        || async { Ok(diff().await?.success().then_some(())) },
    );
    if settled.await.is_err() {
        let difference = diff().await?.stdout;
        bail!("applying it again would change something:\n{difference}");
    }
    // What the API server would warn of: a misspelt field, a deprecated kind, a policy that does not type-check.
    let checked = kubectl
        .run([
            "apply".as_ref(),
            "--server-side".as_ref(),
            "--force-conflicts".as_ref(),
            "--dry-run=server".as_ref(),
            "--validate=strict".as_ref(),
            "-k".as_ref(),
            manifests.as_os_str(),
        ])
        .await?;
    ensure!(checked.success(), "{}", checked.stderr);
    let policy = kubectl
        .ok([
            "get",
            "validatingadmissionpolicy",
            "monok8s-node-agent",
            "-o",
            "jsonpath={.status.typeChecking.expressionWarnings}",
        ])
        .await?;
    ensure!(policy.is_empty(), "the fence's expressions: {policy}");

    // The daemons' pods are admitted and wait for a managed node.
    kubectl
        .ok([
            "wait",
            "-n",
            "mono-system",
            "--for=jsonpath={.status.replicas}=2",
            "deployment/controller",
            "--timeout=180s",
        ])
        .await?;

    kubectl.apply(CONTRACT_EXAMPLE).await?;
    kubectl.ok(["delete", "osupgrades", "--all"]).await?;
    kubectl
        .ok([
            "delete".as_ref(),
            "-k".as_ref(),
            manifests.as_os_str(),
            "--timeout=240s".as_ref(),
        ])
        .await?;
    wait::until("osupgrades not to be served", objects::LIMIT, || async {
        let left = kubectl.run(["get", "osupgrades"]).await?;
        Ok((!left.success()).then_some(()))
    })
    .await?;
    plane.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contracts_example_has_both_of_its_endings() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&["node-1"]),
        version: "v1.34.6".into(),
        images: vec!["v1.35.3".into()],
        ..ClusterOptions::default()
    })
    .await?;
    let (kubectl, client) = (cluster.kubectl(), cluster.client());
    kubectl.apply(CONTRACT_EXAMPLE).await?;
    let rejected =
        objects::wait_upgrade_phase(&client, "my-upgrade-2", UpgradePhase::Rejected).await?;
    let status = rejected.status.context("no status")?;
    ensure!(
        status.resolved_version.as_deref() == Some("v1.35.3"),
        "resolved: {:?}",
        status.resolved_version
    );
    let accepted =
        condition::find(&status.conditions, "Accepted").context("no condition Accepted")?;
    ensure!(
        accepted.reason == "VersionNotInCatalog",
        "{}: {}",
        accepted.reason,
        accepted.message
    );
    for version in ["v1.34.1", "v1.34.6", "v1.35.0", "v1.35.1", "v1.35.4"] {
        ensure!(
            accepted.message.contains(version),
            "{version} is not in the message: {}",
            accepted.message
        );
    }
    let table = objects::get(&kubectl, &["osupgrades"]).await?;
    ensure!(
        table.columns == ["NAME", "DESIRED", "RESOLVED", "PHASE"],
        "{:?}",
        table.columns
    );
    ensure!(
        table.rows == [["my-upgrade-2", "v1.35.3", "v1.35.3", "Rejected"]],
        "{:?}",
        table.rows
    );

    // The same text with the missing version added: a real image.
    let image = cluster.image("v1.35.3")?;
    let url = cluster.image_server().publish_image(image)?;
    let added =
        entry("v1.35.3", &url, &image.file_sha256, Some(image.size)).replace('\n', "\n      ");
    let added = format!("      {}\n", added.trim_end());
    let (before, after) = CONTRACT_EXAMPLE
        .split_once("      blocked:")
        .context("the example has no blocked")?;
    kubectl
        .apply(&format!("{before}{added}      blocked:{after}"))
        .await?;
    kubectl
        .ok([
            "wait",
            "--for=condition=Completed",
            "osupgrade/my-upgrade-2",
            "--timeout=280s",
        ])
        .await
        .with_context(|| objects::fleet(&cluster))?;
    let table = objects::get(&kubectl, &["osupgrades"]).await?;
    ensure!(
        table.rows == [["my-upgrade-2", "v1.35.3", "v1.35.3", "Completed"]],
        "{:?}",
        table.rows
    );
    objects::boots(cluster.node("node-1")?, "v1.35.3").await?;
    cluster.stop().await
}

/// A progress as users write it, nulls included.
#[tokio::test(flavor = "multi_thread")]
async fn a_progress_as_users_write_it_applies() -> Result<()> {
    let folder = scratch::folder("install")?;
    let assets = Assets::find(|line| eprintln!("{line}")).await?;
    let plane = ControlPlane::start(&assets, folder.path(), Options::default()).await?;
    let kubectl = plane.kubectl();
    install::apply(&kubectl).await?;
    kubectl
        .apply(
            "apiVersion: monok8s.io/v1alpha1\n\
             kind: OSUpgradeProgress\n\
             metadata: {name: by-hand}\n\
             spec: {sourceRef: {name: my-upgrade-2}, nodeName: node-1}\n\
             status:\n  \
               phase: Pending\n  \
               startedAt: null\n  \
               completedAt: null\n  \
               lastUpdatedAt: null\n",
        )
        .await?;
    let table = objects::get(&kubectl, &["osupgradeprogresses"]).await?;
    ensure!(
        table.columns == ["NAME", "NODE", "SOURCE", "CURRENT", "TARGET", "STATUS"],
        "{:?}",
        table.columns
    );
    ensure!(
        table.cell("by-hand", "STATUS") == Some("Pending"),
        "{:?}",
        table.rows
    );
    plane.stop().await;
    Ok(())
}
