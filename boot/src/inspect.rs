//! What is inside a slot, read in user space: nothing is mounted, no file system driver of the kernel sees it.
//!
//! The file system may be anybody's: it was downloaded a moment ago. Memory, reads and links are bounded.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use ext4_view::{Ext4, Ext4Error, Ext4Read};
use rustix::fs::{Advice, Mode, OFlags, ResolveFlags};

use crate::Reason;
use crate::kernel;
use crate::roots::Roots;

/// The keys that carry a system's version, the first present one counts (os-release(5)).
pub const VERSION_KEYS: [&str; 2] = ["IMAGE_VERSION", "VERSION_ID"];

/// Where os-release(5) is looked for, in this order.
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// An os-release has a few hundred bytes.
const MAX_OS_RELEASE: u64 = 64 << 10;

/// The kernel's own limits for a path and its links (`path_resolution(7)`).
const MAX_LINK: u64 = 4096;
const MAX_LINKS: usize = 40;

/// What may be read from a slot to find a few files in it. Enough for the journal of a large one.
const MAX_READ: u64 = 2 << 30;

/// More block groups than a file system of 32 TiB has.
const MAX_BLOCK_GROUPS: u64 = 1 << 18;

/// An os-release file: its assignments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsRelease(BTreeMap<String, String>);

impl OsRelease {
    /// Parses os-release(5): `KEY=value` lines with shell quoting, `#` comments. Lines that are none are passed over;
    /// of a key that occurs twice the last counts, as in a shell.
    pub fn parse(text: &str) -> Self {
        let assignment = |line: &str| {
            let (key, value) = line.trim().split_once('=')?;
            let valid =
                !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            (valid).then(|| (key.to_owned(), unquote(value)))
        };
        Self(text.lines().filter_map(assignment).collect())
    }

    /// The value of one key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The first of `keys` that is present and not empty: the version, as written.
    pub fn version<K: AsRef<str>>(&self, keys: &[K]) -> Option<&str> {
        keys.iter()
            .find_map(|k| self.get(k.as_ref()).filter(|v| !v.is_empty()))
    }
}

/// Undoes shell quoting as far as os-release(5) allows it: one quoted or unquoted word.
fn unquote(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (Some('\''), c) => plain.push(c),
            (_, '\\') => plain.extend(chars.next()),
            (None, c) if c.is_whitespace() => break,
            (_, c) => plain.push(c),
        }
    }
    plain
}

/// What a slot's file system says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Its os-release.
    pub os_release: OsRelease,
}

/// Looks into the ext4 file system on `device` (a block device or a file): its os-release, and that every one of
/// `required` (absolute paths in that file system, links followed inside it) is there, a regular file and not empty.
///
/// The device's page cache is dropped first, so that what is read is what the medium holds; what was written to it
/// must have been flushed before. Blocks on the disk.
pub fn inspect(device: &Path, required: &[PathBuf]) -> Result<Inspected, InspectError> {
    let slot = Opened::open(device)?;
    let os_release = slot.os_release()?;
    let mut missing = Vec::new();
    for file in required {
        if !slot.has_file(file)? {
            missing.push(file.clone());
        }
    }
    if missing.is_empty() {
        Ok(Inspected { os_release })
    } else {
        Err(InspectError::BootFilesMissing {
            path: device.to_path_buf(),
            missing,
        })
    }
}

/// The running system's os-release, links followed inside its root.
pub(crate) fn running_os_release(roots: &Roots) -> Result<OsRelease, InspectError> {
    let unreadable = |path: &Path, source: io::Error| InspectError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&roots.root, folder, Mode::empty())
        .map_err(|e| unreadable(&roots.root, e.into()))?;
    for path in OS_RELEASE {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(fd) => {
                let mut bytes = Vec::new();
                let mut limited = File::from(fd).take(MAX_OS_RELEASE);
                limited
                    .read_to_end(&mut bytes)
                    .map_err(|e| unreadable(Path::new(path), e))?;
                return Ok(OsRelease::parse(&String::from_utf8_lossy(&bytes)));
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            }
            Err(e) => return Err(unreadable(Path::new(path), e.into())),
        }
    }
    Err(InspectError::NoOsRelease {
        path: roots.root.clone(),
    })
}

/// A slot's file system.
struct Opened {
    path: PathBuf,
    fs: Ext4,
}

impl Opened {
    fn open(device: &Path) -> Result<Self, InspectError> {
        let unreadable = |source| InspectError::Unreadable {
            path: device.to_path_buf(),
            source,
        };
        let file = File::open(device).map_err(unreadable)?;
        drop_cached(&file);
        let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(unreadable)?;
        let error = |detail: String| InspectError::NotAFileSystem {
            path: device.to_path_buf(),
            detail,
        };
        check_superblock(&file, size).map_err(|e| match e {
            Unsound::Read(source) => unreadable(source),
            Unsound::Content(detail) => error(detail),
        })?;
        let medium = Medium {
            file,
            size,
            left: Rc::new(Cell::new(MAX_READ)),
        };
        let slot = Self {
            path: device.to_path_buf(),
            fs: Ext4::load(Box::new(medium)).map_err(|e| self::error(device, e))?,
        };
        Ok(slot)
    }

    fn os_release(&self) -> Result<OsRelease, InspectError> {
        for path in OS_RELEASE {
            if let Some(bytes) = self.read(Path::new(path), MAX_OS_RELEASE)? {
                return Ok(OsRelease::parse(&String::from_utf8_lossy(&bytes)));
            }
        }
        Err(InspectError::NoOsRelease {
            path: self.path.clone(),
        })
    }

    fn has_file(&self, path: &Path) -> Result<bool, InspectError> {
        let Some(path) = self.resolve(path)? else {
            return Ok(false);
        };
        let meta = self
            .fs
            .symlink_metadata(bytes(&path))
            .map_err(|e| error(&self.path, e))?;
        Ok(meta.file_type().is_regular_file() && meta.len() > 0)
    }

    /// At most `limit` bytes of a regular file; `None` when it is not there.
    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, InspectError> {
        let Some(path) = self.resolve(path)? else {
            return Ok(None);
        };
        let failed = |e| error(&self.path, e);
        if !self
            .fs
            .symlink_metadata(bytes(&path))
            .map_err(failed)?
            .file_type()
            .is_regular_file()
        {
            return Ok(None);
        }
        let mut file = self.fs.open(bytes(&path)).map_err(failed)?;
        let length = usize::try_from(file.metadata().len().min(limit)).unwrap_or(usize::MAX);
        let mut content = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_bytes(&mut content[filled..]).map_err(failed)? {
                0 => break,
                n => filled += n,
            }
        }
        content.truncate(filled);
        Ok(Some(content))
    }

    /// `path` without links, all of which are followed inside the file system; `None` when it is not there.
    ///
    /// Not left to the library, which takes as much memory for a link as the file system says that it is long.
    fn resolve(&self, path: &Path) -> Result<Option<PathBuf>, InspectError> {
        let failed = |e| error(&self.path, e);
        let mut resolved = PathBuf::from("/");
        let mut todo: Vec<PathBuf> = components(path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == Path::new("..") {
                resolved.pop();
                continue;
            }
            let next = resolved.join(&name);
            let meta = match self.fs.symlink_metadata(bytes(&next)) {
                Ok(meta) => meta,
                Err(Ext4Error::NotFound | Ext4Error::NotADirectory | Ext4Error::MalformedPath) => {
                    return Ok(None);
                }
                Err(e) => return Err(failed(e)),
            };
            if !meta.file_type().is_symlink() {
                resolved = next;
                continue;
            }
            links += 1;
            if meta.len() > MAX_LINK || links > MAX_LINKS {
                return Err(failed(Ext4Error::TooManySymlinks));
            }
            let target = self.fs.read_link(bytes(&next)).map_err(failed)?;
            let target = os_path(target.as_ref());
            if target.is_absolute() {
                resolved = PathBuf::from("/");
            }
            todo.extend(components(target));
        }
        Ok(Some(resolved))
    }
}

/// A path's names, the last one first. What begins it and `.` do not count.
fn components(path: &Path) -> Vec<PathBuf> {
    let name = |c| match c {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

fn bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt as _;
    path.as_os_str().as_bytes()
}

fn os_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Drops what the kernel has cached of a device or file, as far as it lets us: flushing a block device's buffers
/// needs a privilege, advice does not.
fn drop_cached(file: &File) {
    if kernel::drop_block_cache(file).is_err() {
        // Neither is needed for what is read to be right, only for it to be the medium's.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    }
}

enum Unsound {
    Read(io::Error),
    Content(String),
}

/// Refuses a superblock whose numbers would make the library take memory without bound (ext4's `ext4.rst`, "The Super
/// Block"): it reads the rest of them itself.
fn check_superblock(file: &File, size: u64) -> Result<(), Unsound> {
    let mut block = [0; 1024];
    match file.read_exact_at(&mut block, 1024) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Unsound::Content(format!("it has only {size} bytes")));
        }
        Err(e) => return Err(Unsound::Read(e)),
    }
    let u32_at = |at: usize| {
        block[at..at + 4]
            .iter()
            .rev()
            .fold(0_u64, |n, b| n << 8 | u64::from(*b))
    };
    if (block[56], block[57]) != (0x53, 0xef) {
        return Err(Unsound::Content(
            "there is no ext4 superblock at byte 1024".to_owned(),
        ));
    }
    let log_block_size = u32_at(24);
    // 1 KiB to 64 KiB.
    if log_block_size > 6 {
        return Err(Unsound::Content(format!(
            "its blocks have 2^{} bytes",
            log_block_size + 10
        )));
    }
    let block_size = 1024_u64 << log_block_size;
    let high = if u32_at(96) & 0x80 == 0 {
        0
    } else {
        u32_at(336)
    };
    let blocks = high << 32 | u32_at(4);
    if blocks
        .checked_mul(block_size)
        .is_none_or(|bytes| bytes > size)
    {
        return Err(Unsound::Content(format!(
            "it has {blocks} blocks of {block_size} bytes and the device {size} bytes"
        )));
    }
    let groups = blocks.div_ceil(u32_at(32).max(1));
    if groups > MAX_BLOCK_GROUPS {
        return Err(Unsound::Content(format!("it has {groups} block groups")));
    }
    Ok(())
}

/// The device, with a bound on what is read of it.
struct Medium {
    file: File,
    size: u64,
    left: Rc<Cell<u64>>,
}

/// The bound was reached, or a read went past the end: the file system is wrong, not the device.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotThere(String);

impl Ext4Read for Medium {
    fn read(
        &mut self,
        start: u64,
        into: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let length = into.len() as u64;
        let Some(left) = self.left.get().checked_sub(length) else {
            return Err(Box::new(NotThere(format!(
                "more than {MAX_READ} bytes would have to be read"
            ))));
        };
        self.left.set(left);
        if start.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(Box::new(NotThere(format!(
                "it points to byte {start} of {}",
                self.size
            ))));
        }
        self.file.read_exact_at(into, start)?;
        Ok(())
    }
}

fn error(path: &Path, error: Ext4Error) -> InspectError {
    let path = path.to_path_buf();
    match error {
        Ext4Error::Io(source) => match source.downcast::<io::Error>() {
            Ok(source) => InspectError::Unreadable {
                path,
                source: *source,
            },
            Err(other) => InspectError::NotAFileSystem {
                path,
                detail: other.to_string(),
            },
        },
        other => InspectError::NotAFileSystem {
            path,
            detail: other.to_string(),
        },
    }
}

/// Why a slot's content was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The device cannot be read.
    #[error("{path} could not be read: {source}", path = path.display())]
    Unreadable {
        /// The device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No ext4, or a broken one.
    #[error("{path} holds no readable ext4 file system: {detail}", path = path.display())]
    NotAFileSystem {
        /// The device.
        path: PathBuf,
        /// What was wrong with it.
        detail: String,
    },
    /// Neither file.
    #[error("{path} has neither /etc/os-release nor /usr/lib/os-release", path = path.display())]
    NoOsRelease {
        /// The device, or the root's folder.
        path: PathBuf,
    },
    /// A file that must be there to boot is not.
    #[error(
        "{path} has no {} (or it is empty, or no regular file): an image for this machine must carry it",
        missing.iter().map(|m| m.display().to_string()).collect::<Vec<_>>().join(", "),
        path = path.display()
    )]
    BootFilesMissing {
        /// The device.
        path: PathBuf,
        /// What is missing.
        missing: Vec<PathBuf>,
    },
    /// It cannot be said which slot runs, hence not what runs.
    #[error("the running system's version is not known: {0}")]
    Unidentified(#[from] crate::slot::SlotError),
}

impl InspectError {
    /// The coarse reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreadable { .. } => Reason::SlotUnreadable,
            Self::NotAFileSystem { .. } => Reason::NotAnImage,
            Self::NoOsRelease { .. } => Reason::WrongVersionInImage,
            Self::BootFilesMissing { .. } => Reason::BootFilesMissing,
            Self::Unidentified(e) => e.reason(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_os_release() {
        let os = OsRelease::parse(
            "# comment\nNAME=\"Mono \\\"K8s\\\"\"\nID=monok8s\nIMAGE_VERSION='v1.35.1'\nVERSION_ID=\"1\"\nVERSION_ID=2 \n\
             not a line\n=x\nbad key=1\nESC=a\\ b\\$\nEMPTY=\n",
        );
        let get = |k| os.get(k);
        assert_eq!(get("NAME"), Some("Mono \"K8s\""));
        assert_eq!(get("VERSION_ID"), Some("2"));
        assert_eq!(get("ESC"), Some("a b$"));
        assert_eq!(get("bad key"), None);
        assert_eq!(os.version(&VERSION_KEYS), Some("v1.35.1"));
        assert_eq!(os.version(&["EMPTY", "VERSION_ID"]), Some("2"));
        assert_eq!(os.version(&["NOT_THERE"]), None);
    }

    proptest! {
        #[test]
        fn os_release_never_panics(text in ".{0,300}") {
            let _ = OsRelease::parse(&text);
        }
    }
}
