//! `make container` from the outside.

use std::{fs, process::Command};

use monok8s_packaging::{build::ARCHIVE, platform::Platform, programs::PROGRAMS};
use monok8s_sandbox::scratch;
use serde_json::Value;

use crate::unpacked::{EPOCH, NAME};

/// What `make` would do.
fn recipe(arguments: &[&str]) -> String {
    let output = Command::new("make")
        .args(["--dry-run", "--no-print-directory", "container"])
        .args(arguments)
        // What runs the tests may be a make itself, whose settings are not to reach this one.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .current_dir(scratch::repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn make_builds_for_this_machine_or_for_those_that_are_named() {
    let own = recipe(&[]);
    assert!(own.trim_end().ends_with("--bin container --"), "{own}");
    let both = recipe(&["PLATFORMS=linux/amd64 linux/arm64"]);
    let words = "--bin container -- --platform linux/amd64 --platform linux/arm64";
    assert!(both.contains(words), "{both}");
}

/// With small programs in place of ours, which are not built again for this.
#[test]
fn it_writes_the_image_that_the_manifests_name_and_says_where() {
    let folder = scratch::folder("container").unwrap();
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).unwrap();
    for (name, _) in PROGRAMS {
        fs::copy("/usr/bin/true", programs.join(name)).unwrap();
    }
    let out = folder.path().join("out");
    let output = Command::new(env!("CARGO_BIN_EXE_container"))
        .args(["--level", "1", "--programs"])
        .arg(&programs)
        .arg("--output")
        .arg(&out)
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .current_dir(scratch::repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let archive = out.join(ARCHIVE);
    let platform = Platform::own().unwrap();
    let list = out.join(format!("monok8s-ota.{}.cdx.json", platform.word()));
    for words in [
        NAME,
        archive.to_str().unwrap(),
        list.to_str().unwrap(),
        &platform.to_string(),
    ] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }

    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let index = archive
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .find(|entry| entry.path().unwrap().to_str() == Some("index.json"));
    let index: Value = serde_json::from_reader(index.unwrap()).unwrap();
    let named = &index["manifests"][0];
    assert_eq!(named["annotations"]["io.containerd.image.name"], NAME);
    assert!(said.contains(named["digest"].as_str().unwrap()), "{said}");
    let list: Value = serde_json::from_slice(&fs::read(list).unwrap()).unwrap();
    assert_eq!(list["bomFormat"], "CycloneDX");
}
