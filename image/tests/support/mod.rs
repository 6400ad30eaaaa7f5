//! What the tests of the engine share: images, readers and a device made of memory that can be made to fail.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "functions of tests; each test file uses some of them"
)]

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    sync::{Mutex, MutexGuard},
};

use monok8s_image::{
    Access, Device, Digest, Expectation, InstallError, Installed, Progress, WindowLimit, install,
};
use sha2::Digest as _;

pub const MIB: usize = 1 << 20;

/// What a slot holds before.
pub const FILLER: u8 = 0xA5;

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

/// Bytes that differ everywhere but compress: a repeated block whose every copy is numbered.
pub fn image(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (number, block) in bytes.chunks_mut(4096).enumerate() {
        block.fill((number % 251) as u8);
        let number = number.to_le_bytes();
        let width = block.len().min(number.len());
        block[..width].copy_from_slice(&number[..width]);
    }
    bytes
}

/// Bytes that do not compress (`SplitMix64`).
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let scrambled = |n: u64| {
        let z = (n ^ seed << 40)
            .wrapping_add(1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8) as u64)
        .flat_map(|n| scrambled(n).to_le_bytes())
        .collect();
    bytes.truncate(length);
    bytes
}

/// As `zstd FILE` does it: one frame with a checksum and the content's size.
pub fn compress(image: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder
        .set_pledged_src_size(Some(image.len() as u64))
        .unwrap();
    encoder.write_all(image).unwrap();
    encoder.finish().unwrap()
}

/// As `cat FILE | zstd` does it: the frame does not know its size.
pub fn compress_unsized(mut image: impl Read) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    io::copy(&mut image, &mut encoder).unwrap();
    encoder.finish().unwrap()
}

/// As `gzip FILE` does it: one member.
pub fn gzip(mut image: impl Read) -> Vec<u8> {
    let level = flate2::Compression::fast();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    io::copy(&mut image, &mut encoder).unwrap();
    encoder.finish().unwrap()
}

/// As `xz -0 FILE` does it: one stream of one block.
pub fn xz(mut image: impl Read) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    io::copy(&mut image, &mut encoder).unwrap();
    encoder.finish().unwrap()
}

pub fn expect(checksum: Digest) -> Expectation {
    Expectation {
        checksum,
        size: None,
        window_limit: WindowLimit::default(),
    }
}

pub fn install_quietly(
    mut file: &[u8],
    device: &dyn Device,
    expectation: &Expectation,
) -> Result<Installed, InstallError> {
    install(&mut file, device, expectation, &mut |_| {
        ControlFlow::Continue(())
    })
}

/// A reader that gives portions of the given sizes, round and round, is interrupted now and then, and may fail.
pub struct Portions<'a> {
    pub file: &'a [u8],
    pub sizes: Vec<usize>,
    pub calls: usize,
    /// Fails when so many bytes have been read.
    pub fails_at: Option<usize>,
    pub read: usize,
}

impl<'a> Portions<'a> {
    pub fn new(file: &'a [u8], sizes: Vec<usize>) -> Self {
        Self {
            file,
            sizes,
            calls: 0,
            fails_at: None,
            read: 0,
        }
    }
}

/// An error of the reader's own kind, as the agent's fetch has one.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("https://images.example/rootfs.zst: connection reset")]
pub struct ConnectionReset;

impl Read for Portions<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut size = self.sizes[self.calls % self.sizes.len()].max(1);
        if let Some(fails_at) = self.fails_at {
            if self.read >= fails_at {
                return Err(io::Error::other(ConnectionReset));
            }
            size = size.min(fails_at - self.read);
        }
        let size = size.min(buffer.len()).min(self.file.len());
        buffer[..size].copy_from_slice(&self.file[..size]);
        self.file = &self.file[size..];
        self.read += size;
        Ok(size)
    }
}

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// No byte at or beyond this one can be written.
    WriteFails(u64),
    /// Writes take at most so many bytes.
    ShortWrites(usize),
    /// Writes at or beyond this byte take nothing.
    WritesNothing(u64),
    /// The flush with this number fails.
    FlushFails(usize),
    /// What is written at this byte is accepted, flushed and never seen again.
    Loses(u64),
    /// The flush with this number says that it worked and loses what was written since the one before.
    FlushLoses(usize),
    /// The medium turns this bit of this byte when it is written.
    Flips(u64, u8),
    /// This byte cannot be read.
    ReadFails(u64),
    /// Reads give at most so many bytes.
    ShortReads(usize),
    /// What is written at this byte's page lands on the page after it.
    Misplaced(u64),
    /// A signal comes into every third request, before anything is done.
    Interrupts,
    /// It can clear no ranges.
    CannotClear,
    /// No range that ends beyond this byte can be cleared.
    ClearFails(u64),
    /// It says that it has cleared and has not.
    ClearsNothing,
}

/// A device with a volatile cache: what was written reaches the medium by a flush, and reads see the medium alone.
pub struct Memory {
    size: u64,
    faults: Vec<Fault>,
    state: Mutex<State>,
}

struct State {
    requests: u64,
    medium: Vec<u8>,
    cache: Vec<(usize, Vec<u8>)>,
    flushes: usize,
    written: u64,
    cleared: u64,
    read: u64,
}

impl Memory {
    pub fn new(size: usize) -> Self {
        Self::with(size, &[])
    }

    pub fn with(size: usize, faults: &[Fault]) -> Self {
        Self {
            size: size as u64,
            faults: faults.to_vec(),
            state: Mutex::new(State {
                requests: 0,
                medium: vec![FILLER; size],
                cache: Vec::new(),
                flushes: 0,
                written: 0,
                cleared: 0,
                read: 0,
            }),
        }
    }

    /// One more request, which a signal may interrupt.
    fn request(&self) -> io::Result<()> {
        let mut state = self.state();
        state.requests += 1;
        if self.faults.contains(&Fault::Interrupts) && state.requests.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn medium(&self) -> Vec<u8> {
        self.state().medium.clone()
    }

    /// Bytes that writes were accepted for.
    pub fn written(&self) -> u64 {
        self.state().written
    }

    /// What was not flushed is lost.
    pub fn power_cut(&self) {
        self.state().cache.clear();
    }

    /// Changes a byte on the medium.
    pub fn change(&self, at: usize) {
        self.state().medium[at] ^= 1;
    }

    /// Bytes that it was asked to clear.
    pub fn cleared(&self) -> u64 {
        self.state().cleared
    }

    /// Bytes that were read from the medium, as far as they are on it.
    pub fn read(&self) -> u64 {
        self.state().read
    }

    /// What is on the medium before.
    pub fn holding(self, bytes: &[u8]) -> Self {
        self.state().medium[..bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn flushes(&self) -> usize {
        self.state().flushes
    }
}

impl Device for Memory {
    fn name(&self) -> &'static str {
        "/dev/faulty3"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn access(&self) -> &Access {
        &Access::Direct
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.request()?;
        let mut bytes = bytes;
        let end = offset + bytes.len() as u64;
        assert!(
            end <= self.size,
            "a write past the device's end at {offset}"
        );
        for fault in &self.faults {
            match *fault {
                Fault::WriteFails(at) if offset >= at => {
                    return Err(io::Error::from_raw_os_error(5));
                }
                Fault::WriteFails(at) if end > at => {
                    let before = usize::try_from(at - offset).unwrap();
                    bytes = &bytes[..before.min(bytes.len())];
                }
                Fault::WritesNothing(at) if end > at => return Ok(0),
                Fault::ShortWrites(most) => bytes = &bytes[..bytes.len().min(most)],
                _ => {}
            }
        }
        let mut state = self.state();
        state.written += bytes.len() as u64;
        state
            .cache
            .push((usize::try_from(offset).unwrap(), bytes.to_vec()));
        Ok(bytes.len())
    }

    fn clear_at(&self, offset: u64, length: u64) -> io::Result<()> {
        self.request()?;
        assert!(offset.is_multiple_of(4096) && length.is_multiple_of(4096) && length > 0);
        let end = offset + length;
        assert!(end <= self.size, "cleared past the device's end");
        for fault in &self.faults {
            match *fault {
                Fault::CannotClear => return Err(io::ErrorKind::Unsupported.into()),
                Fault::ClearFails(at) | Fault::WriteFails(at) if end > at => {
                    return Err(io::Error::from_raw_os_error(5));
                }
                Fault::ClearsNothing => return Ok(()),
                _ => {}
            }
        }
        let mut state = self.state();
        state.cleared += length;
        let zeros = vec![0; usize::try_from(length).unwrap()];
        state.cache.push((usize::try_from(offset).unwrap(), zeros));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        let number = state.flushes;
        state.flushes += 1;
        if self.faults.contains(&Fault::FlushFails(number)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let cache = std::mem::take(&mut state.cache);
        if self.faults.contains(&Fault::FlushLoses(number)) {
            return Ok(());
        }
        for (offset, bytes) in cache {
            let within = |at: u64| (offset..offset + bytes.len()).contains(&(at as usize));
            if (self.faults.iter()).any(|f| matches!(f, Fault::Loses(at) if within(*at))) {
                continue;
            }
            state.medium[offset..offset + bytes.len()].copy_from_slice(&bytes);
            for fault in &self.faults {
                match *fault {
                    Fault::Flips(at, bit) if within(at) => {
                        state.medium[at as usize] ^= 1 << bit;
                    }
                    Fault::Misplaced(at) if within(at) => {
                        let page = at as usize / 4096 * 4096;
                        let from = page.max(offset);
                        let to = (from + 4096).min(state.medium.len());
                        let end = (to + 4096).min(state.medium.len());
                        state.medium.copy_within(from..from + (end - to), to);
                        state.medium[from..to].fill(FILLER);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn read_back_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.request()?;
        let mut state = self.state();
        let offset = usize::try_from(offset).unwrap();
        let mut length = buffer.len().min(state.medium.len().saturating_sub(offset));
        for fault in &self.faults {
            match *fault {
                Fault::ReadFails(at) if (offset..offset + length).contains(&(at as usize)) => {
                    return Err(io::Error::from_raw_os_error(5));
                }
                Fault::ShortReads(most) => length = length.min(most),
                _ => {}
            }
        }
        buffer[..length].copy_from_slice(&state.medium[offset..offset + length]);
        state.read += length as u64;
        Ok(length)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.flush()
    }
}

/// Keeps every progress that is shown.
pub fn recorder(seen: &mut Vec<Progress>) -> impl FnMut(Progress) -> ControlFlow<()> {
    |progress| {
        seen.push(progress);
        ControlFlow::Continue(())
    }
}
