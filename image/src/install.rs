//! The installation of one image.

use std::{
    io::{self, Read},
    ops::ControlFlow,
    panic::resume_unwind,
    sync::mpsc::sync_channel,
    thread::{self, Scope, ScopedJoinHandle},
};

use crate::{
    Access, Decoder, Device, Digest, InstallError, Progress, StageTimes, Timed,
    buffer::{self, FILE_PIECE, PIECE},
    stages::{
        control::{Control, Seen},
        expand::{self, Bounds, Expanded},
        prove, receive,
        write::{self, PIECES_PER_EPOCH},
    },
};

/// The largest decoder window that is accepted by default: 128 MiB, what `zstd -d` itself accepts without `--long`.
pub const DEFAULT_WINDOW_LIMIT: u64 = 128 << 20;

/// What was promised of the image.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// SHA-256 of the file or of the expanded image; a catalog need not say which.
    pub checksum: Digest,
    /// The expanded image's size in bytes, where the catalog has it.
    pub size: Option<u64>,
    /// The largest decoder window that is accepted, in bytes ([`DEFAULT_WINDOW_LIMIT`]). The decoder takes that much
    /// memory, and nothing beyond.
    pub window_limit: u64,
}

/// Whose SHA-256 the promised checksum was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumMatched {
    /// The compressed file's.
    File,
    /// The expanded image's.
    Image,
}

/// A proven installation: the device holds the image, as read back from the medium.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Whose checksum was promised.
    pub matched: ChecksumMatched,
    /// The file's SHA-256.
    pub file_digest: Digest,
    /// The image's SHA-256; only computed where the checksum is not the file's.
    pub image_digest: Option<Digest>,
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// The image's length in bytes.
    pub image_bytes: u64,
    /// Whether the page cache stood between; then the read-back relied on the kernel dropping it.
    pub access: Access,
    /// Where the time went.
    pub times: StageTimes,
}

/// Streams an image from `source` to `device` and proves what the device then holds.
///
/// What follows the image on the device is left as it is: a file system knows its own size, and clearing the rest
/// would cost writes for nothing.
///
/// `observer` is called on the calling thread: once before anything is read, whenever something has changed (changes
/// that come while it runs are seen together), and once when all is proven. [`ControlFlow::Break`] ends the
/// installation as [`InstallError::Cancelled`]. `source` is read on a thread of its own, and the function returns
/// when its current `read` has returned: a source that can block for long needs an end of its own.
///
/// Memory: at most 64 MiB beyond the decoder's window, whatever the image.
pub fn install(
    source: &mut (dyn Read + Send),
    device: &dyn Device,
    expectation: &Expectation,
    observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Installed, InstallError> {
    let capacity = device.size();
    if let Some(size) = expectation.size.filter(|&size| size > capacity) {
        return Err(InstallError::ImageTooLarge {
            device: device.name().to_owned(),
            size: Some(size),
            capacity,
        });
    }
    let decoder = Decoder::new(expectation.window_limit).map_err(InstallError::Resources)?;
    let control = Control::new(expectation.size);
    let mut known = control.progress();
    if observer(known).is_break() {
        return Err(cancelled(&control));
    }

    let bounds = Bounds {
        device: device.name(),
        capacity,
        promised: expectation.size,
    };
    let (expanded, mut times) = thread::scope(|scope| {
        let stages = spawn(scope, source, device, &bounds, decoder, &control)?;
        watch(&control, &mut known, observer);
        join(stages, &control)
    })?;

    let image_digest = if expanded.file_digest == expectation.checksum {
        None
    } else {
        let (digest, hash_image) = thread::scope(|scope| {
            let hash = on_a_thread(scope, "image-hash", &control, || {
                prove::hash_device(device, expanded.image_bytes, &control)
            })?;
            watch(&control, &mut known, observer);
            verdict(joined(hash), &control)
        })?;
        times.hash_image = hash_image;
        if digest != expectation.checksum {
            return Err(InstallError::ChecksumMismatch {
                expected: expectation.checksum,
                file: expanded.file_digest,
                image: digest,
            });
        }
        Some(digest)
    };

    device
        .drop_cache()
        .map_err(|error| InstallError::WriteFailed {
            device: device.name().to_owned(),
            operation: "flush",
            offset: expanded.image_bytes,
            proven: control.proven(),
            error,
        })?;
    Ok(Installed {
        matched: match image_digest {
            None => ChecksumMatched::File,
            Some(_) => ChecksumMatched::Image,
        },
        file_digest: expanded.file_digest,
        image_digest,
        file_bytes: expanded.file_bytes,
        image_bytes: expanded.image_bytes,
        access: device.access().clone(),
        times,
    })
}

/// Buffers between the receiver and the expander: 4 MiB.
const FILE_BUFFERS: usize = 16;

/// Buffers between the expander and the writer: 32 MiB, which the decoder fills while a flush holds up the writer.
const PIECE_BUFFERS: usize = 32;

/// One epoch is being written, one is waiting or being read back.
const EPOCHS: usize = 3;

type Handle<'scope, T> = ScopedJoinHandle<'scope, Option<T>>;

struct Stages<'scope> {
    receive: Handle<'scope, Timed>,
    expand: Handle<'scope, Expanded>,
    write: Handle<'scope, write::Times>,
    prove: Handle<'scope, prove::Times>,
}

fn spawn<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    source: &'env mut (dyn Read + Send),
    device: &'env dyn Device,
    bounds: &'env Bounds<'env>,
    decoder: Decoder,
    control: &'env Control,
) -> Result<Stages<'scope>, InstallError> {
    let (portion_used, portion_empty) = buffer::pool(FILE_BUFFERS, FILE_PIECE);
    let (piece_used, piece_empty) = buffer::pool(PIECE_BUFFERS, PIECE);
    let (epoch_used, epoch_empty) = sync_channel(EPOCHS);
    for _ in 0..EPOCHS {
        // There is room, and the receiver is right here.
        let _ = epoch_used.send(Vec::with_capacity(PIECES_PER_EPOCH));
    }
    // One more than there are buffers: the word that it is the end.
    let (portions_out, portions_in) = sync_channel(FILE_BUFFERS + 1);
    let (pieces_out, pieces_in) = sync_channel(PIECE_BUFFERS + 1);
    let (epochs_out, epochs_in) = sync_channel(EPOCHS + 1);

    let expand_ends = expand::Ends {
        portions: portions_in,
        used: portion_used,
        pieces: pieces_out,
        empty: piece_empty,
    };
    let write_ends = write::Ends {
        pieces: pieces_in,
        used: piece_used,
        epochs: epochs_out,
        empty: epoch_empty,
    };
    Ok(Stages {
        prove: on_a_thread(scope, "image-prove", control, move || {
            prove::prove(device, &epochs_in, &epoch_used, control)
        })?,
        write: on_a_thread(scope, "image-write", control, move || {
            write::write(device, &write_ends, control)
        })?,
        expand: on_a_thread(scope, "image-expand", control, move || {
            expand::expand(decoder, bounds, &expand_ends, control)
        })?,
        receive: on_a_thread(scope, "image-receive", control, move || {
            receive::receive(source, &portion_empty, &portions_out, control)
        })?,
    })
}

/// Starts a stage; the calling thread sees when it is over.
fn on_a_thread<'scope, T: Send + 'scope>(
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

/// Shows the observer what changes until no stage runs any more.
fn watch(
    control: &Control,
    known: &mut Progress,
    observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) {
    let mut listening = true;
    while let Seen::Changed(progress) = control.wait(*known) {
        *known = progress;
        if listening && observer(progress).is_break() {
            listening = false;
            control.fail::<()>(cancelled(control));
        }
    }
}

fn cancelled(control: &Control) -> InstallError {
    InstallError::Cancelled {
        written: control.written(),
    }
}

/// What the stages found, or why one of them stopped.
fn join(stages: Stages<'_>, control: &Control) -> Result<(Expanded, StageTimes), InstallError> {
    // All are waited for before any is judged.
    let receive = joined(stages.receive);
    let expand = joined(stages.expand);
    let write = joined(stages.write);
    let prove = joined(stages.prove);
    let all = receive.zip(expand).zip(write.zip(prove));
    let ((receive, expanded), (write, prove)) = verdict(all, control)?;
    let times = StageTimes {
        receive,
        hash_file: expanded.hash_file,
        decode: expanded.decode,
        digest: write.digest,
        write: write.write,
        flush: prove.flush,
        read_back: prove.read_back,
        compare: prove.compare,
        hash_image: Timed::default(),
    };
    Ok((expanded, times))
}

/// Waits for a stage, and hands on its panic.
fn joined<T>(stage: Handle<'_, T>) -> Option<T> {
    stage.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// A recorded failure outweighs every result: the observer's word may come when all stages are through.
fn verdict<T>(result: Option<T>, control: &Control) -> Result<T, InstallError> {
    if let Some(failure) = control.take_failure() {
        return Err(failure);
    }
    result
        .ok_or_else(|| InstallError::Resources(io::Error::other("a stage ended without a reason")))
}
