//! The file, from the reader.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, SyncSender},
};

use crate::{
    buffer::{Buffer, Filled},
    decode::SNIFFED,
    error::InstallError,
    progress::Timed,
    stages::control::Control,
};

/// Readers often give little at a time. A buffer goes on when this much is in it, so that few bytes do not occupy many
/// buffers, and the first one holds enough to tell what the file is.
const WORTH_SENDING: usize = 64 << 10;
const _: () = assert!(WORTH_SENDING >= SNIFFED);

/// What goes on to the next stage: a portion, or the word that the file has ended. (A channel that just closes is a
/// failure.)
pub(crate) enum Portion {
    Bytes(Filled),
    End,
}

pub(crate) fn receive(
    source: &mut dyn Read,
    empty: &Receiver<Buffer>,
    full: &SyncSender<Portion>,
    control: &Control,
) -> Option<Timed> {
    let mut receive = Timed::default();
    loop {
        let mut portion = Filled::from(empty.recv().ok()?, 0);
        let mut ended = false;
        while portion.length < WORTH_SENDING && !ended {
            if control.stopped() {
                return None;
            }
            let room = &mut portion.buffer[portion.length..];
            match receive.time(0, || source.read(room)) {
                Ok(0) => ended = true,
                Ok(count) => {
                    let count = count.min(room.len());
                    portion.length += count;
                    receive.bytes += count as u64;
                    control.update(|p| p.file_bytes += count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return control.fail(InstallError::Source {
                        file_bytes: control.progress().file_bytes,
                        error,
                    });
                }
            }
        }
        if portion.length > 0 {
            full.send(Portion::Bytes(portion)).ok()?;
        }
        if ended {
            full.send(Portion::End).ok()?;
            return Some(receive);
        }
    }
}
