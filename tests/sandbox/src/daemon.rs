//! A program that is kept running, as a kubelet keeps a container: started again when it ends, after
//! pauses that grow, unless a test holds it back.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use rustix::process::Signal;
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::Instant,
};

use crate::{
    ports,
    process::{Process, Spawn},
};

/// Pauses before a program that ended is started again; the last one is for good.
const BACKOFF: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
/// A program that ran this long begins again with the first pause.
const STEADY: Duration = Duration::from_secs(10);
/// How long it may take to end after SIGTERM: the projects' daemons promise 10 s.
const GRACE: Duration = Duration::from_secs(12);

/// A program's place: it runs, or it does not.
#[derive(Debug)]
pub struct Daemon {
    place: Mutex<Option<Running>>,
    held: watch::Sender<bool>,
    /// Held while a program is being started: whoever ends it waits until it can be found.
    starting: AsyncMutex<()>,
}

#[derive(Clone, Debug)]
struct Running {
    process: Arc<Process>,
    port: u16,
}

impl Daemon {
    /// An empty place; `held` as in [`hold`](Self::hold).
    pub fn new(held: bool) -> Self {
        Self {
            place: Mutex::new(None),
            held: watch::channel(held).0,
            starting: AsyncMutex::default(),
        }
    }

    /// Its process number, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running().map(|running| running.process.pid())
    }

    /// The address of its health and metrics endpoints, while it runs.
    pub fn url(&self) -> Option<String> {
        self.running()
            .map(|running| format!("http://127.0.0.1:{}", running.port))
    }

    /// While held it is not started again after its end.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Whether it is held back.
    pub fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Sends its process group a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(running) = self.running() {
            running.process.signal_group(signal);
        }
    }

    /// Kills its process group and waits for the end.
    pub async fn kill(&self) {
        if let Some(running) = self.started().await {
            running.process.kill().await;
        }
    }

    /// Ends it with SIGTERM, or SIGKILL when that takes too long.
    pub async fn stop(&self) {
        if let Some(running) = self.started().await {
            running.process.stop(GRACE).await;
        }
    }

    /// Keeps it running for as long as the future lives. `spawn` is told the port it shall listen on.
    pub async fn keep_running(&self, mut spawn: impl FnMut(u16) -> Result<Spawn>) {
        let mut held = self.held.subscribe();
        let mut failures = 0;
        loop {
            if held.wait_for(|held| !held).await.is_err() {
                return;
            }
            let begin = Instant::now();
            match self.start(&mut spawn).await {
                Ok(Some(process)) => {
                    process.wait().await;
                }
                Ok(None) => continue,
                Err(error) => tracing::error!("{error:#}"),
            }
            failures = if begin.elapsed() > STEADY {
                0
            } else {
                failures + 1
            };
            tokio::time::sleep(BACKOFF[failures.min(BACKOFF.len() - 1)]).await;
        }
    }

    /// Starts it unless it is held back by now.
    async fn start(
        &self,
        spawn: &mut impl FnMut(u16) -> Result<Spawn>,
    ) -> Result<Option<Arc<Process>>> {
        let _starting = self.starting.lock().await;
        if self.is_held() {
            return Ok(None);
        }
        let port = ports::unheld()?;
        let process = Arc::new(Process::spawn(spawn(port)?).await?);
        let running = Running {
            process: Arc::clone(&process),
            port,
        };
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        Ok(Some(process))
    }

    /// What runs once nothing is being started.
    async fn started(&self) -> Option<Running> {
        let _starting = self.starting.lock().await;
        self.running()
    }

    fn running(&self) -> Option<Running> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place
            .clone()
            .filter(|running| running.process.exit_status().is_none())
    }
}
