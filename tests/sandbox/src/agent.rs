//! The real agent on a virtual node, as its pod would run it: started again when it ends, with a
//! token of its service account that is bound to the Node and renewed before it expires.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    binaries, control_plane::BoundNode, daemon::Daemon, process::Spawn, service_account::TokenFile,
};

/// The agents' service account.
pub const ACCOUNT: &str = "node-agent";

/// The agent of one node.
pub struct Agent {
    /// Its process.
    pub daemon: Daemon,
    /// The node's name.
    pub node: String,
    /// The machine's folder.
    pub machine: PathBuf,
    /// The folder for its state, below the machine's data.
    pub state: PathBuf,
    /// Where kubeconfig and log are kept: not in the machine's folder.
    pub home: PathBuf,
    /// Its token.
    pub token: TokenFile,
    /// More arguments.
    pub arguments: Vec<String>,
    /// More variables.
    pub variables: Vec<(String, String)>,
}

impl Agent {
    /// The kubeconfig it uses.
    pub fn kubeconfig(&self) -> PathBuf {
        self.home.join("agent.kubeconfig")
    }

    /// Its log.
    pub fn log_file(&self) -> PathBuf {
        self.home.join("agent.log")
    }

    /// Runs it until `cancel`, for the Node whose UID `uid` tells: another UID is another pod, with
    /// another token. Killed when cancelled.
    pub async fn run(&self, mut uid: watch::Receiver<Option<String>>, cancel: CancellationToken) {
        cancel
            .run_until_cancelled(self.keep_running(&mut uid))
            .await;
        self.daemon.kill().await;
    }

    async fn keep_running(&self, uid: &mut watch::Receiver<Option<String>>) {
        loop {
            let Ok(known) = uid.wait_for(Option::is_some).await.map(|uid| uid.clone()) else {
                return;
            };
            let Some(known) = known else { continue };
            let node = BoundNode {
                name: self.node.clone(),
                uid: known,
            };
            self.token.write_persistently(Some(&node)).await;
            tokio::select! {
                () = self.daemon.keep_running(|port| self.command(port)) => return,
                () = self.token.keep_fresh(Some(&node)) => return,
                replaced = uid.wait_for(|now| now.as_ref().is_some_and(|now| *now != node.uid)) => {
                    if replaced.is_err() {
                        return;
                    }
                }
            }
            self.daemon.stop().await;
        }
    }

    fn command(&self, port: u16) -> Result<Spawn> {
        let spawn = Spawn::new(
            format!("{}'s agent", self.node),
            binaries::find("node-agent")?,
            self.log_file(),
        )
        .flag("node-name", &self.node)
        .flag("sandbox", &self.machine)
        .flag("state-dir", &self.state)
        .flag("listen", format!("127.0.0.1:{port}"))
        .args(&self.arguments)
        .env("KUBECONFIG", self.kubeconfig())
        .current_dir(&self.machine);
        Ok(self
            .variables
            .iter()
            .fold(spawn, |spawn, (variable, value)| spawn.env(variable, value)))
    }
}

/// A log's text, or why it cannot be read.
pub fn read_log(path: &Path) -> String {
    std::fs::read(path).map_or_else(
        |error| format!("({} cannot be read: {error})", path.display()),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}
