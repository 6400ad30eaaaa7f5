//! The image and what is made of it, and the server that they come from.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use super::{IMAGE, said, shell};

/// Files of /usr that go into it, in bytes.
const CONTENT: u64 = 1_050_000_000;

/// One image, compressed in both ways.
pub(crate) struct Files {
    pub(crate) image: PathBuf,
    pub(crate) single: PathBuf,
    pub(crate) single_bytes: u64,
    pub(crate) multi_bytes: u64,
    pub(crate) single_digest: String,
    pub(crate) image_digest: String,
}

impl Files {
    pub(crate) fn make(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let at = |name: &str| folder.join(name);
        if !at("rootfs.ext4").exists() {
            eprintln!("making an image of files from /usr");
            root_file_system(folder);
        }
        if !at("single.zst").exists() {
            eprintln!("compressing it as one frame");
            shell(&format!(
                "zstd -q -T0 -6 {} -o {}",
                at("rootfs.ext4").display(),
                at("single.zst").display()
            ));
        }
        if !at("multi.zst").exists() {
            eprintln!("packing it");
            let status = Command::new(env!("CARGO_BIN_EXE_ctl"))
                .args(["image", "pack", "--level", "6"])
                .arg(at("rootfs.ext4"))
                .arg("-o")
                .arg(at("multi.zst"))
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
        }
        let digest = |name: &str| {
            let digest = said(&format!("sha256sum {}", at(name).display()));
            format!("sha256:{}", &digest[..64])
        };
        let length = |name: &str| fs::metadata(at(name)).unwrap().len();
        Self {
            image: at("rootfs.ext4"),
            single: at("single.zst"),
            single_bytes: length("single.zst"),
            multi_bytes: length("multi.zst"),
            single_digest: digest("single.zst"),
            image_digest: digest("rootfs.ext4"),
        }
    }
}

/// An ext4 file system that compresses like one: a fixed choice of this machine's own programs and data.
fn root_file_system(folder: &Path) {
    let folder = folder.display();
    shell(&format!(
        r#"set -euo pipefail
        mkdir -p {folder}/tree/etc
        printf 'ID=bench\nIMAGE_VERSION=v1.35.1\n' >{folder}/tree/etc/os-release
        cd /usr
        find bin lib sbin share -xdev -type f -size -30M -printf '%s %p\n' | LC_ALL=C sort -k2 |
            awk -v most={CONTENT} '{{ sum += $1; if (sum < most) print substr($0, index($0, " ") + 1) }}' \
            >{folder}/list
        tar cf - --no-recursion -T {folder}/list | tar xf - -C {folder}/tree
        truncate -s {IMAGE} {folder}/rootfs.ext4
        uuid=11111111-2222-3333-4444-555555555555
        mkfs.ext4 -q -d {folder}/tree -U $uuid -E hash_seed=$uuid {folder}/rootfs.ext4
        rm -r {folder}/tree {folder}/list"#
    ));
}

/// Serves the files of a folder, as fast as the kernel can.
pub(crate) fn serve(folder: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap();
            let name = request.split(' ').nth(1).unwrap().trim_start_matches('/');
            let mut file = File::open(folder.join(name)).unwrap();
            let length = file.metadata().unwrap().len();
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            connection.write_all(head.as_bytes()).unwrap();
            // By sendfile. Whoever asked may be gone.
            let _ = io::copy(&mut file, &mut connection);
        }
    });
    port
}
