//! A file of this machine, such as one on a stick.
//!
//! A catalog's author names the file, and what is in it ends up in a slot: so only folders that the
//! machine's owner has named are read, and nothing that a link in them leads out to. The kernel
//! sees to that while it walks the path (`openat2(2)` with `RESOLVE_BENEATH`), so there is no moment
//! between a check and its use.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2},
    io::Errno,
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::{
    error::Fault, refusal::PolicyRefusal, resume::Identity, url::SourceUrl, validators::Validators,
};

/// Bytes per chunk.
const CHUNK: usize = 256 << 10;

/// The folders that `file` URLs may name a file in. Default: none.
#[derive(Clone, Debug, Default)]
pub struct FileRoots {
    machine: PathBuf,
    roots: Vec<PathBuf>,
}

impl FileRoots {
    /// Absolute folders, as they are called on the machine whose `/` is at `machine` (`/` itself
    /// where the program runs in no container). Links that lead out of such a folder are not
    /// followed; other file systems that are mounted below it are part of it.
    pub fn new(machine: impl Into<PathBuf>, roots: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            machine: machine.into(),
            roots: roots.into_iter().collect(),
        }
    }

    /// Opens a file, to be read from an offset on.
    pub(crate) async fn open(&self, url: &SourceUrl, from: u64) -> Result<OpenFile, Fault> {
        let (root, rest) = self.split(url)?;
        let machine = self.machine.clone();
        let opened = tokio::task::spawn_blocking(move || open(&machine, &root, &rest));
        let (file, stat) = match opened.await {
            Ok(opened) => opened.map_err(Fault::of_file)?,
            Err(error) => {
                return Err(Fault::File {
                    what: error.to_string(),
                });
            }
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Fault::NotAFile);
        }
        let mut file = tokio::fs::File::from_std(file.into());
        file.seek(io::SeekFrom::Start(from))
            .await
            .map_err(|error| Fault::File {
                what: error.to_string(),
            })?;
        Ok(OpenFile {
            file,
            identity: identity(&stat),
        })
    }

    /// The root that a URL's file is in, and the rest of its path.
    fn split(&self, url: &SourceUrl) -> Result<(PathBuf, PathBuf), PolicyRefusal> {
        let path = url
            .full()
            .to_file_path()
            .map_err(|()| PolicyRefusal::NotAUrl)?;
        if self.roots.is_empty() {
            return Err(PolicyRefusal::NoRoots);
        }
        // The URL's parser has resolved `..`, but not one that was escaped.
        let is_plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        self.roots
            .iter()
            .filter(|_| is_plain)
            .find_map(|root| {
                let rest = path.strip_prefix(root).ok()?;
                (rest != Path::new("")).then(|| (root.clone(), rest.to_owned()))
            })
            .ok_or_else(|| PolicyRefusal::OutsideRoots {
                allowed: self
                    .roots
                    .iter()
                    .map(|root| root.display().to_string())
                    .collect(),
            })
    }
}

fn open(machine: &Path, root: &Path, rest: &Path) -> Result<(OwnedFd, Stat), Errno> {
    let root = machine.join(root.strip_prefix("/").unwrap_or(root));
    let folder = openat(
        CWD,
        &root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let file = openat2(
        folder,
        rest,
        // Not to wait for the other end of a pipe.
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )?;
    let stat = fstat(&file)?;
    Ok((file, stat))
}

/// By what a version of a file is recognised: inode, length and time of the last change.
#[allow(clippy::cast_sign_loss, reason = "a file's size is not negative")]
fn identity(stat: &Stat) -> Identity {
    let tag = format!(
        "\"{:x}-{:x}-{:x}-{:x}-{:x}\"",
        stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec
    );
    Identity {
        validators: Validators {
            etag: Some(tag),
            last_modified: None,
        },
        total: Some(stat.st_size as u64),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_files_are_in_a_root() {
        let roots = FileRoots::new("/host", ["/run/media".into(), "/srv/images".into()]);
        for (url, expected) in [
            (
                "file:///run/media/stick/a.zst",
                Some(("/run/media", "stick/a.zst")),
            ),
            ("file:///srv/images/a%20b", Some(("/srv/images", "a b"))),
            ("file:///run/media/../media/a", Some(("/run/media", "a"))),
            ("file:///run/media", None),
            ("file:///run/media/", None),
            ("file:///run/mediaeval/a", None),
            ("file:///run/media/../../etc/shadow", None),
            ("file:///run/media/%2e%2e/shadow", None),
            ("file:///run/media/x/%2E%2E/%2E%2E/shadow", None),
            ("file:///run/media/..%2fshadow", None),
            ("file:///etc/shadow", None),
        ] {
            let split = roots.split(&url.parse().unwrap());
            match (split, expected) {
                (Ok((root, rest)), Some((in_root, file))) => {
                    assert_eq!((root, rest), (in_root.into(), file.into()), "{url}");
                }
                (Err(PolicyRefusal::OutsideRoots { .. }), None) => {}
                (found, _) => panic!("{url}: {found:?}"),
            }
        }
        let none = FileRoots::default();
        assert_eq!(
            none.split(&"file:///a".parse().unwrap()),
            Err(PolicyRefusal::NoRoots)
        );
    }
}
