//! Root file systems as they are published: real ext4, compressed with zstd.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// What a root file system is made of.
#[derive(Clone, Debug)]
pub struct RootFs {
    /// The version its os-release carries.
    pub version: String,
    /// Size of the file system in bytes, the expanded size of the image.
    pub size: u64,
    /// Bytes of incompressible content: how long a download takes.
    pub payload: u64,
    /// Boot files left out, to make a system that cannot start.
    pub without_boot_files: bool,
    /// Text of os-release instead of the usual one.
    pub os_release: Option<String>,
}

/// A published image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The version inside.
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

/// Makes the image of `root` in `folder`.
pub fn build(folder: &Path, root: &RootFs) -> Result<Image> {
    bail!("not yet: {} {}", folder.display(), root.version)
}

/// One entry of a catalog.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The image.
    pub image: Image,
    /// Where it is downloaded from.
    pub url: String,
}

/// The text of a catalog: an entry each, `stable` naming one of them, blocked versions.
pub fn catalog(entries: &[Entry], stable: Option<&str>, blocked: &[&str]) -> String {
    format!("{entries:?} {stable:?} {blocked:?}")
}
