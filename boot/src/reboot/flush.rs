//! What is still in memory, written to disk before a reboot.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a reboot waits for it, which is what systemd-shutdown gives a sync that makes no progress. What the next
/// boot depends on, the record and the boot loader's variables, is on disk since it was changed; for the rest a disk
/// that answers takes seconds, and a network volume whose server is gone takes for ever.
const LIMIT: Duration = Duration::from_secs(10);

/// Writes everything to disk, for a limited time.
#[derive(Clone)]
pub(super) struct Flush {
    pub(super) limit: Duration,
    /// Blocks, and may never return.
    pub(super) sync: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Flush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flush")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Flush {
    /// The file systems of these files or folders first, as far as they are there, then all of them.
    pub(super) fn new(first: Vec<PathBuf>) -> Self {
        Self {
            limit: LIMIT,
            sync: Arc::new(move || {
                // sync(2) waits for one file system after the other, and would not come to one behind a dead one.
                for path in &first {
                    match sync_file_system(path) {
                        Err(e) if e.kind() != io::ErrorKind::NotFound => {
                            tracing::warn!(path = %path.display(), "syncfs(2): {e}");
                        }
                        _ => {}
                    }
                }
                rustix::fs::sync();
            }),
        }
    }

    /// Returns when it is done or its time is over: a reboot that never comes would be worse.
    pub(super) async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        let sync = Arc::clone(&self.sync);
        // Not one of the runtime's threads: it waits for those when it ends.
        let thread = std::thread::Builder::new().name("sync".to_owned());
        if let Err(e) = thread.spawn(move || {
            sync();
            // Nobody waits any more when it took too long.
            let _ = done.send(());
        }) {
            tracing::warn!("rebooting without a sync: no thread for it: {e}");
            return;
        }
        if tokio::time::timeout(self.limit, is_done).await.is_err() {
            tracing::warn!(
                "not everything could be written to disk within {:?}: a file system does not answer, perhaps a network \
                 volume without its server; rebooting all the same",
                self.limit
            );
        }
    }
}

fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn is_waited_for() {
        let synced = Arc::new(AtomicBool::new(false));
        let says = Arc::clone(&synced);
        let flush = Flush {
            limit: Duration::from_secs(60),
            sync: Arc::new(move || {
                std::thread::sleep(Duration::from_millis(50));
                says.store(true, Ordering::SeqCst);
            }),
        };
        flush.flush().await;
        assert!(synced.load(Ordering::SeqCst));
    }

    #[test]
    fn a_folder_is_enough_to_tell_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        sync_file_system(dir.path()).unwrap();
        assert!(sync_file_system(&dir.path().join("absent")).is_err());
    }
}
