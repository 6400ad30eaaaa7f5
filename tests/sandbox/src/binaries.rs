//! The project's own programs, which stand beside this one.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The path of one of the workspace's programs, such as `node-agent`.
///
/// It is looked for beside the running program and one folder up: a test's program stands in
/// `target/debug/deps`, the programs it needs in `target/debug`.
pub fn find(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program stands")?;
    let folder = own.parent().context("this program has no folder")?;
    for place in [Some(folder), folder.parent()].into_iter().flatten() {
        let path = place.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "there is no {name} in {} or above it: build it with `cargo build --workspace`",
        folder.display()
    )
}
