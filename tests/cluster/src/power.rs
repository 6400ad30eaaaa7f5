//! A node's power: a task that starts its first process, and starts it again when the node reboots.

use std::{
    os::unix::process::ExitStatusExt as _, path::PathBuf, process::ExitStatus, sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use monok8s_sandbox::{
    process::{self, Process, Spawn},
    wait,
};
use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    control_groups::ControlGroups,
    machine::{Booted, Machine},
    network::Switch,
};

/// How long it may take until a node's namespaces are there, and until its first process has a root.
const UP: Duration = Duration::from_secs(120);

/// Whether a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Power {
    /// It does not, and why.
    Off(String),
    /// It is between two boots.
    Starting,
    /// It does.
    On(Running),
}

/// One boot of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Counts its boots, from 1 on.
    pub number: u32,
    /// What came up.
    pub booted: Booted,
    /// The node's first process, as this machine numbers it.
    pub pid: u32,
}

/// What the task is asked for.
#[derive(Debug)]
pub(crate) enum Order {
    /// Put the power on.
    On(oneshot::Sender<Result<Running>>),
    /// Cut it.
    Cut(oneshot::Sender<Result<()>>),
}

/// Everything that a node's power needs.
pub(crate) struct Supply {
    pub(crate) machine: Machine,
    pub(crate) groups: ControlGroups,
    pub(crate) switch: Arc<Switch>,
    /// This project's program `cluster`.
    pub(crate) program: PathBuf,
    /// How long the machine takes from its end to its firmware.
    pub(crate) downtime: Duration,
}

/// Serves orders until nobody can give any more; then the power is cut.
pub(crate) async fn supply(
    supply: Supply,
    mut orders: mpsc::Receiver<Order>,
    power: watch::Sender<Power>,
) {
    let mut boots = 0;
    let mut process: Option<Process> = None;
    loop {
        let ended = async {
            match &process {
                Some(process) => process.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                None => break,
                Some(Order::On(answer)) => {
                    let running = match (&process, &*power.borrow()) {
                        (Some(_), Power::On(running)) => Some(running.clone()),
                        _ => None,
                    };
                    let outcome = match running {
                        Some(running) => Ok(running),
                        None => supply.boot(&mut boots, &mut process, &power).await,
                    };
                    let _ = answer.send(outcome);
                }
                Some(Order::Cut(answer)) => {
                    if let Some(process) = process.take() {
                        process.kill().await;
                    }
                    power.send_replace(Power::Off("its power was cut".into()));
                    let _ = answer.send(supply.groups.clear().await);
                }
            },
            status = ended => {
                process = None;
                if rebooted(status) {
                    power.send_replace(Power::Starting);
                    tokio::time::sleep(supply.downtime).await;
                    if let Err(error) = supply.boot(&mut boots, &mut process, &power).await {
                        tracing::warn!(node = supply.machine.name, "{error:#}");
                    }
                } else {
                    let how = status.map_or_else(String::new, |status| format!(" ({status})"));
                    power.send_replace(Power::Off(format!(
                        "its first process ended{how}: {}",
                        process::tail(&supply.log())
                    )));
                }
            }
        }
    }
    if let Some(process) = process {
        process.kill().await;
    }
    if let Err(error) = supply.groups.clear().await {
        tracing::warn!(node = supply.machine.name, "{error:#}");
    }
}

/// Whether the node's first process was ended by `reboot(2)`: the kernel says so by SIGHUP
/// (`pid_namespaces(7)`).
fn rebooted(status: Option<ExitStatus>) -> bool {
    status.and_then(|status| status.signal()) == Some(Signal::HUP.as_raw())
}

impl Supply {
    fn log(&self) -> PathBuf {
        self.machine.folder.join("launch.log")
    }

    async fn boot(
        &self,
        boots: &mut u32,
        process: &mut Option<Process>,
        power: &watch::Sender<Power>,
    ) -> Result<Running> {
        *boots += 1;
        *process = None;
        power.send_replace(Power::Starting);
        match self.start().await {
            Ok((started, pid, booted)) => {
                *process = Some(started);
                let running = Running {
                    number: *boots,
                    booted,
                    pid,
                };
                power.send_replace(Power::On(running.clone()));
                Ok(running)
            }
            Err(error) => {
                let error = error.context(format!("{} does not come up", self.machine.name));
                power.send_replace(Power::Off(format!("{error:#}")));
                Err(error)
            }
        }
    }

    async fn start(&self) -> Result<(Process, u32, Booted)> {
        self.groups.clear().await?;
        self.machine.clear_booted();
        let spawn = Spawn::new(&self.machine.name, &self.program, self.log())
            .arg("launch")
            .arg(&self.machine.folder);
        let process = Process::spawn(spawn).await?;
        let ended = || process.failure("ended before it was up");
        let pid = wait::until("the node's first process", UP, || async {
            if process.exit_status().is_some() {
                return Err(ended());
            }
            Ok(only_child(process.pid()))
        })
        .await?;
        self.switch
            .connect(self.machine.number, pid)
            .context("cannot plug in its cable")?;
        let booted = wait::until("the node's root", UP, || async {
            if process.exit_status().is_some() {
                return Err(ended());
            }
            Ok(self.machine.booted())
        })
        .await?;
        Ok((process, pid, booted))
    }
}

/// The child of a process that has become `unshare`.
fn only_child(pid: u32) -> Option<u32> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if name.trim() != "unshare" {
        return None;
    }
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Asks the task.
pub(crate) async fn ask<T>(
    orders: &mpsc::Sender<Order>,
    order: impl FnOnce(oneshot::Sender<Result<T>>) -> Order,
) -> Result<T> {
    let gone = || anyhow!("the node's power supply is gone");
    let (answer, answered) = oneshot::channel();
    orders.send(order(answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}
