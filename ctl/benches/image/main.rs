//! `cargo bench -p monok8s-ctl --bench image`: `ctl image write` beside the shell pipelines that do the same, and beside
//! RAUC and `SWUpdate` where they are installed.
//!
//! Five rounds, one of each kind in turn, over http from this machine to a loop device with direct I/O on (on a buffered
//! one what is read back comes from memory). Medians, and their ratios. Needs root and 6 GB; what is missing is named.
//! `-- --write` puts the table and a plot of the stages into docs/; `MONOK8S_BENCH_FOLDER` names a folder whose image is
//! used again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a program for developers"
)]

mod files;
mod peers;
mod report;
#[path = "../../tests/virtual_node/mod.rs"]
mod virtual_node;

use std::{
    env,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use files::{Files, serve};
use serde_json::Value;

/// `MONOK8S_BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 5;
/// The image of the issue's field; a whole number of sectors.
const IMAGE: u64 = 1_858_076_672;
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
    let node = node_with(&scratch.path().join("node"), &device.0);
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
    let mut peers: Vec<_> = peers::peers(scratch.path(), &files.image, &files.single, &device.0)
        .into_iter()
        .map(|peer| {
            let run = Runs::new(peer.what);
            (peer, run)
        })
        .collect();
    let mut runs = vec![
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
        peers.retain_mut(|(peer, run)| peer.install(run, &device.0, &files.image_digest));
        for run in runs.iter().chain(peers.iter().map(|(_, run)| run)) {
            eprintln!(
                "round {}: {:6.2} s  {}",
                round + 1,
                run.seconds[round],
                run.what
            );
        }
    }
    runs.extend(peers.into_iter().map(|(_, run)| run));
    let table = report::table(&runs, &files);
    println!("{table}{}", report::stage_lines(&runs));
    if env::args().any(|arg| arg == "--write") {
        report::put(&table, &runs);
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

/// A node that runs slot A and whose slot B is the device.
fn node_with(folder: &Path, device: &str) -> PathBuf {
    let node = virtual_node::running_slot_a(folder);
    File::create(folder.join("slot-a.img"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    fs::write(node.machine_file(), format!(r#"{{"slotB": "{device}"}}"#)).unwrap();
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
                    // It is no system that could be booted.
                    "--boot-file=",
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
