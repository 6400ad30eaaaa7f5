//! A reboot by a program of the integrator's.

use std::path::PathBuf;
use std::process::Stdio;

use async_trait::async_trait;

use super::{LIMIT, Reboot, RebootError};

/// A program without arguments that makes the machine reboot and exits with 0 when it has begun.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its absolute path.
    pub path: PathBuf,
}

#[async_trait]
impl Reboot for Command {
    async fn reboot(&self) -> Result<(), RebootError> {
        let failed = |how: String| RebootError {
            tried: format!("the command {} {how}", self.path.display()),
        };
        let mut command = tokio::process::Command::new(&self.path);
        let child = command.stdin(Stdio::null()).kill_on_drop(true).status();
        match tokio::time::timeout(LIMIT, child).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(failed(format!("ended with {status}"))),
            Ok(Err(e)) => Err(failed(format!("could not be started: {e}"))),
            Err(_) => Err(failed(format!("did not end within {} s", LIMIT.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn its_exit_status_tells() {
        let run = |path: &str| Command { path: path.into() };
        assert!(run("/bin/true").reboot().await.is_ok());
        let said = run("/bin/false").reboot().await.unwrap_err().to_string();
        assert!(
            said.contains("/bin/false") && said.contains("exit status: 1"),
            "{said}"
        );
        let said = run("/nonexistent").reboot().await.unwrap_err().to_string();
        assert!(said.contains("could not be started"), "{said}");
    }
}
