//! The bytes' way: from `fetch` through a bounded channel to `image` on a blocking thread.

use std::{
    io::{self, Read},
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use monok8s_fetch::{FetchError, FileIdentity, ImageBody, SourceUrl};
use monok8s_image::{
    Checkpoint, Expectation, Guarded, InstallError, Installed, Observer, Options, Progress, Stage,
    Start, install_from,
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    act::{
        checkpoint::{Checkpoints, Kept},
        metrics::Metrics,
    },
    decide::{
        resume::{Installation, Remedy, remedy},
        status::Live,
    },
};

/// Chunks on their way from the network to the decoder.
const CHUNKS: usize = 8;

/// What an installation is made from.
pub(super) struct Stream {
    pub(super) body: ImageBody,
    pub(super) start: Start,
    pub(super) terms: Terms,
}

/// How an installation ended.
pub(super) struct Outcome {
    pub(super) result: Result<(Installed, Guarded), InstallError>,
    /// The source that was read last.
    pub(super) from: SourceUrl,
}

/// Where progress is shown.
#[derive(Clone)]
pub(super) struct Show {
    pub(super) live: watch::Sender<Live>,
    pub(super) metrics: Metrics,
}

impl Show {
    pub(super) fn progress(&self, p: Progress) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        if p.stage == Stage::Resuming {
            return;
        }
        let (done, total) = (count(p.written), count(p.total.unwrap_or(0)));
        self.metrics.bytes(done, total);
        self.live.send_modify(|live| {
            if live.bytes_done != done {
                live.note.clear();
            }
            live.verifying = p.stage == Stage::Verifying;
            live.bytes_done = done;
            live.bytes_total = total;
        });
    }

    /// So much of the image is there from before.
    pub(super) fn resumed(&self, bytes: u64, total: Option<u64>) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let (done, total) = (count(bytes), count(total.unwrap_or(0)));
        self.metrics.resumed(done, total);
        self.live.send_modify(|live| {
            live.note.clear();
            live.bytes_done = done;
            live.bytes_total = total;
        });
    }
}

/// What is installed, and what is kept of it.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) expectation: Expectation,
    pub(super) compare_before_write: bool,
    pub(super) installation: Installation,
    pub(super) checkpoints: Checkpoints,
}

impl Terms {
    fn options(&self) -> Options {
        Options {
            compare_before_write: self.compare_before_write,
            binding: Some(self.installation.words()),
        }
    }
}

/// Which file is being read: the stream knows, and the checkpoints say.
type Reading = Arc<Mutex<Option<FileIdentity>>>;

/// Shows an installation's progress, keeps its checkpoints, and stops it.
struct Watching {
    show: Show,
    stopped: CancellationToken,
    terms: Terms,
    reading: Reading,
    /// One line is enough for a disk that takes no checkpoints.
    complained: bool,
}

impl Observer for Watching {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self.show.progress(progress);
        if self.stopped.is_cancelled() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = reading.clone() else { return };
        drop(reading);
        let kept = Kept {
            installation: self.terms.installation.clone(),
            file,
            checkpoint: checkpoint.clone(),
        };
        if let Err(e) = self.terms.checkpoints.save(&kept)
            && !std::mem::replace(&mut self.complained, true)
        {
            warn!(
                "{} was not written: {e}; an agent that is started anew would write the slot from its beginning",
                self.terms.checkpoints.path().display()
            );
        }
    }
}

/// Runs the installation.
pub(super) async fn run(
    stream: Stream,
    device: Guarded,
    cancel: CancellationToken,
    show: Show,
) -> Outcome {
    let Stream {
        mut body,
        start,
        terms,
    } = stream;
    let result = install(&mut body, start, &terms, device, &cancel, &show).await;
    let from = body.url().clone();
    Outcome { result, from }
}

/// Installs; again from the file's first byte when that changed, or from another source when it is not what was
/// promised.
async fn install(
    body: &mut ImageBody,
    start: Start,
    terms: &Terms,
    mut device: Guarded,
    cancel: &CancellationToken,
    show: &Show,
) -> Result<(Installed, Guarded), InstallError> {
    let mut start = Some(start);
    loop {
        let start = start.take().unwrap_or_else(Start::at_the_beginning);
        let resumed = start.image_bytes() > 0;
        let (send, receive) = mpsc::channel(CHUNKS);
        let reading = Reading::default();
        let mut watching = Watching {
            show: show.clone(),
            stopped: cancel.clone(),
            terms: terms.clone(),
            reading: Arc::clone(&reading),
            complained: false,
        };
        let installing = spawn_blocking(move || {
            let mut source = ChunkReader {
                receive,
                chunk: Bytes::new(),
                ended: false,
            };
            let terms = watching.terms.clone();
            let result = install_from(
                start,
                &mut source,
                &device,
                &terms.expectation,
                &terms.options(),
                &mut watching,
            );
            (result, device)
        });
        pump(body, send, &reading, cancel).await;
        let (result, returned) = match installing.await {
            Ok(done) => done,
            Err(e) => return Err(InstallError::Resources(io::Error::other(e))),
        };
        device = returned;
        let error = match result {
            Ok(installed) => return Ok((installed, device)),
            Err(e) if cancel.is_cancelled() => return Err(e),
            Err(e) => e,
        };
        match remedy(&error, resumed) {
            Remedy::StartOver => {
                warn!("{error}; starting over");
                body.start_over();
            }
            Remedy::NextSource => {
                let rejected = body.url().clone();
                if !body.reject_source() {
                    return Err(error);
                }
                warn!(
                    "{rejected} does not serve what was promised: {error}; trying {}",
                    body.url()
                );
            }
            Remedy::None => return Err(error),
        }
        forget(&terms.checkpoints);
    }
}

/// Throws a checkpoint away that is of no use any more. One that cannot be removed is recognised by the next start.
pub(super) fn forget(checkpoints: &Checkpoints) {
    match checkpoints.forget() {
        Ok(true) => info!("{} is thrown away", checkpoints.path().display()),
        Ok(false) => {}
        Err(e) => warn!("{} could not be removed: {e}", checkpoints.path().display()),
    }
}

/// Hands chunks over until the file ends, it fails, nobody takes them any more, or it is cancelled.
async fn pump(
    body: &mut ImageBody,
    send: mpsc::Sender<Chunk>,
    reading: &Reading,
    cancel: &CancellationToken,
) {
    let mut from = None;
    loop {
        let chunk = tokio::select! {
            chunk = body.next_chunk() => match chunk {
                Ok(Some(bytes)) => Chunk::Bytes(bytes),
                Ok(None) => Chunk::End,
                Err(e) => Chunk::Failed(Box::new(e)),
            },
            // The installation has ended for a reason of its own.
            () = send.closed() => return,
            () = cancel.cancelled() => return,
        };
        if from.as_ref() != Some(body.url()) {
            from = Some(body.url().clone());
            *reading.lock().unwrap_or_else(PoisonError::into_inner) = body.identity();
        }
        let last = !matches!(chunk, Chunk::Bytes(_));
        if send.send(chunk).await.is_err() || last {
            return;
        }
    }
}

enum Chunk {
    Bytes(Bytes),
    End,
    Failed(Box<FetchError>),
}

/// The receiving end of the channel, as a reader for a blocking thread.
struct ChunkReader {
    receive: mpsc::Receiver<Chunk>,
    chunk: Bytes,
    ended: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.receive.blocking_recv() {
                Some(Chunk::Bytes(bytes)) => self.chunk = bytes,
                Some(Chunk::End) => self.ended = true,
                Some(Chunk::Failed(e)) => return Err(io::Error::other(*e)),
                // Cancelled: an end would look like a truncated file.
                None => return Err(io::Error::other("stopped")),
            }
        }
        let n = self.chunk.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
