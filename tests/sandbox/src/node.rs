//! A virtual node: a machine's disks, firmware, kubelet and agent, as a folder and a few processes.
//!
//! The folder is laid out as [`monok8s_boot::host::VirtualNode`] says; beside it stand the console's
//! output and what belongs to the cluster rather than to the machine: credentials and logs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client, ResourceExt as _, api::DeleteParams};
use monok8s_boot::{SlotName, host::VirtualNode};
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    agent::{self, Agent},
    boot_cycle::{self, BootCycle, Order},
    control_plane::{self, ControlPlane},
    daemon::Daemon,
    firmware,
    images::Image,
    kubelet::{self, Kubelet},
    loop_device::LoopDevice,
    machine,
    service_account::TokenFile,
    wait,
};
pub use crate::{
    boot_cycle::{Boot, Power},
    machine::Storage,
};

/// How long a node may take from power-on to its system, and to being registered.
const UP: Duration = Duration::from_secs(180);

/// How a node is made.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name.
    pub name: String,
    /// Size of each slot in bytes.
    pub slot_size: u64,
    /// What its slots are.
    pub storage: Storage,
    /// Labels beside the usual ones; `monok8s.io/managed=true` is one of these.
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
    /// Whether the agent is run from the beginning.
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

/// A virtual node. Dropping it cuts its power; its folder is the caller's.
pub struct Node {
    name: String,
    machine: VirtualNode,
    admin: Client,
    agent: Arc<Agent>,
    power: watch::Receiver<Power>,
    uid: watch::Receiver<Option<String>>,
    failing_trials: Arc<AtomicU32>,
    orders: mpsc::Sender<Order>,
    cycle: JoinHandle<()>,
    _devices: Vec<LoopDevice>,
}

impl Node {
    /// Makes a node in `folder` with `image` in slot A, powers it on and waits until it is
    /// registered.
    pub async fn start(
        plane: &ControlPlane,
        folder: &Path,
        image: &Image,
        options: NodeOptions,
    ) -> Result<Self> {
        let node = Self::assemble(plane, folder, image, options).await?;
        node.power_on().await?;
        node.wait_registered(UP).await?;
        Ok(node)
    }

    /// Makes a node as [`start`](Self::start) does, and leaves it switched off.
    pub async fn assemble(
        plane: &ControlPlane,
        folder: &Path,
        image: &Image,
        options: NodeOptions,
    ) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder
            .canonicalize()
            .with_context(|| format!("cannot find {}", folder.display()))?;
        let machine = VirtualNode::new(folder.join("machine"));
        let devices = machine::build(&machine, image, options.storage, options.slot_size)?;
        let home = folder.join("cluster");
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        let identity = home.join("kubelet.kubeconfig");
        let user = format!("system:node:{}", options.name);
        plane.write_certificate_kubeconfig(&identity, &user, Some("system:nodes"))?;
        let admin = plane.client().await?;
        let agent = Arc::new(Agent {
            daemon: Daemon::new(!options.agent),
            node: options.name.clone(),
            machine: machine.dir().to_path_buf(),
            state: machine.data().join("monok8s"),
            token: TokenFile {
                path: home.join("agent.token"),
                account: agent::ACCOUNT,
                lifetime: options.token_lifetime,
                renewal: options.token_renewal,
                admin: admin.clone(),
            },
            home,
            arguments: options.agent_arguments.clone(),
            variables: options.agent_variables.clone(),
        });
        plane.write_token_kubeconfig(&agent.kubeconfig(), agent.token.path())?;
        let (power_tell, power) = watch::channel(Power::Off);
        let (uid_tell, uid) = watch::channel(None);
        let (orders, receive) = mpsc::channel(8);
        let failing_trials = Arc::new(AtomicU32::new(0));
        let cycle = BootCycle {
            name: options.name.clone(),
            machine: machine.clone(),
            kubelet: Kubelet::new(
                control_plane::client(&identity).await?,
                &options.name,
                &options.labels,
            ),
            agent: Arc::clone(&agent),
            power: power_tell,
            uid: uid_tell,
            failing_trials: Arc::clone(&failing_trials),
            orders: receive,
            downtime: options.downtime,
            boots: 0,
        };
        Ok(Self {
            name: options.name,
            machine,
            admin,
            agent,
            power,
            uid,
            failing_trials,
            orders,
            cycle: tokio::spawn(cycle.run()),
            _devices: devices,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine's folder.
    pub fn machine(&self) -> &VirtualNode {
        &self.machine
    }

    /// The file or block device of a slot.
    pub fn slot_device(&self, slot: SlotName) -> Result<PathBuf> {
        firmware::device(&self.machine, slot)
    }

    /// What the machine is doing.
    pub fn power(&self) -> Power {
        self.power.borrow().clone()
    }

    /// The boot it is running; none while it is down.
    pub fn boot(&self) -> Option<Boot> {
        match self.power() {
            Power::Up(boot) => Some(boot),
            _ => None,
        }
    }

    /// Waits until boot number `number`, or a later one, has reached its system. The API server may
    /// not know of it yet: see [`wait_registered`](Self::wait_registered).
    pub async fn wait_boot(&self, number: u64, limit: Duration) -> Result<Boot> {
        let mut power = self.power.clone();
        let reached = power.wait_for(|power| match power {
            Power::Up(boot) => boot.number >= number,
            Power::Stuck(_) => true,
            Power::Off | Power::Starting => false,
        });
        let reached = tokio::time::timeout(limit, reached).await;
        let last = self.power();
        match reached {
            Ok(Ok(power)) => match &*power {
                Power::Up(boot) => Ok(boot.clone()),
                other => bail!("{} did not boot: {other:?}\n{}", self.name, self.console()),
            },
            _ => bail!(
                "{} did not reach boot {number} within {} s, it is {last:?}",
                self.name,
                limit.as_secs()
            ),
        }
    }

    /// Waits until the API server shows the running boot, Ready.
    pub async fn wait_registered(&self, limit: Duration) -> Result<()> {
        let nodes: Api<NodeObject> = Api::all(self.admin.clone());
        wait::until(
            &format!("{} to be Ready with its new boot", self.name),
            limit,
            || async {
                let Some(boot) = self.boot() else {
                    return Ok(None);
                };
                // An API server that is away may come back within the limit.
                let Ok(Some(object)) = nodes.get_opt(&self.name).await else {
                    return Ok(None);
                };
                let same = kubelet::boot_id(&object) == Some(&boot.boot_id);
                Ok((same && kubelet::is_ready(&object)).then_some(()))
            },
        )
        .await
    }

    /// Cuts the power: everything is killed at once, and nothing starts until [`power_on`](Self::power_on).
    pub async fn power_cut(&self) -> Result<()> {
        self.order(Order::Cut).await
    }

    /// Powers it on, if it is off, and waits until its system runs.
    pub async fn power_on(&self) -> Result<Boot> {
        self.order(Order::On).await?;
        self.wait_boot(0, UP).await
    }

    /// Cuts the power and puts it on again at once, and waits until its system runs.
    pub async fn reset(&self) -> Result<Boot> {
        self.order(Order::Reset).await?;
        self.wait_boot(0, UP).await
    }

    /// Kills the agent with SIGKILL; it is started again as a pod would be.
    pub async fn kill_agent(&self) {
        self.agent.daemon.kill().await;
    }

    /// Kills the agent with SIGKILL and keeps it away until [`start_agent`](Self::start_agent).
    pub async fn kill_agent_and_hold(&self) {
        self.agent.daemon.hold(true);
        self.agent.daemon.kill().await;
    }

    /// Ends the agent with SIGTERM and keeps it away until [`start_agent`](Self::start_agent).
    pub async fn stop_agent(&self) {
        self.agent.daemon.hold(true);
        self.agent.daemon.stop().await;
    }

    /// Once the agent has ended, as it does when the machine reboots, it is kept away until
    /// [`start_agent`](Self::start_agent).
    pub fn hold_agent(&self) {
        self.agent.daemon.hold(true);
    }

    /// Lets the agent run again, or for the first time.
    pub fn start_agent(&self) {
        self.agent.daemon.hold(false);
    }

    /// Stops the agent's process group with SIGSTOP.
    pub fn pause_agent(&self) {
        self.agent.daemon.signal(Signal::STOP);
    }

    /// Lets a paused agent go on.
    pub fn resume_agent(&self) {
        self.agent.daemon.signal(Signal::CONT);
    }

    /// The next `count` trial boots hang before they reach their system, and the machine resets.
    pub fn fail_trial_boots(&self, count: u32) {
        self.failing_trials.store(count, Ordering::SeqCst);
    }

    /// Deletes the Node object, waits until it is gone, makes it again and returns its new UID. The
    /// agent is started anew with a token of it.
    pub async fn recreate_object(&self) -> Result<String> {
        let nodes: Api<NodeObject> = Api::all(self.admin.clone());
        let old = nodes
            .get(&self.name)
            .await
            .with_context(|| format!("cannot read Node {}", self.name))?
            .uid();
        nodes
            .delete(&self.name, &DeleteParams::default())
            .await
            .with_context(|| format!("cannot delete Node {}", self.name))?;
        let gone = || async { Ok(nodes.get_opt(&self.name).await?.is_none().then_some(())) };
        wait::until("the Node object's end", UP, gone).await?;
        self.order(Order::Register).await?;
        let mut uid = self.uid.clone();
        let other = uid.wait_for(|uid| uid.is_some() && *uid != old);
        let other = tokio::time::timeout(UP, other)
            .await
            .context("the node did not register again")?;
        other
            .context("the node is gone")?
            .clone()
            .context("a Node without UID")
    }

    /// The UID of its Node object, once it is registered.
    pub fn object_uid(&self) -> Option<String> {
        self.uid.borrow().clone()
    }

    /// The agent's log so far, all boots.
    pub fn agent_log(&self) -> String {
        agent::read_log(&self.agent.log_file())
    }

    /// What the machine's screen showed so far.
    pub fn console(&self) -> String {
        agent::read_log(&boot_cycle::console(&self.machine))
    }

    /// The address of the agent's health and metrics endpoints, while it runs.
    pub fn agent_url(&self) -> Option<String> {
        self.agent.daemon.url()
    }

    /// The agent's process number, while it runs.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.daemon.pid()
    }

    /// Whether an agent runs, or is about to.
    pub fn expects_agent(&self) -> bool {
        !self.agent.daemon.is_held()
    }

    /// The kubeconfig the agent uses: its service account, its token bound to the Node.
    pub fn agent_kubeconfig(&self) -> PathBuf {
        self.agent.kubeconfig()
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) -> Result<()> {
        let (done, wait) = oneshot::channel();
        let sent = self.orders.send(order(done)).await.is_ok();
        if !sent || wait.await.is_err() {
            bail!("{}'s supervisor is gone", self.name);
        }
        Ok(())
    }

    /// Ends everything and gives its devices back; its folder is the caller's.
    pub async fn stop(self) -> Result<()> {
        self.power_cut().await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The tasks hold the agent, and the agent its process: with the last of them it is killed.
        self.cycle.abort();
        self.agent.daemon.signal(Signal::KILL);
    }
}
