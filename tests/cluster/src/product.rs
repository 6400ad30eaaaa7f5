//! The product's container image, of the programs that stand beside this one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use anyhow::{Context, Result};
use monok8s_packaging::{
    build::{self, Order},
    image::About,
    platform::Platform,
    programs,
};
use monok8s_sandbox::{binaries, scratch};

use crate::network::run;

/// What the manifests call it.
pub const NAME: &str = "localhost/monok8s/ota:local";

/// Fast: it is unpacked a moment later.
const LEVEL: i32 = 1;

/// Packs the image under a name, and returns its archive in `folder`. Two with another `revision` are
/// different images.
pub fn archive(folder: &Path, name: &str, revision: &str) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let stripped = tempfile::tempdir_in(folder).context("no folder for the programs")?;
    let mut newest = UNIX_EPOCH;
    for (program, _) in programs::PROGRAMS {
        let path = binaries::find(program)?;
        let modified = fs::metadata(&path).and_then(|about| about.modified());
        newest = newest.max(modified.with_context(|| format!("cannot look at {program}"))?);
        // What debuggers need is nine tenths of a program, and every node has to unpack it.
        let copy = stripped.path().join(program);
        run(Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(&copy)
            .arg(&path))?;
    }
    let platform = Platform::own().context("images are made for amd64 and arm64")?;
    let epoch = newest
        .duration_since(UNIX_EPOCH)
        .context("a program from before 1970")?;
    let built = build::build(&Order {
        root: scratch::repository(),
        about: About {
            name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: Some(revision.to_owned()),
            epoch: epoch.as_secs(),
        },
        programs: BTreeMap::from([(platform, programs::ready_built(stripped.path())?)]),
        level: LEVEL,
        output: folder.to_path_buf(),
    })?;
    Ok(built.archive)
}
