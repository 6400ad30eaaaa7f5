//! The objects of an upgrade as a test writes them, and waiting for what becomes of them.

use std::{
    fmt::{Debug, Write as _},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use monok8s_api::{
    OSNode, OSUpgrade, OSUpgradeProgress, OSUpgradeStatus,
    reason::{ProgressPhase, SlotState, UpgradePhase},
};
use monok8s_sandbox::{cluster::Cluster, images::Image, kubectl::Kubectl, node::Node, wait};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::table::Table;

/// How long anything may take before a test gives up. Generous: the machine may be busy with builds.
pub const LIMIT: Duration = Duration::from_secs(180);

/// An OSUpgrade for the nodes that carry the label `case: <label>`, one node at a time.
pub fn upgrade(name: &str, version: &str, label: &str, catalog: &Value) -> Value {
    json!({
        "apiVersion": "monok8s.io/v1alpha1",
        "kind": "OSUpgrade",
        "metadata": {"name": name},
        "spec": {
            "version": version,
            "nodeSelector": {"matchLabels": {"case": label}},
            "catalog": catalog,
            "download": {"retryFor": "5s"},
        },
    })
}

/// An inline catalog.
pub fn inline(text: impl Into<String>) -> Value {
    json!({"inline": text.into()})
}

/// One entry of a catalog's `images`.
pub fn entry(version: &str, url: &str, sha256: &str, size: Option<u64>) -> String {
    let size = size.map_or_else(String::new, |bytes| format!("  size: {bytes}\n"));
    format!("- version: {version}\n  url: {url}\n  checksum: sha256:{sha256}\n{size}")
}

/// A progress for one node with an image of its own, as a person may write it.
pub fn progress(name: &str, node: &str, image: &Image, url: &str, release: &str) -> Value {
    json!({
        "apiVersion": "monok8s.io/v1alpha1",
        "kind": "OSUpgradeProgress",
        "metadata": {"name": name},
        "spec": {
            "sourceRef": {"name": name},
            "nodeName": node,
            "release": release,
            "image": {
                "version": image.version,
                "url": url,
                "checksum": format!("sha256:{}", image.file_sha256),
                "size": image.size,
            },
            "download": {"retryFor": "5s"},
        },
    })
}

/// [`progress`], and its source, which selects no node: nothing but the agent acts on it. `more` is
/// merged into the progress's spec.
pub fn by_hand(
    name: &str,
    node: &str,
    image: &Image,
    url: &str,
    release: &str,
    more: &Value,
) -> Value {
    let mut progress = progress(name, node, image, url, release);
    for (key, value) in more.as_object().into_iter().flatten() {
        progress["spec"][key] = value.clone();
    }
    let source = upgrade(name, &image.version, "nobody", &inline("images: []\n"));
    json!({"apiVersion": "v1", "kind": "List", "items": [source, progress]})
}

/// `kubectl patch` of fields of a progress's spec.
pub async fn patch(kubectl: &Kubectl, progress: &str, spec: &Value) -> Result<()> {
    let patch = json!({"spec": spec}).to_string();
    kubectl
        .ok([
            "patch",
            "osupgradeprogress",
            progress,
            "--type",
            "merge",
            "-p",
            &patch,
        ])
        .await
        .map(|_| ())
}

/// The table that `kubectl get` prints.
pub async fn get(kubectl: &Kubectl, what: &[&str]) -> Result<Table> {
    let printed = kubectl.ok(["get"].iter().chain(what)).await?;
    Ok(Table::parse(&printed))
}

/// `kubectl apply` of one object.
pub async fn apply(kubectl: &Kubectl, object: &Value) -> Result<()> {
    kubectl.apply(&object.to_string()).await.map(|_| ())
}

/// Looks again and again until `done` holds for one of the objects found, or [`LIMIT`] is over; the
/// error shows what was last seen. An API server that does not answer is some tests' subject, and
/// nothing to end the wait for.
async fn wait_for<T: Clone + Debug>(
    what: &str,
    look: impl AsyncFn() -> Result<Vec<T>>,
    mut done: impl FnMut(&T) -> bool,
) -> Result<T> {
    let end = Instant::now() + LIMIT;
    let mut last = Vec::new();
    loop {
        match look().await {
            Ok(found) => {
                if let Some(held) = found.iter().find(|object| done(object)) {
                    return Ok(held.clone());
                }
                last = found;
            }
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("waiting for {what}")));
            }
            Err(_) => {}
        }
        if Instant::now() >= end {
            bail!(
                "waited {} s in vain for {what}; last seen: {last:#?}",
                LIMIT.as_secs()
            );
        }
        tokio::time::sleep(wait::INTERVAL).await;
    }
}

/// Waits until `done` holds for the OSUpgrade.
pub async fn wait_upgrade(
    client: &Client,
    name: &str,
    what: &str,
    done: impl Fn(&OSUpgradeStatus) -> bool,
) -> Result<OSUpgrade> {
    let api: Api<OSUpgrade> = Api::all(client.clone());
    let look = async || Ok(api.get_opt(name).await?.into_iter().collect());
    wait_for(what, look, |upgrade: &OSUpgrade| {
        upgrade.status.as_ref().is_some_and(&done)
    })
    .await
}

/// Waits for an OSUpgrade's phase.
pub async fn wait_upgrade_phase(
    client: &Client,
    name: &str,
    phase: UpgradePhase,
) -> Result<OSUpgrade> {
    wait_upgrade(
        client,
        name,
        &format!("OSUpgrade {name} to be {phase}"),
        |status| status.phase == phase,
    )
    .await
}

/// The progresses of an upgrade for one node, oldest first. Creation times have whole seconds; within one the hop that
/// is the last comes last.
pub async fn progresses(
    client: &Client,
    upgrade: &str,
    node: &str,
) -> Result<Vec<OSUpgradeProgress>> {
    let api: Api<OSUpgradeProgress> = Api::all(client.clone());
    let mut found: Vec<_> = api
        .list(&ListParams::default())
        .await
        .context("cannot list progresses")?
        .into_iter()
        .filter(|p| p.spec.source_ref.name == upgrade && p.spec.node_name == node)
        .collect();
    found.sort_by_key(|p| {
        let created = p.creation_timestamp().map(|time| time.0);
        (created, p.spec.final_version.is_none())
    });
    Ok(found)
}

/// Waits until `done` holds for one of the upgrade's progresses on `node`.
pub async fn wait_progress(
    client: &Client,
    upgrade: &str,
    node: &Node,
    what: &str,
    done: impl Fn(&OSUpgradeProgress) -> bool,
) -> Result<OSUpgradeProgress> {
    let what = format!("{what} ({upgrade} on {})", node.name());
    let look = async || progresses(client, upgrade, node.name()).await;
    wait_for(&what, look, done)
        .await
        .with_context(|| log_tail(node))
}

/// Waits for a progress's phase.
pub async fn wait_phase(
    client: &Client,
    upgrade: &str,
    node: &Node,
    phase: ProgressPhase,
) -> Result<OSUpgradeProgress> {
    wait_progress(
        client,
        upgrade,
        node,
        &format!("the phase {phase}"),
        |progress| {
            progress
                .status
                .as_ref()
                .is_some_and(|status| status.phase == phase)
        },
    )
    .await
}

/// Waits until the attempt on `node` has ended, and fails unless it ended as promised: with this
/// phase and one of these reasons (none: an empty reason).
pub async fn wait_end(
    client: &Client,
    upgrade: &str,
    node: &Node,
    phase: ProgressPhase,
    reasons: &[&str],
) -> Result<OSUpgradeProgress> {
    let ended = wait_progress(client, upgrade, node, "the attempt to end", |progress| {
        progress
            .status
            .as_ref()
            .is_some_and(|status| status.phase.is_terminal())
    })
    .await?;
    let status = ended.status.clone().unwrap_or_default();
    let reason = status.failure_reason.as_str();
    let promised = if reasons.is_empty() {
        reason.is_empty()
    } else {
        reasons.contains(&reason)
    };
    if status.phase != phase || !promised {
        bail!(
            "{upgrade} on {} ended {} ({reason}) instead of {phase} ({reasons:?}): {}\n{}",
            node.name(),
            status.phase,
            status.message,
            log_tail(node)
        );
    }
    if !reason.is_empty() && status.message.len() < 20 {
        bail!(
            "{reason} on {} has no message to speak of: {:?}",
            node.name(),
            status.message
        );
    }
    Ok(ended)
}

/// Waits until the node's OSNode shows that it runs `version`.
pub async fn wait_runs(client: &Client, node: &Node, version: &str) -> Result<OSNode> {
    let api: Api<OSNode> = Api::all(client.clone());
    let look = async || Ok(api.get_opt(node.name()).await?.into_iter().collect());
    wait_for(
        &format!("{} to run {version}", node.name()),
        look,
        |found: &OSNode| {
            found
                .status
                .as_ref()
                .is_some_and(|status| status.version == version)
        },
    )
    .await
    .with_context(|| log_tail(node))
}

/// Waits until the node's OSNode shows this state of a slot; except for `Writing`, together with the
/// result of an attempt. It is written a moment after the progress.
pub async fn wait_slot(client: &Client, node: &Node, slot: &str, state: &SlotState) -> Result<()> {
    let api: Api<OSNode> = Api::all(client.clone());
    let look = async || Ok(api.get_opt(node.name()).await?.into_iter().collect());
    wait_for(
        &format!("slot {slot} of {} to be {state}", node.name()),
        look,
        |found: &OSNode| {
            found.status.as_ref().is_some_and(|status| {
                let told = status.last_result.is_some() || *state == SlotState::Writing;
                told && status
                    .slots
                    .iter()
                    .any(|s| s.name == slot && s.state == *state)
            })
        },
    )
    .await
    .map(|_| ())
    .with_context(|| log_tail(node))
}

/// Cuts the node's power and starts it again: it must come up, on this version.
///
/// This is what "the old or the whole new system is bootable" means.
pub async fn boots(node: &Node, version: &str) -> Result<()> {
    let boot = node
        .reset()
        .await
        .with_context(|| format!("{} does not boot", node.name()))?;
    if boot.version != version.trim_start_matches('v') {
        bail!(
            "{} boots {} from slot {:?} instead of {version}",
            node.name(),
            boot.version,
            boot.slot
        );
    }
    Ok(())
}

/// The end of the agent's log, for a failed test's message.
pub fn log_tail(node: &Node) -> String {
    let log = node.agent_log();
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(40)..];
    format!("the agent's log ends:\n{}", tail.join("\n"))
}

/// The names of the cluster's nodes and the versions they run, for a failed test's message.
pub fn fleet(cluster: &Cluster) -> String {
    cluster
        .nodes()
        .iter()
        .fold(String::new(), |mut shown, node| {
            let _ = writeln!(shown, "{}: {:?}", node.name(), node.boot());
            shown
        })
}
