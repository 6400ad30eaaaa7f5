//! Runs the shipped `grub.cfg` in GRUB's own script interpreter (`grub-emu`), on a real disk image with a partition
//! table, two slots and an environment block, over every combination of the variables, and compares what GRUB starts
//! and what it leaves in the block with the model that virtual nodes are started by.
//!
//! Needs the Debian packages grub-emu, grub-common, gdisk, e2fsprogs and bsdutils; no root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own functions"
)]

mod needs;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use monok8s_boot::SlotName;
use monok8s_boot::loader::grub::envblock::{EnvBlock, SIZE};
use monok8s_boot::loader::grub::model::{Start, Surroundings, start};
use monok8s_boot::loader::grub::{CONFIG, variables};

/// The emulator has no kernel to start: a function named like the missing command says what would be started. It
/// succeeds where the kernel's file is there, as the real one does.
const WRAPPER: &str = r#"
function linux {
  if test -f "$1"; then echo "@@ $3 $4"; echo "@@ $2"; exit; fi
  return 1
}
source ${prefix}/shipped.cfg
echo "@@ menu"
exit
"#;

/// The programs, each with its Debian package.
const PROGRAMS: [(&str, &str); 5] = [
    ("grub-emu", "grub-emu"),
    ("grub-script-check", "grub-common"),
    ("sgdisk", "gdisk"),
    ("mkfs.ext4", "e2fsprogs"),
    ("script", "bsdutils"),
];

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sbin(tool: &str) -> Command {
    let mut command = Command::new(tool);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

const UUID_A: &str = "aaaaaaaa-0000-4000-8000-00000000000a";
const UUID_B: &str = "bbbbbbbb-0000-4000-8000-00000000000b";

/// A disk as GRUB finds it, and where on it the environment block is.
struct Disk {
    /// Starts the emulator on it.
    command: String,
    block_in: PathBuf,
    block_at: u64,
}

impl Disk {
    fn make(dir: &Path, around: Surroundings) -> Self {
        let name = format!(
            "{}{}{}",
            u8::from(around.can_save),
            u8::from(around.a_loads),
            u8::from(around.b_loads)
        );
        let dir = dir.join(name);
        let grub = dir.join("esp/grub");
        fs::create_dir_all(&grub).unwrap();
        fs::write(grub.join("shipped.cfg"), CONFIG).unwrap();
        fs::write(grub.join("grub.cfg"), WRAPPER).unwrap();
        fs::write(grub.join("monok8s.cfg"), "set monok8s_timeout=0\n").unwrap();
        fs::write(grub.join("grubenv"), EnvBlock::default().render().unwrap()).unwrap();
        let image = dir.join("disk.img");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        run(sbin("sgdisk")
            .args([
                "-n1:2048:+4M",
                "-t1:ef00",
                "-n2:0:+3M",
                "-c2:slot-a",
                "-n3:0:+3M",
                "-c3:slot-b",
            ])
            .args([format!("-u2:{UUID_A}"), format!("-u3:{UUID_B}")])
            .arg(&image));
        for (slot, loads) in [("a", around.a_loads), ("b", around.b_loads)] {
            fs::create_dir_all(dir.join(slot).join("boot")).unwrap();
            if loads {
                fs::write(dir.join(slot).join("boot/vmlinuz"), "a kernel").unwrap();
            }
        }
        for (tree, size, offset) in [
            ("esp", "4M", 1 << 20),
            ("a", "3M", 5 << 20),
            ("b", "3M", 8 << 20),
        ] {
            run(sbin("mkfs.ext4")
                .args([
                    "-q",
                    "-F",
                    "-O",
                    "^has_journal",
                    "-E",
                    &format!("offset={offset}"),
                    "-d",
                ])
                .arg(dir.join(tree))
                .arg(&image)
                .arg(size));
        }
        fs::write(
            dir.join("device.map"),
            format!("(hd0) {}\n", image.display()),
        )
        .unwrap();
        let grub_at =
            |start_from: &str| format!("grub-emu -m {}/device.map {start_from}", dir.display());
        if !around.can_save {
            // GRUB's files on the machine that runs the emulator: a file system that save_env refuses, because it
            // cannot name the disk blocks of a file.
            let grub = dir.join("esp/grub");
            fs::write(
                grub.join("monok8s.cfg"),
                "set monok8s_timeout=0\nset monok8s_disk=hd0\n",
            )
            .unwrap();
            let command = grub_at(&format!("-d {} -r host", grub.display()));
            return Self {
                command,
                block_in: grub.join("grubenv"),
                block_at: 0,
            };
        }
        let bytes = fs::read(&image).unwrap();
        let needle = b"# GRUB Environment Block\n####";
        let found: Vec<_> = (0..bytes.len())
            .step_by(512)
            .filter(|i| bytes[*i..].starts_with(needle))
            .collect();
        assert_eq!(found.len(), 1);
        Self {
            command: grub_at("-d /grub -r hd0,gpt1"),
            block_in: image,
            block_at: found[0] as u64,
        }
    }

    /// One boot: what GRUB starts, and the block it leaves.
    fn boot(&self, env: &EnvBlock) -> (Option<Start>, [u8; SIZE]) {
        let image = File::options()
            .read(true)
            .write(true)
            .open(&self.block_in)
            .unwrap();
        image
            .write_all_at(&env.render().unwrap(), self.block_at)
            .unwrap();
        // GRUB's console wants a terminal.
        let screen = run(Command::new("script")
            .args(["-qec", &self.command, "/dev/null"])
            .env("TERM", "dumb"));
        let said: Vec<&str> = screen
            .split("@@ ")
            .skip(1)
            .map(|s| s.lines().next().unwrap().trim())
            .collect();
        let started = match said.as_slice() {
            ["menu"] => {
                assert!(screen.contains("neither slot can be started"), "{screen}");
                None
            }
            [words, root] => {
                let slot: SlotName = words.strip_prefix("monok8s.slot=").unwrap()[..1]
                    .parse()
                    .unwrap();
                let uuid = if slot == SlotName::A { UUID_A } else { UUID_B };
                assert_eq!(*root, format!("root=PARTUUID={uuid}"));
                Some(Start {
                    slot,
                    trial: words.ends_with("monok8s.trial=1"),
                })
            }
            _ => panic!("GRUB said neither what it starts nor that it does not:\n{screen}"),
        };
        let mut after = [0; SIZE];
        image.read_exact_at(&mut after, self.block_at).unwrap();
        (started, after)
    }
}

fn block(default: Option<&str>, trial: Option<&str>, a: Option<&str>, b: Option<&str>) -> EnvBlock {
    let mut env = EnvBlock::default();
    env.set("saved_entry", "somebody else's").unwrap();
    let values = [
        (variables::DEFAULT, default),
        (variables::TRIAL, trial),
        (variables::ok(SlotName::A), a),
        (variables::ok(SlotName::B), b),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            env.set(name, value).unwrap();
        }
    }
    env.set("next_entry", "").unwrap();
    env
}

fn compare_all(around: Surroundings) {
    if !PROGRAMS
        .iter()
        .all(|(name, package)| needs::program(name, package))
    {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::make(dir.path(), around);
    for default in [None, Some("A"), Some("B"), Some("C")] {
        for trial in [None, Some(""), Some("A"), Some("B"), Some("C")] {
            for a in [None, Some("1"), Some("0")] {
                for b in [None, Some("1"), Some("0")] {
                    let env = block(default, trial, a, b);
                    let (expected, left) = start(&env, around);
                    let (started, after) = disk.boot(&env);
                    let case = format!(
                        "default {default:?} trial {trial:?} a_ok {a:?} b_ok {b:?} {around:?}"
                    );
                    assert_eq!(started, expected, "{case}");
                    let after = EnvBlock::parse(&after).unwrap();
                    assert_eq!(after, left, "{case}");
                }
            }
        }
    }
}

#[test]
fn grub_and_the_model_agree() {
    compare_all(Surroundings::FINE);
}

#[test]
fn grub_and_the_model_agree_when_slot_a_has_no_kernel() {
    compare_all(Surroundings {
        a_loads: false,
        ..Surroundings::FINE
    });
}

#[test]
fn grub_and_the_model_agree_when_slot_b_has_no_kernel() {
    compare_all(Surroundings {
        b_loads: false,
        ..Surroundings::FINE
    });
}

#[test]
fn grub_and_the_model_agree_when_the_block_cannot_be_written() {
    compare_all(Surroundings {
        can_save: false,
        ..Surroundings::FINE
    });
}
