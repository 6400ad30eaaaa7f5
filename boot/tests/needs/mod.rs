//! What a test needs of this machine, and what becomes of the test without it.

use std::{io::Write as _, path::Path};

/// Whether a program is here. Without it a test of root's fails, who can install it (`make setup-test`
/// does); other users' tests are skipped.
#[allow(dead_code, reason = "not every test program needs programs")]
pub(crate) fn program(program: &str, package: &str) -> bool {
    let there = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists());
    if !there {
        let line = format!("{program} is not installed (apt-get install {package})");
        assert!(!rustix::process::geteuid().is_root(), "{line}");
        skipped(&line);
    }
    there
}

/// Says that a test is skipped, past the harness, which shows nothing of a test that passes.
pub(crate) fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}
