//! The sandboxes of this source tree, by name: started as processes of their own, found again, ended.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    process, scratch,
    supervisor::{self, Description, FAILED, Order, Plan},
    wait,
};

/// Variable that names another folder for sandboxes than the source tree's `.sandbox`.
pub const VARIABLE: &str = "MONOK8S_SANDBOX";

/// How long a sandbox may take to be up, the build of the control plane apart.
const UP: Duration = Duration::from_secs(1800);
/// How long it may take to end.
const DOWN: Duration = Duration::from_secs(180);

/// A sandbox of this source tree, up or not.
#[derive(Clone, Debug)]
pub struct Instance {
    name: &'static str,
    folder: PathBuf,
}

impl Instance {
    /// The demo's.
    pub fn demo() -> Self {
        Self::named("demo")
    }

    /// The control plane alone.
    pub fn control_plane() -> Self {
        Self::named("control-plane")
    }

    /// The demo's on real nodes.
    pub fn real_demo() -> Self {
        Self::named("real-demo")
    }

    /// Real nodes without the demo.
    pub fn real() -> Self {
        Self::named("cluster")
    }

    /// The command that ends it.
    pub fn end(&self) -> &'static str {
        match self.name {
            "real-demo" | "cluster" => "make cluster-down",
            _ => "make down",
        }
    }

    fn named(name: &'static str) -> Self {
        let parent = std::env::var_os(VARIABLE)
            .map_or_else(|| scratch::repository().join(".sandbox"), PathBuf::from);
        Self {
            name,
            folder: parent.join(name),
        }
    }

    /// Where it keeps everything.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fails when it is up, saying how to end it.
    pub fn ensure_down(&self) -> Result<()> {
        if self.locked()? {
            bail!("a {} is up already: `{}` ends it", self.name, self.end());
        }
        Ok(())
    }

    /// Starts it and returns when it is up; `say` is told what it does. Unless `detached` it ends
    /// when this process does.
    pub async fn start(
        &self,
        plan: &Plan,
        detached: bool,
        say: &mut impl FnMut(&str),
    ) -> Result<Description> {
        self.ensure_down()?;
        supervisor::remove(&self.folder).await?;
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let plan = serde_json::to_string(plan).context("a plan cannot be written")?;
        fs::write(self.folder.join("plan.json"), plan).context("plan.json cannot be written")?;
        let output = self.folder.join("supervisor.err");
        let errors =
            File::create(&output).with_context(|| format!("cannot make {}", output.display()))?;
        let own = std::env::current_exe().context("cannot tell where this program stands")?;
        let mut command = if detached {
            Command::new("setsid")
        } else {
            Command::new("setpriv")
        };
        if !detached {
            command.args(["--pdeathsig", "TERM", "--", "setsid"]);
        }
        let mut child = command
            .arg(own)
            .arg("supervise")
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .context("cannot run setsid and setpriv, which are part of the package util-linux")?;
        let mut told = 0;
        wait::until(&format!("the {} to be up", self.name), UP, || {
            let look = self.look(&mut child, &mut told, say);
            async move { look }
        })
        .await
    }

    /// One look at a sandbox that is starting.
    fn look(
        &self,
        child: &mut std::process::Child,
        told: &mut usize,
        say: &mut impl FnMut(&str),
    ) -> Result<Option<Description>> {
        let ended = child
            .try_wait()
            .context("cannot look after the sandbox's process")?;
        let log = fs::read_to_string(self.folder.join("supervisor.log")).unwrap_or_default();
        let fresh = log.get(*told..).unwrap_or_default();
        if let Some((_, why)) = fresh.split_once(FAILED) {
            bail!("{}", why.trim_end());
        }
        // A line is told once it is whole.
        if let Some(whole) = fresh.rfind('\n') {
            fresh[..whole].lines().for_each(&mut *say);
            *told += whole + 1;
        }
        if let Some(status) = ended {
            bail!(
                "the sandbox ended ({status}):\n{}",
                process::tail(&self.folder.join("supervisor.err"))
            );
        }
        Description::read(&self.folder)
    }

    /// Sends it an order.
    pub async fn order(&self, order: &Order) -> Result<()> {
        supervisor::order(&self.folder, order).await
    }

    /// Ends it and removes its folder; false when there was nothing to end.
    pub async fn down(&self) -> Result<bool> {
        if !self.folder.exists() {
            return Ok(false);
        }
        if self.locked()? {
            if self.order(&Order::Down).await.is_err() {
                self.terminate()?;
            }
            wait::until(&format!("the {}'s end", self.name), DOWN, || async {
                Ok((!self.locked()?).then_some(()))
            })
            .await?;
        }
        supervisor::remove(&self.folder).await?;
        // The folder of all sandboxes goes with the last of them.
        let _ = fs::remove_file(self.lock_path());
        let _ = self.folder.parent().map(fs::remove_dir);
        Ok(true)
    }

    /// Ends those of these that are up, and says so at a prompt.
    pub async fn down_all(instances: impl IntoIterator<Item = Self>) -> Result<()> {
        let mut any = false;
        for instance in instances {
            if instance.down().await? {
                println!("ended {}", instance.folder().display());
                any = true;
            }
        }
        if !any {
            println!("nothing is up");
        }
        Ok(())
    }

    /// For a supervisor that does not take orders, because it is still starting or hangs.
    fn terminate(&self) -> Result<()> {
        let text = fs::read_to_string(self.lock_path()).context("cannot read the lock")?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid =
            pid.with_context(|| format!("{} names no process", self.lock_path().display()))?;
        kill_process(pid, Signal::TERM).with_context(|| format!("cannot end process {text}"))
    }

    fn lock_path(&self) -> PathBuf {
        self.folder.with_extension("lock")
    }

    /// Whether a supervisor lives.
    fn locked(&self) -> Result<bool> {
        match File::open(self.lock_path()) {
            Ok(file) => Ok(file.try_lock().is_err()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                Err(error).with_context(|| format!("cannot open {}", self.lock_path().display()))
            }
        }
    }
}

/// The supervisor's side: the lock of its folder, with its process number in it. It goes, and with
/// the last of them the folder of all sandboxes, when the value is dropped.
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of `folder`.
    pub fn hold(folder: &Path) -> Result<Self> {
        let path = folder.with_extension("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if file.try_lock().is_err() {
            bail!(
                "a sandbox in {} is up already: `make down` or `make cluster-down` ends it",
                folder.display()
            );
        }
        fs::write(&path, std::process::id().to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, _file: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A lock file that stays locks nothing, and a folder that is not empty is in use.
        let _ = fs::remove_file(&self.path);
        let _ = self.path.parent().map(fs::remove_dir);
    }
}
