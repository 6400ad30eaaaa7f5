//! What must hold for any bytes. Shared by the fuzz targets and by the test that walks their seeds.

use std::{
    io,
    ops::ControlFlow,
    sync::{Mutex, PoisonError},
};

use monok8s_image::{
    Access, Checkpoint, Decoder, Device, Digest, Expectation, Format, InstallError, StreamError,
    WindowLimit, install, read_seek_table, write_seek_table,
};

/// Small enough that a fuzzer's memory limit is not what stops it.
const WINDOW_LIMIT: WindowLimit = WindowLimit(8 << 20);

/// Expanded bytes after which a run ends, so that a bomb costs no time.
const ENOUGH: usize = 1 << 20;

/// The first byte chooses the portions, the rest is the file. It is decoded as what it is, and where it is nothing as
/// zstd: a decoder must hold for any bytes.
///
/// # Panics
///
/// When the decoder breaks a promise: it goes beyond its buffers, does not come to an end, accepts a window over the
/// limit, or makes something else of the same file when it comes in other portions.
pub fn decoder(data: &[u8]) {
    let Some((&portions, file)) = data.split_first() else {
        return;
    };
    let format = Format::of(file).unwrap_or(Format::Zstd);
    let whole = decode(format, file, file.len().max(1), 64 << 10);
    let input = usize::from(portions & 0x0F) + 1;
    let output = (usize::from(portions >> 4) + 1) * 37;
    let by_portions = decode(format, file, input, output);
    // Where enough was made in one way, the other may have met damage beyond it first.
    if whole != Outcome::Enough && by_portions != Outcome::Enough {
        assert_eq!(whole, by_portions, "{input} and {output} at a time");
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Image(Vec<u8>),
    Enough,
    /// The words may depend on where a portion ends; the kind may not.
    Refused(std::mem::Discriminant<StreamError>),
}

fn decode(format: Format, file: &[u8], input: usize, output: usize) -> Outcome {
    match try_decode(format, file, input, output) {
        Ok(Some(image)) => Outcome::Image(image),
        Ok(None) => Outcome::Enough,
        Err(error) => {
            if let StreamError::WindowTooLarge { window, limit } = error {
                assert!(window > limit && limit == WINDOW_LIMIT.0);
            }
            Outcome::Refused(std::mem::discriminant(&error))
        }
    }
}

fn try_decode(
    format: Format,
    file: &[u8],
    input: usize,
    output: usize,
) -> Result<Option<Vec<u8>>, StreamError> {
    let Ok(mut decoder) = Decoder::new(format, WINDOW_LIMIT) else {
        return Ok(None);
    };
    let mut buffer = vec![0; output];
    let mut image = Vec::new();
    for mut portion in file.chunks(input) {
        loop {
            let step = decoder.decode(portion, &mut buffer)?;
            assert!(step.consumed <= portion.len() && step.produced <= output);
            if let Some(header) = step.frame {
                assert!(header.window <= WINDOW_LIMIT.0);
            }
            portion = &portion[step.consumed..];
            image.extend_from_slice(&buffer[..step.produced]);
            if image.len() > ENOUGH {
                return Ok(None);
            }
            if step.frame.is_none() && !step.ended && step.produced < output {
                assert!(portion.is_empty(), "it stopped with room and input left");
                break;
            }
        }
    }
    decoder.finish()?;
    Ok(Some(image))
}

/// The end of a file that may be a seek table.
///
/// # Panics
///
/// When what was read is written as something else.
pub fn seek_table(tail: &[u8]) {
    let Ok((entries, length)) = read_seek_table(tail) else {
        return;
    };
    assert!(length <= tail.len());
    let written = write_seek_table(&entries);
    // With no entries it cannot be told whether they would have checksums.
    if !entries.is_empty() {
        let mut read = tail[tail.len() - length..].to_vec();
        // The descriptor's two unused bits may be anything, and are written as zeros.
        let descriptor = length - 5;
        read[descriptor] &= !3;
        assert_eq!(written, read);
    }
}

/// What an agent may find on its disk.
///
/// # Panics
///
/// When what was read is written as something else.
pub fn checkpoint(bytes: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::from_bytes(bytes) {
        assert_eq!(checkpoint.to_bytes(), bytes);
    }
}

/// A slot of a few MiB in memory.
struct Slot(Mutex<Vec<u8>>);

impl Slot {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn range(offset: u64, length: usize) -> std::ops::Range<usize> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        offset..offset.saturating_add(length)
    }
}

impl Device for Slot {
    fn name(&self) -> &'static str {
        "slot"
    }
    fn size(&self) -> u64 {
        self.bytes().len() as u64
    }
    fn access(&self) -> &Access {
        &Access::Direct
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.bytes()[Self::range(offset, bytes.len())].copy_from_slice(bytes);
        Ok(bytes.len())
    }
    fn clear_at(&self, offset: u64, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.bytes()[Self::range(offset, length)].fill(0);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn read_back_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let slot = self.bytes();
        let range = Self::range(offset, buffer.len());
        let held = &slot[range.start..range.end.min(slot.len())];
        buffer[..held.len()].copy_from_slice(held);
        Ok(held.len())
    }
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A file through the whole engine, frames side by side where they are small, against the plain decoder.
///
/// # Panics
///
/// When the engine makes another image of it than the decoder, or fails where that does not.
pub fn frames(file: &[u8]) {
    let plain = match Format::of(file) {
        Ok(format) => decode(format, file, file.len().max(1), 64 << 10),
        Err(error) => Outcome::Refused(std::mem::discriminant(&error)),
    };
    let slot = Slot(Mutex::new(vec![0xA5; ENOUGH]));
    let expectation = Expectation {
        checksum: Digest([0; 32]),
        size: None,
        window_limit: WINDOW_LIMIT,
    };
    let result = install(&mut &file[..], &slot, &expectation, &mut |_| {
        ControlFlow::Continue(())
    });
    match (plain, result) {
        // Nothing has that checksum; all came as far as comparing it.
        (Outcome::Image(image), Err(InstallError::ChecksumMismatch { .. })) => {
            assert!(slot.bytes()[..image.len()] == image);
        }
        // The engine takes no image of no bytes, and none that is larger than the slot, whether its header lies or not.
        (
            Outcome::Image(_),
            Err(InstallError::NotAnImage { .. } | InstallError::ImageTooLarge { .. }),
        )
        | (Outcome::Refused(_) | Outcome::Enough, Err(_)) => {}
        (plain, result) => panic!("{plain:?}, but {result:?}"),
    }
}
