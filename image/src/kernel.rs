//! The one ioctl that no crate wraps.
#![allow(unsafe_code)] // One of the two modules of the workspace where it is allowed; the block below says why.

use std::{fs::File, io};

use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};

/// `BLKFLSBUF`, `_IO(0x12, 97)` in `linux/fs.h`.
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);

/// Writes a block device's dirty pages and drops its clean ones. Needs `CAP_SYS_ADMIN`.
pub(crate) fn drop_block_device_cache(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of this process. On a file that is no block device
    // the number means nothing to any file system in the kernel and is refused with ENOTTY.
    unsafe { ioctl(device, NoArg::<BLKFLSBUF>::new()) }.map_err(Into::into)
}
