//! `make cluster`, `make cluster-down` and `make demo NODES=real` from the outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod traces;

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use monok8s_cluster::requirements;
use monok8s_sandbox::{binaries, instance, process, scratch, skip, wait};
use traces::{Before, Place};

/// Whether there can be real nodes here; says so where there can be none.
fn possible() -> bool {
    if let Some(why) = requirements::forbidden() {
        skip::say(&why);
        return false;
    }
    if let Some(why) = requirements::missing() {
        panic!("{why}");
    }
    for program in ["controller", "ctl", "node-agent"] {
        binaries::find(program).unwrap();
    }
    true
}

fn cluster(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cluster"))
        .args(arguments)
        .env(instance::VARIABLE, folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What `make` would do.
fn recipe(arguments: &[&str]) -> String {
    let output = Command::new("make")
        .arg("--dry-run")
        .args(arguments)
        .current_dir(scratch::repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The part of the address range that a URL of the image server in `text` is of.
fn part(text: &str) -> u8 {
    let (_, rest) = text.split_once("url: http://").unwrap();
    let (host, _) = rest.split_once(':').unwrap();
    let [_, second, third, _] = host.parse::<Ipv4Addr>().unwrap().octets();
    (second - 18) * 16 + third / 16
}

/// No process, and with them no namespace; no mount, loop device, interface, control group or folder.
async fn nothing_is_left(before: &Before, folder: &Path, part: u8) {
    let nothing = || async { Ok(process::naming(folder).is_empty().then_some(())) };
    let gone = wait::until("the end of every process", Duration::from_secs(60), nothing).await;
    assert!(gone.is_ok(), "{:?}", process::naming(folder));
    Place::new(folder.to_path_buf(), part)
        .is_clean(before)
        .unwrap();
}

#[tokio::test]
async fn a_cluster_stays_until_down() {
    assert!(recipe(&["cluster"]).contains("--bin cluster -- up"));
    assert!(recipe(&["cluster-down"]).contains("--bin cluster -- down"));
    if !possible() {
        return;
    }
    let before = Before::look();
    let parent = scratch::folder("prompt").unwrap();
    let folder = parent.path().join("sandbox");
    let up = cluster(&folder, &["up"]);
    let told = String::from_utf8_lossy(&up.stdout).into_owned();
    let used = || -> Option<(String, u8)> {
        let after = |mark: &str| told.lines().find_map(|line| line.trim().strip_prefix(mark));
        let kubeconfig = after("export KUBECONFIG=")?;
        let typed = told.lines().find(|line| line.contains(" label node "))?;
        let kubectl = typed.split_whitespace().next()?;
        let listed = Command::new(kubectl)
            .args(["get", "nodes", "--no-headers"])
            .env("KUBECONFIG", kubeconfig)
            .output()
            .ok()?;
        let catalog = after("A catalog of images for them is in ")?;
        let catalog = fs::read_to_string(catalog.trim_end_matches('.')).ok()?;
        Some((String::from_utf8(listed.stdout).ok()?, part(&catalog)))
    };
    let used = used();
    let second = cluster(&folder, &["up"]);
    let down = cluster(&folder, &["down"]);
    assert!(up.status.success(), "{up:?}");
    let (listed, part) = used.unwrap_or_else(|| panic!("not to be used:\n{told}"));
    assert_eq!(listed.matches(" Ready ").count(), 3, "{listed}");
    assert!(!second.status.success(), "two at a time: {second:?}");
    assert!(down.status.success(), "{down:?}");
    nothing_is_left(&before, &folder, part).await;
    let again = cluster(&folder, &["down"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing is up"));
}

#[tokio::test]
async fn the_demo_on_real_nodes_tells_its_story_to_the_end() {
    assert!(recipe(&["demo", "NODES=real"]).contains("--bin cluster -- demo"));
    if !possible() {
        return;
    }
    let before = Before::look();
    let parent = scratch::folder("prompt").unwrap();
    let folder = parent.path().join("sandbox");
    let output = cluster(&folder, &["demo"]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}\n{told}");
    // The parts of the story, in order.
    let mut rest = &*told;
    for part in [
        "kubectl apply -k manifests",
        "$ kubectl get osnodes",
        "$ kubectl apply -f upgrade.yaml",
        "Downloading",
        "Staged",
        "(cordoned)",
        "Rebooting",
        "$ kubectl wait --for=condition=Completed osupgrade/fleet",
        "condition met",
        "node-3   v1.35.1   B",
        "$ kubectl patch osupgrade fleet",
        "answers 404",
        "rollout.maxFailures",
        "DownloadNotFound: ",
        "retryNonce",
        "fleet   v1.36.0   v1.36.0    Completed",
        "node-1   v1.36.0",
        "node-2   v1.36.0",
        "node-3   v1.36.0",
        "Everything has been ended and removed.",
    ] {
        let found = rest.find(part);
        let found = found.unwrap_or_else(|| panic!("{part:?} is not told, or too early:\n{told}"));
        rest = &rest[found + part.len()..];
    }
    nothing_is_left(&before, &folder, part(&told)).await;
}
