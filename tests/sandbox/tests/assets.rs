//! `sandbox assets` from the outside: where the control plane's programs come from, and what is said
//! while they are built, with a `go` that builds nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::TempDir;

const PROGRAMS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kubectl",
];

/// Builds what it was told to a place it was told, and notes what it was called with.
const GO: &str = r#"
echo "$PWD: $*" >> "$0.calls"
while [ $# -gt 1 ]; do
  case $1 in -o) out=$2 ;; esac
  shift
done
printf '#!/bin/sh\n' > "$out"
/bin/chmod +x "$out"
"#;

/// A program that is still open for writing cannot be run (`ETXTBSY`), and what another test starts at
/// that moment holds it open until its own exec. So no test starts anything while one writes.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine: a folder for each place that programs are looked for in.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for place in ["assets", "path", "cache"] {
            fs::create_dir(machine.place(place)).unwrap();
        }
        machine
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, place: &str, name: &str, script: &str) {
        let path = self.place(place).join(name);
        let _alone = alone();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Kubernetes of this version, and an etcd.
    fn kubernetes(&self, place: &str, version: &str) {
        for name in PROGRAMS {
            let version = if name == "etcd" { "3.6.8" } else { version };
            self.program(place, name, &format!("echo Version: {version}"));
        }
    }

    fn assets(&self) -> Output {
        let mut sandbox = Command::new(env!("CARGO_BIN_EXE_sandbox"));
        sandbox
            .arg("assets")
            .env("KUBEBUILDER_ASSETS", self.place("assets"))
            .env("PATH", self.place("path"))
            .env("XDG_CACHE_HOME", self.place("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = {
            let _alone = alone();
            sandbox.spawn().unwrap()
        };
        started.wait_with_output().unwrap()
    }

    /// The last four lines: where the programs are.
    fn found(&self) -> Vec<PathBuf> {
        let output = self.assets();
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = told.lines().collect();
        let last = &lines[lines.len().saturating_sub(PROGRAMS.len())..];
        last.iter().map(PathBuf::from).collect()
    }

    fn all_in(&self, place: &Path) {
        let found = self.found();
        let programs: Vec<&str> = found
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(programs, PROGRAMS);
        for path in &found {
            assert_eq!(path.parent().unwrap(), place, "{}", path.display());
        }
    }

    fn built(&self) -> PathBuf {
        let kept = self.place("cache/monok8s/control-plane");
        let version = fs::read_dir(kept).unwrap().next().unwrap().unwrap();
        version.path()
    }
}

#[test]
fn the_assets_folder_comes_before_the_path_and_both_before_a_build() {
    let machine = Machine::new();
    machine.program("path", "go", "exit 1");
    machine.kubernetes("path", "v1.35.0");
    machine.all_in(&machine.place("path"));
    machine.kubernetes("assets", "v1.34.0");
    machine.all_in(&machine.place("assets"));
    // Too old to be used, wherever it stands; etcd is not Kubernetes.
    machine.kubernetes("assets", "v1.33.9");
    let places = machine.found().into_iter().skip(1);
    assert!(
        places
            .into_iter()
            .all(|path| path.starts_with(machine.place("path")))
    );
}

#[test]
fn what_is_missing_is_built_once_and_what_is_built_and_how_long_it_took_is_said() {
    let machine = Machine::new();
    machine.program("path", "go", GO);
    let output = machine.assets();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let kept = machine.built();
    for name in PROGRAMS {
        let begin = told
            .lines()
            .find(|line| line.starts_with(&format!("building {name} ")))
            .unwrap_or_else(|| panic!("{name} is built unsaid:\n{told}"));
        assert!(
            begin.contains("v1.") && begin.contains(kept.to_str().unwrap()),
            "{begin}"
        );
        let end = told
            .lines()
            .find_map(|line| line.strip_prefix(&format!("built {name} in ")))
            .unwrap_or_else(|| panic!("how long {name} took is unsaid:\n{told}"));
        let seconds = end.strip_suffix(" s").unwrap();
        assert!(seconds.parse::<u64>().is_ok(), "{end}");
    }
    let calls = fs::read_to_string(machine.place("path/go.calls")).unwrap();
    assert_eq!(calls.lines().count(), PROGRAMS.len(), "{calls}");
    for (call, package) in calls.lines().zip([
        "go.etcd.io/etcd/server/v3",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kubectl",
    ]) {
        assert!(
            call.contains("tests/control-plane: build ") && call.ends_with(package),
            "{call}"
        );
        let version = kept.file_name().unwrap().to_str().unwrap();
        assert!(
            package.contains("etcd") || call.contains(&format!(".gitVersion={version}")),
            "{call}"
        );
    }
    machine.all_in(&kept);
    let again = fs::read_to_string(machine.place("path/go.calls")).unwrap();
    assert_eq!(calls, again, "built a second time");
}

#[test]
fn only_what_is_missing_is_built() {
    let machine = Machine::new();
    machine.program("path", "go", GO);
    machine.kubernetes("path", "v1.36.0");
    // An old kubectl, as many machines have one.
    machine.program("path", "kubectl", "echo Client Version: v1.32.4");
    let found = machine.found();
    assert_eq!(found[3], machine.built().join("kubectl"));
    for path in &found[..3] {
        assert_eq!(path.parent().unwrap(), machine.place("path"));
    }
    let calls = fs::read_to_string(machine.place("path/go.calls")).unwrap();
    assert_eq!(calls.lines().count(), 1, "{calls}");
}

#[test]
fn a_build_that_fails_shows_why_and_leaves_nothing_that_looks_built() {
    let machine = Machine::new();
    machine.program("path", "go", "echo no required module >&2; exit 1");
    let output = machine.assets();
    assert!(!output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("no required module"), "{told}");
    for name in PROGRAMS {
        assert!(!machine.built().join(name).exists());
    }
}

#[test]
fn without_go_the_ways_out_are_named() {
    let machine = Machine::new();
    let output = machine.assets();
    assert!(!output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("go.dev/dl") && told.contains("KUBEBUILDER_ASSETS"),
        "{told}"
    );
}
