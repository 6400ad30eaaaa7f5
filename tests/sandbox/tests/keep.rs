//! What is left up on purpose: `make demo KEEP=1` on a terminal, `make control-plane`, and `make down`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use monok8s_sandbox::{binaries, instance, process, scratch, wait};

fn sandbox(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
    command.args(arguments).env(instance::VARIABLE, folder);
    command.stdin(Stdio::null()).output().unwrap()
}

/// Does as the last lines say: exports the kubeconfig and runs the command.
fn as_told(told: &str) -> String {
    let after = |mark: &str| told.lines().find_map(|line| line.trim().strip_prefix(mark));
    let kubeconfig = PathBuf::from(after("export KUBECONFIG=").unwrap_or_else(|| panic!("{told}")));
    let kubectl = told
        .lines()
        .rev()
        .find(|line| line.contains("/kubectl get "))
        .unwrap();
    let words: Vec<&str> = kubectl.split_whitespace().collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn down(folder: &Path) {
    let told = sandbox(folder, &["down"]);
    assert!(told.status.success(), "{told:?}");
    // The supervisor has let go of everything; its own process may be a moment behind.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !process::naming(folder).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", process::naming(folder));
        std::thread::sleep(wait::INTERVAL);
    }
    assert!(!folder.exists());
    let again = sandbox(folder, &["down"]);
    assert!(
        String::from_utf8_lossy(&again.stdout).contains("nothing is up"),
        "{again:?}"
    );
}

#[test]
fn a_demo_that_is_kept_draws_bars_on_a_terminal_and_stays_until_down() {
    for program in ["controller", "node-agent"] {
        binaries::find(program).unwrap();
    }
    let parent = scratch::folder("keep").unwrap();
    let folder = parent.path().join("sandbox");
    // script(1) gives it a terminal.
    let command = format!(
        "stty rows 50 cols 120; {} demo --keep",
        env!("CARGO_BIN_EXE_sandbox")
    );
    let output = Command::new("script")
        .args([
            "--quiet",
            "--return",
            "--flush",
            "--command",
            &command,
            "/dev/null",
        ])
        .env(instance::VARIABLE, &folder)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let kept = fs::exists(folder.join("demo/supervisor.json")).unwrap();
    if !output.status.success() || !kept {
        sandbox(&folder, &["down"]);
        panic!("{:?}, kept: {kept}\n{told}", output.status);
    }
    // A bar in the middle, and lines drawn over (a row that is cleared).
    assert!(told.contains("=>"), "no bar:\n{told}");
    assert!(told.contains("\u{1b}[2K"), "nothing is redrawn:\n{told}");
    let listed = as_told(&told);
    assert!(listed.contains("node-3"), "{listed}");
    let second = sandbox(&folder, &["demo"]);
    assert!(!second.status.success(), "two demos at a time");
    assert!(
        as_told(&told).contains("node-3"),
        "the second one ended the first"
    );
    down(&folder);
}

#[test]
fn a_control_plane_stays_until_down() {
    let parent = scratch::folder("keep").unwrap();
    let folder = parent.path().join("sandbox");
    let output = sandbox(&folder, &["control-plane"]);
    assert!(output.status.success(), "{output:?}");
    let listed = as_told(&String::from_utf8(output.stdout).unwrap());
    assert!(listed.contains("kube-system"), "{listed}");
    down(&folder);
}
