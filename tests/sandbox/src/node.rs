//! A virtual node: a machine's disks, firmware, kubelet and agent, as a folder and a few processes.
//!
//! The folder is laid out as [`monok8s_boot::host::VirtualNode`] says; beside it stand the console's
//! output and what belongs to the cluster rather than to the machine: credentials and logs.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
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
use monok8s_boot::{
    SlotName,
    host::{MachineFile, VirtualNode},
    loader::grub::model,
};
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{self, Agent},
    control_plane::{self, ControlPlane},
    daemon::Daemon,
    firmware::{self, Outcome, Running},
    images::Image,
    kubelet::{self, Kubelet, System},
    loop_device::LoopDevice,
    service_account::TokenFile,
    wait,
};

/// How often the supervisor looks whether somebody asked for a reboot.
const LOOK: Duration = Duration::from_millis(50);
/// How long processes may take to end before a reboot that somebody asked for.
const GRACE: Duration = Duration::from_secs(2);
/// How long a node may take from power-on to its system, and to being registered.
const UP: Duration = Duration::from_secs(60);

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

/// A boot that reached the running system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The slot.
    pub slot: SlotName,
    /// Whether it is a trial.
    pub trial: bool,
    /// The version in the slot, as its os-release writes it.
    pub version: String,
    /// The boot's identifier.
    pub boot_id: String,
    /// Counts the boots that reached the running system, from 1.
    pub number: u64,
    /// How often the firmware chose a slot for this boot; more than 1 when one did not come up.
    pub attempts: u32,
}

/// What a machine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Power {
    /// Switched off, or its power is cut.
    Off,
    /// Between power and the running system.
    Starting,
    /// A system runs.
    Up(Boot),
    /// No system comes up, and somebody must come and look: why.
    Stuck(String),
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
    supervisor: JoinHandle<()>,
    _devices: Vec<LoopDevice>,
}

enum Order {
    Cut(oneshot::Sender<()>),
    On(oneshot::Sender<()>),
    Reset(oneshot::Sender<()>),
    Register(oneshot::Sender<()>),
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
        let devices = build_machine(&machine, image, &options)?;
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
        let supervisor = Supervisor {
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
            supervisor: tokio::spawn(supervisor.run()),
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
        agent::read_log(&console(&self.machine))
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
        self.supervisor.abort();
        self.agent.daemon.signal(Signal::KILL);
    }
}

/// Lays out the machine's folder and attaches its devices.
fn build_machine(
    machine: &VirtualNode,
    image: &Image,
    options: &NodeOptions,
) -> Result<Vec<LoopDevice>> {
    let dir = machine.dir();
    let boot = machine
        .grubenv()
        .parent()
        .map(Path::to_path_buf)
        .context("no boot folder")?;
    for folder in [&boot, &machine.data(), &dir.join("run")] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let files = [dir.join("slot-a.img"), dir.join("slot-b.img")];
    fs::copy(&image.expanded, &files[0])
        .with_context(|| format!("cannot copy {}", image.expanded.display()))?;
    for file in &files {
        let slot = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(file);
        slot.and_then(|slot| slot.set_len(options.slot_size))
            .with_context(|| {
                format!("cannot give {} {} bytes", file.display(), options.slot_size)
            })?;
    }
    model::install(&machine.grubenv(), SlotName::A, false)
        .context("cannot make GRUB's variables")?;
    if options.storage == Storage::Files {
        return Ok(Vec::new());
    }
    let devices = files
        .iter()
        .map(|file| LoopDevice::attach(file))
        .collect::<Result<Vec<_>>>()?;
    let [a, b] = &devices[..] else {
        bail!("two slots need two devices")
    };
    let description = MachineFile {
        slot_a: Some(a.path().display().to_string()),
        slot_b: Some(b.path().display().to_string()),
    };
    let text =
        serde_json::to_string_pretty(&description).context("machine.json cannot be written")?;
    fs::write(machine.machine_file(), text).context("machine.json cannot be written")?;
    Ok(devices)
}

/// Where the firmware's output goes: not into the machine's folder, which is what the agent sees.
fn console(machine: &VirtualNode) -> PathBuf {
    machine.dir().with_file_name("console.log")
}

/// Firmware, kernel, init and kubelet of one machine: one task for as long as the node exists.
struct Supervisor {
    name: String,
    machine: VirtualNode,
    kubelet: Kubelet,
    agent: Arc<Agent>,
    power: watch::Sender<Power>,
    uid: watch::Sender<Option<String>>,
    failing_trials: Arc<AtomicU32>,
    orders: mpsc::Receiver<Order>,
    downtime: Duration,
    boots: u64,
}

/// What ended a system.
enum End {
    /// Somebody asked for a reboot.
    Reboot,
    /// The power went.
    Cut(oneshot::Sender<()>),
    /// The power went and came back.
    Reset(oneshot::Sender<()>),
}

impl Supervisor {
    async fn run(mut self) {
        while let Some(order) = self.orders.recv().await {
            match order {
                Order::On(done) | Order::Reset(done) => {
                    self.power.send_replace(Power::Starting);
                    let _ = done.send(());
                    self.powered().await;
                }
                Order::Cut(done) | Order::Register(done) => {
                    self.power.send_replace(Power::Off);
                    let _ = done.send(());
                }
            }
        }
    }

    /// From power to the loss of it, through any number of boots.
    async fn powered(&mut self) {
        loop {
            let running = match self.start() {
                Ok(Outcome::Up(running)) => running,
                Ok(Outcome::Stuck(why)) => {
                    self.power.send_replace(Power::Stuck(why));
                    return;
                }
                Err(error) => {
                    self.power.send_replace(Power::Stuck(format!("{error:#}")));
                    return;
                }
            };
            match self.system(running).await {
                End::Cut(done) => {
                    self.power.send_replace(Power::Off);
                    let _ = done.send(());
                    return;
                }
                End::Reset(done) => {
                    self.power.send_replace(Power::Starting);
                    let _ = done.send(());
                }
                End::Reboot => {
                    self.power.send_replace(Power::Starting);
                    tokio::time::sleep(self.downtime).await;
                }
            }
        }
    }

    fn start(&self) -> Result<Outcome> {
        let path = console(&self.machine);
        let mut screen = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let hangs = |start: model::Start| {
            start.trial
                && self
                    .failing_trials
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok()
        };
        firmware::power_on(&self.machine, hangs, |line| {
            tracing::info!(node = self.name, "{line}");
            // A screen nobody can read is no reason not to start.
            let _ = writeln!(screen, "{line}");
        })
    }

    /// One boot's system, from its first process to its end.
    async fn system(&mut self, running: Running) -> End {
        self.boots += 1;
        let boot = Boot {
            slot: running.start.slot,
            trial: running.start.trial,
            version: running.version().to_owned(),
            boot_id: uuid::Uuid::new_v4().to_string(),
            number: self.boots,
            attempts: running.attempts,
        };
        if let Err(error) = self.write_run(&running, &boot) {
            tracing::error!(node = self.name, "{error:#}");
        }
        let system = System {
            boot_id: boot.boot_id.clone(),
            os_image: running
                .os_release
                .get("PRETTY_NAME")
                .unwrap_or("unknown")
                .to_owned(),
            version: kubelet_version(&boot.version),
        };
        self.uid.send_replace(None);
        self.power.send_replace(Power::Up(boot));
        let cancel = CancellationToken::new();
        let agent = {
            let (agent, uid, cancel) = (
                Arc::clone(&self.agent),
                self.uid.subscribe(),
                cancel.clone(),
            );
            tokio::spawn(async move { agent.run(uid, cancel).await })
        };
        // Dropped with this task: a node that is gone runs nothing.
        let _guard = cancel.clone().drop_guard();
        let end = self.until_the_end(&system).await;
        if matches!(end, End::Reboot) {
            self.agent.daemon.signal(Signal::TERM);
            let gone = async {
                while self.agent.daemon.pid().is_some() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            let _ = tokio::time::timeout(GRACE, gone).await;
        }
        cancel.cancel();
        if let Err(error) = agent.await {
            tracing::error!(node = self.name, "the agent's supervisor: {error}");
        }
        end
    }

    async fn until_the_end(&mut self, system: &System) -> End {
        let Self {
            kubelet,
            uid,
            orders,
            machine,
            ..
        } = self;
        loop {
            // Begun again when the Node object was replaced: a kubelet registers at its start.
            let register = tokio::select! {
                () = kubelet.run(system, uid) => continue,
                () = reboot_request(machine) => return End::Reboot,
                order = orders.recv() => match order {
                    // Nobody is left who could power it off: as good as off.
                    None => return std::future::pending().await,
                    Some(Order::Cut(done)) => return End::Cut(done),
                    Some(Order::Reset(done)) => return End::Reset(done),
                    Some(Order::On(done) | Order::Register(done)) => done,
                }
            };
            let _ = register.send(());
        }
    }

    /// What firmware and kernel tell the running system; `run` is empty at every boot.
    fn write_run(&self, running: &Running, boot: &Boot) -> Result<()> {
        let run = self.machine.dir().join("run");
        if run.exists() {
            fs::remove_dir_all(&run).with_context(|| format!("cannot empty {}", run.display()))?;
        }
        fs::create_dir_all(&run).with_context(|| format!("cannot make {}", run.display()))?;
        let root = firmware::device(&self.machine, boot.slot)?;
        let write = |path: PathBuf, content: String| {
            fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
        };
        write(
            self.machine.cmdline(),
            firmware::command_line(running.start, &root),
        )?;
        write(self.machine.active_file(), format!("{}\n", boot.slot))?;
        write(self.machine.boot_id_file(), format!("{}\n", boot.boot_id))
    }
}

async fn reboot_request(machine: &VirtualNode) {
    let path = machine.reboot_request();
    while !path.exists() {
        tokio::time::sleep(LOOK).await;
    }
}

/// The kubelet in a system has the system's version, with a `v`.
fn kubelet_version(version: &str) -> String {
    format!("v{}", version.trim_start_matches('v'))
}
