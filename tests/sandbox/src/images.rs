//! Root file systems as they are published: real ext4 with an os-release and boot files, compressed
//! with zstd.
//!
//! The same [`RootFs`] gives the same bytes wherever and whenever it is made.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sha2::{Digest as _, Sha256};

/// Seconds since 1970 that every time in the file system is set to.
const EPOCH: u64 = 1_700_000_000;
/// The file system's UUID and the seed of its directory hashes. Two slots written from one image
/// share them, as on real machines.
const UUID: &str = "5f0c5a5d-6d6b-4b38-9c1e-6d6f6e6f6b38";
/// The level of a build server that has time; decoding speed hardly depends on it.
const LEVEL: i32 = 3;

/// What a root file system is made of.
#[derive(Clone, Debug)]
pub struct RootFs {
    /// The version it is published as, such as `v1.35.1`.
    pub version: String,
    /// The version its os-release carries, when that is another.
    pub version_inside: Option<String>,
    /// Size of the file system in bytes, the expanded size of the image.
    pub size: u64,
    /// Bytes of incompressible content: how long a download takes.
    pub payload: u64,
    /// Whether it has a kernel.
    pub boot_files: bool,
    /// Whether it can be a running system's root: links into `/usr`, and the folders that other file
    /// systems are mounted on.
    pub mountable: bool,
}

impl RootFs {
    /// 32 MiB with 4 MiB of content.
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            version_inside: None,
            size: 32 << 20,
            payload: 4 << 20,
            boot_files: true,
            mountable: false,
        }
    }
}

/// A published image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The version it is published as.
    pub version: String,
    /// The expanded file system.
    pub expanded: PathBuf,
    /// The compressed file, `rootfs-VERSION.ext4.zst`.
    pub file: PathBuf,
    /// Bytes of the expanded file system.
    pub size: u64,
    /// Bytes of the compressed file.
    pub compressed_size: u64,
    /// SHA-256 of the compressed file, 64 hex digits.
    pub file_sha256: String,
    /// SHA-256 of the expanded file system, 64 hex digits.
    pub expanded_sha256: String,
}

impl Image {
    /// The compressed file's name.
    pub fn file_name(&self) -> String {
        format!("rootfs-{}.ext4.zst", self.version)
    }

    /// Its entry of a catalog, for a download from `url`.
    pub fn catalog_entry(&self, url: &str) -> String {
        format!(
            "- version: {}\n  url: {url}\n  checksum: sha256:{}\n  size: {}\n",
            self.version, self.file_sha256, self.size
        )
    }
}

/// Makes the image of `root` in `folder`.
pub fn build(folder: &Path, root: &RootFs) -> Result<Image> {
    let expanded = folder.join(format!("rootfs-{}.ext4", root.version));
    let file = folder.join(format!("rootfs-{}.ext4.zst", root.version));
    let tree = tempfile::tempdir_in(folder)
        .with_context(|| format!("cannot make a folder in {}", folder.display()))?;
    let paths = plant(tree.path(), root)?;
    make_file_system(tree.path(), &expanded, root.size)?;
    fix_times(&expanded, &paths)?;
    compress(&expanded, &file, root.size)?;
    Ok(Image {
        version: root.version.clone(),
        size: root.size,
        compressed_size: fs::metadata(&file)
            .context("the image just made is gone")?
            .len(),
        file_sha256: sha256(&file)?,
        expanded_sha256: sha256(&expanded)?,
        expanded,
        file,
    })
}

/// The text of a catalog: `stable` as given, one entry for each image and its URL, blocked versions.
pub fn catalog(entries: &[(&Image, String)], stable: Option<&str>, blocked: &[&str]) -> String {
    let mut text = String::new();
    if let Some(version) = stable {
        let _ = writeln!(text, "stable: {version}");
    }
    text.push_str("images:\n");
    for (image, url) in entries {
        text.push_str(&image.catalog_entry(url));
    }
    if !blocked.is_empty() {
        text.push_str("blocked:\n");
        for version in blocked {
            let _ = writeln!(text, "- {version}");
        }
    }
    text
}

/// Lays out the tree and returns its paths inside the file system.
fn plant(tree: &Path, root: &RootFs) -> Result<Vec<String>> {
    let inside = root.version_inside.as_ref().unwrap_or(&root.version);
    let number = inside.trim_start_matches('v');
    let os_release = format!(
        "NAME=\"Sandbox OS\"\nID=sandbox\nPRETTY_NAME=\"Sandbox OS {number}\"\nVERSION_ID={number}\n\
         IMAGE_ID=sandbox\nIMAGE_VERSION={number}\n"
    );
    let mut paths = Vec::new();
    let mut folder = |name: &str| -> Result<()> {
        fs::create_dir(tree.join(name)).with_context(|| format!("cannot make {name}"))?;
        paths.push(format!("/{name}"));
        Ok(())
    };
    for name in [
        "boot",
        "dev",
        "etc",
        "proc",
        "run",
        "sbin",
        "sys",
        "usr",
        "usr/lib",
        "usr/share",
        "var",
    ] {
        folder(name)?;
    }
    if root.mountable {
        for name in ["root", "tmp"] {
            folder(name)?;
        }
    }
    let mut file = |name: &str, content: &[u8]| -> Result<()> {
        fs::write(tree.join(name), content).with_context(|| format!("cannot write {name}"))?;
        paths.push(format!("/{name}"));
        Ok(())
    };
    file("usr/lib/os-release", os_release.as_bytes())?;
    file("sbin/init", b"#!/bin/sh\n")?;
    if root.boot_files {
        file("boot/vmlinuz", format!("kernel of {inside}\n").as_bytes())?;
    }
    file("usr/share/payload", &payload(root)?)?;
    // As os-release(5) says where the file is and where it is looked for.
    symlink("../usr/lib/os-release", tree.join("etc/os-release"))
        .context("cannot link os-release")?;
    paths.push("/etc/os-release".into());
    if root.mountable {
        for name in ["bin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), tree.join(name))
                .with_context(|| format!("cannot link {name}"))?;
            paths.push(format!("/{name}"));
        }
    }
    paths.extend(["/".into(), "/lost+found".into()]);
    Ok(paths)
}

/// Bytes that no compressor makes smaller, the same ones for the same version.
fn payload(root: &RootFs) -> Result<Vec<u8>> {
    let seed: [u8; 32] = Sha256::digest(root.version.as_bytes()).into();
    let mut bytes = vec![0; usize::try_from(root.payload).context("more content than memory")?];
    StdRng::from_seed(seed).fill_bytes(&mut bytes);
    Ok(bytes)
}

fn make_file_system(tree: &Path, image: &Path, size: u64) -> Result<()> {
    let file = File::create(image).with_context(|| format!("cannot make {}", image.display()))?;
    file.set_len(size)
        .with_context(|| format!("cannot give {} {size} bytes", image.display()))?;
    drop(file);
    let options =
        format!("root_owner=0:0,hash_seed={UUID},lazy_itable_init=0,lazy_journal_init=0,nodiscard");
    let mut command = e2fsprogs("mkfs.ext4")?;
    command
        .args([
            "-q", "-F", "-b", "4096", "-L", "rootfs", "-U", UUID, "-E", &options, "-d",
        ])
        .arg(tree)
        .arg(image)
        // The first is how e2fsprogs up to 1.47.0 is told what time it is, the second since.
        .env("E2FSPROGS_FAKE_TIME", EPOCH.to_string())
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    run(&mut command, "")
}

/// Sets the times of every file: `mkfs.ext4 -d` takes them from the tree, and nobody can set when a
/// file's status changed there.
fn fix_times(image: &Path, paths: &[String]) -> Result<()> {
    let mut script = String::new();
    for path in paths {
        for field in ["atime", "ctime", "mtime", "crtime"] {
            let _ = writeln!(script, "set_inode_field {path} {field} @{EPOCH}");
            let _ = writeln!(script, "set_inode_field {path} {field}_extra 0");
        }
        // Whoever makes the image, its files are root's.
        let _ = writeln!(
            script,
            "set_inode_field {path} uid 0\nset_inode_field {path} gid 0"
        );
    }
    let mut command = e2fsprogs("debugfs")?;
    command
        .args(["-w", "-f", "-"])
        .arg(image)
        .env("E2FSPROGS_FAKE_TIME", EPOCH.to_string())
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    run(&mut command, &script)
}

fn compress(expanded: &Path, file: &Path, size: u64) -> Result<()> {
    let mut input =
        File::open(expanded).with_context(|| format!("cannot open {}", expanded.display()))?;
    let output = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
    let work = || -> io::Result<()> {
        let mut encoder = zstd::Encoder::new(output, LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(size))?;
        io::copy(&mut input, &mut encoder)?;
        encoder.finish()?.flush()
    };
    work().with_context(|| format!("cannot compress {}", expanded.display()))
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            return Ok(HEXLOWER.encode(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// A program of e2fsprogs; Debian keeps them where an ordinary user's `PATH` does not lead.
fn e2fsprogs(program: &str) -> Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .map(Command::new)
        .with_context(|| {
            format!("there is no {program}: install the package e2fsprogs (`make setup`)")
        })
}

fn run(command: &mut Command, input: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("{program} does not read its input"))?;
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_root_file_system_gives_the_same_bytes() {
        let root = RootFs {
            size: 16 << 20,
            payload: 1 << 20,
            ..RootFs::new("v1.35.1")
        };
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = build(one.path(), &root).unwrap();
        // Times in the file system count seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let second = build(two.path(), &root).unwrap();
        assert_eq!(first.expanded_sha256, second.expanded_sha256);
        assert_eq!(first.file_sha256, second.file_sha256);
        assert_eq!(first.size, 16 << 20);
        assert!(first.compressed_size > 1 << 20);
        assert_eq!(
            fs::read_dir(one.path()).unwrap().count(),
            2,
            "nothing but the two files stays"
        );
    }

    #[test]
    fn the_catalog_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootFs {
            size: 16 << 20,
            payload: 0,
            ..RootFs::new("v1.35.1")
        };
        let image = build(folder.path(), &root).unwrap();
        let url = String::from("http://127.0.0.1:1/rootfs-v1.35.1.ext4.zst");
        let text = catalog(&[(&image, url)], Some("v1.35.1"), &["v1.34.0"]);
        let catalog = monok8s_api::catalog::Catalog::parse(&text).unwrap();
        assert_eq!(catalog.alias("stable"), Some("v1.35.1"));
        assert!(text.contains(&image.file_sha256));
    }
}
