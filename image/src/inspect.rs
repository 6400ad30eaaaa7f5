//! What is in the file of an image, without a device.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::{
    Decoder, Digest, Format, StreamError, WindowLimit,
    buffer::{self, FILE_PIECE, PIECE},
    seek_table::{MOST_FRAMES, SeekEntry, SeekTableError, read_seek_table},
};

/// So much of the file's end is kept for its seek table: that of an image of 340 GiB in frames of 4 MiB.
const TAIL: usize = 1 << 20;

/// The file of an image, from its first to its last byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The file's format.
    pub format: Format,
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// The image's length in bytes.
    pub image_bytes: u64,
    /// SHA-256 of the file.
    pub file_digest: Digest,
    /// SHA-256 of the image.
    pub image_digest: Digest,
    /// Frames with content; of gzip they are members, of xz streams.
    pub frames: u64,
    /// Frames that say how long their content is and that it has a checksum.
    pub complete_frames: u64,
    /// The longest content of a frame, in bytes.
    pub largest_frame: u64,
    /// The largest window that a decoder needs, in bytes.
    pub window: u64,
    /// Whether a seek table stands at the end, and agrees with the frames.
    pub seek_table: SeekTable,
}

/// What was found of a seek table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTable {
    /// There is none.
    None,
    /// It says of the frames where they are, how long, and with which checksums.
    Right,
    /// It is damaged, or says otherwise. Nothing relies on it here; others may.
    Wrong,
}

/// Why there is no telling.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file could not be read.
    #[error("the file could not be read after {file_bytes} bytes: {error}")]
    Read {
        /// Bytes that were read.
        file_bytes: u64,
        /// The reader's error.
        #[source]
        error: io::Error,
    },
    /// The expanded image could not be put where it was to be put.
    #[error("the expanded image could not be written after {image_bytes} bytes: {error}")]
    Write {
        /// Bytes that were written.
        image_bytes: u64,
        /// The writer's error.
        #[source]
        error: io::Error,
    },
    /// It is no image, or a damaged one.
    #[error("at byte {file_bytes} of the file, after {image_bytes} of the image: {error}")]
    Stream {
        /// Bytes of the file before.
        file_bytes: u64,
        /// Bytes of the image before.
        image_bytes: u64,
        /// What is wrong.
        #[source]
        error: StreamError,
    },
}

/// Reads `file` to its end and writes what it expands to into `image`. The format is told by the first bytes.
pub fn inspect(
    file: &mut dyn Read,
    window_limit: WindowLimit,
    image: &mut dyn Write,
) -> Result<Inspection, InspectError> {
    let mut portion = vec![0; FILE_PIECE];
    let mut length = fill(file, &mut portion, 0)?;
    let begin = |error| InspectError::Stream {
        file_bytes: 0,
        image_bytes: 0,
        error,
    };
    let format = Format::of(&portion[..length]).map_err(begin)?;
    let decoder = Decoder::new(format, window_limit).map_err(|error| InspectError::Read {
        file_bytes: 0,
        error,
    })?;
    let mut looking = Looking {
        format,
        decoder,
        image,
        room: vec![0; PIECE],
        file_hash: Sha256::new(),
        image_hash: Sha256::new(),
        file_bytes: 0,
        image_bytes: 0,
        frames: 0,
        frame: Frame::default(),
        largest: 0,
        ended: Vec::new(),
        complete: 0,
        window: 0,
        tail: Vec::new(),
    };
    while length > 0 {
        looking.portion(&portion[..length])?;
        length = fill(file, &mut portion, looking.file_bytes)?;
    }
    looking.end()
}

/// Reads until the portion is full or the file ends: the first one tells what the file is, however it comes.
fn fill(file: &mut dyn Read, portion: &mut [u8], before: u64) -> Result<usize, InspectError> {
    let (length, whole) = buffer::fill(file, portion);
    whole.map_err(|error| InspectError::Read {
        file_bytes: before + length as u64,
        error,
    })?;
    Ok(length)
}

struct Looking<'a> {
    format: Format,
    decoder: Decoder,
    image: &'a mut dyn Write,
    room: Vec<u8>,
    file_hash: Sha256,
    image_hash: Sha256,
    file_bytes: u64,
    image_bytes: u64,
    frames: u64,
    /// The last one that has begun.
    frame: Frame,
    /// The longest of those before it.
    largest: u64,
    /// Of zstd, what a seek table has to say. No more are kept than one that is read can have.
    ended: Vec<SeekEntry>,
    complete: u64,
    window: u64,
    /// The file's last bytes.
    tail: Vec<u8>,
}

#[derive(Default)]
struct Frame {
    /// Where in the file the one before it ends.
    file_bytes: u64,
    /// Where in the image its content begins.
    image_bytes: u64,
    checksum: bool,
}

impl Looking<'_> {
    fn portion(&mut self, bytes: &[u8]) -> Result<(), InspectError> {
        self.file_hash.update(bytes);
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
        let mut at = 0;
        loop {
            let step = self
                .decoder
                .decode(&bytes[at..], &mut self.room)
                .map_err(|error| self.error(error))?;
            at += step.consumed;
            self.file_bytes += step.consumed as u64;
            let made = &self.room[..step.produced];
            self.image_hash.update(made);
            self.image
                .write_all(made)
                .map_err(|error| InspectError::Write {
                    image_bytes: self.image_bytes,
                    error,
                })?;
            self.image_bytes += step.produced as u64;
            self.window = self.window.max(self.decoder.window());
            if let Some(header) = step.frame {
                self.largest = self.largest.max(self.image_bytes - self.frame.image_bytes);
                self.frame.image_bytes = self.image_bytes;
                self.frame.checksum = header.checksum;
                self.frames += 1;
                self.complete += u64::from(header.content.is_some() && header.checksum);
                self.window = self.window.max(header.window);
            }
            if step.ended {
                self.frame_ends(bytes.len() - at);
            }
            let stopped = step.frame.is_some() || step.ended || step.produced == self.room.len();
            if at == bytes.len() && !stopped {
                return Ok(());
            }
        }
    }

    /// A zstd frame has ended, so many bytes before the end of what has come.
    fn frame_ends(&mut self, before: usize) {
        let begun = std::mem::replace(&mut self.frame.file_bytes, self.file_bytes);
        if self.ended.len() >= MOST_FRAMES as usize {
            return;
        }
        let come = &self.tail[..self.tail.len() - before];
        let length = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        self.ended.push(SeekEntry {
            compressed: length(self.file_bytes - begun),
            expanded: length(self.image_bytes - self.frame.image_bytes),
            checksum: (self.frame.checksum.then(|| come.last_chunk()).flatten())
                .map(|bytes| u32::from_le_bytes(*bytes)),
        });
    }

    fn end(self) -> Result<Inspection, InspectError> {
        self.decoder.finish().map_err(|error| self.error(error))?;
        Ok(Inspection {
            format: self.format,
            seek_table: self.seek_table(),
            file_bytes: self.file_bytes,
            image_bytes: self.image_bytes,
            file_digest: Digest::of(self.file_hash),
            image_digest: Digest::of(self.image_hash),
            frames: self.frames,
            complete_frames: self.complete,
            largest_frame: (self.largest).max(self.image_bytes - self.frame.image_bytes),
            window: self.window,
        })
    }

    fn seek_table(&self) -> SeekTable {
        match read_seek_table(&self.tail) {
            _ if self.format != Format::Zstd => SeekTable::None,
            Err(SeekTableError::None) => SeekTable::None,
            Ok((entries, length)) if self.agrees(&entries, length) => SeekTable::Right,
            _ => SeekTable::Wrong,
        }
    }

    /// Whether the entries say what the frames are; a table need not have checksums.
    fn agrees(&self, entries: &[SeekEntry], table: usize) -> bool {
        let agree = |said: &SeekEntry, found: &SeekEntry| {
            (said.compressed, said.expanded) == (found.compressed, found.expanded)
                && (said.checksum.is_none() || said.checksum == found.checksum)
        };
        self.frame.file_bytes + table as u64 == self.file_bytes
            && entries.len() == self.ended.len()
            && (entries.iter().zip(&self.ended)).all(|(said, found)| agree(said, found))
    }

    fn error(&self, error: StreamError) -> InspectError {
        InspectError::Stream {
            file_bytes: self.file_bytes,
            image_bytes: self.image_bytes,
            error,
        }
    }
}
