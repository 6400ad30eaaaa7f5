//! `kill -9` at random points: each run goes on where the last one had proven, and the end is the image. What a kill costs
//! is bounded.
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
    io::{self, Read, Seek, SeekFrom, Write},
    ops::ControlFlow,
    os::unix::{fs::FileExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use monok8s_image::{
    Checkpoint, Digest, HostDevice, Observer, Options, Progress, SeekEntry, Start, install_from,
    pack, read_seek_table,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use support::{MIB, expect, noise, sha256};

const BINDING: &[u8] = b"uid, attempt, checksum, partition";
const FOLDER: &str = "MONOK8S_KILL_TEST_FOLDER";

/// What is written and not proven when a run is killed.
const TWO_EPOCHS: u64 = 2 * 64 * MIB as u64;

/// Of the image, in frames that are on their way: 16 MiB that are collected or decoded, 24 MiB of blocks before the device.
const IN_FLIGHT: u64 = 40 * MIB as u64;

/// Of the file, in portions that are on their way.
const PORTIONS: u64 = 4 * MIB as u64;

/// How often it is killed; the release's own run sets 200.
fn kills() -> usize {
    env::var("MONOK8S_KILLS").map_or(12, |count| count.parse().unwrap())
}

/// The file as a server would send it, and the word on the disk of how far it was fetched.
struct Download {
    file: File,
    at: u64,
    word: File,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.at += count as u64;
        // In the page cache, which outlives this process.
        self.word.write_all_at(&self.at.to_le_bytes(), 0)?;
        Ok(count)
    }
}

/// Where frames end, in the file and in the image.
struct Frames(Vec<(u64, u64)>);

impl Frames {
    fn of(entries: &[SeekEntry]) -> Self {
        let mut end = (0, 0);
        let ends = entries.iter().map(|entry| {
            end.0 += u64::from(entry.compressed);
            end.1 += u64::from(entry.expanded);
            end
        });
        Self(ends.collect())
    }

    /// The end in the file of the last frame that ends no further in the image.
    fn file_end(&self, image_bytes: u64) -> u64 {
        let ends = self.0.iter().filter(|end| end.1 <= image_bytes);
        ends.map(|end| end.0).max().unwrap_or(0)
    }

    /// How far a run that goes on from here can have fetched without a newer checkpoint: the compressed bytes of two
    /// epochs, of the frames in flight, of one that is not whole, and what has not been looked at.
    fn furthest(&self, proven: u64) -> u64 {
        self.file_end(proven + TWO_EPOCHS + IN_FLIGHT + 4 * MIB as u64) + PORTIONS
    }
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
    let mut download = Download {
        file,
        at: start.file_bytes(),
        word: File::create(folder.join("fetched")).unwrap(),
    };
    let options = Options {
        binding: Some(BINDING.to_vec()),
        ..Options::default()
    };
    let mut keeper = Keeper(kept);
    install_from(
        start,
        &mut download,
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

/// How far the last run has fetched the file; None where it did not get so far as to ask for it.
fn fetched(folder: &Path) -> Option<u64> {
    let word = fs::read(folder.join("fetched")).ok()?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

#[test]
fn killed_at_random_points_it_comes_to_its_end() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = folder.path();
    // Five epochs and a bit, some of it zeros; the last page is no whole one.
    let mut image = noise(328 * MIB + 77, 4);
    for part in image.chunks_exact_mut(8 * MIB) {
        part[..MIB].fill(0);
    }
    let mut file = File::create(folder.join("file")).unwrap();
    let packed = pack(&mut &image[..], &mut file, 1, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    fs::write(folder.join("checksum"), packed.file_digest.0).unwrap();
    let written = fs::read(folder.join("file")).unwrap();
    let frames = Frames::of(&read_seek_table(&written).unwrap().0);
    drop(written);
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
    let (mut again, mut most_again) = (0, 0);
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
        let ended = run.wait().unwrap();
        begin_anew = ended.success();
        assert!(begin_anew || ended.signal() == Some(9), "{ended}");
        if begin_anew {
            fs::remove_file(folder.join("done")).unwrap();
            completed += 1;
            assert!(fs::read(folder.join("slot")).unwrap() == image);
        } else {
            killed += 1;
            // What was fetched beyond the checkpoint is what the next run fetches again.
            let proven = fs::read(folder.join("checkpoint"))
                .map(|bytes| Checkpoint::from_bytes(&bytes).unwrap())
                .map_or((0, 0), |kept| (kept.file_bytes(), kept.image_bytes()));
            if let Some(fetched) = fetched(folder) {
                let furthest = frames.furthest(proven.1);
                assert!(
                    fetched <= furthest,
                    "{fetched} of {furthest}, proven {proven:?}"
                );
                again += fetched.saturating_sub(proven.0);
                most_again = most_again.max(fetched.saturating_sub(proven.0));
            }
        }
        let _ = fs::remove_file(folder.join("fetched"));
    }
    if !begin_anew {
        assert!(start(folder).wait().unwrap().success());
        completed += 1;
    }
    eprintln!(
        "killed {killed} times, complete {completed} times, {again} bytes fetched again, at most {most_again} for a kill"
    );
    let slot = fs::read(folder.join("slot")).unwrap();
    assert_eq!(sha256(&slot), packed.image_digest);
}
