//! What the stages share: how far they are, why they stopped.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    checkpoint::Checkpoint,
    error::{Done, InstallError},
    progress::{Progress, Timed},
};

/// Shared by the stages and the thread that called `install`.
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
    hash_image: AtomicBool,
}

struct State {
    progress: Progress,
    /// One that nobody has seen.
    checkpoint: Option<Checkpoint>,
    /// The observer has not returned from the last one.
    keeping: bool,
    /// Somebody hands checkpoints to the observer.
    watched: bool,
    failure: Option<InstallError>,
    running: usize,
}

impl Control {
    pub(crate) fn new(progress: Progress) -> Self {
        Self {
            state: Mutex::new(State {
                progress,
                checkpoint: None,
                keeping: false,
                watched: true,
                failure: None,
                running: 0,
            }),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            hash_image: AtomicBool::new(false),
        }
    }

    /// Wants the SHA-256 of what is read back. To be said before the first piece is.
    pub(crate) fn hash_the_image(&self) {
        self.hash_image.store(true, Ordering::Relaxed);
    }

    pub(crate) fn hashes_the_image(&self) -> bool {
        self.hash_image.load(Ordering::Relaxed)
    }

    /// Hands a checkpoint to the calling thread, and returns when the observer has kept it: were more written meanwhile, a
    /// crash would cost more than two epochs.
    pub(crate) fn checkpoint(&self, checkpoint: Checkpoint) {
        let mut state = self.state();
        state.checkpoint = Some(checkpoint);
        state.keeping = true;
        self.changed.notify_all();
        let kept = self
            .changed
            .wait_while(state, |s| s.keeping && s.watched)
            .unwrap_or_else(PoisonError::into_inner);
        drop(kept);
    }

    /// The observer has kept the checkpoint.
    pub(crate) fn kept(&self) {
        self.state().keeping = false;
        self.changed.notify_all();
    }

    /// Says that checkpoints are handed on until the guard is dropped, an observer's panic included.
    pub(crate) fn watched(&self) -> Watched<'_> {
        Watched(self)
    }

    /// Nothing is left half changed under this lock, so that a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(&self) -> Progress {
        self.state().progress
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.state().progress);
        self.changed.notify_all();
    }

    /// Bytes handed to the device, of how many.
    pub(crate) fn written(&self) -> Done {
        let progress = self.progress();
        Done {
            bytes: progress.written,
            total: progress.total,
        }
    }

    /// Bytes proven, of how many.
    pub(crate) fn proven(&self) -> Done {
        let progress = self.progress();
        Done {
            bytes: progress.proven,
            total: progress.total,
        }
    }

    /// Records why there is no going on; the first reason stays. Returns None, for a stage to return.
    pub(crate) fn fail<T>(&self, why: InstallError) -> Option<T> {
        self.state().failure.get_or_insert(why);
        self.stop();
        None
    }

    /// Every stage returns at its next step.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn take_failure(&self) -> Option<InstallError> {
        self.state().failure.take()
    }

    /// Counts a stage in until the guard is dropped.
    pub(crate) fn enter(&self) -> Running<'_> {
        self.state().running += 1;
        Running(self)
    }

    /// Waits until the progress differs from `known` or there is a checkpoint; None when all stages have returned.
    pub(crate) fn wait(&self, known: Progress) -> Option<(Progress, Option<Checkpoint>)> {
        let nothing =
            |s: &mut State| s.running > 0 && s.progress == known && s.checkpoint.is_none();
        let mut state = self
            .changed
            .wait_while(self.state(), nothing)
            .unwrap_or_else(PoisonError::into_inner);
        let checkpoint = state.checkpoint.take();
        let seen = state.progress != known || checkpoint.is_some();
        seen.then_some((state.progress, checkpoint))
    }
}

/// A stage that has not returned, a panic included.
pub(crate) struct Running<'a>(&'a Control);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().running -= 1;
        self.0.changed.notify_all();
    }
}

/// As long as somebody hands on checkpoints.
pub(crate) struct Watched<'a>(&'a Control);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.state().watched = false;
        self.0.changed.notify_all();
    }
}

impl Timed {
    /// Does `work` on so many bytes.
    pub(crate) fn time<T>(&mut self, bytes: usize, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.busy += start.elapsed();
        self.bytes += bytes as u64;
        result
    }
}
