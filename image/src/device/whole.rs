//! Reads and writes that go on until all is done.

use std::{io, ops::Range};

use crate::{
    Device,
    buffer::{ALIGNMENT, Buffer},
};

/// Where a device failed, and how.
pub(crate) type Failed = (u64, io::Error);

/// Reads `length` bytes at `offset` to the beginning of `buffer`; on failure the place of the first byte that could
/// not be read.
///
/// Whole pages are asked for, which direct I/O wants; what lies beyond `length` is not looked at, and a device that
/// ends there reads short.
pub(crate) fn read_all(
    device: &dyn Device,
    buffer: &mut Buffer,
    length: usize,
    offset: u64,
) -> Result<(), Failed> {
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

/// Writes everything; on failure the place of the first byte that was not written.
pub(crate) fn write_all(device: &dyn Device, bytes: &[u8], offset: u64) -> Result<(), Failed> {
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

/// Has the device make a range zeros ([`Device::clear_at`]).
pub(crate) fn clear(device: &dyn Device, range: &Range<u64>) -> io::Result<()> {
    loop {
        // A hole may be interrupted (`fallocate(2)`); made again it is the same one.
        match device.clear_at(range.start, range.end - range.start) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Fills a range with the zeros at hand.
pub(crate) fn write_zeros(
    device: &dyn Device,
    zeros: &[u8],
    range: &Range<u64>,
) -> Result<(), Failed> {
    let mut offset = range.start;
    while offset < range.end {
        let length = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
        let length = length.min(zeros.len());
        write_all(device, &zeros[..length], offset)?;
        offset += length as u64;
    }
    Ok(())
}
