//! What becomes of all this for somebody who is not root: a plain line, and no failure.

use std::{env, fs::File, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use monok8s_sandbox::skip;

use crate::bench::Bench;

/// `make test` as any other user: the programs are not looked for, and no test fails.
pub(crate) async fn every_test_says_that_it_is_skipped(_: &Bench) -> Result<()> {
    let own = env::current_exe().context("cannot tell where this program stands")?;
    let mode = own
        .metadata()
        .context("this program is gone")?
        .permissions();
    if mode.mode() & 0o005 != 0o005 {
        skip::say("what was built here is for nobody else to run (umask)");
        return Ok(());
    }
    let said = as_nobody(&own, &["power_cuts"])?;
    ensure!(
        said.starts_with("skipped ")
            && said.ends_with(" tests on real nodes: real nodes need root\n"),
        "{said}"
    );
    let cluster = Path::new(env!("CARGO_BIN_EXE_cluster"));
    let said = as_nobody(cluster, &["assets"])?;
    ensure!(said == "real nodes need root\n", "{said}");
    Ok(())
}

/// What a program says to a user without rights, who need not be able to reach its folder.
fn as_nobody(program: &Path, arguments: &[&str]) -> Result<String> {
    let open = File::open(program).with_context(|| format!("no {}", program.display()))?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg("/proc/self/fd/0")
        .args(arguments)
        .stdin(open)
        .output()
        .context("cannot run setpriv, which is in the Debian package util-linux")?;
    ensure!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).context("that is no text")
}
