//! The kernel calls for which there is no safe wrapper elsewhere: the one module of this crate with `unsafe` code.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use rustix::ioctl::{Getter, NoArg, Opcode, ioctl, opcode};

// linux/fs.h
const BLKROGET: Opcode = opcode::none(0x12, 94);
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);

/// Size of an open block device in bytes.
pub(crate) fn block_device_size(device: &File) -> io::Result<u64> {
    // SAFETY: BLKGETSIZE64 writes a u64 (whatever the size in its opcode says) and has no other effect.
    Ok(unsafe { ioctl(device, Getter::<BLKGETSIZE64, u64>::new()) }?)
}

/// Whether the kernel refuses writes to an open block device.
pub(crate) fn block_device_read_only(device: &File) -> io::Result<bool> {
    // SAFETY: BLKROGET writes an int and has no other effect.
    let read_only = unsafe { ioctl(device, Getter::<BLKROGET, std::ffi::c_int>::new()) }?;
    Ok(read_only != 0)
}

/// Writes an open block device's dirty pages to the medium and drops all of them, so that the next read is the
/// medium's. Needs `CAP_SYS_ADMIN`.
pub(crate) fn drop_block_cache(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    Ok(unsafe { ioctl(device, NoArg::<BLKFLSBUF>::new()) }?)
}

/// Unloads the kernel that kexec would start. Needs `CAP_SYS_BOOT`.
pub(crate) fn unload_kexec() -> io::Result<()> {
    const KEXEC_FILE_UNLOAD: libc::c_ulong = 1;
    let (none, no_text, no_segments) = (
        -1,
        std::ptr::null::<libc::c_char>(),
        std::ptr::null::<libc::c_void>(),
    );
    // SAFETY: with KEXEC_FILE_UNLOAD the files and the command line are not looked at.
    let status = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            none,
            none,
            0_usize,
            no_text,
            KEXEC_FILE_UNLOAD,
        )
    };
    if status == 0 {
        return Ok(());
    }
    // A kernel built without kexec_file_load has the older call, for which no segments mean the same.
    // SAFETY: no segments are read.
    let status =
        unsafe { libc::syscall(libc::SYS_kexec_load, 0_usize, 0_usize, no_segments, 0_usize) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
