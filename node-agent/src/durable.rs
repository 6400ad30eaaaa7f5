//! A small file that a power cut leaves as it was or as it is to be, never in between.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

/// Replaces `folder/name`: a temporary file, flushed, renamed over the old one, and the folder flushed. For root only:
/// what the agent keeps may hold a URL with its query.
pub fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let temporary = folder.join(format!("{name}.new"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// Reads a file up to one byte beyond `most`, so that a longer one can be told; `None` when there is none.
pub fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Removes `folder/name` and what a killed [`replace`] may have left of it; whether there was one.
pub fn remove(folder: &Path, name: &str) -> io::Result<bool> {
    // Looked for first: a file system that takes no writes has nothing to say about what is not there.
    let gone = |path: &Path| match fs::symlink_metadata(path).and_then(|_| fs::remove_file(path)) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    };
    let unfinished = gone(&folder.join(format!("{name}.new")))?;
    let there = gone(&folder.join(name))?;
    if there || unfinished {
        File::open(folder)?.sync_all()?;
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_comes_is_replaced_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        assert_eq!(read(&path, 10).unwrap(), None);
        assert!(!remove(folder.path(), "f").unwrap());
        for text in ["one", "another"] {
            replace(folder.path(), "f", text.as_bytes()).unwrap();
            assert_eq!(read(&path, 10).unwrap().unwrap(), text.as_bytes());
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            read(&path, 3).unwrap().unwrap(),
            b"anot",
            "one more than asked for"
        );
        fs::write(folder.path().join("f.new"), "half").unwrap();
        assert!(remove(folder.path(), "f").unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
