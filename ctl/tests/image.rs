//! Images by hand: packed, looked into, and written to a virtual node's slot.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "shared functions of tests"
)]

mod virtual_node;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use monok8s_boot::{BootLoader as _, SlotName, host::VirtualNode, loader::grub::Grub};
use serde_json::Value;

const SIZE: u64 = 24 << 20;

/// A folder with an ext4 image of v1.35.1 in it.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(
        tree.join("etc/os-release"),
        "ID=test\nVERSION_ID=1.35\nIMAGE_VERSION=v1.35.1\n",
    )
    .unwrap();
    fs::write(tree.join("data"), vec![7; 9 << 20]).unwrap();
    let image = folder.path().join("rootfs.ext4");
    File::create(&image).unwrap().set_len(SIZE).unwrap();
    let status = Command::new("mkfs.ext4")
        .args(["-q", "-d"])
        .args([&tree, &image])
        .status()
        .unwrap();
    assert!(status.success());
    (folder, image)
}

fn ctl(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ctl"))
        .args(args)
        .current_dir(folder)
        .env_remove("http_proxy")
        .output()
        .unwrap()
}

fn said(output: &Output) -> (String, i32) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (text, output.status.code().unwrap())
}

fn complained(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The entry of the packed image, as JSON.
fn packed(folder: &Path) -> Value {
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

#[test]
fn what_is_packed_is_a_catalog_entry() {
    let (folder, image) = folder();
    let folder = folder.path();
    let args = [
        "image",
        "pack",
        "rootfs.ext4",
        "-o",
        "rootfs.ext4.zst",
        "--url",
    ];
    let url = "https://images.example/rootfs.ext4.zst";
    let (entry, code) = said(&ctl(folder, &[&args[..], &[url]].concat()));
    assert_eq!(code, 0);
    let checksum = &sha256sum(&image)[..64];
    assert_eq!(
        entry,
        format!(
            "- version: v1.35.1\n  url: {url}\n  checksum: sha256:{checksum}\n  size: {SIZE}\n"
        )
    );
    // Which a catalog takes as it is.
    fs::write(folder.join("catalog.yaml"), format!("images:\n{entry}")).unwrap();
    let (verdict, code) = said(&ctl(
        folder,
        &["catalog", "check", "--strict", "catalog.yaml"],
    ));
    assert_eq!(code, 0, "{verdict}");

    let complaint = complained(&ctl(folder, &[&args[..], &[url]].concat()));
    assert!(complaint.contains("--force"), "{complaint}");
    assert!(!folder.join("rootfs.ext4.zst.part").exists());
}

#[test]
fn an_image_without_a_version_is_not_packed_without_one() {
    let (folder, _) = folder();
    let folder = folder.path();
    fs::write(folder.join("noise"), vec![1; 5 << 20]).unwrap();
    let args = ["image", "pack", "noise", "-o", "noise.zst"];
    let complaint = complained(&ctl(folder, &args));
    assert!(complaint.contains("--version"), "{complaint}");
    assert!(!folder.join("noise.zst").exists());
    let (entry, code) = said(&ctl(
        folder,
        &[&args[..], &["--version", "1.36.0"]].concat(),
    ));
    assert_eq!(code, 0);
    assert!(entry.starts_with("- version: v1.36.0\n"), "{entry}");
}

#[test]
fn a_file_and_a_url_are_looked_into() {
    let (folder, _) = folder();
    let folder = folder.path();
    let entry = packed(folder);
    let (port, serving) = serve(&folder.join("rootfs.ext4.zst"));
    let url = format!("http://127.0.0.1:{port}/rootfs.ext4.zst?token=secret");
    for source in ["rootfs.ext4.zst", &url] {
        let output = ctl(folder, &["image", "inspect", source, "-o", "json"]);
        let (text, code) = said(&output);
        assert_eq!(code, 0, "{output:?}");
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["version"], "v1.35.1");
        assert_eq!(found["imageChecksum"], entry["checksum"]);
        assert_eq!(found["imageBytes"], SIZE);
        assert_eq!(found["frames"], SIZE.div_ceil(4 << 20));
        assert_eq!(
            (&found["seekTable"], &found["packed"]),
            (&"right".into(), &true.into())
        );
        assert!(!text.contains("secret"));
    }
    serving.join().unwrap();
    fs::write(folder.join("page"), "<!DOCTYPE html><title>Log in").unwrap();
    let (text, code) = said(&ctl(folder, &["image", "inspect", "page"]));
    assert_eq!(code, 1);
    assert!(text.contains("the server sent HTML"), "{text}");
    complained(&ctl(folder, &["image", "inspect", "nowhere"]));
}

/// The name says nothing: all three are called the same.
#[test]
fn other_formats_are_told_by_their_content_and_written() {
    let (folder, image) = folder();
    let folder = folder.path();
    let node = node(folder);
    let other = node.dir().join("slot-b.img");
    let content = fs::read(&image).unwrap();
    let checksum = format!("sha256:{}", &sha256sum(&image)[..64]);
    let mut gzip = Vec::new();
    flate2::read::GzEncoder::new(&content[..], flate2::Compression::fast())
        .read_to_end(&mut gzip)
        .unwrap();
    let mut xz = Vec::new();
    liblzma::read::XzEncoder::new(&content[..], 0)
        .read_to_end(&mut xz)
        .unwrap();
    let plain = content.clone();
    for (file, format) in [(gzip, "gzip"), (xz, "xz"), (plain, "uncompressed")] {
        fs::write(folder.join("image.zst"), file).unwrap();
        let args = ["image", "inspect", "image.zst", "-o", "json"];
        let (text, code) = said(&ctl(folder, &args));
        assert_eq!(code, 0, "{text}");
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["format"], format);
        assert_eq!(found["version"], "v1.35.1");
        assert_eq!(found["imageChecksum"], *checksum);
        assert_eq!(
            (&found["seekTable"], &found["packed"]),
            (&"none".into(), &false.into())
        );
        let args = [
            "image",
            "write",
            "image.zst",
            "B",
            "--checksum",
            &checksum,
            "--sandbox",
            "node",
            "--state-dir",
            ".",
        ];
        let (text, code) = said(&ctl(folder, &args));
        assert_eq!(code, 0, "{text}");
        assert!(fs::read(&other).unwrap() == content);
        fs::write(&other, vec![0xA5; content.len()]).unwrap();
    }
}

fn sha256sum(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Serves a file once.
fn serve(file: &Path) -> (u16, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let bytes = fs::read(file).unwrap();
    let serving = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            connection.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            bytes.len()
        );
        connection.write_all(head.as_bytes()).unwrap();
        connection.write_all(&bytes).unwrap();
    });
    (port, serving)
}

/// A virtual node that runs slot A.
fn node(folder: &Path) -> VirtualNode {
    let node = virtual_node::running_slot_a(folder.join("node"));
    for slot in SlotName::BOTH {
        let name = format!("slot-{}.img", slot.as_str().to_lowercase());
        let slot = File::create(node.dir().join(name)).unwrap();
        slot.set_len(SIZE).unwrap();
        slot.write_all_at(&vec![0xA5; 1 << 20], 0).unwrap();
    }
    Grub::new(node.grubenv()).mark_good(SlotName::B).unwrap();
    Grub::new(node.grubenv()).mark_good(SlotName::A).unwrap();
    node
}

#[test]
fn the_slot_that_does_not_run_is_written_and_nothing_else() {
    let (folder, image) = folder();
    let folder = folder.path();
    let entry = packed(folder);
    let checksum = entry["checksum"].as_str().unwrap();
    let node = node(folder);
    let other = node.dir().join("slot-b.img");
    let to = |device: &str, checksum: &str| {
        let args = [
            "image",
            "write",
            "rootfs.ext4.zst",
            device,
            "--checksum",
            checksum,
        ];
        ctl(
            folder,
            &[
                &args[..],
                &["--sandbox", "node", "--state-dir", ".", "-o", "json"],
            ]
            .concat(),
        )
    };
    let grub = Grub::new(node.grubenv());
    assert!(grub.state().unwrap().ok(SlotName::B));

    // The running slot, and what is no slot.
    let complaint = complained(&to("A", checksum));
    assert!(
        complaint.contains("running") || complaint.contains("active"),
        "{complaint}"
    );
    let complaint = complained(&to("rootfs.ext4", checksum));
    assert!(complaint.contains("neither slot"), "{complaint}");
    assert!(
        grub.state().unwrap().ok(SlotName::B),
        "nothing was to be changed"
    );

    let (text, code) = said(&to(other.to_str().unwrap(), checksum));
    assert_eq!(code, 0, "{text}");
    let outcome: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(outcome["slot"], "B");
    assert_eq!(outcome["version"], "v1.35.1");
    assert_eq!(outcome["checksumMatched"], "Image");
    assert!(fs::read(&other).unwrap() == fs::read(&image).unwrap());
    // Most of the image is zeros, and those are holes.
    assert!(outcome["cleared"].as_u64().unwrap() > SIZE / 4);
    assert!(fs::metadata(&other).unwrap().blocks() * 512 < SIZE * 3 / 4);
    let state = grub.state().unwrap();
    assert!(!state.ok(SlotName::B) && state.ok(SlotName::A));
    assert_eq!((state.default, state.trial), (Some(SlotName::A), None));

    let wrong = format!("sha256:{:064}", 0);
    let (text, code) = said(&to("B", &wrong));
    assert_eq!(code, 1);
    assert!(text.contains("checksum does not match"), "{text}");
}
