//! A replica of the real controller, as its Deployment would run it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::{
    agent, binaries,
    control_plane::{self, ControlPlane},
    daemon::Daemon,
    process::Spawn,
    service_account::{NAMESPACE, TokenFile},
};

/// The controller's service account.
pub const ACCOUNT: &str = "controller";

/// How long the first token may take.
const TOKEN: Duration = Duration::from_secs(60);

/// One replica. Dropping it kills it.
pub struct Controller {
    identity: String,
    daemon: Arc<Daemon>,
    log: PathBuf,
    keeper: JoinHandle<()>,
}

impl Controller {
    /// Starts a replica that writes to the folder `home`, and keeps it running.
    pub async fn start(
        plane: &ControlPlane,
        home: PathBuf,
        identity: &str,
        arguments: &[String],
    ) -> Result<Self> {
        let token = TokenFile {
            path: home.join(format!("{identity}.token")),
            account: ACCOUNT,
            lifetime: Duration::from_secs(3600),
            renewal: Duration::from_secs(600),
            admin: plane.client().await?,
        };
        // An API server that is busy may leave the first question without an answer.
        let asked = tokio::time::timeout(TOKEN, token.write_persistently(None));
        if asked.await.is_err() {
            // What is wrong, then.
            token.write(None).await?;
        }
        let kubeconfig = home.join(format!("{identity}.kubeconfig"));
        plane.write_token_kubeconfig(&kubeconfig, token.path())?;
        // As any pod that asked for this account: a client that fails here would fail in there too.
        control_plane::client(&kubeconfig).await?;
        let program = binaries::find("controller")?;
        let log = home.join(format!("{identity}.log"));
        let daemon = Arc::new(Daemon::new(false));
        let keeper = {
            let (daemon, log, identity, arguments) = (
                Arc::clone(&daemon),
                log.clone(),
                identity.to_owned(),
                arguments.to_vec(),
            );
            tokio::spawn(async move {
                let command = |port| {
                    Ok(Spawn::new(&identity, &program, &log)
                        .flag("namespace", NAMESPACE)
                        .flag("identity", &identity)
                        .flag("listen", format!("127.0.0.1:{port}"))
                        .args(&arguments)
                        .env("KUBECONFIG", &kubeconfig))
                };
                tokio::select! {
                    () = daemon.keep_running(command) => {}
                    () = token.keep_fresh(None) => {}
                }
            })
        };
        Ok(Self {
            identity: identity.to_owned(),
            daemon,
            log,
            keeper,
        })
    }

    /// Its identity in the Lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Its process number, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// SIGKILL; it is started again as a Deployment would.
    pub async fn kill(&self) {
        self.daemon.kill().await;
    }

    /// SIGKILL, and it stays away until [`resume_running`](Self::resume_running).
    pub async fn kill_and_hold(&self) {
        self.daemon.hold(true);
        self.daemon.kill().await;
    }

    /// SIGTERM, and it stays away until [`resume_running`](Self::resume_running).
    pub async fn stop_and_hold(&self) {
        self.daemon.hold(true);
        self.daemon.stop().await;
    }

    /// Lets it be started again.
    pub fn resume_running(&self) {
        self.daemon.hold(false);
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.daemon.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        agent::read_log(&self.log)
    }

    /// The address of its health and metrics endpoints, while it runs.
    pub fn url(&self) -> Option<String> {
        self.daemon.url()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.keeper.abort();
        self.daemon.signal(Signal::KILL);
    }
}
