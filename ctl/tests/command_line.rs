//! The program as a person runs it: what it prints, and with which exit code.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared functions of tests"
)]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn ctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ctl"))
        .args(args)
        .current_dir(tree())
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap()
}

/// Standard output and the exit code.
fn said(output: &Output) -> (String, i32) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (text, output.status.code().unwrap())
}

fn complained(output: &Output) -> (String, i32) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    (text, output.status.code().unwrap())
}

fn json(args: &[&str]) -> (Value, i32) {
    let (text, code) = said(&ctl(args));
    (serde_json::from_str(&text).unwrap(), code)
}

/// A catalog of its own for one test.
fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

#[test]
fn a_catalog_is_checked() {
    let (text, code) = said(&ctl(&["catalog", "check", "catalogs/monok8s.yaml"]));
    assert_eq!(
        (text.as_str(), code),
        (
            "catalogs/monok8s.yaml: a catalog with 6 images, 1 blocked version and 3 aliases\n",
            0
        )
    );
    let wrong = file("images:\n- version: v1.35.1\n  chekcsum: a\n");
    let (text, code) = said(&ctl(&["catalog", "check", path(&wrong)]));
    assert_eq!(code, 1);
    assert!(text.contains("line 3, column 3"), "{text}");
    assert!(text.contains("3 |   chekcsum: a\n"), "{text}");
    let (answer, code) = json(&["catalog", "check", path(&wrong), "-o", "json"]);
    assert_eq!((&answer["valid"], code), (&Value::Bool(false), 1));
    assert_eq!(answer["error"]["reason"], "InvalidCatalog");
    assert_eq!(answer["error"]["line"], 3);
    let large = file(&"#".repeat(1024 * 1024 + 1));
    let (text, code) = said(&ctl(&["catalog", "check", path(&large)]));
    assert_eq!(code, 1);
    assert!(text.contains("1048577 bytes"), "{text}");
}

#[test]
fn what_will_be_refused_later_is_a_warning() {
    let shaky = file(
        "stable: v1.36.0\nloop: loop\nimages:\n- {version: v1.35.1, url: 'ftp://a', checksum: abc}\n\
         - {version: v1.35.2, url: 'https://a.example'}\n",
    );
    let (text, code) = said(&ctl(&["catalog", "check", path(&shaky)]));
    assert_eq!(code, 0, "{text}");
    for part in [
        "warning: alias loop: ",
        "warning: alias stable: the catalog has no image of v1.36.0",
        "warning: v1.35.1: \"abc\" is not a checksum",
        "warning: v1.35.1: the url \"ftp://a\" cannot be used",
        "warning: v1.35.2: it has no checksum",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (_, code) = said(&ctl(&["catalog", "check", "--strict", path(&shaky)]));
    assert_eq!(code, 1);
}

#[test]
fn a_way_is_printed_or_the_reason_for_none() {
    let resolve = |args: &[&str]| {
        let mut all = vec!["catalog", "resolve", "catalogs/monok8s.yaml"];
        all.extend(args);
        said(&ctl(&all))
    };
    let (text, code) = resolve(&["--version", "stable", "--current", "v1.33.2"]);
    assert_eq!(code, 0);
    assert_eq!(
        text,
        "v1.33.2 -> v1.35.1 on linux/amd64: 2 hops\n\
         \x20 1. v1.34.6  https://images.example.com/monok8s-v1.34.6.img.zst\n\
         \x20 2. v1.35.1  https://images.example.com/monok8s-v1.35.1-amd64.img.zst\n"
    );
    let (text, code) = resolve(&["--version", "stable", "--current", "1.35.1"]);
    assert_eq!((text.as_str(), code), ("v1.35.1 is v1.35.1 already\n", 0));
    let (text, code) = resolve(&["--version", "stable", "--current", "v1.36.0"]);
    assert_eq!(code, 1);
    assert!(text.starts_with("refused (Downgrade): "), "{text}");
    let (_, code) = resolve(&[
        "--version",
        "stable",
        "--current",
        "v1.36.0",
        "--allow-downgrade",
    ]);
    assert_eq!(code, 0);
    let (text, _) = resolve(&[
        "--version",
        "stable",
        "--current",
        "v1.34.6",
        "--platform",
        "linux/arm64",
    ]);
    assert!(text.contains("arm64.img.zst"), "{text}");

    let (answer, code) = json(&[
        "catalog",
        "resolve",
        "catalogs/monok8s.yaml",
        "--version",
        "v1.34.7",
        "--current",
        "v1.33.2",
        "-o",
        "json",
    ]);
    assert_eq!(code, 1);
    assert_eq!(answer["resolvedVersion"], "v1.34.7");
    assert_eq!(answer["refusal"]["reason"], "VersionBlocked");
    let (answer, _) = json(&[
        "catalog",
        "resolve",
        "catalogs/monok8s.yaml",
        "--version",
        "stable",
        "--current",
        "v1.33.2",
        "-o",
        "json",
    ]);
    assert_eq!(answer["hops"][1]["version"], "v1.35.1");
    assert_eq!(answer["hops"][1]["size"], 1_858_076_672);
}

#[test]
fn standard_input_is_read() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ctl"))
        .args(["catalog", "check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"images: []\n")
        .unwrap();
    let (text, code) = said(&child.wait_with_output().unwrap());
    assert_eq!(code, 0);
    assert!(
        text.starts_with("standard input: a catalog with 0 images"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_asked_ends_with_two_and_says_what_to_do() {
    let binary = tempfile::NamedTempFile::new().unwrap();
    fs::write(binary.path(), [0xff, 0xfe, 0x00]).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    for (args, part) in [
        (
            &["catalog", "check", "no-such-file"][..],
            "or - for standard input",
        ),
        (&["catalog", "check", "catalogs"], "folder"),
        (&["catalog", "check", path(&binary)], "UTF-8"),
        (
            &["catalog", "resolve", "catalogs/minimal.yaml"],
            "--version",
        ),
        (
            &[
                "catalog",
                "resolve",
                "catalogs/minimal.yaml",
                "--version",
                "a",
                "--current",
                "new",
            ],
            "semantic version",
        ),
        (
            &["plan", "-f", "examples/by-hand.yaml"],
            "there is no OSUpgrade",
        ),
        (
            &["plan", "-f", "examples/upgrade.yaml", "--objects", empty],
            "no .yaml",
        ),
        (
            &[
                "plan",
                "-f",
                "examples/upgrade.yaml",
                "--objects",
                "examples/upgrade.yaml",
            ],
            "kubectl get nodes,osnodes",
        ),
        (&["plan", "-f", "examples/upgrade.yaml"], "--objects"),
        (
            &["create", "agent", "--image", "two words"],
            "registry.example",
        ),
        (&["create"], "Usage"),
    ] {
        let (text, code) = complained(&ctl(args));
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains(part), "{args:?}: {text}");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (text, code) = said(&ctl(&["completions", shell]));
        assert_eq!(code, 0);
        assert!(text.contains("resolve") && text.contains("plan"), "{shell}");
    }
}

const FLEET: &[&str] = &["--objects", "ctl/tests/objects/fleet.yaml"];

fn plan(args: &[&str]) -> (String, i32) {
    said(&ctl(&[&["plan"], args, FLEET].concat()))
}

#[test]
fn a_plan_says_who_goes_and_who_does_not() {
    let (text, code) = plan(&["-f", "examples/upgrade.yaml"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        text,
        "to-stable: Accepted (Resolved), stable is v1.35.1\n\
         \x20 2 of 7 nodes would go, at most 1 at a time, each emptied of its pods before it reboots\n\
         \x20 NODE    RUNS     WOULD\n\
         \x20 ahead   v1.36.0  refuse (Downgrade): it runs v1.36.0, which is newer than v1.35.1; set allowDowngrade: true to go down\n\
         \x20 behind  v1.33.2  go to v1.34.6, then v1.35.1\n\
         \x20 canary  v1.35.1  stay: newer is newer and governs it\n\
         \x20 close   v1.34.6  go to v1.35.1, once by-hand has ended\n\
         \x20 reborn  unknown  refuse (NodeVersionUnknown): its OSNode speaks of an earlier Node of the same name (UID u6-old): the agent on the new one has not reported yet\n\
         \x20 silent  unknown  refuse (NodeVersionUnknown): its agent has not reported which version it runs: check the node-agent pod on that node\n\
         \x20 there   v1.35.1  stay: it is there already\n"
    );
}

/// An upgrade with this in its spec, for one zone of the fleet.
fn upgrade(spec: &str, zone: &str) -> tempfile::NamedTempFile {
    file(&format!(
        "apiVersion: monok8s.io/v1alpha1\nkind: OSUpgrade\nmetadata: {{name: mine}}\n\
         spec: {{nodeSelector: {{matchLabels: {{zone: {zone}}}}}, {spec}}}\n"
    ))
}

#[test]
fn a_plan_begins_with_the_phase_that_the_upgrade_would_have() {
    let images = "'images: [{version: v1.35.1, url: https://a.example, checksum: \"sha256:99af82a263deca44ad91d21d684f0fa944d5d0456a1da540f1c644f8aa59b14b\"}, {version: v1.34.6, url: https://a.example, checksum: bad}]'";
    let to = |version: &str, zone: &str| {
        upgrade(
            &format!("version: {version}, catalog: {{inline: {images}}}"),
            zone,
        )
    };
    let wrong = |zone| upgrade("version: v1.35.1, catalog: {inline: 'images: 7'}", zone);
    for (object, phase, reason, code) in [
        (to("v1.35.1", "b"), "Completed", "Resolved", 0),
        (to("v1.35.3", "a"), "Rejected", "VersionNotInCatalog", 1),
        (to("v1.35.1", "canary"), "Rejected", "Superseded", 1),
        (to("v1.35.1", "c"), "Pending", "NodeVersionUnknown", 0),
        (to("v1.35.1", "nowhere"), "Pending", "NoMatchingNodes", 0),
        // The path of one node leads through an image without a checksum.
        (to("v1.35.1", "a"), "Rejected", "InvalidChecksum", 1),
        (wrong("a"), "Rejected", "InvalidCatalog", 1),
        (
            upgrade("version: v1.35.1, catalog: {url: 'http://a.example/'}", "a"),
            "Rejected",
            "InvalidSource",
            1,
        ),
        (
            upgrade("version: v1.35.1, catalog: {configMap: images}", "a"),
            "Pending",
            "ConfigMapNotFound",
            1,
        ),
        (
            upgrade("version: previous, operation: Rollback", "a"),
            "Accepted",
            "Resolved",
            0,
        ),
    ] {
        let args = [&["plan", "-f", path(&object), "-o", "json"], FLEET].concat();
        let (answer, exit) = json(&args);
        let answer = &answer[0];
        assert_eq!(
            (
                answer["phase"].as_str().unwrap(),
                answer["reason"].as_str().unwrap()
            ),
            (phase, reason),
            "{answer}"
        );
        assert_eq!(exit, code, "{answer}");
    }
}

#[test]
fn a_plan_says_what_this_release_cannot_do() {
    let back = upgrade("version: previous, operation: Rollback", "a");
    let (text, _) = plan(&["-f", path(&back)]);
    assert!(text.contains("RollbackUnavailable"), "{text}");
    let checked = upgrade(
        "version: v1.35.1, catalog: {inline: 'images: []'}, health: {checks: [{name: k, systemdUnit: k.service}]}",
        "a",
    );
    let (text, _) = plan(&["-f", path(&checked), "--catalog", "catalogs/monok8s.yaml"]);
    assert!(text.contains("PolicyRefused"), "{text}");
}

#[test]
fn a_config_map_beside_the_upgrade_is_used() {
    let (text, code) = plan(&["-f", "examples/upgrade-from-configmap.yaml"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.starts_with("to-stable-from-configmap: Accepted"),
        "{text}"
    );
}

#[test]
fn saved_objects_may_be_spread_over_a_folder_and_be_json() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fs::read_to_string(tree().join("ctl/tests/objects/fleet.yaml")).unwrap();
    let fleet: Value = serde_yaml::from_str(&fleet).unwrap();
    let of_kind = |kind: &str| -> Vec<&Value> {
        fleet["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|o| o["kind"] == kind)
            .collect()
    };
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    write(
        "nodes.json",
        serde_json::json!({"apiVersion": "v1", "kind": "NodeList", "items": of_kind("Node")})
            .to_string(),
    );
    let documents: Vec<String> = ["OSNode", "OSUpgrade", "OSUpgradeProgress"]
        .iter()
        .flat_map(|kind| of_kind(kind))
        .map(|object| serde_yaml::to_string(object).unwrap())
        .collect();
    write("rest.yml", documents.join("---\n"));
    write("notes.txt", "not looked at".to_owned());
    let saved = folder.path().to_str().unwrap();
    let args = ["plan", "-f", "examples/upgrade.yaml", "--objects", saved];
    assert_eq!(said(&ctl(&args)), plan(&["-f", "examples/upgrade.yaml"]));
}
