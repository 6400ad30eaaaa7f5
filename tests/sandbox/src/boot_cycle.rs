//! One machine's life between power and the loss of it: firmware, kernel, init and kubelet, as one
//! task for as long as the node exists.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use monok8s_boot::{SlotName, host::VirtualNode, loader::grub::model};
use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    firmware::{self, Outcome, Running},
    kubelet::{Kubelet, System},
};

/// How often it is looked whether somebody asked for a reboot.
const LOOK: Duration = Duration::from_millis(50);
/// How long processes may take to end before a reboot that somebody asked for.
const GRACE: Duration = Duration::from_secs(2);

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

/// What a machine can be told; the sender learns when it has begun to obey.
pub(crate) enum Order {
    /// The power goes.
    Cut(oneshot::Sender<()>),
    /// The power comes.
    On(oneshot::Sender<()>),
    /// The power goes and comes.
    Reset(oneshot::Sender<()>),
    /// The kubelet begins anew.
    Register(oneshot::Sender<()>),
}

/// Where the firmware's output goes: not into the machine's folder, which is what the agent sees.
pub(crate) fn console(machine: &VirtualNode) -> PathBuf {
    machine.dir().with_file_name("console.log")
}

/// What one machine consists of.
pub(crate) struct BootCycle {
    pub(crate) name: String,
    pub(crate) machine: VirtualNode,
    pub(crate) kubelet: Kubelet,
    pub(crate) agent: Arc<Agent>,
    pub(crate) power: watch::Sender<Power>,
    pub(crate) uid: watch::Sender<Option<String>>,
    pub(crate) failing_trials: Arc<AtomicU32>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) downtime: Duration,
    /// Boots that reached the running system.
    pub(crate) boots: u64,
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

impl BootCycle {
    /// Follows orders until the node is gone.
    pub(crate) async fn run(mut self) {
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
