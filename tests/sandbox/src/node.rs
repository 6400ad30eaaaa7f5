//! A virtual node: a machine's disks, firmware, kubelet and agent, as a folder and a few processes.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Result, bail};
use monok8s_boot::SlotName;

use crate::{control_plane::ControlPlane, images::Image};

/// What the slots are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// Files in the node's folder.
    #[default]
    Files,
    /// Loop devices over these files; needs root.
    LoopDevices,
}

/// How a node is made.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name.
    pub name: String,
    /// Size of each slot in bytes.
    pub slot_size: u64,
    /// What its slots are.
    pub storage: Storage,
    /// Labels beside the usual ones.
    pub labels: BTreeMap<String, String>,
    /// How long it is away in a reboot.
    pub downtime: Duration,
    /// Lifetime of the agent's token; the API server grants 10 min at least.
    pub token_lifetime: Duration,
    /// How often the token is renewed.
    pub token_renewal: Duration,
    /// More arguments for the agent.
    pub agent_arguments: Vec<String>,
    /// More variables for the agent.
    pub agent_variables: Vec<(String, String)>,
    /// Whether the agent is run at all.
    pub agent: bool,
}

impl NodeOptions {
    /// The usual node.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            slot_size: 64 << 20,
            storage: Storage::Files,
            labels: BTreeMap::new(),
            downtime: Duration::from_millis(500),
            token_lifetime: Duration::from_secs(3600),
            token_renewal: Duration::from_secs(600),
            agent_arguments: Vec::new(),
            agent_variables: Vec::new(),
            agent: true,
        }
    }
}

/// A boot that reached the running system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The slot.
    pub slot: SlotName,
    /// Whether it is a trial.
    pub trial: bool,
    /// The version in the slot.
    pub version: String,
    /// The boot's identifier.
    pub boot_id: String,
    /// Counts the boots that reached the running system, from 1.
    pub number: u64,
    /// Counts the firmware's attempts, failed ones included, from 1.
    pub attempts: u64,
}

/// A running virtual node.
pub struct Node {}

impl Node {
    /// Makes a node in `folder` with `image` in slot A, powers it on and waits until it is up.
    pub async fn start(
        plane: &ControlPlane,
        folder: &Path,
        image: &Image,
        _options: NodeOptions,
    ) -> Result<Self> {
        bail!(
            "not yet: {} {} {}",
            plane.url(),
            folder.display(),
            image.version
        )
    }

    /// Its name.
    pub fn name(&self) -> &str {
        ""
    }

    /// Its folder, in the layout of [`monok8s_boot::host::VirtualNode`].
    pub fn folder(&self) -> &Path {
        Path::new("")
    }

    /// The boot it is running; none while it is down.
    pub fn boot(&self) -> Option<Boot> {
        None
    }

    /// Waits until boot number `number` or a later one runs.
    pub async fn wait_boot(&self, _number: u64, _limit: Duration) -> Result<Boot> {
        bail!("not yet")
    }

    /// Cuts the power: everything is killed at once, and nothing starts until [`power_on`](Self::power_on).
    pub async fn power_cut(&self) -> Result<()> {
        bail!("not yet")
    }

    /// Powers it on and waits until it is up.
    pub async fn power_on(&self) -> Result<Boot> {
        bail!("not yet")
    }

    /// Kills the agent with SIGKILL; it is started again as a pod would be.
    pub async fn kill_agent(&self) -> Result<()> {
        bail!("not yet")
    }

    /// Ends the agent with SIGTERM and keeps it away until [`start_agent`](Self::start_agent).
    pub async fn stop_agent(&self) -> Result<()> {
        bail!("not yet")
    }

    /// Kills the agent with SIGKILL and keeps it away until [`start_agent`](Self::start_agent).
    pub async fn kill_agent_and_hold(&self) -> Result<()> {
        bail!("not yet")
    }

    /// Lets the agent run again after one of the above.
    pub async fn start_agent(&self) -> Result<()> {
        bail!("not yet")
    }

    /// Stops the agent's process group with SIGSTOP.
    pub fn pause_agent(&self) {}

    /// Lets a paused agent go on.
    pub fn resume_agent(&self) {}

    /// The next `count` trial boots hang before they reach the running system, and the machine resets.
    pub fn fail_trial_boots(&self, _count: u32) {}

    /// Deletes the Node object, makes it again (with another UID) and gives the agent a token of it.
    pub async fn recreate_object(&self) -> Result<String> {
        bail!("not yet")
    }

    /// The UID of its Node object.
    pub fn object_uid(&self) -> String {
        String::new()
    }

    /// The agent's log so far.
    pub fn agent_log(&self) -> String {
        String::new()
    }

    /// The address of the agent's health and metrics endpoints, while it runs.
    pub fn agent_url(&self) -> Option<String> {
        None
    }

    /// The kubeconfig the agent uses: its service account, its token bound to the Node.
    pub fn agent_kubeconfig(&self) -> std::path::PathBuf {
        std::path::PathBuf::new()
    }

    /// Ends it and gives its devices back; its folder is the caller's.
    pub async fn stop(self) -> Result<()> {
        bail!("not yet")
    }
}
