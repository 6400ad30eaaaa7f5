//! Images for the machine that this is not.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use monok8s_packaging::{
    build,
    platform::Platform,
    programs::{self, PROGRAMS},
};
use monok8s_sandbox::{scratch, skip};

use crate::unpacked::{self, order};

fn other() -> Platform {
    match Platform::own().unwrap() {
        Platform::Amd64 => Platform::Arm64,
        Platform::Arm64 => Platform::Amd64,
    }
}

/// Where a program is, if it is anywhere.
fn which(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[test]
fn what_is_missing_to_build_for_it_is_named_with_the_way_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    // Rust and nothing else.
    for name in ["cargo", "rustc"] {
        symlink(which(name).unwrap(), folder.path().join(name)).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_container"))
        .args(["--platform", &other().to_string()])
        .arg("--output")
        .arg(folder.path())
        .current_dir(scratch::repository())
        .env("PATH", folder.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let package = other().cross_compiler_package();
    assert!(
        said.contains(&format!("apt-get install {package}")),
        "{said}"
    );
    assert!(said.contains(&other().to_string()), "{said}");
}

/// A program in C in place of ours, whose release build for another machine takes a quarter of an hour.
#[test]
fn the_cross_compilers_libraries_are_enough_to_run() {
    let gcc = format!("{}-gcc", other().gnu());
    if which(&gcc).is_none() {
        skip::say(&format!("there is no {gcc} here"));
        return;
    }
    let folder = scratch::folder("other-machine").unwrap();
    let source = folder.path().join("program.c");
    fs::write(
        &source,
        "#include <math.h>\n#include <stdio.h>\n\
         int main(int n, char **words) { printf(\"%s %.0f\\n\", words[1], floor(n + 0.5)); }\n",
    )
    .unwrap();
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).unwrap();
    for (name, _) in PROGRAMS {
        let status = Command::new(&gcc)
            .arg("-o")
            .arg(programs.join(name))
            .args([&source, Path::new("-lm")])
            .args(["-fno-builtin", "-O0"])
            .status()
            .unwrap();
        assert!(status.success());
    }
    let mut order = order(
        programs::ready_built(&programs).unwrap(),
        &folder.path().join("out"),
    );
    let files = order.programs.pop_first().unwrap().1;
    order.programs = BTreeMap::from([(other(), files)]);
    let built = build::build(&order).unwrap();
    let (_, list) = &built.platforms[&other()];
    let list = fs::read_to_string(list).unwrap();
    assert!(list.contains("libc6"), "{list}");

    let name = format!(
        "qemu-{}-static",
        other().gnu().split('-').next().unwrap_or_default()
    );
    let root = folder.path().join("root");
    unpacked::unpack(&fs::read(&built.archive).unwrap(), &built, &root);
    let Some(emulator) = which(&name).filter(|_| rustix::process::geteuid().is_root()) else {
        skip::say(&format!(
            "as root and with {name} the programs would be run"
        ));
        return;
    };
    fs::copy(emulator, root.join("emulator")).unwrap();
    let output = Command::new("chroot")
        .arg(&root)
        .args(["/emulator", "/usr/bin/ctl", "hello"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "hello 2\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
