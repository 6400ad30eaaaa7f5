//! From an image to a file whose parts are decoded beside each other and that can be resumed.

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    panic::resume_unwind,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest,
    buffer::{self, BLOCK, Buffer, Filled},
    seek_table::{SeekEntry, write_seek_table},
};

/// What is used when nothing is said: about as small as `zstd -10` makes it, at some 100 MB/s a core.
pub const DEFAULT_LEVEL: i32 = 10;

/// What was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The image's length in bytes.
    pub image_bytes: u64,
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// Frames with a part of the image.
    pub frames: u64,
    /// SHA-256 of the image.
    pub image_digest: Digest,
    /// SHA-256 of the file.
    pub file_digest: Digest,
}

/// Why an image was not packed. What was written of the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The image could not be read.
    #[error("the image could not be read after {image_bytes} bytes: {error}")]
    Read {
        /// Bytes that were read.
        image_bytes: u64,
        /// The reader's error.
        #[source]
        error: io::Error,
    },
    /// The file could not be written.
    #[error("the packed image could not be written after {file_bytes} bytes: {error}")]
    Write {
        /// Bytes that were written.
        file_bytes: u64,
        /// The writer's error.
        #[source]
        error: io::Error,
    },
    /// There is nothing in it.
    #[error("the image is empty")]
    Empty,
    /// There is no such level.
    #[error("there is no level {level}: {lowest} to {highest}")]
    NoSuchLevel {
        /// What was asked for.
        level: i32,
        /// The least.
        lowest: i32,
        /// The most.
        highest: i32,
    },
    /// The observer said stop.
    #[error("cancelled")]
    Cancelled,
    /// Threads, memory.
    #[error("packing could not be run: {0}")]
    Resources(#[source] io::Error),
}

/// A part of the image on its way to a compressor.
struct Part {
    image: Filled,
    compressed: Vec<u8>,
    result: SyncSender<Done>,
}

/// A frame, and how much of the image is in it.
struct Frame {
    compressed: Vec<u8>,
    expanded: usize,
}

enum Done {
    Frame(Frame),
    /// The image has ended; its SHA-256.
    End(Sha256),
    Failed(PackError),
}

/// Writes `image` to `file` as independent zstd frames of 4 MiB with checksums, and the seek table of the zstd seekable
/// format after them. The same image, level and version of this crate make the same file, however many cores there are.
///
/// `observer` is called on the calling thread with the bytes of the image that are packed.
pub fn pack(
    image: &mut (dyn Read + Send),
    file: &mut dyn Write,
    level: i32,
    observer: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Packed, PackError> {
    let levels = zstd::compression_level_range();
    if !levels.contains(&level) {
        return Err(PackError::NoSuchLevel {
            level,
            lowest: *levels.start(),
            highest: *levels.end(),
        });
    }
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let places = 2 * workers;
    let (image_used, image_empty) = buffer::pool(places, BLOCK);
    let room = zstd::zstd_safe::compress_bound(BLOCK);
    let (frame_used, frame_empty) = buffer::circle(places, || Vec::with_capacity(room));
    let (parts_out, parts_in) = sync_channel(places);
    let (results_out, results_in): (Vec<_>, Vec<_>) = (0..places).map(|_| sync_channel(1)).unzip();
    let parts_in = &Mutex::new(parts_in);
    let image_used = &image_used;

    thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..workers {
            let compressing = thread::Builder::new()
                .name("pack-compress".to_owned())
                .spawn_scoped(scope, move || compress(level, parts_in, image_used))
                .map_err(PackError::Resources)?;
            threads.push(compressing);
        }
        let reading = thread::Builder::new()
            .name("pack-read".to_owned())
            .spawn_scoped(scope, move || {
                read(image, &image_empty, &frame_empty, &parts_out, &results_out);
            })
            .map_err(PackError::Resources)?;
        threads.push(reading);
        let mut results = results_in.iter().cycle();
        let packed = gather(
            || results.next().and_then(|result| result.recv().ok()),
            &frame_used,
            file,
            observer,
        );
        // Whoever waits for something from here ends.
        drop(results);
        drop(results_in);
        drop(frame_used);
        for thread in threads {
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
        packed
    })
}

/// Cuts the image into parts; the SHA-256 of all comes behind the last one.
fn read(
    image: &mut dyn Read,
    empty: &Receiver<Buffer>,
    frames: &Receiver<Vec<u8>>,
    parts: &SyncSender<Part>,
    results: &[SyncSender<Done>],
) {
    let mut hasher = Sha256::new();
    let mut image_bytes = 0;
    for result in results.iter().cycle() {
        let (Ok(buffer), Ok(compressed)) = (empty.recv(), frames.recv()) else {
            return;
        };
        let mut part = Filled::from(buffer, 0);
        let (length, whole) = buffer::fill(image, &mut part.buffer);
        if let Err(error) = whole {
            image_bytes += length as u64;
            let _ = result.send(Done::Failed(PackError::Read { image_bytes, error }));
            return;
        }
        if length == 0 {
            let _ = result.send(Done::End(hasher));
            return;
        }
        part.length = length;
        hasher.update(part.bytes());
        image_bytes += part.length as u64;
        let part = Part {
            image: part,
            compressed,
            result: result.clone(),
        };
        if parts.send(part).is_err() {
            return;
        }
    }
}

fn compress(level: i32, parts: &Mutex<Receiver<Part>>, used: &SyncSender<Buffer>) {
    let mut compressor = zstd::bulk::Compressor::new(level)
        .and_then(|mut compressor| compressor.include_checksum(true).map(|()| compressor));
    loop {
        let next = parts.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Part {
            image,
            mut compressed,
            result,
        }) = next
        else {
            return;
        };
        compressed.clear();
        let expanded = image.length;
        let made = match &mut compressor {
            Ok(compressor) => compressor.compress_to_buffer(image.bytes(), &mut compressed),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        let _ = used.send(image.buffer);
        let done = match made {
            Ok(_) => Done::Frame(Frame {
                compressed,
                expanded,
            }),
            Err(error) => Done::Failed(PackError::Resources(error)),
        };
        let _ = result.send(done);
    }
}

/// Writes the frames in their order, and the table.
fn gather(
    mut next: impl FnMut() -> Option<Done>,
    used: &SyncSender<Vec<u8>>,
    file: &mut dyn Write,
    observer: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Packed, PackError> {
    let mut hasher = Sha256::new();
    let mut entries = Vec::new();
    let (mut image_bytes, mut file_bytes) = (0, 0);
    let mut put = |bytes: &[u8]| {
        file.write_all(bytes)
            .map_err(|error| PackError::Write { file_bytes, error })?;
        hasher.update(bytes);
        file_bytes += bytes.len() as u64;
        Ok(())
    };
    let image_hash = loop {
        match next() {
            Some(Done::Frame(frame)) => {
                put(&frame.compressed)?;
                entries.push(SeekEntry {
                    compressed: u32::try_from(frame.compressed.len()).unwrap_or(u32::MAX),
                    expanded: u32::try_from(frame.expanded).unwrap_or(u32::MAX),
                    // A frame's last four bytes are just that.
                    checksum: frame
                        .compressed
                        .last_chunk()
                        .map(|c| u32::from_le_bytes(*c)),
                });
                image_bytes += frame.expanded as u64;
                let _ = used.send(frame.compressed);
                if observer(image_bytes).is_break() {
                    return Err(PackError::Cancelled);
                }
            }
            Some(Done::End(hash)) => break hash,
            Some(Done::Failed(error)) => return Err(error),
            None => {
                return Err(PackError::Resources(io::Error::other(
                    "a thread ended without a reason",
                )));
            }
        }
    };
    if entries.is_empty() {
        return Err(PackError::Empty);
    }
    put(&write_seek_table(&entries))?;
    file.flush()
        .map_err(|error| PackError::Write { file_bytes, error })?;
    Ok(Packed {
        image_bytes,
        file_bytes,
        frames: entries.len() as u64,
        image_digest: Digest::of(image_hash),
        file_digest: Digest::of(hasher),
    })
}
