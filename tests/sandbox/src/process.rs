//! Child processes that never outlive this one.
//!
//! Each leads a process group of its own (Ctrl-C in a terminal reaches this process alone, which
//! ends the others in order), writes to a log file, and is killed by the kernel when this process
//! dies without a word (`PR_SET_PDEATHSIG`, set by util-linux's `setpriv`).

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock, PoisonError, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use tokio::sync::{oneshot, watch};

/// Bytes of a log that an error shows at most.
const TAIL: u64 = 3000;

/// Variables that would send a child elsewhere than to 127.0.0.1, where everything here is.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What to run.
#[derive(Debug)]
pub struct Spawn {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    log: PathBuf,
}

impl Spawn {
    /// `name` is for messages; standard output and error are appended to `log`.
    pub fn new(
        name: impl Into<String>,
        program: impl Into<PathBuf>,
        log: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments: Vec::new(),
            variables: Vec::new(),
            folder: None,
            log: log.into(),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    /// Adds `--flag=value`.
    #[must_use]
    pub fn flag(self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        let mut argument = OsString::from(format!("--{flag}="));
        argument.push(value);
        self.arg(argument)
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, variable: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables
            .push((variable.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The folder it starts in.
    #[must_use]
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    fn command(&self) -> Result<Command> {
        if !self.program.is_file() {
            bail!(
                "{}: there is no program at {}",
                self.name,
                self.program.display()
            );
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| {
                format!("{}: cannot open its log {}", self.name, self.log.display())
            })?;
        let errors = log
            .try_clone()
            .with_context(|| format!("{}: cannot share its log", self.name))?;
        let mut command = Command::new("setpriv");
        for variable in PROXIES {
            command.env_remove(variable);
        }
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(&self.arguments)
            .envs(
                self.variables
                    .iter()
                    .map(|(variable, value)| (variable, value)),
            )
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        Ok(command)
    }
}

type Job = (
    String,
    PathBuf,
    Command,
    oneshot::Sender<std::io::Result<Process>>,
);

/// The thread that starts every child. The kernel's parent-death signal comes when the *thread*
/// that started a child ends, and a runtime's threads may end long before the process does.
fn starter() -> &'static mpsc::Sender<Job> {
    static STARTER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (send, receive) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (name, log, mut command, answer) in receive {
                let started = command
                    .spawn()
                    .map(|child| Process::watch(name, log, child));
                // A caller that is gone drops the answer, and with it the process is killed.
                let _ = answer.send(started);
            }
        });
        send
    })
}

/// A running child, or one that has ended.
///
/// Dropping it kills its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    /// True once the child is reaped: from then on its number may be another's.
    reaped: Arc<Mutex<bool>>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts a child as leader of a new process group.
    pub async fn spawn(spawn: Spawn) -> Result<Self> {
        let (answer, started) = oneshot::channel();
        let command = spawn.command()?;
        starter()
            .send((spawn.name.clone(), spawn.log, command, answer))
            .map_err(|_| anyhow!("{}: the thread that starts processes is gone", spawn.name))?;
        started
            .await
            .context("the thread that starts processes is gone")?
            .with_context(|| {
                format!(
                    "{}: cannot run setpriv, which is part of the package util-linux",
                    spawn.name
                )
            })
    }

    fn watch(name: String, log: PathBuf, child: Child) -> Self {
        let pid = Pid::from_child(&child);
        let reaped = Arc::new(Mutex::new(false));
        let (tell, ended) = watch::channel(None);
        let flag = Arc::clone(&reaped);
        std::thread::spawn(move || reap(child, pid, &flag, &tell));
        Self {
            name,
            pid,
            log,
            reaped,
            ended,
        }
    }

    /// Its process number, which is its group's too.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, once it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.clone();
        let status = ended.wait_for(Option::is_some).await.ok()?;
        *status
    }

    /// Sends a signal to the process itself. Nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        self.unless_reaped(|pid| kill_process(pid, signal));
    }

    /// Sends a signal to its process group. Nothing happens when it has ended.
    pub fn signal_group(&self, signal: Signal) {
        self.unless_reaped(|pid| kill_process_group(pid, signal));
    }

    fn unless_reaped(&self, send: impl FnOnce(Pid) -> rustix::io::Result<()>) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped && let Err(error) = send(self.pid) {
            tracing::debug!(process = self.name, %error, "a signal found nobody");
        }
    }

    /// Asks it to end with SIGTERM, and kills its group when it has not within `grace`.
    pub async fn stop(&self, grace: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(grace, self.wait()).await.is_err() {
            tracing::warn!(
                process = self.name,
                "did not end within {} s of SIGTERM, killed",
                grace.as_secs()
            );
            self.kill().await;
        }
    }

    /// Kills its group with SIGKILL and waits until it is gone.
    pub async fn kill(&self) {
        self.signal_group(Signal::KILL);
        self.wait().await;
    }

    /// The error of a process that ended or failed, with the end of its log.
    pub fn failure(&self, what: &str) -> anyhow::Error {
        let how = self
            .exit_status()
            .map_or_else(String::new, |status| format!(" ({status})"));
        anyhow!(
            "{} {what}{how}; the end of {}:\n{}",
            self.name,
            self.log.display(),
            tail(&self.log)
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal_group(Signal::KILL);
    }
}

/// Waits for a child's end, kills what it left of its group, and only then gives its number back.
fn reap(
    mut child: Child,
    pid: Pid,
    reaped: &Mutex<bool>,
    tell: &watch::Sender<Option<ExitStatus>>,
) {
    while let Err(error) = waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    ) {
        if error != rustix::io::Errno::INTR {
            break;
        }
    }
    let mut reaped = reaped.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait().ok();
    *reaped = true;
    tell.send_replace(status);
}

/// The command lines of all processes that name a folder, whoever started them.
pub fn naming(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&*folder))
        .collect()
}

/// The last lines of a log, as far as they can be read.
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(cannot be read: {error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Spawn {
        Spawn::new("shell", "/bin/sh", folder.join("log")).args(["-c", script])
    }

    #[tokio::test]
    async fn its_end_and_its_log_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::spawn(shell(folder.path(), "echo out; echo err >&2; exit 3"))
            .await
            .unwrap();
        assert_eq!(process.wait().await.unwrap().code(), Some(3));
        let message = process.failure("ended").to_string();
        assert!(
            message.contains("out") && message.contains("err"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn the_whole_group_dies_with_its_leader() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sleep 1000 & echo $! > child; exit 0";
        let process = Process::spawn(shell(folder.path(), script).current_dir(folder.path()))
            .await
            .unwrap();
        process.wait().await.unwrap();
        let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", child.trim()));
        // An orphan that was killed is gone, or a zombie until its new parent looks.
        let gone = || async {
            Ok(match std::fs::read_to_string(&stat) {
                Ok(stat) => stat.contains(") Z ").then_some(()),
                Err(_) => Some(()),
            })
        };
        crate::wait::until("the child's end", Duration::from_secs(60), gone)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let spawn = Spawn::new(
            "etcd",
            folder.path().join("etcd"),
            folder.path().join("log"),
        );
        let error = Process::spawn(spawn).await.unwrap_err().to_string();
        assert!(error.contains("there is no program at"), "{error}");
    }
}
