//! What is in a compressed image, without a device.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::{
    Decoder, Digest, Format, StreamError,
    buffer::{FILE_PIECE, PIECE},
    seek_table::{SeekEntry, SeekTableError, read_seek_table},
};

/// So much of the file's end is kept for its seek table: that of an image of 340 GiB in frames of 4 MiB.
const TAIL: usize = 1 << 20;

/// A compressed image, from its first to its last byte.
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
    /// It says of the frames what they are.
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
    window_limit: u64,
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
        frames: Vec::new(),
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
    let mut length = 0;
    while length < portion.len() {
        match file.read(&mut portion[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(InspectError::Read {
                    file_bytes: before + length as u64,
                    error,
                });
            }
        }
    }
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
    /// Where each frame's content begins.
    frames: Vec<u64>,
    complete: u64,
    window: u64,
    /// The file's last bytes.
    tail: Vec<u8>,
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
                self.frames.push(self.image_bytes);
                self.complete += u64::from(header.content.is_some() && header.checksum);
                self.window = self.window.max(header.window);
            }
            let stopped = step.frame.is_some() || step.ended || step.produced == self.room.len();
            if at == bytes.len() && !stopped {
                return Ok(());
            }
        }
    }

    fn end(self) -> Result<Inspection, InspectError> {
        self.decoder.finish().map_err(|error| self.error(error))?;
        let ends = self.frames.iter().skip(1).chain([&self.image_bytes]);
        let lengths: Vec<u64> = (self.frames.iter().zip(ends))
            .map(|(start, end)| end - start)
            .collect();
        Ok(Inspection {
            format: self.format,
            seek_table: self.seek_table(&lengths),
            file_bytes: self.file_bytes,
            image_bytes: self.image_bytes,
            file_digest: Digest::of(self.file_hash),
            image_digest: Digest::of(self.image_hash),
            frames: self.frames.len() as u64,
            complete_frames: self.complete,
            largest_frame: lengths.iter().copied().max().unwrap_or(0),
            window: self.window,
        })
    }

    fn seek_table(&self, lengths: &[u64]) -> SeekTable {
        match read_seek_table(&self.tail) {
            _ if self.format != Format::Zstd => SeekTable::None,
            Err(SeekTableError::None) => SeekTable::None,
            Ok((entries, length)) if self.agrees(&entries, length, lengths) => SeekTable::Right,
            _ => SeekTable::Wrong,
        }
    }

    fn agrees(&self, entries: &[SeekEntry], table: usize, lengths: &[u64]) -> bool {
        let compressed: u64 = entries
            .iter()
            .map(|entry| u64::from(entry.compressed))
            .sum();
        compressed + table as u64 == self.file_bytes
            && entries.len() == lengths.len()
            && (entries.iter().zip(lengths))
                .all(|(entry, length)| u64::from(entry.expanded) == *length)
    }

    fn error(&self, error: StreamError) -> InspectError {
        InspectError::Stream {
            file_bytes: self.file_bytes,
            image_bytes: self.image_bytes,
            error,
        }
    }
}
