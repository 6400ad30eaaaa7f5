//! Fills a slot: bytes from `fetch` through a bounded channel to `image` on a blocking thread, then a look inside.
//!
//! The installation is started by [`Installer::open`] and held before its first write until [`Installer::write`] lets
//! it go: what the boot loader and the record have to say of the slot comes before the first byte, and a source that
//! cannot be had costs the slot nothing.

mod gate;
mod resume;
mod stream;
mod words;

use std::{num::NonZeroU64, path::PathBuf, sync::Arc, time::Duration};

use monok8s_api::{
    OSUpgradeProgress,
    osupgradeprogress::{CheckedImage, ImageRef},
    reason::FailureReason,
};
use monok8s_boot::{Host, Slot, clock, inspect};
use monok8s_fetch::{Beginning, Client, ImageBody, ImageRequest, RateLimit, Resume, SourceUrl};
use monok8s_image::{
    ChecksumMatched, Device as _, Digest, Expectation, HostDevice, InstallError, Installed, Start,
    WindowLimit,
};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinHandle, block_in_place},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    act::{
        calls::Backoff,
        checkpoint::Checkpoints,
        credentials::{NoCredentials, Secrets},
        effects::{Away, Begun, Job, Opened, Written},
        metrics::Metrics,
        objects::Objects,
        source::platform,
    },
    decide::{
        next::same_version,
        reasons,
        resume::Installation,
        status::{Live, shown_version},
    },
    record::{Proof, Trouble},
};
use resume::{Found, Lost};
use stream::{Outcome, Show, Stream, Terms};
use words::{Left, OTHER_IMAGE, What};

/// What every installation needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder whose file system must not be overwritten, and in which checkpoints are kept.
    pub state_dir: PathBuf,
    /// Keys of os-release that carry the version, the first present one counts.
    pub version_keys: Vec<String>,
    /// Files that must be in a slot for it to boot.
    pub boot_files: Vec<PathBuf>,
    /// The largest decoder window that is accepted.
    pub window_limit: WindowLimit,
    /// Read before writing, and write only what differs.
    pub compare_before_write: bool,
}

/// What an installer works with.
#[derive(Clone)]
pub struct Tools {
    /// Where images come from.
    pub client: Client,
    /// Where credentials come from.
    pub secrets: Secrets,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// The objects.
    pub objects: Objects,
    /// Where progress is shown.
    pub live: watch::Sender<Live>,
    /// Counts.
    pub metrics: Metrics,
}

/// Fills slots, one at a time.
pub struct Installer {
    tools: Tools,
    settings: Settings,
    checkpoints: Checkpoints,
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

/// Why an installation does not begin.
enum NotOpened {
    Failed(Trouble),
    Stopped,
}

impl From<Trouble> for NotOpened {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(trouble)
    }
}

impl Installer {
    /// An installer; `stop` ends it between two chunks.
    pub fn new(tools: Tools, settings: Settings, stop: CancellationToken) -> Self {
        Self {
            tools,
            checkpoints: Checkpoints::new(&settings.state_dir),
            settings,
            stop,
            running: None,
        }
    }

    /// What is shown of bytes belongs to an earlier attempt.
    pub fn forget_progress(&self) {
        self.tools.live.send_replace(Live::default());
    }

    /// See [`crate::act::effects::Effects::forget_checkpoint`].
    pub fn forget_checkpoint(&self) {
        stream::forget(&self.checkpoints);
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
        self.tools
            .live
            .send_modify(|live| note.clone_into(&mut live.note));
    }

    /// See [`crate::act::effects::Effects::open`].
    pub async fn open(&mut self, job: &Job) -> Opened {
        self.abandon().await;
        self.forget_progress();
        match self.begin(job).await {
            Ok(begun) => Opened::Ready(begun),
            Err(NotOpened::Failed(trouble)) => Opened::Failed(trouble),
            Err(NotOpened::Stopped) => Opened::Stopped,
        }
    }

    async fn begin(&mut self, job: &Job) -> Result<Begun, NotOpened> {
        let left = Left::before(job.wrote);
        let image = job.image.checked().map_err(|e| {
            Trouble::new(
                FailureReason::PolicyRefused,
                format!("the image cannot be installed: {e}; {left}"),
            )
        })?;
        let (slot, device) = self.claim(job)?;
        let object = self.tools.objects.get(&job.uid);
        let (mut request, url, rate) = self.request(&image, object.as_deref(), left)?;
        let named = object
            .as_ref()
            .and_then(|o| o.spec.download.credentials.clone());
        let what = What {
            version: shown_version(&job.image.version),
            url,
            slot,
            to: job.to,
            credentials: named.as_ref().map(|name| self.tools.secrets.called(name)),
        };
        if let Some(size) = image.size.filter(|s| *s > what.slot.size) {
            let error = InstallError::ImageTooLarge {
                device: what.slot.device.display().to_string(),
                size: Some(size),
                capacity: what.slot.size,
            };
            return Err(what.trouble(&error, left).into());
        }
        let client = match named {
            Some(name) => {
                self.identified(&name, job, &rate, request.retry_for)
                    .await?
            }
            None => self.tools.client.clone(),
        };
        let installation = installation(job, &what.slot);
        let (device, found) = self.find(job, &installation, device, &what, &rate).await?;
        request.resume = found.as_ref().map(|found| Resume {
            at: found.start.file_bytes(),
            file: found.file.clone(),
        });
        info!(
            url = %what.url, slot = %job.to, device = %what.slot.device.display(), access = %device.access(),
            "installing"
        );
        let body = tokio::select! {
            body = client.open(request) => body,
            () = self.interrupted(&job.uid, &rate) => return Err(NotOpened::Stopped),
        };
        let body = body.map_err(|e| what.fetch_trouble(&e, left))?;
        let start = self.place(&body, found);
        let terms = Terms {
            expectation: Expectation {
                checksum: Digest(*image.checksum.as_bytes()),
                size: image.size,
                window_limit: self.settings.window_limit,
            },
            compare_before_write: self.settings.compare_before_write,
            installation,
            checkpoints: self.checkpoints.clone(),
        };
        let begun = Begun {
            resumed_at: start.image_bytes(),
            image: pinned(&job.image, &body),
        };
        let stream = Stream { body, start, terms };
        self.start(job, stream, device, what, rate).await?;
        Ok(begun)
    }

    /// The slot and its device, which nobody else has.
    fn claim(&self, job: &Job) -> Result<(Slot, HostDevice), Trouble> {
        let target = block_in_place(|| {
            self.tools
                .host
                .open_target(job.to, &self.settings.state_dir)
        });
        let left = Left::before(job.wrote);
        let target = target
            .map_err(|e| Trouble::new(reasons::of_boot(e.reason()), format!("{e}; {left}")))?;
        let path = target.slot.device.display().to_string();
        let device = HostDevice::new(target.file, &*path).map_err(|e| {
            Trouble::new(
                FailureReason::SlotReadOnly,
                format!("slot {}: {path} cannot be written to: {e}; {left}", job.to),
            )
        })?;
        Ok((target.slot, device))
    }

    /// The client with the credentials of a Secret. An API server that is away is waited for as long as an image server
    /// would be.
    async fn identified(
        &self,
        name: &str,
        job: &Job,
        rate: &RateLimit,
        patience: Duration,
    ) -> Result<Client, NotOpened> {
        let end = |reason, message: String| {
            let left = Left::before(job.wrote);
            NotOpened::Failed(Trouble::new(reason, format!("{message}; {left}")))
        };
        let began = clock::since_boot();
        let mut backoff = Backoff::default();
        let credentials = loop {
            match self.tools.secrets.read(name).await {
                Ok(credentials) => break credentials,
                Err(NoCredentials::Refused(Trouble { reason, message })) => {
                    return Err(end(reason, message));
                }
                Err(NoCredentials::Away(Away(why))) => {
                    let waited = clock::since_boot().saturating_sub(began);
                    let called = self.tools.secrets.called(name);
                    if waited >= patience {
                        return Err(end(
                            FailureReason::DownloadFailed,
                            format!(
                                "{called} (download.credentials) could not be read: {why}; asked again for {} s \
                                 (download.retryFor). Change spec.retryNonce to try again",
                                patience.as_secs()
                            ),
                        ));
                    }
                    self.note(&format!("{called} could not be read; asking again"));
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_pause()) => {}
                        () = self.interrupted(&job.uid, rate) => return Err(NotOpened::Stopped),
                    }
                }
            }
        };
        self.note("");
        self.tools
            .client
            .with_credentials(credentials)
            .map_err(|e| {
                end(
                    FailureReason::DownloadForbidden,
                    format!(
                        "{} cannot be used: {e}; mend it, then change spec.retryNonce",
                        self.tools.secrets.called(name)
                    ),
                )
            })
    }

    /// What an earlier run of this installation has left in the slot.
    async fn find(
        &self,
        job: &Job,
        installation: &Installation,
        device: HostDevice,
        what: &What,
        rate: &RateLimit,
    ) -> Result<(HostDevice, Option<Found>), NotOpened> {
        let cancel = CancellationToken::new();
        self.note("looking for what was written of the image before");
        let mut finding = Box::pin(resume::find(
            &self.checkpoints,
            installation,
            device,
            &cancel,
        ));
        let (device, found) = tokio::select! {
            done = &mut finding => done,
            () = self.interrupted(&job.uid, rate) => {
                cancel.cancel();
                finding.await
            }
        };
        self.note("");
        match (device, found) {
            _ if cancel.is_cancelled() => Err(NotOpened::Stopped),
            (_, Err(Lost::Died(e))) => Err(what.died(&e).into()),
            (Some(device), Ok(found)) => Ok((device, Some(found))),
            (Some(device), Err(Lost::Nothing)) => Ok((device, None)),
            (_, Err(Lost::Stopped)) | (None, _) => Err(NotOpened::Stopped),
        }
    }

    /// Where the installation begins, now that the source has said what it has.
    fn place(&self, body: &ImageBody, found: Option<Found>) -> Start {
        let Some(Found { start, .. }) = found else {
            return Start::at_the_beginning();
        };
        match body.beginning() {
            Beginning::Resumed { at } if *at == start.file_bytes() => {
                info!(
                    "resumed: {} bytes of the image are in the slot, and {} has the same file from byte {at}",
                    start.image_bytes(),
                    body.url()
                );
                start
            }
            beginning => {
                if let Beginning::StartedOver { change, .. } = beginning {
                    warn!(
                        "{} does not go on with the file that the slot was written from ({change}); it is written from \
                         its beginning",
                        body.url()
                    );
                }
                stream::forget(&self.checkpoints);
                Start::at_the_beginning()
            }
        }
    }

    /// Starts the installation and waits for its first write, or for its end when nothing is left to write.
    async fn start(
        &mut self,
        job: &Job,
        stream: Stream,
        device: HostDevice,
        mut what: What,
        rate: RateLimit,
    ) -> Result<(), NotOpened> {
        let (device, asked, permit) = gate::before_the_first_write(device);
        let cancel = CancellationToken::new();
        let show = Show {
            live: self.tools.live.clone(),
            metrics: self.tools.metrics.clone(),
        };
        if stream.start.image_bytes() > 0 {
            show.resumed(stream.start.image_bytes(), stream.terms.expectation.size);
        }
        let mut outcome = tokio::spawn(stream::run(stream, device, cancel.clone(), show));
        let outcome = tokio::select! {
            Ok(()) = asked => outcome,
            ended = &mut outcome => {
                let ended = ended.map_err(|e| what.died(&e))?;
                what.url = ended.from.clone();
                let left = Left::before(job.wrote);
                match &ended.result {
                    Err(e) => return Err(what.trouble(e, left).into()),
                    Ok((installed, _)) if installed.image_bytes == 0 => {
                        return Err(Trouble::new(
                            FailureReason::NotAnImage,
                            format!("{} holds an empty image; {left}", what.url),
                        ).into());
                    }
                    // All of it was there.
                    Ok(_) => tokio::spawn(async { ended }),
                }
            }
            () = self.interrupted(&job.uid, &rate) => {
                cancel.cancel();
                drop(permit);
                let _ = outcome.await;
                return Err(NotOpened::Stopped);
            }
        };
        self.running = Some(Running {
            permit: Some(permit),
            outcome,
            cancel,
            rate,
            what,
        });
        Ok(())
    }

    /// See [`crate::act::effects::Effects::write`].
    pub async fn write(&mut self, job: &Job) -> Written {
        let written = self.finish(job).await;
        monok8s_image::release_memory();
        written
    }

    /// Lets the installation go on to its end, and looks at what came of it.
    async fn finish(&mut self, job: &Job) -> Written {
        let Some(mut running) = self.running.take() else {
            return Written::Stopped;
        };
        if let Some(permit) = running.permit.take() {
            let _ = permit.send(());
        }
        let (ended, stopped) = tokio::select! {
            outcome = &mut running.outcome => (outcome, false),
            () = self.interrupted(&job.uid, &running.rate) => {
                running.cancel.cancel();
                (running.outcome.await, true)
            }
        };
        let Outcome { result, from } = match ended {
            Ok(outcome) => outcome,
            Err(e) => return Written::Failed(running.what.died(&e)),
        };
        let what = What {
            url: from,
            ..running.what
        };
        match result {
            Ok((installed, device)) => {
                let times = &installed.times;
                info!(
                    "slot {} holds the image: {} bytes written, {} cleared, {} found there already, {} from before; {}",
                    what.to,
                    times.write.bytes,
                    times.clear.bytes,
                    times.unchanged.bytes,
                    installed.resumed_at,
                    installed.access
                );
                let looked = block_in_place(|| self.look_inside(&what));
                drop(device);
                match looked {
                    Ok(()) => Written::Proven(proof(&installed)),
                    Err(trouble) => Written::Failed(trouble),
                }
            }
            Err(_) if stopped => Written::Stopped,
            Err(e) => {
                let left = Left::after(&self.tools.live.borrow());
                Written::Failed(what.trouble(&e, left))
            }
        }
    }

    /// Waits until the process is to end, or the object does not want the image any more or is for another Node than
    /// this one; hands on a changed rate.
    async fn interrupted(&self, uid: &str, rate: &RateLimit) {
        let objects = &self.tools.objects;
        let mut changed = objects.subscribe();
        loop {
            match objects.get(uid) {
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
        let node = self.tools.objects.node_uid();
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
        left: Left,
    ) -> Result<(ImageRequest, SourceUrl, RateLimit), Trouble> {
        let mut urls = Vec::new();
        for url in &image.urls {
            let url: SourceUrl = url.as_str().parse().map_err(|e| {
                Trouble::new(
                    FailureReason::PolicyRefused,
                    format!("the image's URL is not used: {e}; {left}"),
                )
            })?;
            urls.push(url);
        }
        if urls.is_empty() {
            return Err(Trouble::new(
                FailureReason::PolicyRefused,
                format!("the image has no URL; {left}"),
            ));
        }
        let first = urls.remove(0);
        let mut request = ImageRequest::new(first.clone());
        request.mirrors = urls;
        request.platform = platform().parse().ok();
        if let Some(object) = object {
            request.retry_for = Duration::from(object.spec.download.retry_for);
            request.rate.set(ceiling(object));
        }
        let live = self.tools.live.clone();
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

/// What is installed; the name in a registry that is being read with the digest that its tag stands for.
fn pinned(image: &ImageRef, body: &ImageBody) -> ImageRef {
    let Some(pinned) = body.pinned() else {
        return image.clone();
    };
    in_place_of(image, body.url(), &pinned)
}

fn in_place_of(image: &ImageRef, read: &SourceUrl, pinned: &SourceUrl) -> ImageRef {
    let named = |url: &String| {
        let same = url.parse::<SourceUrl>().is_ok_and(|url| url == *read);
        if same {
            pinned.to_string()
        } else {
            url.clone()
        }
    };
    ImageRef {
        url: image.url.as_ref().map(named),
        mirrors: image.mirrors.iter().map(named).collect(),
        ..image.clone()
    }
}

/// What makes this installation another than any other one.
fn installation(job: &Job, slot: &Slot) -> Installation {
    Installation {
        uid: job.uid.clone(),
        attempt: job.attempt,
        checksum: job.image.checksum.clone().unwrap_or_default(),
        partition: match &slot.part_uuid {
            Some(uuid) => uuid.to_string(),
            None => slot.device.display().to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use monok8s_boot::{SlotName, host::VirtualNode};

    use super::*;

    #[test]
    fn the_name_that_is_read_is_pinned_and_no_other() {
        let image = ImageRef {
            version: "v1.35.1".to_owned(),
            url: Some("https://x/i?key=1".to_owned()),
            mirrors: vec!["oci://r/a:t".to_owned(), "oci://r/a:u".to_owned()],
            ..ImageRef::default()
        };
        let digest = format!("oci://r/a@sha256:{:064}", 1);
        let (read, pin) = ("oci://r/a:t".parse().unwrap(), digest.parse().unwrap());
        let pinned = in_place_of(&image, &read, &pin);
        assert_eq!(pinned.url, image.url);
        assert_eq!(pinned.mirrors, [digest, "oci://r/a:u".to_owned()]);
    }

    /// A device's name is another partition's after the next boot.
    #[test]
    fn an_installation_is_of_a_partition_whatever_its_device_is_called() {
        let job = Job {
            uid: "u".to_owned(),
            attempt: 1,
            to: SlotName::B,
            image: ImageRef::default(),
            wrote: false,
        };
        let in_slot = |device: &str, part_uuid: Option<u128>| {
            let slot = Slot {
                name: SlotName::B,
                device: PathBuf::from(device),
                part_uuid: part_uuid.map(uuid::Uuid::from_u128),
                size: 1,
            };
            installation(&job, &slot)
        };
        let one = in_slot("/dev/sda3", Some(1));
        assert_eq!(one, in_slot("/dev/sdb3", Some(1)));
        assert_ne!(one, in_slot("/dev/sda3", Some(2)));
        assert_ne!(in_slot("/dev/sda3", None), in_slot("/dev/sdb3", None));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_that_cannot_be_taken_up_again_does_not_say_that_nothing_was_written() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api_server = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("not asked"))
        });
        let mut installer = Installer::new(
            Tools {
                client: Client::builder().build().unwrap(),
                secrets: Secrets::new(kube::Client::new(api_server, "default"), "agents"),
                host: Arc::new(VirtualNode::new("/there/is/no/such/folder")),
                objects: Objects::default(),
                live: watch::Sender::new(Live::default()),
                metrics: Metrics::register(&mut prometheus_client::registry::Registry::default()),
            },
            Settings {
                state_dir: PathBuf::new(),
                version_keys: Vec::new(),
                boot_files: Vec::new(),
                window_limit: WindowLimit::default(),
                compare_before_write: false,
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
                attempt: 1,
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
