//! The file with the environment block.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Advice, FlockOperation};

use super::envblock::{EnvBlock, EnvBlockError, SIZE};
use crate::loader::LoaderError;

/// The block as it is on disk.
pub(super) fn read(path: &Path) -> Result<EnvBlock, LoaderError> {
    let file = open(path, false)?;
    parse(path, &read_bytes(path, &file)?)
}

/// Changes the block: `change` gets it as it is, what it makes of it is written, flushed, and read back.
pub(super) fn update<E: std::fmt::Display>(
    path: &Path,
    change: impl FnOnce(&mut EnvBlock) -> Result<(), E>,
) -> Result<(), LoaderError> {
    let file = open(path, true)?;
    // Two processes that both read, change and write would lose one of the changes.
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|e| write_error(path, format!("it cannot be locked: {e}")))?;
    let mut env = parse(path, &read_bytes(path, &file)?)?;
    change(&mut env).map_err(|e| write_error(path, e.to_string()))?;
    let block = env.render().map_err(|e| write_error(path, e.to_string()))?;
    overwrite(path, &file, &block)?;
    read_back(path, &block)
}

/// Puts `env` in the place of what is there.
pub(super) fn write(path: &Path, env: &EnvBlock) -> Result<(), LoaderError> {
    update(path, |current| {
        *current = env.clone();
        Ok::<(), EnvBlockError>(())
    })
}

/// Makes a block where there is none.
pub(super) fn create(path: &Path, env: &EnvBlock) -> Result<(), LoaderError> {
    let block = env.render().map_err(|e| write_error(path, e.to_string()))?;
    let failed = |e: io::Error| write_error(path, e.to_string());
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    overwrite(path, &file, &block)?;
    // The file's name has to survive a power cut too.
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(failed)?;
    read_back(path, &block)
}

/// Overwrites the block IN PLACE, with one write of all its bytes.
///
/// Not by a temporary file and a rename: GRUB's `save_env` writes to the disk blocks in which it found the file, so
/// the file has to keep them (and a symbolic link or a FAT without atomic rename stay what they are). The kernel
/// hands the 1024 bytes to the device as one request; the variables are in the first 512 of them unless others have
/// filled the block, so that on every device a power cut leaves the old variables or the new ones.
fn overwrite(path: &Path, file: &File, block: &[u8; SIZE]) -> Result<(), LoaderError> {
    match file.write_at(block, 0) {
        Ok(SIZE) => {}
        Ok(n) => {
            return Err(write_error(
                path,
                format!("only {n} of {SIZE} bytes were written"),
            ));
        }
        Err(e) => return Err(write_error(path, e.to_string())),
    }
    file.sync_all().map_err(|e| {
        write_error(
            path,
            format!("{SIZE} bytes were written but not flushed: {e}"),
        )
    })
}

/// Reads the block from the disk again and compares.
fn read_back(path: &Path, written: &[u8; SIZE]) -> Result<(), LoaderError> {
    let file = open(path, false)?;
    // Flushed pages are clean and can be dropped, so that the next read is the medium's. A file system without a
    // medium ignores this.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    let read = read_bytes(path, &file)?;
    match read.iter().zip(written).position(|(r, w)| r != w) {
        None if read.len() == SIZE => Ok(()),
        None => Err(LoaderError::ReadBack {
            path: path.to_path_buf(),
            detail: format!("{} of {SIZE} bytes are there", read.len()),
        }),
        Some(at) => Err(LoaderError::ReadBack {
            path: path.to_path_buf(),
            detail: format!("the first difference is at byte {at} of {SIZE}"),
        }),
    }
}

fn open(path: &Path, write: bool) -> Result<File, LoaderError> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LoaderError::Unknown {
                path: path.to_path_buf(),
                detail: "there is no such file: is this machine started by the shipped grub.cfg?"
                    .to_owned(),
            },
            io::ErrorKind::ReadOnlyFilesystem => {
                write_error(path, "its file system is mounted read-only".to_owned())
            }
            _ if write => write_error(path, source.to_string()),
            _ => LoaderError::Read {
                path: path.to_path_buf(),
                source,
            },
        })?;
    let meta = file.metadata().map_err(|source| LoaderError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    if !meta.is_file() {
        return Err(LoaderError::Unknown {
            path: path.to_path_buf(),
            detail: "it is no regular file".to_owned(),
        });
    }
    if meta.len() != SIZE as u64 {
        let detail = EnvBlockError::Size(meta.len()).to_string();
        return Err(LoaderError::Unknown {
            path: path.to_path_buf(),
            detail,
        });
    }
    Ok(file)
}

fn read_bytes(path: &Path, file: &File) -> Result<Vec<u8>, LoaderError> {
    let mut bytes = Vec::with_capacity(SIZE + 1);
    let limit = SIZE as u64 + 1;
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|source| LoaderError::Read {
            path: path.to_path_buf(),
            source,
        })?;
    Ok(bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<EnvBlock, LoaderError> {
    EnvBlock::parse(bytes).map_err(|e| LoaderError::Unknown {
        path: path.to_path_buf(),
        detail: e.to_string(),
    })
}

fn write_error(path: &Path, detail: String) -> LoaderError {
    LoaderError::Write {
        path: path.to_path_buf(),
        detail,
    }
}
