//! Mount tables: `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).
//!
//! Read here rather than by a library because two things must not get lost: names with spaces or bytes that are no
//! text (the kernel writes them as octal escapes), and options that occur more than once (`lowerdir+=`).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::device_number::DevNum;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number in the kernel.
    pub id: u64,
    /// The mount it is mounted on.
    pub parent: u64,
    /// The device number of its file system. Major 0: a file system without a block device of its own.
    pub dev: DevNum,
    /// Where it is mounted, as the process whose table this is sees it.
    pub point: PathBuf,
    /// `ext4`, `overlay`, …
    pub fs_type: String,
    /// What was mounted: a device node's path, or anything.
    pub source: PathBuf,
    /// The file system's options, in order.
    pub options: Vec<(String, Option<OsString>)>,
}

impl Mount {
    /// For an overlay, the folders that it shows: lower ones first.
    pub fn overlay_layers(&self) -> Vec<PathBuf> {
        let values = |wanted: &'static [&str]| {
            self.options
                .iter()
                .filter(move |(key, _)| wanted.contains(&key.as_str()))
                .filter_map(|(_, v)| v.as_deref())
        };
        // `lowerdir` takes several, joined by colons (data-only ones after a double colon); the + forms take one each.
        let joined = values(&["lowerdir"]).flat_map(|v| split_colons(v.as_bytes()));
        let single = values(&["lowerdir+", "datadir+", "upperdir"]).map(PathBuf::from);
        joined.chain(single).collect()
    }
}

/// Parses a mount table. A line that is none is passed over: it describes a mount that cannot be ours.
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|b| *b == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let dev = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _root = fields.next()?;
    let point = path(fields.next()?);
    // The mount's own options, then optional fields up to a lone hyphen.
    fields.by_ref().find(|f| *f == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = path(fields.next()?);
    let options = fields.next().unwrap_or_default();
    let options = options
        .split(|b| *b == b',')
        .map(|option| match option.iter().position(|b| *b == b'=') {
            Some(at) => (
                text(&option[..at]),
                Some(OsString::from_vec(unescape(&option[at + 1..]))),
            ),
            None => (text(option), None),
        })
        .collect();
    Some(Mount {
        id,
        parent,
        dev,
        point,
        fs_type,
        source,
        options,
    })
}

/// The mount that is seen at `/`: of several stacked ones the topmost. `None` when that cannot be told.
pub fn root(mounts: &[Mount]) -> Option<&Mount> {
    let at_root: Vec<_> = mounts
        .iter()
        .filter(|m| m.point == Path::new("/"))
        .collect();
    let mut topmost = at_root.iter().filter(|m| {
        !at_root
            .iter()
            .any(|other| other.parent == m.id && other.id != m.id)
    });
    match (topmost.next(), topmost.next()) {
        (Some(mount), None) => Some(mount),
        _ => None,
    }
}

/// The mount in which `path` (absolute, without links) lies.
pub fn covering<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    // Of several at the same place the last mounted covers the others; the table is in that order.
    mounts
        .iter()
        .filter(|m| path.starts_with(&m.point))
        .max_by_key(|m| m.point.components().count())
        .and_then(|m| {
            if m.point == Path::new("/") {
                root(mounts)
            } else {
                Some(m)
            }
        })
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Undoes the kernel's octal escapes (`\040` is a space).
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .filter(|d| *first == b'\\' && d.iter().all(|b| matches!(b, b'0'..=b'7')));
        let value = digits.and_then(|d| {
            d.iter()
                .try_fold(0_u8, |n, b| n.checked_mul(8)?.checked_add(b - b'0'))
        });
        if let Some(byte) = value {
            plain.push(byte);
            rest = &after[3..];
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

/// Splits an overlay's list of folders; a colon in a name has a backslash before it.
fn split_colons(list: &[u8]) -> Vec<PathBuf> {
    let mut parts = vec![Vec::new()];
    let mut bytes = list.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => parts.push(Vec::new()),
            b'\\' => parts
                .iter_mut()
                .last()
                .into_iter()
                .for_each(|p| p.extend(bytes.next())),
            _ => parts
                .iter_mut()
                .last()
                .into_iter()
                .for_each(|p| p.push(*byte)),
        }
    }
    parts
        .into_iter()
        .filter(|p| !p.is_empty())
        .map(|p| PathBuf::from(OsString::from_vec(p)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
1 1 0:2 / / rw - rootfs rootfs rw
27 1 254:2 / / rw,relatime shared:1 master:2 - ext4 /dev/vda2 rw,discard
30 27 0:40 / /run/with\\040space rw - overlay over rw,lowerdir=/a:/b\\134:c::/d,upperdir=/up,workdir=/w
31 27 0:41 / /new rw - overlay over rw,lowerdir+=/x,lowerdir+=/y
garbage
32 27 254:3 / /data rw - ext4 /dev/vda3 rw
33 27 254:4 / /data rw - ext4 /dev/vda4 rw
";

    #[test]
    fn reads_what_the_kernel_writes() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 7);
        assert_eq!(root(&mounts).unwrap().source, Path::new("/dev/vda2"));
        assert_eq!(mounts[3].point, Path::new("/run/with space"));
        let layers: Vec<_> = ["/a", "/b:c", "/d", "/up"].map(PathBuf::from).to_vec();
        assert_eq!(mounts[3].overlay_layers(), layers);
        assert_eq!(
            mounts[4].overlay_layers(),
            ["/x", "/y"].map(PathBuf::from).to_vec()
        );
        let at = |p: &str| covering(&mounts, Path::new(p)).unwrap().source.clone();
        assert_eq!(at("/data/state"), Path::new("/dev/vda4"));
        assert_eq!(at("/database"), Path::new("/dev/vda2"));
        assert_eq!(at("/"), Path::new("/dev/vda2"));
    }

    #[test]
    fn two_roots_that_do_not_stack_are_no_root() {
        assert_eq!(
            root(&parse(
                b"5 1 8:1 / / rw - ext4 /dev/sda1 rw\n6 1 8:2 / / rw - ext4 /dev/sda2 rw\n"
            )),
            None
        );
        assert_eq!(root(&[]), None);
    }

    #[test]
    fn reads_this_machines_own_table() {
        let mounts = parse(&std::fs::read("/proc/self/mountinfo").unwrap());
        assert!(root(&mounts).is_some());
    }

    proptest! {
        #[test]
        fn never_panics(table in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(b' '), Just(b'\n'), Just(b'\\'), Just(b'-'), Just(b'1'), Just(b':')], 0..200)
        ) {
            let _ = root(&parse(&table));
            let _ = split_colons(&table);
        }
    }
}
