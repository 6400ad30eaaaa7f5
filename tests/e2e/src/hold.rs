//! Holding an agent at a chosen point of an attempt, by means that hold it on a real machine as well.
//!
//! | phase | held by |
//! |---|---|
//! | `Pending` | `release: Hold`, or [`Refusal`]: an API server that does not take the first status |
//! | `Downloading` | an image server that stops in the middle |
//! | `Verifying` | [`before_the_proof`]: a disk on which the record cannot be replaced |
//! | `Staged` | `release: Stage` |
//! | `Rebooting` | [`rebooting`]: a machine that comes up without its agent |
//! | `Confirming` | [`confirming`]: another program that has the boot variables locked |

use std::{fs::File, path::PathBuf};

use anyhow::{Context, Result, ensure};
use kube::Client;
use monok8s_api::{
    OSUpgradeProgress,
    reason::{ProgressPhase, SlotState},
};
use monok8s_sandbox::{kubectl::Kubectl, node::Node, wait};
use rustix::fs::FlockOperation;
use serde_json::json;

use crate::{
    objects::{self, LIMIT},
    record,
};

/// The API server refuses every status of one progress.
#[derive(Debug)]
pub struct Refusal {
    kubectl: Kubectl,
    name: String,
}

impl Refusal {
    /// Refuses from now on. `progress` need not exist yet.
    pub async fn of(kubectl: Kubectl, progress: &str) -> Result<Self> {
        let name = format!("refuse-{progress}");
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["monok8s.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
                    "resources": ["osupgradeprogresses/status"],
                }]},
                "validations": [{
                    "expression": format!("object.metadata.name != '{progress}'"),
                    "message": "not now",
                }],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        });
        for object in [policy, binding] {
            objects::apply(&kubectl, &object).await?;
        }
        Ok(Self { kubectl, name })
    }

    /// Waits until it is heeded: the API server takes a policy up a moment after it was written.
    /// `progress` must exist, and nobody else may write its status meanwhile.
    pub async fn wait_heeded(&self, progress: &str) -> Result<()> {
        wait::until("the refusal to be heeded", LIMIT, || async {
            let attempt = self
                .kubectl
                .run([
                    "patch",
                    "osupgradeprogress",
                    progress,
                    "--subresource=status",
                    "--type=merge",
                    "--dry-run=server",
                    "-p",
                    r#"{"status":{"message":"probe"}}"#,
                ])
                .await?;
            Ok(attempt.stderr.contains("not now").then_some(()))
        })
        .await
    }

    /// Refuses no longer.
    pub async fn end(self) -> Result<()> {
        for kind in [
            "validatingadmissionpolicybinding",
            "validatingadmissionpolicy",
        ] {
            self.kubectl.ok(["delete", kind, &self.name]).await?;
        }
        Ok(())
    }
}

/// The lock on a machine's boot variables; whoever wants to change them waits until it is dropped.
/// The firmware does not ask.
pub fn boot_variables(node: &Node) -> Result<File> {
    let path = node.machine().grubenv();
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// An agent that has read its slot back and cannot note the proof: where it puts its record is a pipe that nobody
/// reads. It waits there and is good for nothing but being killed.
pub struct Unnoted<'a> {
    node: &'a Node,
    pipe: PathBuf,
}

/// Begins an attempt and holds it when its slot has been read back and before that is noted: `Verifying`.
pub async fn before_the_proof(
    node: &Node,
    begin: impl Future<Output = Result<()>>,
) -> Result<Unnoted<'_>> {
    // The last note before the proof is that the slot is being written; what follows it is to say so in the boot
    // variables too.
    let lock = boot_variables(node)?;
    begin.await?;
    wait::until("the write to be announced", LIMIT, || async {
        Ok(record::is_writing(node).then_some(()))
    })
    .await?;
    let pipe = record::path(node).with_extension("json.new");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode)
        .with_context(|| format!("cannot make a pipe of {}", pipe.display()))?;
    drop(lock);
    Ok(Unnoted { node, pipe })
}

impl Unnoted<'_> {
    /// Kills the agent; the next one finds the disk as it should be.
    pub async fn kill(self) -> Result<()> {
        ensure!(
            !record::is_proven(self.node),
            "the proof was noted all the same"
        );
        self.node.kill_agent_and_hold().await;
        std::fs::remove_file(&self.pipe).context("cannot remove the pipe")?;
        self.node.start_agent();
        Ok(())
    }
}

/// Begins an attempt and holds it in `Rebooting`, however long it takes to be seen: its machine comes up in the trial
/// boot, and its agent is not started there before [`Node::start_agent`].
pub async fn rebooting(
    client: &Client,
    name: &str,
    node: &Node,
    begin: impl Future<Output = Result<()>>,
) -> Result<OSUpgradeProgress> {
    node.hold_agent();
    begin.await?;
    objects::wait_phase(client, name, node, ProgressPhase::Rebooting).await
}

/// Begins an attempt, lets it go into its trial boot, and holds its agent there in `Confirming`, until the returned
/// lock is dropped.
pub async fn confirming(
    client: &Client,
    name: &str,
    node: &Node,
    begin: impl Future<Output = Result<()>>,
) -> Result<File> {
    rebooting(client, name, node, begin).await?;
    let trial = node.wait_boot(2, LIMIT).await?;
    ensure!(trial.trial, "the trial boot was not tried: {trial:?}");
    let lock = boot_variables(node)?;
    node.start_agent();
    objects::wait_phase(client, name, node, ProgressPhase::Confirming).await?;
    Ok(lock)
}

/// Waits until a node's slot B is being written.
pub async fn writing(client: &Client, node: &Node) -> Result<()> {
    objects::wait_slot(client, node, "B", &SlotState::Writing).await
}
