//! The image, to the device.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender},
};

use crate::{
    Device,
    buffer::Buffer,
    error::InstallError,
    progress::Timed,
    stages::{control::Control, expand::Piece},
};

/// An epoch is flushed and read back as one: 64 MiB.
pub(crate) const PIECES_PER_EPOCH: usize = 64;

/// What was written where, for the read-back to compare with.
pub(crate) struct Written {
    pub(crate) offset: u64,
    pub(crate) length: usize,
    /// Any collision-resistant digest would do; this one costs least.
    pub(crate) digest: blake3::Hash,
}

/// What goes on to be proven. The lists go round like the buffers.
pub(crate) enum Epoch {
    Written(Vec<Written>),
    End,
}

/// The channels around this stage.
pub(crate) struct Ends {
    pub(crate) pieces: Receiver<Piece>,
    pub(crate) used: SyncSender<Buffer>,
    pub(crate) epochs: SyncSender<Epoch>,
    pub(crate) empty: Receiver<Vec<Written>>,
}

pub(crate) struct Times {
    pub(crate) digest: Timed,
    pub(crate) write: Timed,
}

pub(crate) fn write(device: &dyn Device, ends: &Ends, control: &Control) -> Option<Times> {
    let mut times = Times {
        digest: Timed::default(),
        write: Timed::default(),
    };
    let mut offset = 0;
    let mut epoch = ends.empty.recv().ok()?;
    loop {
        if control.stopped() {
            return None;
        }
        match ends.pieces.recv().ok()? {
            Piece::Bytes(piece) => {
                let bytes = piece.bytes();
                let digest = times.digest.time(bytes.len(), || blake3::hash(bytes));
                let written = times
                    .write
                    .time(bytes.len(), || write_all(device, bytes, offset));
                if let Err((offset, error)) = written {
                    return control.fail(InstallError::WriteFailed {
                        device: device.name().to_owned(),
                        operation: "write",
                        offset,
                        proven: control.proven(),
                        error,
                    });
                }
                epoch.push(Written {
                    offset,
                    length: bytes.len(),
                    digest,
                });
                offset += bytes.len() as u64;
                control.update(|p| p.written = offset);
                // The expander may be done and gone.
                let _ = ends.used.send(piece.buffer);
                if epoch.len() == PIECES_PER_EPOCH {
                    ends.epochs.send(Epoch::Written(epoch)).ok()?;
                    epoch = ends.empty.recv().ok()?;
                }
            }
            Piece::End => {
                ends.epochs.send(Epoch::Written(epoch)).ok()?;
                ends.epochs.send(Epoch::End).ok()?;
                return Some(times);
            }
        }
    }
}

/// Writes everything; on failure the place of the first byte that was not written. (Runs of zeros would be told from
/// data here.)
fn write_all(device: &dyn Device, bytes: &[u8], offset: u64) -> Result<(), (u64, io::Error)> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        match device.write_at(&bytes[done..], at) {
            Ok(0) => return Err((at, io::ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((at, error)),
        }
    }
    Ok(())
}
