//! Packing and decoding use the machine's cores.
//!
//! In a file, that is a process, of its own: the threads that are counted are the process's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    fs,
    io::{self, Read},
    ops::ControlFlow,
    thread,
    time::{Duration, Instant},
};

use monok8s_image::{install, pack};
use support::{MIB, Memory, expect, noise, sha256};

/// How many threads of this process have that name (`proc_pid_comm(5)`).
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .flatten()
        .filter(|task| {
            let comm = fs::read_to_string(task.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim() == name)
        })
        .count()
}

/// A thread takes its name when it begins to run.
fn wait_for(count: usize, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while threads(name) != count {
        assert!(
            Instant::now() < deadline,
            "{} threads are called {name}, not {count}",
            threads(name)
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// A file or an image whose bytes come when all threads are seen that work on it.
struct Watching<'a> {
    bytes: &'a [u8],
    threads: (usize, &'static str),
}

impl Read for Watching<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, name) = self.threads;
        wait_for(count, name);
        self.bytes.read(buffer)
    }
}

#[test]
fn one_thread_for_each_core() {
    let cores = thread::available_parallelism().unwrap().get();
    let image = noise(9 * MIB, 1);
    let mut file = Vec::new();
    let mut source = Watching {
        bytes: &image,
        threads: (cores, "pack-compress"),
    };
    pack(
        &mut source,
        &mut file,
        1,
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap();

    let mut source = Watching {
        bytes: &file,
        // More would have nothing to decode in the memory that there is for it.
        threads: (cores.min(3), "image-decode"),
    };
    let device = Memory::new(image.len());
    install(&mut source, &device, &expect(sha256(&image)), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(device.medium() == image);
}
