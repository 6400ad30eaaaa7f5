//! A test of one node: an image on a path of its own, a progress written by hand.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt as _;
use monok8s_api::{OSUpgradeProgress, reason::ProgressPhase};
use monok8s_boot::SlotName;
use monok8s_cluster::{node::Node, power::Running};
use monok8s_e2e::objects;
use monok8s_sandbox::{
    image_server::{Content, Fault},
    images::Image,
    wait,
};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use crate::bench::{Bench, LIMIT, SINGLE, is_ready};

/// A node and what a test does with it.
pub(crate) struct Case<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) node: &'a Node,
    name: String,
}

impl<'a> Case<'a> {
    /// `test` is what its objects are called after.
    pub(crate) fn new(bench: &'a Bench, node: &'a Node, test: &str) -> Self {
        let word = test.rsplit(':').next().unwrap_or(test).replace('_', "-");
        Self {
            bench,
            node,
            name: word,
        }
    }

    fn path(&self) -> String {
        format!("/{}-{}/rootfs.ext4.zst", self.name, self.node.name())
    }

    /// The name of its progress.
    pub(crate) fn progress_name(&self) -> String {
        format!("{}-{}", self.name, self.node.name())
    }

    /// Serves the image that the node does not run and writes a progress to it by hand. With a
    /// `fault` the server answers every request so, until [`cure`](Self::cure).
    pub(crate) async fn begin(&self, release: &str, fault: Option<Fault>) -> Result<Attempt<'_>> {
        let to = self.next_version().await?;
        let image = self.bench.cluster.image(to)?;
        self.begin_with(image, release, fault).await
    }

    /// The version of the two that the node does not run.
    pub(crate) async fn next_version(&self) -> Result<&'static str> {
        let from = self.bench.version(self.node).await?;
        Ok(SINGLE[usize::from(from == SINGLE[0])])
    }

    /// [`begin`](Self::begin) with an image of the caller's.
    pub(crate) async fn begin_with(
        &self,
        image: &Image,
        release: &str,
        fault: Option<Fault>,
    ) -> Result<Attempt<'_>> {
        let bench = self.bench;
        let from = bench.version(self.node).await?;
        let server = bench.cluster.image_server();
        server.publish(
            &self.path(),
            Content::file(&image.file).context("no image")?,
        );
        if let Some(fault) = fault {
            server.fault(&self.path(), fault);
        }
        let more = json!({"allowDowngrade": true, "download": {"retryFor": "10m"}});
        let (name, node) = (self.progress_name(), self.node.name());
        let url = server.url(&self.path());
        let both = objects::by_hand(&name, node, image, &url, release, &more);
        objects::apply(&bench.kubectl, &both).await?;
        self.attempt(from, &image.version)
    }

    /// Ends the server's fault.
    pub(crate) fn cure(&self) {
        self.bench.cluster.image_server().cure(&self.path());
    }

    /// An OSUpgrade of this node alone, which the controller serves, to the image that the node does
    /// not run. `drain` is its `rollout.drain`.
    pub(crate) async fn begin_upgrade(&self, drain: Value) -> Result<Attempt<'_>> {
        let bench = self.bench;
        let from = bench.version(self.node).await?;
        let to = self.next_version().await?;
        let upgrade = json!({
            "apiVersion": "monok8s.io/v1alpha1",
            "kind": "OSUpgrade",
            "metadata": {"name": self.progress_name()},
            "spec": {
                "version": to,
                "allowDowngrade": true,
                "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": self.node.name()}},
                "catalog": objects::inline(bench.cluster.catalog(&[to])?),
                "rollout": {"drain": drain},
            },
        });
        objects::apply(&bench.kubectl, &upgrade).await?;
        self.attempt(from, to)
    }

    fn attempt(&self, from: String, to: &str) -> Result<Attempt<'_>> {
        Ok(Attempt {
            case: self,
            from,
            to: to.to_owned(),
            before: self.node.running()?,
        })
    }

    /// The progress.
    pub(crate) async fn progress(&self) -> Result<OSUpgradeProgress> {
        let (name, node) = (self.progress_name(), self.node.name());
        let mut all = objects::progresses(&self.bench.client, &name, node).await?;
        all.pop().context("there is no progress")
    }

    /// Lets the attempt go on to its end.
    pub(crate) async fn release(&self) -> Result<()> {
        let release = json!({"release": "Reboot"});
        objects::patch(&self.bench.kubectl, &self.progress_name(), &release).await
    }

    /// Asks for another attempt.
    pub(crate) async fn retry(&self) -> Result<()> {
        let progress = self.progress().await?;
        let nonce = format!("{}again", progress.spec.retry_nonce);
        let patch = json!({"retryNonce": nonce});
        objects::patch(&self.bench.kubectl, &progress.name_any(), &patch).await
    }

    /// Whether the record on the node's disk says that the slot holds the whole image.
    pub(crate) fn is_proven(&self) -> bool {
        self.recorded(|attempt| !attempt["proven"].is_null())
    }

    /// Whether the record on the node's disk says that the slot is being written.
    pub(crate) fn is_writing(&self) -> bool {
        self.recorded(|attempt| attempt["writing"] == true)
    }

    /// Whether the record on the node's disk says so of this case's attempt.
    fn recorded(&self, says: impl Fn(&Value) -> bool) -> bool {
        let read = || -> Result<Value> {
            let path = self.node.path("/var/lib/monok8s/record.json")?;
            Ok(serde_json::from_slice(&std::fs::read(path)?)?)
        };
        let record = read().unwrap_or_default();
        let mut attempts = record["attempts"].as_array().into_iter().flatten();
        let name = self.progress_name();
        attempts.any(|attempt| attempt["name"] == *name && says(attempt))
    }

    /// The lock on the node's boot variables. Whoever wants to change them waits until it is dropped,
    /// the firmware that is played here too.
    pub(crate) fn boot_variables(&self) -> Result<File> {
        let path = self.node.path("/boot/grub/grubenv")?;
        let lock = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).context("somebody has the lock")?;
        Ok(lock)
    }

    /// A system bus on the node that answers nobody: an agent that has switched, and asks for its
    /// reboot there, goes on when it is hung up on.
    pub(crate) fn silent_bus(&self) -> Result<SilentBus> {
        let folder = self.node.path("/run/dbus")?;
        fs::create_dir_all(&folder).context("no folder for a bus")?;
        let socket = UnixListener::bind(folder.join("system_bus_socket"));
        Ok(SilentBus(socket.context("no socket for a bus")?))
    }

    /// Merges settings into the `rollout.drain` of the case's OSUpgrade.
    pub(crate) async fn set_drain(&self, drain: Value) -> Result<()> {
        let patch = json!({"spec": {"rollout": {"drain": drain}}}).to_string();
        let name = self.progress_name();
        let words = ["patch", "osupgrade", &name, "--type", "merge", "-p", &patch];
        self.bench.kubectl.ok(words).await.map(drop)
    }

    /// Waits until the progress is in a phase.
    pub(crate) async fn wait_phase(&self, phase: ProgressPhase) -> Result<OSUpgradeProgress> {
        let what = format!("{} to be {phase}", self.progress_name());
        let seen = wait::until(&what, LIMIT, || async {
            let now = self.progress().await.ok();
            Ok(now.filter(|now| now.status.as_ref().is_some_and(|s| s.phase == phase)))
        });
        let last = || async { format!("{:?}", self.progress().await.ok().and_then(|p| p.status)) };
        match seen.await {
            Ok(found) => Ok(found),
            Err(error) => Err(error.context(last().await)),
        }
    }

    /// Deletes its progress and its upgrade.
    pub(crate) async fn forget(&self) -> Result<()> {
        let name = self.progress_name();
        for kind in ["osupgradeprogress", "osupgrade"] {
            let gone = ["delete", kind, &name, "--ignore-not-found", "--timeout=60s"];
            self.bench.kubectl.ok(gone).await?;
        }
        Ok(())
    }

    /// Leaves the node as the next test wants it: powered, connected, its kubelet and agent at work,
    /// its objects gone.
    pub(crate) async fn tidy(&self) -> Result<()> {
        self.cure();
        self.node.set_connected(true)?;
        if self.node.running().is_err() {
            self.node.power_on().await?;
        }
        self.node.set_kubelet_running(true).await?;
        self.forget().await?;
        // What a test that failed in the middle has left.
        let fill = "rm -f /var/lib/fill-*; ip route flush type blackhole";
        self.node.run(["sh", "-c", fill]).await?;
        let label = format!("case={}", self.progress_name());
        let kinds = "poddisruptionbudgets,deployments,replicasets,priorityclasses";
        let objects = ["delete", kinds, "-l", &label, "--timeout=60s"];
        self.bench.kubectl.ok(objects).await?;
        // Those that take their time, too: the next drain of this node would wait for them.
        let pods = [
            "delete",
            "pods",
            "-l",
            &label,
            "--force",
            "--grace-period=0",
        ];
        self.bench.kubectl.ok(pods).await?;
        self.bench
            .kubectl
            .ok(["uncordon", self.node.name()])
            .await?;
        self.node.wait_ready().await?;
        self.bench
            .wait_agent(self.node, "ready", is_ready)
            .await
            .map(drop)
    }
}

/// See [`Case::silent_bus`]. One of a node that has ended is nobody's.
pub(crate) struct SilentBus(UnixListener);

impl SilentBus {
    /// Waits until the node's agent asks for its reboot; dropping what is returned lets it happen.
    pub(crate) async fn asked(&self) -> Result<UnixStream> {
        let asked = tokio::time::timeout(LIMIT, self.0.accept()).await;
        let asked = asked.context("no agent asked for a reboot")?;
        Ok(asked.context("cannot listen to the agent")?.0)
    }
}

/// An attempt that has begun.
pub(crate) struct Attempt<'a> {
    case: &'a Case<'a>,
    /// The version that ran when it began.
    pub(crate) from: String,
    /// The version it is for.
    pub(crate) to: String,
    before: Running,
}

impl Attempt<'_> {
    /// It ends `Completed` in its first attempt, with `boots` boots in all.
    pub(crate) async fn completes(&self, boots: u32) -> Result<()> {
        let case = self.case;
        let progress = case.wait_phase(ProgressPhase::Completed).await?;
        let status = progress.status.clone().unwrap_or_default();
        ensure!(
            status.attempt == 1,
            "{} took {} attempts",
            progress.name_any(),
            status.attempt
        );
        self.runs(&self.to, boots).await?;
        let now = case.node.running()?;
        ensure!(
            now.booted.slot != self.before.booted.slot,
            "it runs from the same slot: {now:?}"
        );
        Ok(())
    }

    /// The same, in however many attempts.
    pub(crate) async fn completes_at_last(&self, boots: u32) -> Result<()> {
        self.case.wait_phase(ProgressPhase::Completed).await?;
        self.runs(&self.to, boots).await
    }

    /// Waits until the node has begun its trial boot.
    pub(crate) async fn trial(&self) -> Result<()> {
        let running = wait::until("the trial boot", LIMIT, || async {
            let now = self.case.node.running().ok();
            Ok(now.filter(|now| now.number > self.before.number))
        })
        .await?;
        ensure!(running.booted.trial, "the boot was no trial: {running:?}");
        Ok(())
    }

    /// The slot that it is for.
    pub(crate) fn other_slot(&self) -> SlotName {
        self.before.booted.slot.other()
    }

    /// It is the boot in which it began.
    pub(crate) fn not_rebooted(&self) -> Result<()> {
        let now = self.case.node.running()?;
        ensure!(now == self.before, "it rebooted: {now:?}");
        Ok(())
    }

    /// It ends `RolledBack`, on the system that ran before, with `boots` boots in all.
    pub(crate) async fn rolls_back(&self, boots: u32) -> Result<()> {
        let case = self.case;
        let progress = case.wait_phase(ProgressPhase::RolledBack).await?;
        let status = progress.status.unwrap_or_default();
        ensure!(status.failure_reason == "FellBack", "{status:?}");
        self.runs(&self.from, boots).await?;
        let now = case.node.running()?;
        ensure!(
            now.booted.slot == self.before.booted.slot,
            "it runs from the other slot: {now:?}"
        );
        Ok(())
    }

    async fn runs(&self, version: &str, boots: u32) -> Result<()> {
        let case = self.case;
        case.bench.wait_version(case.node, Some(version)).await?;
        let now = case.node.running()?;
        let booted = now.number - self.before.number;
        ensure!(
            booted == boots,
            "{booted} boots instead of {boots}: {now:?}"
        );
        Ok(())
    }
}
