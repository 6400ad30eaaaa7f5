//! `setup.sh` from the outside: what it asks for, installs and says, on a machine whose programs are
//! stand-ins and whose user is whoever its `id` says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::TempDir;

/// What the build and the demo call.
const BUILD: [&str; 5] = ["cc", "mkfs.ext4", "debugfs", "setpriv", "setsid"];
/// What the tests call beside these.
const TEST: [&str; 11] = [
    "losetup",
    "mkswap",
    "partx",
    "unshare",
    "sgdisk",
    "script",
    "dbus-daemon",
    "zstd",
    "grub-emu",
    "grub-script-check",
    "docker-registry",
];
/// What real nodes call beside these.
const CLUSTER: [&str; 5] = ["nsenter", "ip", "busybox", "strip", "pkg-config"];

/// Notes what it was called with.
const NOTED: &str = r#"echo "${0##*/} $*" >> "$0.calls""#;

/// A program that is still open for writing cannot be run (`ETXTBSY`), and what another test starts at
/// that moment holds it open until its own exec. So no test starts anything while one writes.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine with everything: its programs in one folder, its user's cache in another.
struct Machine(TempDir);

/// How a run ended.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Machine {
    /// With all programs, for this user.
    fn of(uid: u32) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        fs::create_dir(machine.programs()).unwrap();
        for name in BUILD.iter().chain(&TEST).chain(&CLUSTER) {
            machine.program(name, "");
        }
        machine.program("cargo", "");
        machine.go("go1.24.1");
        machine.program("id", &format!("echo {uid}"));
        machine.program("apt-get", NOTED);
        machine.program("systemctl", NOTED);
        // The one program that the script needs for itself.
        symlink("/usr/bin/sort", machine.programs().join("sort")).unwrap();
        machine
    }

    fn programs(&self) -> PathBuf {
        self.0.path().join("bin")
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.programs().join(name);
        let _alone = alone();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Go of this version.
    fn go(&self, version: &str) {
        let asked = format!(r#"[ "$*" = "env GOVERSION" ] && echo {version}"#);
        self.program("go", &asked);
    }

    fn without(self, names: &[&str]) -> Self {
        for name in names {
            fs::remove_file(self.programs().join(name)).unwrap();
        }
        self
    }

    /// Something that an earlier run has built.
    fn built(&self, path: &str) {
        let path = self.cache().join("monok8s").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    fn setup(&self, what: &str) -> Ended {
        self.setup_with(what, &[])
    }

    fn setup_with(&self, what: &str, environment: &[(&str, &str)]) -> Ended {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("setup.sh");
        let mut command = Command::new("/bin/bash");
        command
            .arg(script)
            .args(Some(what).filter(|what| !what.is_empty()))
            .env_clear()
            .env("PATH", self.programs())
            .env("HOME", self.0.path())
            .env("XDG_CACHE_HOME", self.cache())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Returns when the exec is done.
        let child = {
            let _alone = alone();
            command.spawn().unwrap()
        };
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        Ended {
            code: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    /// What a stand-in was called with.
    fn calls(&self, name: &str) -> Vec<String> {
        let noted = self.programs().join(format!("{name}.calls"));
        fs::read_to_string(noted)
            .unwrap_or_default()
            .lines()
            .map(ToOwned::to_owned)
            .collect()
    }
}

impl Ended {
    fn is_silent_success(&self) -> bool {
        self.code == Some(0) && self.out.is_empty() && self.err.is_empty()
    }

    /// The line to type.
    fn to_type(&self) -> Option<&str> {
        self.err
            .lines()
            .find_map(|line| line.trim().strip_prefix("sudo "))
    }
}

const USER: u32 = 1000;
const ROOT: u32 = 0;

#[test]
fn where_everything_is_there_nothing_is_said_or_done() {
    for what in ["", "test"] {
        let machine = Machine::of(USER);
        let ended = machine.setup(what);
        assert!(ended.is_silent_success(), "{what}: {}", ended.err);
        assert!(machine.calls("apt-get").is_empty(), "{what}");
    }
    let machine = Machine::of(ROOT);
    let ended = machine.setup("");
    assert!(ended.is_silent_success(), "{}", ended.err);
    assert!(machine.calls("apt-get").is_empty());
}

#[test]
fn a_user_is_told_the_one_line_to_type() {
    // Two programs of one package, which is named once.
    let machine = Machine::of(USER).without(&["setpriv", "cc", "setsid"]);
    let ended = machine.setup("");
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.to_type(),
        Some("apt-get install -y --no-install-recommends gcc util-linux")
    );
    assert_eq!(ended.err.matches("sudo").count(), 1, "{}", ended.err);
    assert!(ended.out.is_empty(), "{}", ended.out);
    assert!(machine.calls("apt-get").is_empty());
}

#[test]
fn only_tests_ask_for_what_only_tests_call() {
    let machine = Machine::of(USER).without(&["zstd", "grub-emu"]);
    assert!(machine.setup("").is_silent_success());
    let ended = machine.setup("test");
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.to_type(),
        Some("apt-get install -y --no-install-recommends grub-emu zstd")
    );
}

#[test]
fn what_real_nodes_call_is_asked_of_root_and_of_who_wants_them() {
    let machine = Machine::of(USER).without(&["strip"]);
    assert!(machine.setup("test").is_silent_success());
    let ended = machine.setup("cluster");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("binutils"), "{}", ended.err);

    let machine = Machine::of(ROOT).without(&["strip"]);
    assert_eq!(machine.setup("test").code, Some(0));
    let calls = machine.calls("apt-get").join("\n");
    assert!(calls.contains("binutils"), "{calls}");
}

#[test]
fn for_root_just_the_missing_packages_are_installed() {
    let machine = Machine::of(ROOT).without(&["cc", "setsid"]);
    let ended = machine.setup("");
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(ended.out, "installing gcc util-linux\n");
    assert_eq!(
        machine.calls("apt-get"),
        [
            "apt-get update -q",
            "apt-get install -y --no-install-recommends gcc util-linux"
        ]
    );
    // Nothing that runs by itself came with them.
    assert!(machine.calls("systemctl").is_empty());
}

#[test]
fn a_service_that_comes_with_a_package_is_stopped() {
    let machine = Machine::of(ROOT).without(&["docker-registry"]);
    assert_eq!(machine.setup("test").code, Some(0));
    assert_eq!(
        machine.calls("systemctl"),
        ["systemctl disable --now docker-registry"]
    );
}

#[test]
fn an_installation_that_fails_is_no_success() {
    let machine = Machine::of(ROOT).without(&["cc"]);
    machine.program("apt-get", "echo no network >&2; exit 100");
    let ended = machine.setup("");
    assert_eq!(ended.code, Some(100));
    assert!(ended.err.contains("no network"), "{}", ended.err);
}

#[test]
fn root_without_apt_is_told_the_names() {
    let machine = Machine::of(ROOT).without(&["cc", "apt-get"]);
    let ended = machine.setup("");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("names are Debian's"), "{}", ended.err);
    assert!(ended.to_type().unwrap().ends_with(" gcc"));
}

#[test]
fn cargo_is_named_where_it_is_missing() {
    for uid in [USER, ROOT] {
        let machine = Machine::of(uid).without(&["cargo"]);
        let ended = machine.setup("");
        assert_eq!(ended.code, Some(1));
        assert_eq!(
            ended.err,
            "cargo is missing. Install Rust: https://rustup.rs\n"
        );
        assert!(machine.calls("apt-get").is_empty());
    }
}

#[test]
fn go_is_named_where_it_is_missing_or_too_old_with_the_ways_out() {
    for (version, found) in [
        (None, "none"),
        (Some("go1.20.14"), "go1.20.14"),
        (Some("go1.9"), "go1.9"),
    ] {
        let machine = Machine::of(USER).without(&["go"]);
        if let Some(version) = version {
            machine.go(version);
        }
        let ended = machine.setup("");
        assert_eq!(ended.code, Some(1), "{found}");
        for told in [
            &format!("(found: {found})"),
            "https://go.dev/dl",
            "KUBEBUILDER_ASSETS",
        ] {
            assert!(ended.err.contains(told), "{told}: {}", ended.err);
        }
        assert!(ended.to_type().is_none(), "{}", ended.err);
    }
    for version in ["go1.21.0", "go1.21rc2", "go1.25"] {
        let machine = Machine::of(USER);
        machine.go(version);
        assert!(machine.setup("").is_silent_success(), "{version}");
    }
}

#[test]
fn a_control_plane_makes_go_unnecessary() {
    let assets = [("KUBEBUILDER_ASSETS", "/opt/envtest")];
    let named = Machine::of(USER).without(&["go"]);
    assert!(named.setup_with("test", &assets).is_silent_success());

    let in_path = Machine::of(USER).without(&["go"]);
    in_path.program("kube-apiserver", "");
    assert!(in_path.setup("test").is_silent_success());

    let built = Machine::of(USER).without(&["go"]);
    built.built("control-plane/v1.36.3/kube-apiserver");
    assert!(built.setup("test").is_silent_success());
}

#[test]
fn real_nodes_need_go_until_theirs_is_built() {
    let assets = [("KUBEBUILDER_ASSETS", "/opt/envtest")];
    let machine = Machine::of(ROOT).without(&["go"]);
    let ended = machine.setup_with("test", &assets);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("real nodes"), "{}", ended.err);

    machine.built("control-plane/v1.36.3/kubelet");
    machine.built("container-runtime/v2.3.3/runc");
    let ended = machine.setup_with("test", &assets);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[test]
fn everything_that_is_wrong_is_told_in_one_go() {
    let machine = Machine::of(USER).without(&["cc", "cargo", "go"]);
    let ended = machine.setup("");
    assert_eq!(ended.code, Some(1));
    assert!(ended.to_type().unwrap().ends_with(" gcc"));
    assert!(ended.err.contains("cargo is missing"), "{}", ended.err);
    assert!(ended.err.contains("Go 1.21 or newer"), "{}", ended.err);

    // What can be cured is.
    let machine = Machine::of(ROOT).without(&["cc", "cargo", "go"]);
    let ended = machine.setup("");
    assert_eq!(ended.code, Some(1));
    assert_eq!(machine.calls("apt-get").len(), 2);
    assert!(ended.err.contains("cargo is missing"), "{}", ended.err);
    assert!(ended.err.contains("Go 1.21 or newer"), "{}", ended.err);
}
