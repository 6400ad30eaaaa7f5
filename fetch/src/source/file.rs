//! A file of this machine, such as one on a stick.
//!
//! A catalog's author names the file, and what is in it ends up in a slot: so only folders that the
//! machine's owner has named are read, and nothing that a link in them leads out to. The kernel
//! sees to that while it walks the path (`openat2(2)` with `RESOLVE_BENEATH`), so there is no moment
//! between a check and its use.

use std::{io, os::fd::OwnedFd};

use bytes::{Bytes, BytesMut};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2},
    io::Errno,
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::{
    error::Fault,
    file_roots::{FileRoots, Place},
    identity::Identity,
    refusal::PolicyRefusal,
    url::SourceUrl,
    validators::Validators,
};

/// Bytes per chunk.
const CHUNK: usize = 256 << 10;

/// Opens a file, to be read from an offset on.
pub(super) async fn open(roots: &FileRoots, url: &SourceUrl, from: u64) -> Result<OpenFile, Fault> {
    let other = |what: String| Fault::File { what };
    let place = roots.place(url)?;
    let opened = tokio::task::spawn_blocking(move || open_in(&place)).await;
    let (file, stat) = opened
        .map_err(|error| other(error.to_string()))?
        .map_err(Fault::of_file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Fault::NotAFile);
    }
    let mut file = tokio::fs::File::from_std(file.into());
    file.seek(io::SeekFrom::Start(from))
        .await
        .map_err(|error| other(error.to_string()))?;
    Ok(OpenFile {
        file,
        identity: identity(&stat),
    })
}

fn open_in(place: &Place) -> Result<(OwnedFd, Stat), Errno> {
    let folder = openat(
        CWD,
        &place.folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let file = openat2(
        folder,
        &place.file,
        // Not to wait for the other end of a pipe.
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )?;
    let stat = fstat(&file)?;
    Ok((file, stat))
}

/// By what a version of a file is recognised, besides its path: length and time of the last change.
/// Not by its inode: FAT, which sticks have, gives another number each time it is mounted, and an
/// installation goes on after a reboot.
#[allow(clippy::cast_sign_loss, reason = "a file's size is not negative")]
fn identity(stat: &Stat) -> Identity {
    let (size, seconds, nanoseconds) = (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    Identity {
        validators: Validators {
            etag: Some(format!("\"{size:x}-{seconds:x}-{nanoseconds:x}\"")),
            last_modified: None,
        },
        total: Some(size as u64),
    }
}

/// A file, open and at its place.
#[derive(Debug)]
pub(crate) struct OpenFile {
    file: tokio::fs::File,
    pub(crate) identity: Identity,
}

impl OpenFile {
    /// The next bytes, `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        let read = self.file.read_buf(&mut buffer).await;
        match read {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(buffer.freeze())),
            Err(error) => Err(Fault::File {
                what: error.to_string(),
            }),
        }
    }
}

impl Fault {
    fn of_file(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::NoSuchFile,
            // Beneath the root it is not: a link leads out.
            Errno::XDEV | Errno::LOOP => Self::Policy(PolicyRefusal::LinkLeadsOut),
            Errno::ACCESS | Errno::PERM => Self::FileForbidden,
            other => Self::File {
                what: io::Error::from(other).to_string(),
            },
        }
    }
}
