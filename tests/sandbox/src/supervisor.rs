//! A sandbox that outlives the command that started it: a process of its own in a folder, with a
//! socket for orders.
//!
//! ```text
//! FOLDER/supervisor.log    what it says, one line each
//! FOLDER/supervisor.json   what a caller needs to know; written once everything is up
//! FOLDER/control.sock      one order in JSON per connection, one answer
//! FOLDER/cluster/          the cluster's own
//! ```

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use monok8s_fault_server::Fault;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
};

use crate::{kubectl::Kubectl, site::Site};

/// How long an order may take.
const ORDER: Duration = Duration::from_secs(120);

/// How long the removal of a folder may take.
const REMOVAL: Duration = Duration::from_secs(60);

/// What a sandbox consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of nodes, `node-1` and so on.
    pub nodes: usize,
    /// Number of controllers.
    pub controllers: usize,
    /// The version the nodes begin with.
    pub version: String,
    /// Further versions with an image.
    pub images: Vec<String>,
    /// Bytes of content in an image.
    pub payload: u64,
    /// Bytes a second that the image server sends to each; 0: no limit.
    pub bytes_per_second: u64,
}

/// What a caller needs to know of a running sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The supervisor's process number.
    pub pid: u32,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The kubectl that fits.
    pub kubectl: PathBuf,
    /// A catalog of the images it serves.
    pub catalog: String,
    /// The images: version and path on the image server.
    pub images: Vec<(String, String)>,
    /// The nodes' names.
    pub nodes: Vec<String>,
}

impl Description {
    /// The description of the sandbox in `folder`; none while it is not up.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("supervisor.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} is not one of this program's", path.display()))
    }

    /// Its `kubectl`, as administrator.
    pub fn kubectl(&self) -> Kubectl {
        let cache = self.kubeconfig.with_file_name("kubectl-cache");
        Kubectl::new(&self.kubectl, &self.kubeconfig, cache)
    }
}

/// What a running sandbox can be asked for, by a line of JSON as at the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Answer requests to the demo's image server with a fault, such as `/rootfs-v1.36.0.ext4.zst status=404`.
    Fault {
        /// The path on the image server.
        path: String,
        /// `status=404`, `status=503/2`, `reset-after=1000`, `stall-after=1000`, …
        fault: String,
    },
    /// End a path's fault.
    Cure {
        /// The path on the image server.
        path: String,
    },
    /// Cut the power of one of the demo's nodes.
    PowerCut {
        /// The node, such as node-2.
        node: String,
    },
    /// Put a node's power on again.
    PowerOn {
        /// The node.
        node: String,
    },
    /// Let a node's next trial boot hang, so that it falls back.
    FailTrial {
        /// The node.
        node: String,
    },
    /// End whatever was left up.
    Down,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    error: Option<String>,
}

/// Runs a sandbox in `folder` until it is told to end, by an order or a signal, and removes the folder.
pub async fn supervise<S: Site>(folder: &Path, plan: Plan) -> Result<()> {
    let mut log =
        File::create(folder.join("supervisor.log")).context("cannot make supervisor.log")?;
    let outcome = run::<S>(folder, plan, &mut log).await;
    match &outcome {
        // The log stays, for whoever started this.
        Err(error) => {
            let _ = writeln!(log, "{FAILED}{error:#}");
        }
        Ok(()) => remove(folder).await?,
    }
    outcome
}

/// Removes a folder in which the last processes may still be writing as they die.
pub(crate) async fn remove(folder: &Path) -> Result<()> {
    crate::wait::until(
        &format!("the removal of {}", folder.display()),
        REMOVAL,
        || async { Ok((fs::remove_dir_all(folder).is_ok() || !folder.exists()).then_some(())) },
    )
    .await
}

/// Begins the line of the log that tells why a sandbox did not come up.
pub const FAILED: &str = "error: ";

async fn run<S: Site>(folder: &Path, plan: Plan, log: &mut File) -> Result<()> {
    let mut term = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let listener = UnixListener::bind(socket(&File::open(folder)?))
        .with_context(|| format!("cannot make a socket in {}", folder.display()))?;
    let mut say = |line: &str| {
        // Nobody reads it any more when the disk is full.
        let _ = writeln!(log, "{line}");
    };
    let home = folder.join("cluster");
    let cluster = tokio::select! {
        cluster = S::start(&home, &plan, &mut say) => cluster?,
        _ = term.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    cluster.image_server().limit(plan.bytes_per_second);
    describe(folder, &plan, &cluster)?;
    loop {
        tokio::select! {
            connection = listener.accept() => {
                let (stream, _) = connection.context("the control socket is gone")?;
                match serve(&cluster, stream).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => tracing::warn!("an order failed: {error:#}"),
                }
            }
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    cluster.stop().await
}

fn describe(folder: &Path, plan: &Plan, cluster: &impl Site) -> Result<()> {
    let first = (plan.nodes > 0).then_some(&plan.version);
    let versions: Vec<&str> = first
        .into_iter()
        .chain(&plan.images)
        .map(String::as_str)
        .collect();
    let images = versions
        .iter()
        .map(|version| Ok(((*version).to_owned(), cluster.image_path(version)?)));
    let description = Description {
        pid: std::process::id(),
        kubeconfig: cluster.kubectl().kubeconfig().to_path_buf(),
        kubectl: cluster.kubectl().program().to_path_buf(),
        catalog: cluster.catalog(&versions)?,
        images: images.collect::<Result<_>>()?,
        nodes: cluster.nodes(),
    };
    let text =
        serde_json::to_string_pretty(&description).context("supervisor.json cannot be written")?;
    crate::kubeconfig::secret_file(&folder.join("supervisor.json"), &text)
}

/// Serves one connection; true when everything is to end.
async fn serve(cluster: &impl Site, stream: UnixStream) -> Result<bool> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_line(&mut line));
    read.await
        .context("a caller sent no order")?
        .context("an order cannot be read")?;
    let order: Order = serde_json::from_str(&line).context("an order is none")?;
    let down = order == Order::Down;
    let error = obey(cluster, order)
        .await
        .err()
        .map(|error| format!("{error:#}"));
    let mut answer =
        serde_json::to_vec(&Answer { error }).context("an answer cannot be written")?;
    answer.push(b'\n');
    // A caller that does not wait for the answer has its order obeyed all the same.
    let _ = stream.get_mut().write_all(&answer).await;
    Ok(down)
}

async fn obey(cluster: &impl Site, order: Order) -> Result<()> {
    match order {
        Order::Fault { path, fault } => {
            let fault: Fault = fault.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
            cluster.image_server().fault(&path, fault);
        }
        Order::Cure { path } => cluster.image_server().cure(&path),
        Order::PowerCut { node } => cluster.power_cut(&node).await?,
        Order::PowerOn { node } => cluster.power_on(&node).await?,
        Order::FailTrial { node } => cluster.fail_trial(&node)?,
        Order::Down => {}
    }
    Ok(())
}

/// Sends an order to the sandbox in `folder` and waits until it is obeyed.
pub async fn order(folder: &Path, order: &Order) -> Result<()> {
    let handle = File::open(folder)
        .with_context(|| format!("there is no sandbox in {}", folder.display()))?;
    let stream = UnixStream::connect(socket(&handle))
        .await
        .with_context(|| format!("no sandbox answers in {}", folder.display()))?;
    let exchange = async {
        let mut stream = BufReader::new(stream);
        let mut text = serde_json::to_vec(order).context("an order cannot be written")?;
        text.push(b'\n');
        stream
            .get_mut()
            .write_all(&text)
            .await
            .context("an order cannot be sent")?;
        let mut line = String::new();
        stream
            .read_line(&mut line)
            .await
            .context("the sandbox does not answer")?;
        let answer: Answer = serde_json::from_str(&line).context("the sandbox's answer is none")?;
        match answer.error {
            Some(error) => bail!("{error}"),
            None => Ok(()),
        }
    };
    tokio::time::timeout(ORDER, exchange)
        .await
        .context("the sandbox does not answer")?
}

/// The socket's path by way of its folder's handle: a socket's path has room for 107 bytes, and a
/// source tree's may be longer.
fn socket(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/control.sock", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_what_they_were() {
        let order = Order::Fault {
            path: "/a".into(),
            fault: "status=404".into(),
        };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(text, r#"{"fault":{"path":"/a","fault":"status=404"}}"#);
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
    }

    #[tokio::test]
    async fn no_sandbox_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = order(folder.path(), &Order::Down)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("no sandbox answers"), "{error}");
    }
}
