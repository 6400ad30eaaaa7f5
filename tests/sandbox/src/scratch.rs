//! Where temporary folders go: beside the build's own output, on a disk.
//!
//! The system's folder for temporary files is often memory, and a node's data folder in memory is
//! what the agent must refuse (`StateNotPersistent`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Variable that names another place for temporary folders.
pub const VARIABLE: &str = "MONOK8S_SCRATCH";

/// The root of the source tree.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// A new folder whose name begins with `prefix`, removed when the value is dropped.
pub fn folder(prefix: &str) -> Result<TempDir> {
    let parent = std::env::var_os(VARIABLE).map_or_else(
        || repository().join("target").join("scratch"),
        PathBuf::from,
    );
    std::fs::create_dir_all(&parent).with_context(|| {
        format!(
            "cannot make {}; set {VARIABLE} to a folder you may write",
            parent.display()
        )
    })?;
    tempfile::Builder::new()
        .prefix(&format!("{prefix}-"))
        .tempdir_in(&parent)
        .with_context(|| format!("cannot make a folder in {}", parent.display()))
}
