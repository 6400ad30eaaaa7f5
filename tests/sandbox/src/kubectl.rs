//! The real `kubectl`, run as a user runs it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt as _;

/// How long one call may take; `kubectl wait` brings its own, shorter limit.
const LIMIT: Duration = Duration::from_secs(300);

/// What a call printed and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
}

impl Output {
    /// True when the exit code is 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// A `kubectl` and the identity it uses.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// `cache` is where it may keep what it learnt of the API (instead of the home folder).
    pub fn new(
        program: impl Into<PathBuf>,
        kubeconfig: impl Into<PathBuf>,
        cache: impl Into<PathBuf>,
    ) -> Self {
        Self {
            program: program.into(),
            kubeconfig: kubeconfig.into(),
            cache: cache.into(),
        }
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The kubeconfig it uses.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The same program as somebody else.
    #[must_use]
    pub fn with_kubeconfig(&self, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            kubeconfig: kubeconfig.into(),
            ..self.clone()
        }
    }

    /// Runs it, whatever comes of it.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Output> {
        self.run_with_input(arguments, "").await
    }

    /// Runs it with `input` as its standard input.
    pub async fn run_with_input<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
    ) -> Result<Output> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let mut stdin = child
            .stdin
            .take()
            .context("kubectl has no standard input")?;
        let write = async move {
            // A kubectl that ends without reading all of it says why itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let both = async { tokio::join!(child.wait_with_output(), write).0 };
        let output = tokio::time::timeout(LIMIT, both)
            .await
            .with_context(|| format!("kubectl did not end within {} s", LIMIT.as_secs()))?
            .context("cannot wait for kubectl")?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        })
    }

    /// Runs it and returns what it printed; its error when it fails.
    pub async fn ok<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        self.ok_with_input(arguments, "").await
    }

    /// Like [`ok`](Self::ok), with `input` as its standard input.
    pub async fn ok_with_input<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
    ) -> Result<String> {
        let arguments: Vec<A> = arguments.into_iter().collect();
        let typed: Vec<_> = arguments
            .iter()
            .map(|argument| argument.as_ref().to_string_lossy())
            .collect();
        let typed = typed.join(" ");
        let output = self.run_with_input(&arguments, input).await?;
        if !output.success() {
            bail!("kubectl {typed}: {}{}", output.stderr, output.stdout);
        }
        Ok(output.stdout)
    }

    /// `kubectl apply -f -` of `manifest`.
    pub async fn apply(&self, manifest: &str) -> Result<String> {
        self.ok_with_input(["apply", "-f", "-"], manifest).await
    }

    /// The command itself, for a caller that wants its streams; killed when the handle is dropped.
    pub fn command<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache)
            // The user's own preferences and aliases.
            .env("KUBERC", "off")
            .args(arguments)
            .kill_on_drop(true);
        command
    }
}
