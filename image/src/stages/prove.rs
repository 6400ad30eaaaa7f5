//! The read-back: that the medium holds what was written to it.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Device, Digest,
    buffer::{ALIGNMENT, Buffer, PIECE},
    error::InstallError,
    progress::Timed,
    stages::{
        control::Control,
        write::{Epoch, Written},
    },
};

pub(crate) struct Times {
    pub(crate) flush: Timed,
    pub(crate) read_back: Timed,
    pub(crate) compare: Timed,
}

pub(crate) fn prove(
    device: &dyn Device,
    epochs: &Receiver<Epoch>,
    used: &SyncSender<Vec<Written>>,
    control: &Control,
) -> Option<Times> {
    let mut times = Times {
        flush: Timed::default(),
        read_back: Timed::default(),
        compare: Timed::default(),
    };
    let mut buffer = Buffer::new(PIECE);
    loop {
        let Epoch::Written(mut epoch) = epochs.recv().ok()? else {
            return Some(times);
        };
        let length = epoch.iter().map(|written| written.length).sum();
        if let Err(error) = times.flush.time(length, || device.flush()) {
            return control.fail(InstallError::WriteFailed {
                device: device.name().to_owned(),
                operation: "flush",
                offset: epoch.first().map_or(0, |written| written.offset),
                proven: control.proven(),
                error,
            });
        }
        for written in epoch.drain(..) {
            if control.stopped() {
                return None;
            }
            let read = times.read_back.time(written.length, || {
                read_all(device, &mut buffer, written.length, written.offset)
            });
            if let Err((offset, error)) = read {
                return control.fail(read_back_failed(device, offset, control, error));
            }
            let bytes = &buffer[..written.length];
            let digest = times.compare.time(bytes.len(), || blake3::hash(bytes));
            if digest != written.digest {
                return control.fail(InstallError::ReadBackMismatch {
                    device: device.name().to_owned(),
                    offset: written.offset,
                    length: written.length as u64,
                    proven: control.proven(),
                });
            }
            control.update(|p| p.proven = written.offset + written.length as u64);
        }
        // The writer may be done and gone.
        let _ = used.send(epoch);
    }
}

/// The SHA-256 of the first `length` bytes as the medium holds them.
pub(crate) fn hash_device(
    device: &dyn Device,
    length: u64,
    control: &Control,
) -> Option<(Digest, Timed)> {
    let mut buffer = Buffer::new(PIECE);
    let mut hasher = Sha256::new();
    let mut hash_image = Timed::default();
    let mut offset = 0;
    while offset < length {
        if control.stopped() {
            return None;
        }
        let wanted = usize::try_from(length - offset).unwrap_or(PIECE).min(PIECE);
        let read = hash_image.time(wanted, || {
            read_all(device, &mut buffer, wanted, offset).map(|()| hasher.update(&buffer[..wanted]))
        });
        if let Err((offset, error)) = read {
            return control.fail(read_back_failed(device, offset, control, error));
        }
        offset += wanted as u64;
        control.update(|p| p.hashed = offset);
    }
    Some((Digest::of(hasher), hash_image))
}

/// Reads `length` bytes at `offset` to the beginning of `buffer`; on failure the place of the first byte that could
/// not be read.
///
/// Whole pages are asked for, which direct I/O wants; what lies beyond `length` is not looked at, and a device that
/// ends there reads short.
fn read_all(
    device: &dyn Device,
    buffer: &mut Buffer,
    length: usize,
    offset: u64,
) -> Result<(), (u64, io::Error)> {
    let pages = length.next_multiple_of(ALIGNMENT).min(buffer.len());
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        match device.read_back_at(&mut buffer[done..pages], at) {
            Ok(0) => return Err((at, io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((at, error)),
        }
    }
    Ok(())
}

fn read_back_failed(
    device: &dyn Device,
    offset: u64,
    control: &Control,
    error: io::Error,
) -> InstallError {
    InstallError::ReadBackFailed {
        device: device.name().to_owned(),
        offset,
        proven: control.proven(),
        error,
    }
}
