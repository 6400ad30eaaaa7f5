//! `make demo` from the outside: it tells its story to the end, and leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use monok8s_sandbox::{binaries, instance, process, scratch, wait};
use rustix::process::{Pid, Signal, kill_process};

fn demo(folder: &Path) -> Child {
    for program in ["controller", "node-agent"] {
        binaries::find(program).unwrap();
    }
    Command::new(env!("CARGO_BIN_EXE_sandbox"))
        .arg("demo")
        .env(instance::VARIABLE, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

async fn nothing_is_left(folder: &Path) {
    let nothing = || async { Ok(process::naming(folder).is_empty().then_some(())) };
    let gone = wait::until("the end of every process", Duration::from_secs(60), nothing).await;
    assert!(gone.is_ok(), "{:?}", process::naming(folder));
    assert!(
        !folder.exists(),
        "{:?}",
        fs::read_dir(folder).unwrap().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn it_upgrades_every_node_and_cures_the_one_that_fails() {
    let parent = scratch::folder("demo").unwrap();
    let folder = parent.path().join("sandbox");
    let mut child = demo(&folder);
    let mut told = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}\n{told}");
    // The parts of the story, in order.
    let mut rest = told.as_str();
    for part in [
        "$ kubectl get osnodes",
        "NAME     VERSION   ACTIVE",
        "$ kubectl apply -f upgrade.yaml",
        "osupgrade.monok8s.io/fleet created",
        "Downloading",
        "(cordoned)",
        "$ kubectl wait --for=condition=Completed osupgrade/fleet",
        "condition met",
        "node-3   v1.35.1   B",
        "$ kubectl patch osupgrade fleet",
        "answers 404",
        "DownloadNotFound",
        "rollout.maxFailures",
        "DownloadNotFound: ",
        "retryNonce",
        "fleet   v1.36.0   v1.36.0    Completed",
        "node-1   v1.36.0",
        "node-2   v1.36.0",
        "node-3   v1.36.0",
        "Everything has been ended and removed.",
    ] {
        let found = rest
            .find(part)
            .unwrap_or_else(|| panic!("{part:?} is not told, or too early:\n{told}"));
        rest = &rest[found + part.len()..];
    }
    nothing_is_left(&folder).await;
}

#[tokio::test]
async fn an_interrupt_ends_everything() {
    let parent = scratch::folder("demo").unwrap();
    let folder = parent.path().join("sandbox");
    let mut child = demo(&folder);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let begun = lines
        .by_ref()
        .any(|line| line.unwrap().contains("starting node-1"));
    assert!(begun, "the demo did not get to its nodes");
    assert!(!process::naming(&folder).is_empty());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let told: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(
        told.iter().any(|line| line.contains("interrupted")),
        "{told:?}"
    );
    assert!(!child.wait().unwrap().success());
    nothing_is_left(&folder).await;
}

#[tokio::test]
async fn a_demo_that_is_killed_takes_everything_with_it() {
    let parent = scratch::folder("demo").unwrap();
    let folder = parent.path().join("sandbox");
    let mut child = demo(&folder);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("starting node-1")));
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_is_left(&folder).await;
}
