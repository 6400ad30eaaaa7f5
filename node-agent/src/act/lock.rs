//! One agent per node: a lock in the state folder, held for the life of the process.
//!
//! A DaemonSet's rolling update, a forced deletion or a person may bring a second agent while the first is still
//! ending. The kernel gives the lock back when its holder ends, however that happens.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

/// Name of the file in the state folder.
pub const FILE_NAME: &str = "agent.lock";

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "another agent runs on this node ({by}, as {path} says); this one does nothing until that one has ended",
        path = path.display()
    )]
    Held {
        /// The file.
        path: PathBuf,
        /// What the holder wrote into it.
        by: String,
    },
    /// The file could not be opened or locked.
    #[error("the lock {path} could not be taken: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The lock of one state folder.
#[derive(Debug)]
pub struct StateLock {
    path: PathBuf,
    held: Option<File>,
}

impl StateLock {
    /// The lock of `folder`, not taken yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            path: folder.into().join(FILE_NAME),
            held: None,
        }
    }

    /// Takes it, unless it is held. The folder may be another one than before, when its storage was mounted late: then
    /// that one's lock counts.
    pub fn take(&mut self) -> Result<(), LockError> {
        let io = |source| LockError::Io {
            path: self.path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(io)?;
        let found = file.metadata().map_err(io)?;
        if let Some(held) = &self.held {
            let known = held.metadata().map_err(io)?;
            if (known.dev(), known.ino()) == (found.dev(), found.ino()) {
                return Ok(());
            }
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    path: self.path.clone(),
                    by: holder(file),
                });
            }
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        // For people; the lock itself does not depend on it.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| {
            writeln!(
                file,
                "node-agent {}, process {}",
                env!("CARGO_PKG_VERSION"),
                std::process::id()
            )
        });
        self.held = Some(file);
        Ok(())
    }
}

/// What the holder wrote of itself.
fn holder(file: File) -> String {
    let mut text = String::new();
    let _ = file.take(256).read_to_string(&mut text);
    match text.trim() {
        "" => "it does not say who".to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it_and_has_it_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = StateLock::new(folder.path());
        first.take().unwrap();
        first.take().unwrap();
        let mut second = StateLock::new(folder.path());
        let told = second.take().unwrap_err();
        assert!(matches!(told, LockError::Held { .. }));
        let process = format!("process {}", std::process::id());
        assert!(told.to_string().contains(&process), "{told}");
        drop(first);
        second.take().unwrap();
    }

    #[test]
    fn a_folder_mounted_over_the_first_has_a_lock_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut lock = StateLock::new(&state);
        assert!(matches!(lock.take(), Err(LockError::Io { .. })));
        std::fs::create_dir(&state).unwrap();
        lock.take().unwrap();
        std::fs::rename(&state, folder.path().join("under")).unwrap();
        std::fs::create_dir(&state).unwrap();
        let mut other = StateLock::new(&state);
        other.take().unwrap();
        assert!(matches!(lock.take(), Err(LockError::Held { .. })));
    }
}
