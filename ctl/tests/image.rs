//! Images by hand: packed, looked into, and written to a virtual node's slot.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "shared functions of tests"
)]

mod images;
mod virtual_node;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use images::{SIZE, complained, ctl, file_system, folder, packed, said};
use monok8s_boot::{BootLoader as _, SlotName, host::VirtualNode, loader::grub::Grub};
use serde_json::Value;

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

/// What is packed twice nobody could install.
#[test]
fn only_what_is_not_compressed_is_packed() {
    let (folder, _) = folder();
    let folder = folder.path();
    packed(folder);
    fs::write(folder.join("page"), "<!DOCTYPE html><title>Log in").unwrap();
    for (file, why) in [("rootfs.ext4.zst", "it is zstd already"), ("page", "HTML")] {
        let args = [
            "image",
            "pack",
            file,
            "-o",
            "twice.zst",
            "--version",
            "v1.0.0",
        ];
        let complaint = complained(&ctl(folder, &args));
        assert!(complaint.contains(why), "{complaint}");
        assert!(!folder.join("twice.zst").exists());
    }
}

/// However many cores there are.
#[test]
fn one_core_packs_the_same_file() {
    let (folder, _) = folder();
    let folder = folder.path();
    packed(folder);
    let allowed = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = allowed
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    let first = allowed.trim().split([',', '-']).next().unwrap();
    let status = Command::new("taskset")
        .args(["-c", first, env!("CARGO_BIN_EXE_ctl")])
        .args("image pack rootfs.ext4 -o alone.zst --level 1".split(' '))
        .current_dir(folder)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let packed = |name: &str| fs::read(folder.join(name)).unwrap();
    assert!(packed("alone.zst") == packed("rootfs.ext4.zst"));
}

/// On a terminal, and there alone.
#[test]
fn a_bar_is_shown_to_whoever_looks() {
    let (folder, _) = folder();
    let folder = folder.path();
    let node = node(folder);
    let entry = packed(folder);
    let on_a_terminal = |args: &str| {
        let output = Command::new("script")
            .args(["-qec", &format!("{} {args}", env!("CARGO_BIN_EXE_ctl"))])
            .arg("/dev/null")
            .current_dir(folder)
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let write = format!(
        "image write rootfs.ext4.zst B --checksum {} --sandbox {} --state-dir .",
        entry["checksum"].as_str().unwrap(),
        node.dir().display()
    );
    for (args, bar) in [
        ("image pack rootfs.ext4 -o again.zst", "packing"),
        ("image inspect rootfs.ext4.zst", "reading"),
        (&write, "writing"),
    ] {
        let shown = on_a_terminal(args);
        assert!(shown.contains(bar) && shown.contains("B/s"), "{shown:?}");
    }
    let piped = ctl(folder, &["image", "inspect", "rootfs.ext4.zst"]);
    assert!(piped.stderr.is_empty(), "{piped:?}");
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

/// Writes to slot B of the node.
fn write(folder: &Path, file: &str, checksum: &str, more: &[&str]) -> (Value, i32) {
    let args = ["image", "write", file, "B", "--checksum", checksum];
    let sandbox = ["--sandbox", "node", "--state-dir", ".", "-o", "json"];
    let output = ctl(folder, &[&args[..], &sandbox, more].concat());
    let (text, code) = said(&output);
    (
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}")),
        code,
    )
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

/// A slot is marked before its first byte changes, and not for nothing.
#[test]
fn what_is_no_image_leaves_the_slot_as_it_was() {
    let (folder, image) = folder();
    let folder = folder.path();
    let entry = packed(folder);
    let checksum = entry["checksum"].as_str().unwrap();
    let node = node(folder);
    let other = node.dir().join("slot-b.img");
    // xz's dictionary is 8 MiB.
    let content = fs::read(&image).unwrap();
    let mut xz = Vec::new();
    liblzma::read::XzEncoder::new(&content[..], 6)
        .read_to_end(&mut xz)
        .unwrap();
    fs::write(folder.join("rootfs.ext4.xz"), xz).unwrap();
    let before = fs::read(&other).unwrap();
    let grub = Grub::new(node.grubenv());
    fs::write(folder.join("page"), "<!DOCTYPE html><title>Log in").unwrap();
    let too_large = ["--size", "25165825"];
    let too_wide = ["--window-limit", "1Mi"];
    for (file, more, why) in [
        ("page", &[][..], "the server sent HTML"),
        ("rootfs.ext4.zst", &too_large, "does not fit"),
        ("rootfs.ext4.xz", &too_wide, "the limit is 1048576"),
    ] {
        let (outcome, code) = write(folder, file, checksum, more);
        assert_eq!(code, 1, "{outcome}");
        let error = outcome["error"].as_str().unwrap();
        assert!(error.contains(file) && error.contains(why), "{error}");
        assert_eq!(outcome["changed"], false);
        assert!(grub.state().unwrap().ok(SlotName::B), "{file}");
        assert!(fs::read(&other).unwrap() == before, "{file}");
    }
    let args = ["image", "inspect", "rootfs.ext4.xz"];
    let (text, code) = said(&ctl(folder, &[&args[..], &too_wide].concat()));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the limit is 1048576"), "{text}");
    // Nor is anything written that the boot loader cannot be told of.
    fs::remove_file(node.grubenv()).unwrap();
    let args = ["image", "write", "rootfs.ext4.zst", "B", "--checksum"];
    let sandbox = ["--sandbox", "node", "--state-dir", "."];
    let output = ctl(folder, &[&args[..], &[checksum], &sandbox].concat());
    let complaint = complained(&output);
    assert!(complaint.contains("nothing was written"), "{complaint}");
    assert!(fs::read(&other).unwrap() == before);
}

/// What the agent would not boot is told as a no, whatever was proven.
#[test]
fn what_is_no_system_is_refused_though_it_is_what_was_promised() {
    let (folder, image) = folder();
    let folder = folder.path();
    let node = node(folder);
    let other = node.dir().join("slot-b.img");
    let checksum = |image: &Path| format!("sha256:{}", &sha256sum(image)[..64]);
    let wrong = ["--version", "v1.36.0"];
    let right = ["--version", "1.35.1"];
    let good = checksum(&image);
    let (outcome, code) = write(folder, "rootfs.ext4", &good, &wrong);
    assert_eq!(code, 1);
    let error = outcome["error"].as_str().unwrap();
    assert!(
        error.contains("v1.36.0") && error.contains("v1.35.1"),
        "{error}"
    );
    assert_eq!(write(folder, "rootfs.ext4", &good, &right).1, 0);

    fs::remove_file(folder.join("tree/boot/vmlinuz")).unwrap();
    let empty = folder.join("no-kernel.ext4");
    file_system(&folder.join("tree"), &empty);
    let no_kernel = checksum(&empty);
    let (outcome, code) = write(folder, "no-kernel.ext4", &no_kernel, &[]);
    assert_eq!((code, &outcome["imageBytes"]), (1, &SIZE.into()));
    let error = outcome["error"].as_str().unwrap();
    assert!(error.contains("/boot/vmlinuz"), "{error}");
    assert!(fs::read(&other).unwrap() == fs::read(&empty).unwrap());
    let (_, code) = write(folder, "no-kernel.ext4", &no_kernel, &["--boot-file="]);
    assert_eq!(code, 0);
}

#[test]
fn what_the_slot_holds_is_not_written_again_when_asked() {
    let (folder, _) = folder();
    let folder = folder.path();
    let entry = packed(folder);
    let checksum = entry["checksum"].as_str().unwrap();
    let node = node(folder);
    let grub = Grub::new(node.grubenv());
    let compare = ["--compare-before-write"];
    for (changed, unchanged) in [(true, false), (false, true)] {
        grub.mark_good(SlotName::B).unwrap();
        grub.mark_good(SlotName::A).unwrap();
        let (outcome, code) = write(folder, "rootfs.ext4.zst", checksum, &compare);
        assert_eq!(
            (code, &outcome["changed"]),
            (0, &changed.into()),
            "{outcome}"
        );
        assert_eq!(outcome["unchanged"] == SIZE, unchanged, "{outcome}");
        assert_eq!(grub.state().unwrap().ok(SlotName::B), unchanged);
    }
}
