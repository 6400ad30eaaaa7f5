//! The three programs, built for a machine by cargo.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::platform::Platform;

/// The programs in the image and the packages they are built from.
pub const PROGRAMS: [(&str, &str); 3] = [
    ("node-agent", "monok8s-node-agent"),
    ("controller", "monok8s-controller"),
    ("ctl", "monok8s-ctl"),
];

/// The programs in `folder`, all of them.
pub fn ready_built(folder: &Path) -> Result<Vec<PathBuf>> {
    PROGRAMS
        .iter()
        .map(|(name, _)| {
            let path = folder.join(name);
            ensure!(path.is_file(), "there is no {name} in {}", folder.display());
            Ok(path)
        })
        .collect()
}

/// Builds the programs as they are released, in the workspace at `root`, and says where they are.
///
/// The paths of this machine do not get into them: built from the same source by the same compiler, they are the same
/// in every folder.
pub fn build(root: &Path, target_folder: &Path, platform: Platform) -> Result<Vec<PathBuf>> {
    check_toolchain(root, platform)?;
    let target = platform.target();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .args(["build", "--release", "--locked", "--bins", "--target"])
        .arg(target)
        .arg("--target-dir")
        .arg(target_folder);
    for (_, package) in PROGRAMS {
        cargo.args(["--package", package]);
    }
    let renamed = renamed_paths(root, target_folder);
    let flags = rust_flags(&renamed)?;
    cargo
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    let underscored = target.replace('-', "_");
    cargo.env(
        format!("CFLAGS_{underscored}"),
        c_flags(&renamed, &underscored),
    );
    if Platform::own() != Some(platform) {
        let linker = format!("{}-gcc", platform.gnu());
        let upper = underscored.to_uppercase();
        cargo.env(format!("CARGO_TARGET_{upper}_LINKER"), &linker);
        cargo.env(format!("CC_{underscored}"), &linker);
    }
    let status = cargo.status().context("cargo")?;
    ensure!(
        status.success(),
        "cargo could not build the programs for {platform}: {status}"
    );
    ready_built(&target_folder.join(target).join("release"))
}

/// What must be installed to build for `platform`, each with the way to get it.
fn check_toolchain(root: &Path, platform: Platform) -> Result<()> {
    let mut missing = Vec::new();
    let libraries = Command::new("rustc")
        .current_dir(root)
        .args(["--print", "target-libdir", "--target", platform.target()])
        .output()
        .context("rustc")?;
    let folder = String::from_utf8_lossy(&libraries.stdout);
    if !libraries.status.success() || !Path::new(folder.trim()).is_dir() {
        missing.push(format!(
            "Rust's standard library for it (rustup target add {})",
            platform.target()
        ));
    }
    if Platform::own() != Some(platform) {
        let gcc = format!("{}-gcc", platform.gnu());
        if Command::new(&gcc).arg("--version").output().is_err() {
            missing.push(format!(
                "a C compiler for it (apt-get install {})",
                platform.cross_compiler_package()
            ));
        }
    }
    if !missing.is_empty() {
        bail!("the image for {platform} needs {}", missing.join(" and "));
    }
    Ok(())
}

/// Folders of this machine, and what the programs are to call them. A later one wins over an earlier one.
fn renamed_paths(root: &Path, target_folder: &Path) -> Vec<(PathBuf, &'static str)> {
    let home = env::home_dir().unwrap_or_default();
    let cargo = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    vec![
        (root.to_path_buf(), "/monok8s"),
        (target_folder.to_path_buf(), "/monok8s/target"),
        (cargo, "/cargo"),
    ]
}

/// The caller's own flags and the renamed paths, as cargo takes them from `CARGO_ENCODED_RUSTFLAGS`.
fn rust_flags(renamed: &[(PathBuf, &str)]) -> Result<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    if let Some(encoded) = env::var_os("CARGO_ENCODED_RUSTFLAGS").filter(|f| !f.is_empty()) {
        flags.push(encoded);
    } else if let Ok(plain) = env::var("RUSTFLAGS") {
        flags.extend(plain.split_whitespace().map(OsString::from));
    }
    for (from, to) in renamed {
        let from = from.to_str().context("a folder's name is no text")?;
        flags.push(format!("--remap-path-prefix={from}={to}").into());
    }
    Ok(flags.join(&OsString::from("\u{1f}")))
}

/// The same for what is written in C.
fn c_flags(renamed: &[(PathBuf, &str)], target: &str) -> String {
    let own = env::var(format!("CFLAGS_{target}")).or_else(|_| env::var("CFLAGS"));
    let mut flags: Vec<String> = own.into_iter().collect();
    for (from, to) in renamed {
        flags.push(format!("-ffile-prefix-map={}={to}", from.display()));
    }
    flags.join(" ")
}
