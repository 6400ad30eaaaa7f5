//! Fills a slot: bytes from `fetch` through a bounded channel to `image` on a blocking thread, then a look inside.
//!
//! The installation is started by [`Installer::open`] and held before its first write until [`Installer::write`] lets
//! it go: what the boot loader and the record have to say of the slot comes before the first byte, and a source that
//! cannot be had costs the slot nothing.

use std::{
    io::{self, Read},
    num::NonZeroU64,
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use monok8s_api::{OSUpgradeProgress, osupgradeprogress::CheckedImage, reason::FailureReason};
use monok8s_boot::{Host, Slot, SlotName, inspect};
use monok8s_fetch::{Client, FetchError, ImageBody, ImageRequest, Kind, RateLimit, SourceUrl};
use monok8s_image::{
    Access, ChecksumMatched, DEFAULT_WINDOW_LIMIT, Device, Digest, Expectation, HostDevice,
    InstallError, Installed, Progress, Stage, install,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, block_in_place, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    act::{
        effects::{Job, Opened, Written},
        metrics::Metrics,
        objects::Objects,
    },
    decide::{
        next::same_version,
        reasons,
        status::{Live, needs_another_image, shown_version},
    },
    record::{Proof, Trouble},
};

/// Chunks on their way from the network to the decoder.
const CHUNKS: usize = 8;

/// What every installation needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder whose file system must not be overwritten.
    pub state_dir: PathBuf,
    /// Keys of os-release that carry the version, the first present one counts.
    pub version_keys: Vec<String>,
    /// Files that must be in a slot for it to boot.
    pub boot_files: Vec<PathBuf>,
}

/// Fills slots, one at a time.
pub struct Installer {
    client: Client,
    host: Arc<dyn Host>,
    objects: Objects,
    live: watch::Sender<Live>,
    metrics: Metrics,
    settings: Settings,
    stop: CancellationToken,
    running: Option<Running>,
}

impl std::fmt::Debug for Installer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// An installation under way.
struct Running {
    /// Lets it write.
    permit: Option<oneshot::Sender<()>>,
    outcome: JoinHandle<Outcome>,
    cancel: CancellationToken,
    rate: RateLimit,
    what: What,
}

/// What is written where, for messages.
#[derive(Clone, Debug)]
struct What {
    version: String,
    url: SourceUrl,
    slot: Slot,
    to: SlotName,
    credentials: bool,
}

type Outcome = Result<(Installed, Gated), InstallError>;

impl Installer {
    /// An installer; `stop` ends it between two chunks.
    pub fn new(
        client: Client,
        host: Arc<dyn Host>,
        objects: Objects,
        live: watch::Sender<Live>,
        metrics: Metrics,
        settings: Settings,
        stop: CancellationToken,
    ) -> Self {
        Self {
            client,
            host,
            objects,
            live,
            metrics,
            settings,
            stop,
            running: None,
        }
    }

    /// What is shown of bytes belongs to an earlier attempt.
    pub fn forget_progress(&self) {
        self.live.send_replace(Live::default());
    }

    /// See [`crate::act::effects::Effects::abandon`].
    pub async fn abandon(&mut self) {
        if let Some(running) = self.running.take() {
            running.cancel.cancel();
            // Without its permit it ends before the first write, and the slot's claim goes with its device.
            drop(running.permit);
            let _ = running.outcome.await;
        }
    }

    /// See [`crate::act::effects::Effects::note`].
    pub fn note(&self, note: &str) {
        self.live
            .send_modify(|live| note.clone_into(&mut live.note));
    }

    /// See [`crate::act::effects::Effects::open`].
    pub async fn open(&mut self, job: &Job) -> Opened {
        self.abandon().await;
        self.forget_progress();
        let image = match job.image.checked() {
            Ok(image) => image,
            Err(e) => {
                return Opened::Failed(Trouble::new(
                    FailureReason::PolicyRefused,
                    format!("the image cannot be installed: {e}; {}", left(job.wrote)),
                ));
            }
        };
        let target = block_in_place(|| self.host.open_target(job.to, &self.settings.state_dir));
        let target = match target {
            Ok(target) => target,
            Err(e) => {
                return Opened::Failed(Trouble::new(
                    reasons::of_boot(e.reason()),
                    format!("{e}; {}", left(job.wrote)),
                ));
            }
        };
        let slot = target.slot.clone();
        let device = match HostDevice::new(target.file, slot.device.display().to_string()) {
            Ok(device) => device,
            Err(e) => {
                return Opened::Failed(Trouble::new(
                    FailureReason::SlotReadOnly,
                    format!(
                        "slot {}: {} cannot be written to: {e}; {}",
                        job.to,
                        slot.device.display(),
                        left(job.wrote)
                    ),
                ));
            }
        };
        let object = self.objects.get(&job.uid);
        let (request, url, rate) = match self.request(&image, object.as_deref(), job.wrote) {
            Ok(request) => request,
            Err(trouble) => return Opened::Failed(trouble),
        };
        let what = What {
            version: shown_version(&job.image.version),
            url,
            slot,
            to: job.to,
            credentials: object.is_some_and(|o| o.spec.download.credentials.is_some()),
        };
        if let Some(size) = image.size.filter(|s| *s > what.slot.size) {
            let error = InstallError::ImageTooLarge {
                device: device.name().to_owned(),
                size: Some(size),
                capacity: what.slot.size,
            };
            return Opened::Failed(what.trouble(&error, job.wrote));
        }
        info!(url = %what.url, slot = %job.to, device = %what.slot.device.display(), access = %device.access(), "installing");
        let body = tokio::select! {
            body = self.client.open(request) => body,
            () = self.interrupted(&job.uid, &rate) => return Opened::Stopped,
        };
        let body = match body {
            Ok(body) => body,
            Err(e) => return Opened::Failed(what.fetch_trouble(&e, job.wrote)),
        };
        self.start(job, &image, body, device, what, rate).await
    }

    /// Starts the installation and waits for its first write.
    async fn start(
        &mut self,
        job: &Job,
        image: &CheckedImage,
        body: ImageBody,
        device: HostDevice,
        what: What,
        rate: RateLimit,
    ) -> Opened {
        let (device, asked, permit) = Gated::new(device);
        let cancel = CancellationToken::new();
        let expectation = Expectation {
            checksum: Digest(*image.checksum.as_bytes()),
            size: image.size,
            window_limit: DEFAULT_WINDOW_LIMIT,
        };
        let show = Show {
            live: self.live.clone(),
            metrics: self.metrics.clone(),
        };
        let mut outcome = tokio::spawn(run(body, device, expectation, cancel.clone(), show));
        tokio::select! {
            Ok(()) = asked => {
                self.running = Some(Running { permit: Some(permit), outcome, cancel, rate, what });
                Opened::Ready
            }
            ended = &mut outcome => match ended {
                Ok(Err(e)) => Opened::Failed(what.trouble(&e, job.wrote)),
                Ok(Ok(_)) => Opened::Failed(Trouble::new(
                    FailureReason::NotAnImage,
                    format!("{} holds an empty image; {}", what.url, left(job.wrote)),
                )),
                Err(e) => Opened::Failed(what.died(&e)),
            },
            () = self.interrupted(&job.uid, &rate) => {
                cancel.cancel();
                drop(permit);
                let _ = outcome.await;
                Opened::Stopped
            }
        }
    }

    /// See [`crate::act::effects::Effects::write`].
    pub async fn write(&mut self, job: &Job) -> Written {
        let Some(mut running) = self.running.take() else {
            return Written::Stopped;
        };
        if let Some(permit) = running.permit.take() {
            let _ = permit.send(());
        }
        let (outcome, stopped) = tokio::select! {
            outcome = &mut running.outcome => (outcome, false),
            () = self.interrupted(&job.uid, &running.rate) => {
                running.cancel.cancel();
                (running.outcome.await, true)
            }
        };
        let what = &running.what;
        match outcome {
            Ok(Ok((installed, device))) => {
                let looked = block_in_place(|| self.look_inside(what));
                drop(device);
                match looked {
                    Ok(()) => Written::Proven(proof(&installed)),
                    Err(trouble) => Written::Failed(trouble),
                }
            }
            Ok(Err(_)) if stopped => Written::Stopped,
            Ok(Err(e)) => Written::Failed(what.trouble(&e, true)),
            Err(e) => Written::Failed(what.died(&e)),
        }
    }

    /// Waits until the process is to end, or the object does not want the image any more or is for another Node than
    /// this one; hands on a changed rate.
    async fn interrupted(&self, uid: &str, rate: &RateLimit) {
        let mut changed = self.objects.subscribe();
        loop {
            match self.objects.get(uid) {
                Some(o) if self.is_wanted(&o) => rate.set(ceiling(&o)),
                _ => return,
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                heard = changed.changed() => if heard.is_err() { return },
            }
        }
    }

    fn is_wanted(&self, object: &OSUpgradeProgress) -> bool {
        let node = self.objects.node_uid();
        let replaced =
            node.is_some() && object.spec.node_uid.is_some() && object.spec.node_uid != node;
        !object.spec.cancel && object.metadata.deletion_timestamp.is_none() && !replaced
    }

    /// The version that the written slot carries, and the files it needs to boot.
    fn look_inside(&self, what: &What) -> Result<(), Trouble> {
        let device = &what.slot.device;
        let found = inspect::inspect(device, &self.settings.boot_files).map_err(|e| {
            Trouble::new(
                reasons::of_boot(e.reason()),
                format!(
                    "{} from {} is in slot {} ({}) as promised, but it is no system to boot: {e}. {}",
                    what.version,
                    what.url,
                    what.to,
                    device.display(),
                    OTHER_IMAGE
                ),
            )
        })?;
        let version = found
            .os_release
            .version(&self.settings.version_keys)
            .unwrap_or_default();
        if same_version(version, &what.version) {
            return Ok(());
        }
        Err(Trouble::new(
            FailureReason::WrongVersionInImage,
            format!(
                "the image from {} was promised to be {}, but its os-release says {version:?} (in slot {}, {}). It was \
                 not booted. {}",
                what.url,
                what.version,
                what.to,
                device.display(),
                OTHER_IMAGE
            ),
        ))
    }

    fn request(
        &self,
        image: &CheckedImage,
        object: Option<&OSUpgradeProgress>,
        wrote: bool,
    ) -> Result<(ImageRequest, SourceUrl, RateLimit), Trouble> {
        let mut urls = Vec::new();
        for url in &image.urls {
            let url: SourceUrl = url.as_str().parse().map_err(|e| {
                Trouble::new(
                    FailureReason::PolicyRefused,
                    format!("the image's URL is not used: {e}; {}", left(wrote)),
                )
            })?;
            urls.push(url);
        }
        if urls.is_empty() {
            return Err(Trouble::new(
                FailureReason::PolicyRefused,
                format!("the image has no URL; {}", left(wrote)),
            ));
        }
        let first = urls.remove(0);
        let mut request = ImageRequest::new(first.clone());
        request.mirrors = urls;
        if let Some(object) = object {
            request.retry_for = Duration::from(object.spec.download.retry_for);
            request.rate.set(ceiling(object));
        }
        let live = self.live.clone();
        request.observer = Some(Arc::new(move |event| {
            use monok8s_fetch::Event;
            let note = match event {
                Event::Retrying { error, after } => {
                    warn!("{error}; asking again in {after:?}");
                    format!("{error}; asking again")
                }
                Event::NextSource { error, next } => {
                    warn!("{error}; trying {next}");
                    format!("{error}; trying {next}")
                }
                _ => {
                    info!("the download goes on");
                    String::new()
                }
            };
            live.send_modify(|l| l.note = note);
        }));
        let rate = request.rate.clone();
        Ok((request, first, rate))
    }
}

/// `download.maxBytesPerSecond`.
fn ceiling(object: &OSUpgradeProgress) -> Option<NonZeroU64> {
    let limit = object.spec.download.max_bytes_per_second?;
    NonZeroU64::new(u64::try_from(limit).ok()?)
}

fn proof(installed: &Installed) -> Proof {
    Proof {
        bytes: i64::try_from(installed.image_bytes).unwrap_or(i64::MAX),
        checksum_matched: Some(
            match installed.matched {
                ChecksumMatched::File => "File",
                ChecksumMatched::Image => "Image",
            }
            .to_owned(),
        ),
    }
}

/// What to do when the image itself is wrong.
const OTHER_IMAGE: &str = "A retry installs the same image: mend the catalog, which makes a new revision of the \
                           OSUpgrade, or what its URL serves";

impl What {
    /// An installation that failed.
    fn trouble(&self, error: &InstallError, wrote: bool) -> Trouble {
        if let InstallError::Source { error, .. } = error
            && let Some(fetch) = error.get_ref().and_then(|e| e.downcast_ref::<FetchError>())
        {
            return self.fetch_trouble(fetch, wrote);
        }
        let reason = reasons::of_install(error);
        let hint = if needs_another_image(&reason) {
            OTHER_IMAGE
        } else {
            match reason {
                FailureReason::WriteFailed | FailureReason::ReadBackMismatch => {
                    "The medium may be failing: look at the kernel's log (`dmesg`), then change spec.retryNonce"
                }
                _ => "Change spec.retryNonce to try again",
            }
        };
        Trouble::new(
            reason,
            format!(
                "installing {} from {} into slot {} ({}): {error}; {}. {hint}",
                self.version,
                self.url,
                self.to,
                self.slot.device.display(),
                left(wrote),
            ),
        )
    }

    /// A download that failed.
    fn fetch_trouble(&self, error: &FetchError, wrote: bool) -> Trouble {
        let reason = reasons::of_fetch(error.kind());
        let hint = match error.kind() {
            Kind::NotFound => "Check the URL in the catalog and that the image is published",
            Kind::Forbidden if self.credentials => {
                "This release of the node agent sends no credentials (download.credentials): let the server serve \
                 the image without, then change spec.retryNonce"
            }
            Kind::Forbidden => {
                "Let the server serve the image to this node without credentials, then change spec.retryNonce"
            }
            Kind::Untrusted => {
                "Check the server's certificate and the node's trust anchors, then change spec.retryNonce"
            }
            Kind::RefusedByPolicy => "Use another URL in the catalog",
            _ => {
                "Check the server and the way to it, then change spec.retryNonce; download.retryFor says how long it \
                 is asked again"
            }
        };
        Trouble::new(
            reason,
            format!(
                "downloading {}: {error}; {}. {hint}",
                self.version,
                left(wrote)
            ),
        )
    }

    fn died(&self, error: &tokio::task::JoinError) -> Trouble {
        Trouble::new(
            FailureReason::WriteFailed,
            format!(
                "installing {} into slot {}: the agent's own task ended: {error}; this is a defect of the agent",
                self.version, self.to
            ),
        )
    }
}

fn left(wrote: bool) -> &'static str {
    if wrote {
        "the slot is marked bad"
    } else {
        "nothing was written"
    }
}

/// Where progress is shown.
#[derive(Clone)]
struct Show {
    live: watch::Sender<Live>,
    metrics: Metrics,
}

impl Show {
    fn progress(&self, p: Progress) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
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
}

/// Runs the installation; again from the start when the file changes meanwhile.
async fn run(
    mut body: ImageBody,
    device: Gated,
    expectation: Expectation,
    cancel: CancellationToken,
    show: Show,
) -> Outcome {
    let mut device = device;
    loop {
        let (send, receive) = mpsc::channel(CHUNKS);
        let expectation = expectation.clone();
        let (stopped, shown) = (cancel.clone(), show.clone());
        let installing = spawn_blocking(move || {
            let mut source = ChunkReader {
                receive,
                chunk: Bytes::new(),
                ended: false,
            };
            let mut observer = |progress| {
                shown.progress(progress);
                if stopped.is_cancelled() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let result = install(&mut source, &device, &expectation, &mut observer);
            (result, device)
        });
        pump(&mut body, send, &cancel).await;
        let (result, returned) = match installing.await {
            Ok(done) => done,
            Err(e) => return Err(InstallError::Resources(io::Error::other(e))),
        };
        device = returned;
        match result {
            Ok(installed) => return Ok((installed, device)),
            Err(e) if source_changed(&e) && !cancel.is_cancelled() => {
                warn!("{e}; starting over");
                body.start_over();
            }
            Err(e) => return Err(e),
        }
    }
}

fn source_changed(error: &InstallError) -> bool {
    let InstallError::Source { error, .. } = error else {
        return false;
    };
    error
        .get_ref()
        .and_then(|e| e.downcast_ref::<FetchError>())
        .is_some_and(|e| e.kind() == Kind::SourceChanged)
}

/// Hands chunks over until the file ends, it fails, nobody takes them any more, or it is cancelled.
async fn pump(body: &mut ImageBody, send: mpsc::Sender<Chunk>, cancel: &CancellationToken) {
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

/// A device that asks before its first write, and waits for the answer.
struct Gated {
    device: HostDevice,
    gate: Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

impl Gated {
    /// The device, what tells that it asks, and the answer.
    fn new(device: HostDevice) -> (Self, oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (ask, asked) = oneshot::channel();
        let (permit, permitted) = oneshot::channel();
        let gate = Mutex::new(Some((ask, permitted)));
        (Self { device, gate }, asked, permit)
    }

    fn pass(&self) -> io::Result<()> {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((ask, permitted)) = gate.take() {
            let _ = ask.send(());
            permitted
                .blocking_recv()
                .map_err(|_| io::Error::other("stopped before the first write"))?;
        }
        Ok(())
    }
}

impl Device for Gated {
    fn name(&self) -> &str {
        self.device.name()
    }
    fn size(&self) -> u64 {
        self.device.size()
    }
    fn access(&self) -> &Access {
        self.device.access()
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.pass()?;
        self.device.write_at(bytes, offset)
    }
    fn clear_at(&self, offset: u64, length: u64) -> io::Result<()> {
        self.pass()?;
        self.device.clear_at(offset, length)
    }
    fn flush(&self) -> io::Result<()> {
        self.device.flush()
    }
    fn read_back_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.device.read_back_at(buffer, offset)
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.device.drop_cache()
    }
}

#[cfg(test)]
mod tests {
    use monok8s_api::osupgradeprogress::ImageRef;
    use monok8s_boot::host::VirtualNode;

    use super::*;

    #[test]
    fn nothing_reaches_a_slot_before_it_is_permitted() {
        type Change = fn(&Gated) -> io::Result<()>;
        let write: Change = |device| device.write_at(&[1; 4096], 0).map(drop);
        let clear: Change = |device| device.clear_at(0, 4096);
        for change in [write, clear] {
            let slot = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(slot.path(), [7; 8192]).unwrap();
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(slot.path())
                .unwrap();
            let device = HostDevice::new(file, "a slot".to_owned()).unwrap();
            let (gated, mut asked, permit) = Gated::new(device);
            drop(permit);
            let refused = change(&gated).unwrap_err();
            assert!(refused.to_string().contains("before the first write"));
            assert!(asked.try_recv().is_ok());
            assert_eq!(std::fs::read(slot.path()).unwrap(), [7; 8192]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_that_cannot_be_taken_up_again_does_not_say_that_nothing_was_written() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut installer = Installer::new(
            Client::builder().build().unwrap(),
            Arc::new(VirtualNode::new("/there/is/no/such/folder")),
            Objects::default(),
            watch::Sender::new(Live::default()),
            Metrics::register(&mut prometheus_client::registry::Registry::default()),
            Settings {
                state_dir: PathBuf::new(),
                version_keys: Vec::new(),
                boot_files: Vec::new(),
            },
            CancellationToken::new(),
        );
        for (url, wrote, left) in [
            ("http://x/i", false, "nothing was written"),
            ("http://x/i", true, "the slot is marked bad"),
            ("not a url", true, "the slot is marked bad"),
        ] {
            let job = Job {
                uid: "u".to_owned(),
                to: SlotName::B,
                image: ImageRef {
                    version: "v1.35.1".to_owned(),
                    url: Some(url.to_owned()),
                    checksum: Some(format!("sha256:{:064}", 0)),
                    ..ImageRef::default()
                },
                wrote,
            };
            match installer.open(&job).await {
                Opened::Failed(trouble) => {
                    assert!(trouble.message.ends_with(left), "{}", trouble.message);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
