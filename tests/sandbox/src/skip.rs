//! Tests that this machine, or this user, cannot run.

use std::io::Write as _;

/// Says that the running test is skipped, past the harness, which shows nothing of a test that
/// passes.
///
/// For what only another user or another kernel can give. A missing program is no reason for root,
/// who can install it (`make setup-test`): there the test is to fail.
pub fn say(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Nobody is left to tell.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}
