//! reboot(2) in process namespaces. Each case runs in a process of its own, [`helper`], which the others start; what
//! must not be rebooted could not be, should the refusal be missing: `CAP_SYS_BOOT` is taken away or there is a namespace
//! around it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by a panic what it found"
)]

mod needs;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use monok8s_boot::Roots;
use monok8s_boot::reboot::{RebootMethod, for_machine};

/// The folder whose `proc` the helper takes for the machine's.
const ROOT: &str = "MONOK8S_TEST_ROOT";

/// The kernel's first process namespace (`linux/proc_ns.h`).
const FIRST: &str = "pid:[4026531836]";

/// Not a test: reboots, or says why not.
#[tokio::test]
#[ignore = "started by the other tests"]
async fn helper() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else {
        return;
    };
    assert!(
        !in_first_namespace() || !may_reboot(),
        "this process could reboot the machine the tests run on"
    );
    let error = for_machine(&RebootMethod::Auto, &Roots::under(&root), Vec::new())
        .reboot()
        .await
        .unwrap_err();
    println!("{error}");
}

fn in_first_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid").unwrap() == Path::new(FIRST)
}

/// Whether this process has `CAP_SYS_BOOT`.
fn may_reboot() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.unwrap().trim(), 16).unwrap();
    // linux/capability.h
    effective & (1 << 22) != 0
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        needs::skipped("it takes root to make a process namespace");
    }
    root
}

/// Runs the helper by `program`, whose last words are the helper's command line.
fn run(program: &[&str], root: &Path) -> Output {
    let own = std::env::current_exe().unwrap();
    Command::new(program[0])
        .args(&program[1..])
        .arg(own)
        .args(["helper", "--exact", "--ignored", "--nocapture"])
        .env(ROOT, root)
        .output()
        .unwrap_or_else(|e| panic!("{program:?}: {e}"))
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_node_in_a_namespace_of_its_own_is_ended_and_its_parent_sees_a_hangup() {
    if !is_root() {
        return;
    }
    // The shell is the first process; it would go on for ever.
    let node = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "sh",
        "-c",
    ];
    let program = [&node[..], &["\"$0\" \"$@\"; sleep infinity"]].concat();
    let output = run(&program, Path::new("/"));
    let hangup = rustix::process::Signal::HUP.as_raw();
    assert_eq!(output.status.signal(), Some(hangup), "{}", said(&output));
}

/// A root file system whose first process is in the kernel's first process namespace and has this environment.
fn machine(environment: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let process = root.path().join("proc/1");
    std::fs::create_dir_all(process.join("ns")).unwrap();
    std::os::unix::fs::symlink(FIRST, process.join("ns/pid")).unwrap();
    std::fs::write(process.join("environ"), environment).unwrap();
    root
}

#[test]
fn a_pod_without_the_machines_processes_is_refused() {
    if !is_root() {
        return;
    }
    let pod = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let output = run(&pod, machine("").path());
    let said = said(&output);
    assert!(
        output.status.success() && said.contains("it needs hostPID"),
        "{said}"
    );
}

#[test]
fn a_node_that_shares_the_machines_namespace_is_refused() {
    if !is_root() {
        return;
    }
    if !in_first_namespace() {
        needs::skipped("this is not the machine's own process namespace");
        return;
    }
    let harmless = [
        "setpriv",
        "--inh-caps=-sys_boot",
        "--bounding-set=-sys_boot",
    ];
    for (environment, expected) in [
        ("PATH=/bin\0container=a-node\0", "the node is a container"),
        // No refusal of ours: the call was made.
        ("PATH=/bin\0no_container=1\0", "not permitted"),
    ] {
        let output = run(&harmless, machine(environment).path());
        let said = said(&output);
        assert!(
            output.status.success() && said.contains(expected),
            "{environment:?}: {said}"
        );
    }
}
