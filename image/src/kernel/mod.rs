//! What no safe function of a crate asks the kernel and the C library for: two ioctls, memory of a kind, and its return.
#![allow(unsafe_code)] // One of the two modules of the workspace where it is allowed; the blocks below say why.

mod mapping;

use std::{fs::File, io};

use rustix::{
    io::Errno,
    ioctl::{NoArg, Opcode, Setter, ioctl, opcode},
};

pub(crate) use mapping::Mapping;

/// `BLKFLSBUF`, `_IO(0x12, 97)` in `linux/fs.h`.
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);

/// `BLKZEROOUT`, `_IO(0x12, 127)` in `linux/fs.h`.
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);

/// Makes a range of a block device zeros, and drops it from the page cache. The driver may know how to do that without
/// writing; else the kernel writes zeros. Offset and length are whole sectors.
pub(crate) fn zero_out(device: &File, offset: u64, length: u64) -> Result<(), Errno> {
    // SAFETY: BLKZEROOUT reads two 64-bit numbers, start and length in bytes, and touches no other memory of this
    // process. On a file that is no block device the number means nothing and is refused with ENOTTY.
    unsafe {
        ioctl(
            device,
            Setter::<BLKZEROOUT, [u64; 2]>::new([offset, length]),
        )
    }
}

/// Writes a block device's dirty pages and drops its clean ones. Needs `CAP_SYS_ADMIN`.
pub(crate) fn drop_block_device_cache(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of this process. On a file that is no block device
    // the number means nothing to any file system in the kernel and is refused with ENOTTY.
    unsafe { ioctl(device, NoArg::<BLKFLSBUF>::new()) }.map_err(Into::into)
}

/// Gives memory that is free back to the kernel (`malloc_trim(3)`): glibc keeps much of what an installation has used
/// for the next one, which may be months away. Does nothing with another C library.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: it takes a number, touches nothing that is in use, and may be called by any thread at any time.
        unsafe { malloc_trim(0) };
    }
}
