//! What an observer sees of an installation.

use std::{ops::ControlFlow, time::Duration};

use crate::Checkpoint;

/// Who watches an installation, on the thread that called for it.
pub trait Observer {
    /// Something has changed. [`ControlFlow::Break`] ends the installation as [`crate::InstallError::Cancelled`].
    fn progress(&mut self, progress: Progress) -> ControlFlow<()>;

    /// The device is proven up to here, and an installation that is killed after this was kept can go on here.
    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        let _ = checkpoint;
    }
}

impl<F: FnMut(Progress) -> ControlFlow<()> + ?Sized> Observer for F {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self(progress)
    }
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stage {
    /// Bytes come in, are written, and are read back an epoch behind.
    #[default]
    Writing,
    /// What an earlier run has proven is read again, before the rest is fetched ([`crate::Start::verify`]).
    Resuming,
    /// The whole file has come and is written; the last epochs are read back, and where the checksum is not the
    /// file's the slot is read once more.
    Verifying,
}

/// How far an installation is. All counts are bytes and never go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// What is going on.
    pub stage: Stage,
    /// Of the file, as it came from the reader.
    pub file_bytes: u64,
    /// Of the image, handed to the device.
    pub written: u64,
    /// Of the image, read back from the medium and found equal.
    pub proven: u64,
    /// Of the image, read from the medium and in its SHA-256; only where that is wanted.
    pub hashed: u64,
    /// The image's whole size: as promised, else as its only frame says. None while nobody knows (several frames
    /// and no promise); it can become None when a second frame begins.
    pub total: Option<u64>,
}

/// The work of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timed {
    /// Bytes that went through.
    pub bytes: u64,
    /// Time spent on them, waiting for other stages left out.
    pub busy: Duration,
}

/// Where the time went. The stages run side by side, so the times add up to more than the whole took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StageTimes {
    /// Reading the source (the source's own waiting included).
    pub receive: Timed,
    /// SHA-256 of the file.
    pub hash_file: Timed,
    /// Decompression, counted in expanded bytes.
    pub decode: Timed,
    /// Digests of what is to be written.
    pub digest: Timed,
    /// Writes to the device.
    pub write: Timed,
    /// Zeros that the device was asked to make of its own.
    pub clear: Timed,
    /// Bytes that the device held already, and reading them before writing.
    pub unchanged: Timed,
    /// Flushes of the device, counted in the bytes they made durable.
    pub flush: Timed,
    /// Reads from the medium.
    pub read_back: Timed,
    /// Digests of what was read back.
    pub compare: Timed,
    /// SHA-256 of the slot, where it was wanted.
    pub hash_image: Timed,
}

impl StageTimes {
    /// In the order in which bytes go through them, with what people call them.
    pub fn named(&self) -> [(&'static str, Timed); 11] {
        [
            ("receive", self.receive),
            ("hash file", self.hash_file),
            ("decode", self.decode),
            ("digest", self.digest),
            ("unchanged", self.unchanged),
            ("write", self.write),
            ("clear zeros", self.clear),
            ("flush", self.flush),
            ("read back", self.read_back),
            ("compare", self.compare),
            ("hash image", self.hash_image),
        ]
    }
}
