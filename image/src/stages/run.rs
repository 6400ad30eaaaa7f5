//! The stages put together, and the calling thread that watches them.

use std::{
    io::{self, Read},
    ops::ControlFlow,
    panic::resume_unwind,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, Scope, ScopedJoinHandle},
};

use crate::{
    Decoder, Device, Digest, InstallError, Progress, StageTimes, Timed,
    buffer::{self, Buffer, FILE_PIECE, PIECE},
    stages::{
        control::{Control, Seen},
        expand::{self, Bounds, Expanded},
        prove,
        read_back::{self, Held, Medium},
        receive,
        write::{self, PIECES_PER_EPOCH},
    },
};

/// Buffers between the receiver and the expander: 4 MiB.
const FILE_BUFFERS: usize = 16;

/// Buffers between the expander and the writer: 32 MiB, which the decoder fills while the device is slow.
const PIECE_BUFFERS: usize = 32;

/// Buffers between the reader of the medium and who looks at them: 4 MiB.
const READ_BACK_BUFFERS: usize = 4;

/// One epoch is being written, one is waiting, one is being read back.
const EPOCHS: usize = 3;

/// The calling thread: it shows the observer what changes and hands on its word.
pub(crate) struct Watcher<'a> {
    control: &'a Control,
    observer: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    shown: Progress,
}

impl<'a> Watcher<'a> {
    /// Shows the observer the beginning.
    pub(crate) fn new(
        control: &'a Control,
        observer: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self, InstallError> {
        let shown = control.progress();
        if observer(shown).is_break() {
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
        let mut listening = true;
        while let Seen::Changed(progress) = self.control.wait(self.shown) {
            self.shown = progress;
            if listening && (self.observer)(progress).is_break() {
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

/// From the source to a device on which every piece is proven.
pub(crate) fn stream(
    source: &mut (dyn Read + Send),
    device: &dyn Device,
    bounds: &Bounds<'_>,
    decoder: Decoder,
    watcher: &mut Watcher<'_>,
) -> Result<(Expanded, StageTimes), InstallError> {
    let control = watcher.control;
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
    let (medium, held) = medium(device, control);
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

    let ended = thread::scope(|scope| {
        let prove = spawn(scope, "image-prove", control, move || {
            prove::compare(bounds.device, &held.pieces, &held.used, control)
        })?;
        let read_back = spawn(scope, "image-read-back", control, move || {
            medium.follow(&epochs_in, &epoch_used)
        })?;
        let write = spawn(scope, "image-write", control, move || {
            write::write(device, &write_ends, control)
        })?;
        let expand = spawn(scope, "image-expand", control, move || {
            expand::expand(decoder, bounds, &expand_ends, control)
        })?;
        let receive = spawn(scope, "image-receive", control, move || {
            receive::receive(source, &portion_empty, &portions_out, control)
        })?;
        watcher.watch();
        // All are waited for before any is judged.
        let sides = (
            join(receive).zip(join(expand)),
            join(write).zip(join(read_back)),
        );
        Ok(sides.0.zip(sides.1).zip(join(prove)))
    })?;

    let (((receive, expanded), (write, read_back)), compare) = verdict(ended, control)?;
    let times = StageTimes {
        receive,
        hash_file: expanded.hash_file,
        decode: expanded.decode,
        digest: write.digest,
        write: write.write,
        flush: read_back.flush,
        read_back: read_back.read_back,
        compare,
        hash_image: Timed::default(),
    };
    Ok((expanded, times))
}

/// The SHA-256 of the first `length` bytes as the medium holds them.
pub(crate) fn hash_image(
    device: &dyn Device,
    length: u64,
    watcher: &mut Watcher<'_>,
) -> Result<(Digest, Timed), InstallError> {
    let control = watcher.control;
    let (medium, held) = medium(device, control);
    let ended = thread::scope(|scope| {
        let hash = spawn(scope, "image-hash", control, move || {
            prove::hash(&held.pieces, &held.used, control)
        })?;
        let read = spawn(scope, "image-read-back", control, move || {
            medium.read_again(length)
        })?;
        watcher.watch();
        Ok(join(read).zip(join(hash)))
    })?;
    let ((), hash) = verdict(ended, control)?;
    Ok(hash)
}

/// The end of the medium's pieces where they are looked at.
struct HeldEnds {
    pieces: Receiver<Held>,
    used: SyncSender<Buffer>,
}

fn medium<'a>(device: &'a dyn Device, control: &'a Control) -> (Medium<'a>, HeldEnds) {
    let (used, empty) = buffer::pool(READ_BACK_BUFFERS, PIECE);
    let (held, pieces) = sync_channel(READ_BACK_BUFFERS + 1);
    let medium = Medium {
        device,
        control,
        held,
        empty,
        times: read_back::Times::default(),
    };
    (medium, HeldEnds { pieces, used })
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
