//! An image, and `ctl` to be asked about it.
#![allow(dead_code, reason = "each test file uses some of them")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

pub const SIZE: u64 = 24 << 20;

/// A folder with an ext4 image of v1.35.1 in it.
pub fn folder() -> (tempfile::TempDir, PathBuf) {
    // On the disk that cargo builds on: what is in /tmp may be memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tree = folder.path().join("tree");
    for folder in ["etc", "boot"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    fs::write(
        tree.join("etc/os-release"),
        "ID=test\nVERSION_ID=1.35\nIMAGE_VERSION=v1.35.1\n",
    )
    .unwrap();
    fs::write(tree.join("boot/vmlinuz"), "a kernel").unwrap();
    fs::write(tree.join("data"), vec![7; 9 << 20]).unwrap();
    let image = folder.path().join("rootfs.ext4");
    file_system(&tree, &image);
    (folder, image)
}

/// Makes an image of what is in a folder.
pub fn file_system(tree: &Path, image: &Path) {
    File::create(image).unwrap().set_len(SIZE).unwrap();
    let status = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-d"])
        .args([tree, image])
        .status()
        .unwrap();
    assert!(status.success());
}

pub fn ctl(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ctl"))
        .args(args)
        .current_dir(folder)
        .env_remove("http_proxy")
        .output()
        .unwrap()
}

/// What it has printed, and its exit code.
pub fn said(output: &Output) -> (String, i32) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (text, output.status.code().unwrap())
}

/// Why the question could not be asked.
pub fn complained(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The entry of the packed image, as JSON.
pub fn packed(folder: &Path) -> Value {
    let args = [
        "image",
        "pack",
        "rootfs.ext4",
        "-o",
        "rootfs.ext4.zst",
        "--level",
        "1",
        "--format",
        "json",
    ];
    let (text, code) = said(&ctl(folder, &args));
    assert_eq!(code, 0);
    serde_json::from_str(&text).unwrap()
}
