//! The container images that a node has besides the product's: made here, from no registry.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::network::run;

/// What holds a pod's namespaces.
pub const PAUSE: &str = "localhost/monok8s/pause:test";
/// A shell and the usual programs, for workloads.
pub const TOOLBOX: &str = "localhost/monok8s/toolbox:test";

const PAUSE_SOURCE: &str = include_str!("../../container-runtime/pause.c");

/// Makes the archives of both in `folder`.
pub fn make(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let work = tempfile::tempdir_in(folder).context("no folder for container images")?;
    let (pause, toolbox) = (folder.join("pause.tar"), folder.join("toolbox.tar"));
    let root = work.path().join("pause");
    fs::create_dir(&root).context("no folder for an image")?;
    compile(PAUSE_SOURCE, &root.join("pause"))?;
    archive(&root, PAUSE, &["/pause"], &pause)?;
    let root = work.path().join("toolbox");
    plant_toolbox(&root)?;
    archive(&root, TOOLBOX, &["/bin/sh"], &toolbox)?;
    Ok(vec![pause, toolbox])
}

fn compile(source: &str, program: &Path) -> Result<()> {
    let file = program.with_extension("c");
    fs::write(&file, source).context("cannot write a source file")?;
    run(Command::new("gcc")
        .args(["-Os", "-static", "-s", "-o"])
        .arg(program)
        .arg(&file))?;
    fs::remove_file(&file).context("cannot remove a source file")
}

fn plant_toolbox(root: &Path) -> Result<()> {
    for folder in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(folder)).context("no folder for an image")?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let busybox = busybox.context("busybox is missing (Debian's busybox-static)")?;
    fs::copy(busybox, root.join("bin/busybox")).context("cannot copy busybox")?;
    let list = Command::new(busybox)
        .arg("--list")
        .output()
        .context("cannot run busybox")?;
    for name in String::from_utf8_lossy(&list.stdout).lines() {
        if name != "busybox" {
            symlink("busybox", root.join("bin").join(name)).context("cannot link a program")?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")
        .and_then(|()| fs::write(root.join("etc/group"), "root:x:0:\n"))
        .context("cannot write passwd and group")
}

/// Packs `root` as an image of one layer, in the form that `ctr images import` takes.
pub fn archive(root: &Path, name: &str, entrypoint: &[&str], out: &Path) -> Result<()> {
    let folder = out.parent().unwrap_or(Path::new("."));
    let work = tempfile::tempdir_in(folder).context("no folder for a layer")?;
    let layer = work.path().join("layer.tar");
    let owner = [
        "--numeric-owner",
        "--owner=0",
        "--group=0",
        "--sort=name",
        "--mtime=@0",
    ];
    run(Command::new("tar")
        .arg("-C")
        .arg(root)
        .args(owner)
        .arg("-cf")
        .arg(&layer)
        .arg("."))?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Entrypoint": entrypoint,
            "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)]},
        "history": [{"created": "1970-01-01T00:00:00Z"}],
    });
    let config_file = work.path().join("config.json");
    write(&config_file, &config)?;
    let named = format!("{}.json", sha256(&config_file)?);
    fs::rename(&config_file, work.path().join(&named)).context("cannot name a file")?;
    let manifest = json!([{"Config": named, "RepoTags": [name], "Layers": ["layer.tar"]}]);
    write(&work.path().join("manifest.json"), &manifest)?;
    run(Command::new("tar")
        .arg("-C")
        .arg(work.path())
        .args(owner)
        .arg("-cf")
        .arg(out)
        .args(["manifest.json", &named, "layer.tar"]))
}

fn write(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, value.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file =
        fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer).context("cannot read a layer")?;
        if read == 0 {
            return Ok(HEXLOWER.encode(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}
