//! `cargo bench -p monok8s-ctl --bench image`: `ctl image write` beside the shell pipelines that do the same.
//!
//! Five rounds, one of each kind in turn, over http from this machine to a loop device with direct I/O on (on a buffered
//! one what is read back comes from memory). Medians, and their ratios. Needs root and 5 GB; what is missing is named.
//! `-- --write` puts the table into docs/benchmarks.md; `MONOK8S_BENCH_FOLDER` names a folder whose image is used again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for developers"
)]

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use monok8s_boot::{SlotName, cmdline::kernel_words, host::VirtualNode, loader::grub::model};
use serde_json::Value;

/// `MONOK8S_BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 5;
/// The image of the issue's field; a whole number of sectors.
const IMAGE: u64 = 1_858_076_672;
/// Files of /usr that go into it, in bytes.
const CONTENT: u64 = 1_050_000_000;
const TOOLS: [&str; 8] = [
    "bash",
    "curl",
    "dd",
    "losetup",
    "mkfs.ext4",
    "sha256sum",
    "zstd",
    "tar",
];

fn main() {
    let missing: Vec<_> = TOOLS.iter().filter(|tool| !is_there(tool)).collect();
    if !missing.is_empty() {
        eprintln!("skipped: these programs are not there: {missing:?}");
        return;
    }
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = env::var_os("MONOK8S_BENCH_FOLDER")
        .map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let Some(device) = Loop::new(&scratch.path().join("slot.img")) else {
        return;
    };
    let files = Files::make(&folder);
    let port = serve(folder);
    let sha256 = fastest_sha256(&files.single);
    let node = virtual_node(&scratch.path().join("node"), &device.0);
    eprintln!("SHA-256 in the shell by {sha256}");

    let url = |file: &str| format!("http://127.0.0.1:{port}/{file}");
    let stream = format!(
        "set -o pipefail; curl -sSf {} | tee >({sha256} >/dev/null) | zstd -dc | \
         dd of={} bs=4M iflag=fullblock oflag=direct status=none",
        url("single.zst"),
        device.0
    );
    let read_back = format!(
        "dd if={} bs=4M iflag=direct,count_bytes count={IMAGE} status=none | {sha256} >/dev/null",
        device.0
    );
    let mut runs = [
        Runs::new("S1: shell pipeline, then `dd iflag=direct` and SHA-256"),
        Runs::new("S2: shell pipeline alone, nothing read back"),
        Runs::new("one frame, checksum of the file, read back"),
        Runs::new("packed, checksum of the image, read back"),
    ];
    let rounds = env::var("MONOK8S_BENCH_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        runs[0].time(|| shell(&format!("{stream}; {read_back}")));
        runs[1].time(|| shell(&stream));
        runs[2].ours(&node, &url("single.zst"), &files.single_digest);
        runs[3].ours(&node, &url("multi.zst"), &files.image_digest);
        for run in &runs {
            eprintln!(
                "round {}: {:6.2} s  {}",
                round + 1,
                run.seconds[round],
                run.what
            );
        }
    }
    let table = table(&runs, &files);
    println!("{table}");
    if env::args().any(|arg| arg == "--write") {
        put(&table);
    }
}

fn is_there(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(tool).exists())
}

fn shell(script: &str) {
    let status = Command::new("bash").args(["-c", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

fn said(script: &str) -> String {
    let output = Command::new("bash").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The shell is given the best that is installed: sha256sum does not use the processor's instructions everywhere.
fn fastest_sha256(file: &Path) -> &'static str {
    let time = |program: &str| {
        let begun = Instant::now();
        shell(&format!("{program} {} >/dev/null", file.display()));
        begun.elapsed()
    };
    if is_there("openssl") && time("openssl dgst -sha256") < time("sha256sum") {
        "openssl dgst -sha256"
    } else {
        "sha256sum"
    }
}

/// A loop device with direct I/O on a file whose blocks are all there. It is detached when this process has ended, however
/// that is: the kernel does that when nobody has it open any more (`LO_FLAGS_AUTOCLEAR`, loop(4)).
struct Loop(String, #[allow(dead_code, reason = "held open")] File);

impl Loop {
    fn new(backing: &Path) -> Option<Self> {
        shell(&format!("fallocate -l 2G {}", backing.display()));
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(backing)
            .output()
            .unwrap();
        if !output.status.success() {
            eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let held = File::open(&device).unwrap();
        shell(&format!("losetup -d {device}"));
        Some(Self(device, held))
    }
}

/// One image, compressed in both ways.
struct Files {
    single: PathBuf,
    single_bytes: u64,
    multi_bytes: u64,
    single_digest: String,
    image_digest: String,
}

impl Files {
    fn make(folder: &Path) -> Self {
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
fn serve(folder: PathBuf) -> u16 {
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

/// A node that runs slot A and whose slot B is the device.
fn virtual_node(folder: &Path, device: &str) -> PathBuf {
    let node = VirtualNode::new(folder);
    for name in ["run", "data", "boot/grub"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    File::create(folder.join("slot-a.img"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    fs::write(node.machine_file(), format!(r#"{{"slotB": "{device}"}}"#)).unwrap();
    fs::write(
        node.boot_id_file(),
        "0b7d2c3e-0000-4000-8000-000000000001\n",
    )
    .unwrap();
    fs::write(node.active_file(), "A\n").unwrap();
    fs::write(
        node.cmdline(),
        kernel_words(SlotName::A, false, "/dev/slot"),
    )
    .unwrap();
    model::install(&node.grubenv(), SlotName::A, false).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    folder.to_owned()
}

struct Runs {
    what: &'static str,
    seconds: Vec<f64>,
    /// Largest resident set, in bytes.
    memory: u64,
    /// Seconds of each stage, in the last round.
    stages: Value,
}

impl Runs {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            seconds: Vec::new(),
            memory: 0,
            stages: Value::Null,
        }
    }

    fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = run();
        self.seconds.push(begun.elapsed().as_secs_f64());
        result
    }

    fn ours(&mut self, node: &Path, url: &str, checksum: &str) {
        let (output, memory) = self.time(|| {
            let mut ctl = Command::new(env!("CARGO_BIN_EXE_ctl"))
                .args([
                    "image",
                    "write",
                    url,
                    "B",
                    "--checksum",
                    checksum,
                    "-o",
                    "json",
                ])
                .arg("--sandbox")
                .arg(node)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut memory = 0;
            // The peak only rises, so that the last look before the end is near it.
            while ctl.try_wait().unwrap().is_none() {
                memory = memory.max(peak(ctl.id()));
                thread::sleep(Duration::from_millis(10));
            }
            (ctl.wait_with_output().unwrap(), memory)
        });
        assert!(output.status.success(), "{output:?}");
        let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(outcome["access"], "direct I/O");
        self.stages = outcome["stages"].clone();
        self.memory = self.memory.max(memory);
    }

    fn median(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }
}

/// `VmHWM` of `proc_pid_status(5)`; 0 when the process is just ending.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes << 10)
}

fn table(runs: &[Runs], files: &Files) -> String {
    let [s1, s2, ..] = runs else {
        panic!("four kinds of run");
    };
    let (s1, s2) = (s1.median(), s2.median());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "{cores} cores; an image of {IMAGE} bytes, {} as one frame, {} packed; medians of {} alternating runs.\n\n\
         | | median | of S1 | of S2 | all runs | peak memory |\n|---|---|---|---|---|---|\n",
        files.single_bytes,
        files.multi_bytes,
        runs[0].seconds.len()
    );
    for run in runs {
        let median = run.median();
        let all: Vec<_> = run.seconds.iter().map(|s| format!("{s:.2}")).collect();
        let memory = match run.memory {
            0 => String::new(),
            bytes => format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)),
        };
        let _ = writeln!(
            text,
            "| {} | {median:.2} s | {:.2} | {:.2} | {} | {memory} |",
            run.what,
            median / s1,
            median / s2,
            all.join(" "),
        );
    }
    for run in runs.iter().filter(|run| !run.stages.is_null()) {
        let _ = writeln!(
            text,
            "\nThroughput of each stage, {} (last run):\n\n```text",
            run.what
        );
        text.push_str(&plot(&run.stages));
        text.push_str("```\n");
    }
    text
}

/// Bars of throughput. Stages run side by side, and time in which a stage waits for another one is left out.
fn plot(stages: &Value) -> String {
    let mut text = String::new();
    for stage in stages.as_array().into_iter().flatten() {
        let (bytes, seconds) = (
            stage["bytes"].as_f64().unwrap_or(0.0),
            stage["seconds"].as_f64().unwrap_or(0.0),
        );
        if bytes == 0.0 || seconds == 0.0 {
            continue;
        }
        let rate = bytes / seconds / 1e6;
        let width = (rate / 200.0).min(50.0);
        let bar: String = (0..50)
            .map(|n| if f64::from(n) < width { '#' } else { ' ' })
            .collect();
        let name = stage["stage"].as_str().unwrap_or_default();
        let _ = writeln!(text, "{name:>12} {bar} {rate:7.0} MB/s {seconds:6.2} s");
    }
    text
}

/// Between the two marks of docs/benchmarks.md.
fn put(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let page = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- image: begin -->\n", "<!-- image: end -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    fs::write(&path, format!("{before}{begin}\n{table}\n{end}{after}")).unwrap();
    eprintln!("written to {}", path.display());
}
