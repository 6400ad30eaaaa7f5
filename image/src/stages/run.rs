//! The stages put together, and the calling thread that watches them.

use std::{
    io::{self, Read},
    panic::resume_unwind,
    sync::{Mutex, mpsc::sync_channel},
    thread::{self, Scope, ScopedJoinHandle},
};

use crate::{
    Device, Digest, InstallError, Observer, Progress, StageTimes, Start, WindowLimit,
    buffer::{self, ALIGNMENT, BLOCK, FILE_PIECE, PIECE},
    stages::{
        control::Control,
        digest,
        expand::{self, BATCH_LIMIT, Bounds, Expanded},
        medium::{self, Medium},
        prove::{Prover, Seen},
        receive, side_by_side,
        write::{self, PIECES_PER_EPOCH},
    },
};

/// Buffers between the receiver and the expander: 4 MiB.
const FILE_BUFFERS: usize = 16;

/// Blocks between the expander and the device: 24 MiB.
const BLOCKS: usize = 6;

/// Batches that are collected or decoded: 16 MiB where nothing compresses.
const BATCHES: usize = 4;

/// More would have nothing to decode: so many batches are there at most, one of them being collected. Nor would more be of
/// use: these are faster than one SHA-256 of the image can follow, which no number of cores can share.
const MOST_DECODERS: usize = BATCHES - 1;

/// Buffers between the reader of the medium and who looks at them: 12 MiB.
const READ_BACK_BUFFERS: usize = 6;

/// One epoch is being written, one is being read back. So no more than two are written that no checkpoint is kept of, which
/// is what a crash costs.
const EPOCHS: usize = 2;

/// The calling thread: it shows the observer what changes and hands on its word.
pub(crate) struct Watcher<'a> {
    control: &'a Control,
    observer: &'a mut dyn Observer,
    shown: Progress,
}

impl<'a> Watcher<'a> {
    /// Shows the observer the beginning.
    pub(crate) fn new(
        control: &'a Control,
        observer: &'a mut dyn Observer,
    ) -> Result<Self, InstallError> {
        let shown = control.progress();
        if observer.progress(shown).is_break() {
            return Err(cancelled(control));
        }
        Ok(Self {
            control,
            observer,
            shown,
        })
    }

    /// Returns when no stage runs any more.
    fn watch(&mut self) {
        let _watched = self.control.watched();
        let mut listening = true;
        while let Some((progress, checkpoint)) = self.control.wait(self.shown) {
            // What is proven stays proven, whatever the observer said.
            if let Some(checkpoint) = checkpoint {
                self.observer.checkpoint(&checkpoint);
                self.control.kept();
            }
            let changed = progress != self.shown;
            self.shown = progress;
            if listening && changed && self.observer.progress(progress).is_break() {
                listening = false;
                self.control.fail::<()>(cancelled(self.control));
            }
        }
    }
}

fn cancelled(control: &Control) -> InstallError {
    InstallError::Cancelled {
        written: control.written(),
    }
}

/// What the stages are told.
pub(crate) struct Orders<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) bounds: Bounds<'a>,
    pub(crate) window_limit: WindowLimit,
    pub(crate) start: Start,
    pub(crate) compare_before_write: bool,
    pub(crate) binding: Option<[u8; 32]>,
}

/// What has come of them.
pub(crate) struct Streamed {
    pub(crate) expanded: Expanded,
    /// Of the image as read back, where it was wanted.
    pub(crate) image_digest: Option<Digest>,
    pub(crate) times: StageTimes,
}

/// From the source to a device on which every piece is proven.
#[allow(
    clippy::too_many_lines,
    reason = "all stages and what connects them, in one view"
)]
pub(crate) fn stream(
    source: &mut (dyn Read + Send),
    orders: Orders<'_>,
    watcher: &mut Watcher<'_>,
) -> Result<Streamed, InstallError> {
    let control = watcher.control;
    let Orders {
        device,
        bounds,
        window_limit,
        start,
        compare_before_write,
        binding,
    } = orders;
    let bounds = &bounds;
    let (portion_used, portion_empty) = buffer::pool(FILE_BUFFERS, FILE_PIECE);
    // With room for the beginning of a page in front.
    let (block_used, block_empty) = buffer::pool(BLOCKS, BLOCK + ALIGNMENT);
    let (batch_used, batch_spare) = buffer::circle(BATCHES, || Vec::with_capacity(BATCH_LIMIT));
    let (epoch_used, epoch_empty) = buffer::circle(EPOCHS, || Vec::with_capacity(PIECES_PER_EPOCH));
    // One more than there are buffers: the word that it is the end.
    let (portions_out, portions_in) = sync_channel(FILE_BUFFERS + 1);
    let (arrivals_out, arrivals_in) = sync_channel(2 * BLOCKS + 1);
    let (ready_out, ready_in) = sync_channel(2 * BLOCKS + 1);
    let (batches_out, batches_in) = sync_channel(BATCHES);
    // One for each batch that can have a block, so that no decoder waits.
    let (results_out, results_in) = (0..BLOCKS).map(|_| sync_channel(1)).unzip();
    let (epochs_out, epochs_in) = sync_channel(EPOCHS + 1);
    let before = Seen {
        chain: start.chain.clone(),
        image_hash: start.image_hash.clone(),
        ..Seen::default()
    };
    let (medium, prover) = read_back(device, before, control);
    let batches_in = &Mutex::new(batches_in);
    let batch_used = &batch_used;
    let input = expand::Input {
        portions: portions_in,
        used: portion_used,
    };
    let output = expand::Output {
        arrivals: arrivals_out,
        empty: block_empty,
        batches: batches_out,
        spare: batch_spare,
        results: results_out,
    };
    let digest_ends = digest::Ends {
        arrivals: arrivals_in,
        results: results_in,
        ready: ready_out,
    };
    let write_ends = write::Ends {
        ready: ready_in,
        used: block_used,
        epochs: epochs_out,
        empty: epoch_empty,
    };
    let image_bytes = start.image_bytes;
    let beginning = start.into_beginning();

    let ended = thread::scope(|scope| {
        let prove = spawn(scope, "image-prove", control, move || {
            prover.compare(bounds.device, binding, &epoch_used)
        })?;
        let read_back = spawn(scope, "image-read-back", control, move || {
            medium.follow(&epochs_in)
        })?;
        let write = spawn(scope, "image-write", control, move || {
            write::write(device, compare_before_write, &write_ends, control)
        })?;
        let digest = spawn(scope, "image-digest", control, move || {
            digest::digest(image_bytes, &digest_ends, control)
        })?;
        let decoders = (0..decoders())
            .map(|_| {
                spawn(scope, "image-decode", control, move || {
                    side_by_side::decode(batches_in, batch_used)
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let expand = spawn(scope, "image-expand", control, move || {
            expand::expand(window_limit, beginning, bounds, &input, &output, control)
        })?;
        let receive = spawn(scope, "image-receive", control, move || {
            receive::receive(source, &portion_empty, &portions_out, control)
        })?;
        watcher.watch();
        // All are waited for before any is judged.
        let decoded: Vec<_> = decoders.into_iter().map(join).collect();
        let sides = (
            join(receive).zip(join(expand)),
            join(digest).zip(join(write)),
            join(read_back).zip(join(prove)),
        );
        Ok(sides.0.zip(sides.1).zip(sides.2).zip(Some(decoded)))
    })?;

    let ((((receive, expanded), (digest, write)), (read_back, seen)), decoded) =
        verdict(ended, control)?;
    let mut decode = expanded.decode;
    for one in decoded.into_iter().flatten() {
        decode.bytes += one.bytes;
        decode.busy += one.busy;
    }
    let times = StageTimes {
        receive,
        hash_file: expanded.hash_file,
        decode,
        digest,
        write: write.write,
        clear: write.clear,
        unchanged: write.unchanged,
        flush: read_back.flush,
        read_back: read_back.read_back,
        compare: seen.compare,
        hash_image: seen.hash_image,
    };
    Ok(Streamed {
        expanded,
        image_digest: control
            .hashes_the_image()
            .then(|| Digest::of(seen.image_hash)),
        times,
    })
}

/// Decoders of batches: one for each core, as far as more are of use.
fn decoders() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_DECODERS))
}

/// What the first `length` bytes are, as the medium holds them: the marks of their pieces and their SHA-256.
pub(crate) fn read_again(
    device: &dyn Device,
    length: u64,
    watcher: &mut Watcher<'_>,
) -> Result<Seen, InstallError> {
    let control = watcher.control;
    control.hash_the_image();
    let (medium, prover) = read_back(device, Seen::default(), control);
    let ended = thread::scope(|scope| {
        let prove = spawn(scope, "image-prove", control, move || prover.read())?;
        let read = spawn(scope, "image-read-back", control, move || {
            medium.read_again(length)
        })?;
        watcher.watch();
        Ok(join(read).zip(join(prove)))
    })?;
    let ((), seen) = verdict(ended, control)?;
    Ok(seen)
}

/// Who reads the medium and who looks at it, after what was `seen` before; between them buffers go round.
fn read_back<'a>(
    device: &'a dyn Device,
    seen: Seen,
    control: &'a Control,
) -> (Medium<'a>, Prover<'a>) {
    let (used, empty) = buffer::pool(READ_BACK_BUFFERS, PIECE);
    // One more than there are buffers: the word that it is the end.
    let (held_out, held_in) = sync_channel(READ_BACK_BUFFERS + 1);
    let medium = Medium {
        device,
        control,
        held: held_out,
        empty,
        times: medium::Times::default(),
    };
    let prover = Prover {
        control,
        held: held_in,
        used,
        seen,
    };
    (medium, prover)
}

type Handle<'scope, T> = ScopedJoinHandle<'scope, Option<T>>;

/// Starts a stage; the watcher sees when it is over.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    control: &'scope Control,
    stage: impl FnOnce() -> Option<T> + Send + 'scope,
) -> Result<Handle<'scope, T>, InstallError> {
    let running = control.enter();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, move || {
            let _running = running;
            stage()
        })
        .map_err(InstallError::Resources)
}

/// Waits for a stage, and hands on its panic.
fn join<T>(stage: Handle<'_, T>) -> Option<T> {
    stage.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// A recorded failure outweighs every result: the observer's word may come when all stages are through.
fn verdict<T>(ended: Option<T>, control: &Control) -> Result<T, InstallError> {
    match control.take_failure() {
        Some(failure) => Err(failure),
        None => ended.ok_or_else(|| {
            InstallError::Resources(io::Error::other("a stage ended without a reason"))
        }),
    }
}
