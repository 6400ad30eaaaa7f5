//! `kill -9` at random points: each run goes on where the last one had proven, and the end is the image.
//!
//! The process that is killed is this test program, started again with one test and what it needs in its environment.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod support;

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use monok8s_image::{
    Checkpoint, Digest, HostDevice, Observer, Options, Progress, Start, install_from, pack,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use support::{MIB, expect, noise, sha256};

const BINDING: &[u8] = b"uid, attempt, checksum, partition";
const FOLDER: &str = "MONOK8S_KILL_TEST_FOLDER";

/// How often it is killed; the release's own run sets 200.
fn kills() -> usize {
    env::var("MONOK8S_KILLS").map_or(12, |count| count.parse().unwrap())
}

struct Keeper(PathBuf);

impl Observer for Keeper {
    fn progress(&mut self, _: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// As an agent does it: a temporary file, fsync, rename.
    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        let new = self.0.with_extension("new");
        let mut file = File::create(&new).unwrap();
        file.write_all(&checkpoint.to_bytes()).unwrap();
        file.sync_all().unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

/// The process that is killed. Does nothing in an ordinary run.
#[test]
fn install_in_a_process_of_its_own() {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let checksum = fs::read(folder.join("checksum")).unwrap();
    let checksum = Digest(checksum.try_into().unwrap());
    let slot = OpenOptions::new()
        .read(true)
        .write(true)
        .open(folder.join("slot"))
        .unwrap();
    let device = HostDevice::new(slot, "slot").unwrap();
    let kept = folder.join("checkpoint");
    let start = match fs::read(&kept) {
        Ok(bytes) => Start::verify(
            Checkpoint::from_bytes(&bytes).unwrap(),
            &device,
            BINDING,
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap(),
        Err(_) => Start::at_the_beginning(),
    };
    let mut file = File::open(folder.join("file")).unwrap();
    file.seek(SeekFrom::Start(start.file_bytes())).unwrap();
    let options = Options {
        binding: Some(BINDING.to_vec()),
        ..Options::default()
    };
    let mut keeper = Keeper(kept);
    install_from(
        start,
        &mut file,
        &device,
        &expect(checksum),
        &options,
        &mut keeper,
    )
    .unwrap();
    fs::write(folder.join("done"), "").unwrap();
}

fn start(folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "install_in_a_process_of_its_own", "--quiet"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_random_points_it_comes_to_its_end() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = folder.path();
    // Three epochs and a bit, some of it zeros; the last page is no whole one.
    let mut image = noise(200 * MIB + 77, 4);
    for part in image.chunks_exact_mut(8 * MIB) {
        part[..MIB].fill(0);
    }
    let mut file = File::create(folder.join("file")).unwrap();
    let packed = pack(&mut &image[..], &mut file, 1, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    fs::write(folder.join("checksum"), packed.file_digest.0).unwrap();
    let slot = File::create(folder.join("slot")).unwrap();
    slot.set_len(image.len() as u64).unwrap();

    // How long one run takes here and now, so that kills fall into all of it.
    let mut run = start(folder);
    let begun = std::time::Instant::now();
    assert!(run.wait().unwrap().success());
    let whole = begun.elapsed();
    fs::remove_file(folder.join("done")).unwrap();

    let mut runner = TestRunner::deterministic();
    let (mut killed, mut completed) = (0, 0);
    let mut begin_anew = true;
    while killed < kills() {
        if begin_anew {
            let _ = fs::remove_file(folder.join("checkpoint"));
            slot.set_len(0).unwrap();
            slot.set_len(image.len() as u64).unwrap();
        }
        let share = (0..1000_u32).new_tree(&mut runner).unwrap().current();
        let mut run = start(folder);
        thread::sleep(whole * share / 1000);
        let _ = run.kill();
        begin_anew = run.wait().unwrap().success();
        if begin_anew {
            fs::remove_file(folder.join("done")).unwrap();
            completed += 1;
            assert!(fs::read(folder.join("slot")).unwrap() == image);
        } else {
            killed += 1;
        }
    }
    if !begin_anew {
        assert!(start(folder).wait().unwrap().success());
        completed += 1;
    }
    eprintln!("killed {killed} times, complete {completed} times");
    let slot = fs::read(folder.join("slot")).unwrap();
    assert_eq!(sha256(&slot), packed.image_digest);
}
