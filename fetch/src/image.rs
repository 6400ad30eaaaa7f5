//! A large file as a stream: an image.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    artifact::Artifact,
    client::Client,
    digest,
    error::{Change, Fault, FetchError, Kind, Progress},
    identity::{FileIdentity, Identity, Resume},
    platform::Platform,
    rate::{Bucket, FloorWatch, RateLimit},
    resume::{Begun, Verdict},
    retry::{self, Trouble},
    source::{Answer, Body, Question, Source},
    url::SourceUrl,
};

/// Longest trouble that is borne, unless told otherwise; the default of `download.retryFor`.
pub const DEFAULT_RETRY_FOR: Duration = Duration::from_secs(600);

/// Changes of a file after which it is not started over once more.
const MAX_CHANGES: u32 = 3;

/// What to fetch, from where, and how patiently.
#[derive(Clone)]
pub struct ImageRequest {
    /// Where it is.
    pub url: SourceUrl,
    /// Where else it is: asked in order when a source before is given up.
    pub mirrors: Vec<SourceUrl>,
    /// For how long transient faults of one source are bridged; counted anew whenever bytes have
    /// flowed, which is at least [`Timing::floor`](crate::client::Timing::floor)'s on one
    /// connection. Default: 10 min.
    pub retry_for: Duration,
    /// The platform to choose where a source has several. Without it a name in a registry must
    /// lead to a single image. Default: none.
    pub platform: Option<Platform>,
    /// Where an earlier run had got to. The source it was reading is asked first; whether the
    /// stream goes on there is told by [`ImageBody::beginning`]. Default: at the first byte.
    pub resume: Option<Resume>,
    /// A ceiling for the rate; the caller keeps a clone to change it. Default: none.
    pub rate: RateLimit,
    /// Told of retries, resumptions and sources given up, for logs and status. Called from
    /// [`ImageBody::next_chunk`]; must not block.
    pub observer: Option<Observer>,
}

/// Called with what happens while a stream is under way.
pub type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// Something the caller may want to say while a stream is under way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A transient fault; asking again after a pause.
    Retrying {
        /// What happened.
        error: FetchError,
        /// The pause.
        after: Duration,
    },
    /// The stream goes on in the middle after a fault.
    Resumed {
        /// The source.
        url: SourceUrl,
        /// Bytes that were there already.
        at: u64,
        /// Bytes that the server sends all the same, since it does not serve ranges.
        again: u64,
    },
    /// A source is given up; the next one is asked.
    NextSource {
        /// Why.
        error: FetchError,
        /// Which is asked now.
        next: SourceUrl,
    },
}

/// Where a stream begins, or begins again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// At the file's first byte, as asked.
    First,
    /// In the middle, where an earlier run had got to.
    Resumed {
        /// Offset of the first chunk, in bytes.
        at: u64,
    },
    /// At the file's first byte: what there was of it is of no use.
    StartedOver {
        /// How many bytes there were.
        instead_of: u64,
        /// Why.
        change: Change,
    },
}

/// A stream under way.
///
/// Time is the runtime's clock, which stands still while a machine sleeps; a node that was
/// suspended in the middle gets its patience back when it wakes.
pub struct ImageBody {
    client: Client,
    /// Those to be asked when the one being read is given up.
    sources: std::vec::IntoIter<SourceUrl>,
    /// The one being read.
    url: SourceUrl,
    source: Source,
    platform: Option<Platform>,
    earlier: Vec<FetchError>,
    retry_for: Duration,
    observer: Option<Observer>,
    bucket: Bucket,

    beginning: Beginning,
    /// The file being read, and the source that told so.
    file: Option<(SourceUrl, Identity)>,
    /// Whether that is known from an earlier run alone.
    earlier_run: bool,
    /// Of a layer's bytes so far; none where they are not all seen.
    layer_hash: Option<Sha256>,
    done: u64,
    /// Received and not yet handed out.
    pending: Bytes,
    /// Of those, the first ones that were handed out before.
    again: u64,
    state: State,
    trouble: Option<Ongoing>,
    changes: u32,
}

enum State {
    /// Nothing is open.
    Idle,
    /// Asked; the answer is on its way. Kept here and not on the stack, so that a caller that drops
    /// and repeats the wait does not ask again each time.
    Asking(BoxFuture<'static, Result<Answer, Fault>>),
    Reading(Reading),
    Ended,
    /// What was handed out is void.
    Changed(FetchError),
    Failed(FetchError),
}

struct Reading {
    body: Body,
    /// Bytes still to come that were handed out before.
    skip: u64,
    /// Bytes received that had not been handed out before.
    new: u64,
    floor: FloorWatch,
    /// Since when the next bytes are waited for.
    waiting: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Ongoing {
    since: Instant,
    failures: u32,
    /// When to ask again.
    until: Instant,
}

impl ImageRequest {
    /// One URL, no mirrors, the defaults.
    pub fn new(url: SourceUrl) -> Self {
        Self {
            url,
            mirrors: Vec::new(),
            retry_for: DEFAULT_RETRY_FOR,
            platform: None,
            resume: None,
            rate: RateLimit::default(),
            observer: None,
        }
    }

    /// Whether an earlier run's place is of any use, and if so puts the source that it was reading
    /// first: what was read there can be carried on there and hardly anywhere else.
    fn usable(&mut self, resume: &Resume) -> Result<(), Change> {
        if let Some(is) = resume.file.total.filter(|&total| total < resume.at) {
            return Err(Change::Length { was: resume.at, is });
        }
        if resume.file.is_from(&self.url) {
            return Ok(());
        }
        let mut mirrors = self.mirrors.iter();
        let position = mirrors.position(|mirror| resume.file.is_from(mirror));
        let mirror = self.mirrors.remove(position.ok_or(Change::OtherSource)?);
        let first = std::mem::replace(&mut self.url, mirror);
        self.mirrors.insert(0, first);
        Ok(())
    }
}

impl Client {
    /// Opens a stream: returns once a source has answered with the file.
    ///
    /// With [`ImageRequest::resume`] the stream goes on where the earlier run was only if a source
    /// proves to have the same file; else it begins at the first byte, which is no error:
    /// [`ImageBody::beginning`] tells before any byte is handed out. Where the earlier run had the
    /// whole file, nothing is asked.
    pub async fn open(&self, request: ImageRequest) -> Result<ImageBody, FetchError> {
        let mut body = ImageBody::new(self.clone(), request);
        while matches!(body.state, State::Idle | State::Asking(_)) {
            match body.advance().await {
                Ok(()) => {}
                // Nothing has been handed out that would be void.
                Err(error) if error.kind() == Kind::SourceChanged => body.start_over(),
                Err(error) => return Err(error),
            }
        }
        Ok(body)
    }
}

impl ImageBody {
    fn new(client: Client, mut request: ImageRequest) -> Self {
        let resume = request.resume.take().filter(|resume| resume.at > 0);
        let (beginning, known) = match resume {
            None => (Beginning::First, None),
            Some(resume) => match request.usable(&resume) {
                Ok(()) => (Beginning::Resumed { at: resume.at }, Some(resume)),
                Err(change) => (
                    Beginning::StartedOver {
                        instead_of: resume.at,
                        change,
                    },
                    None,
                ),
            },
        };
        let artifact = known
            .as_ref()
            .and_then(|known| known.file.artifact.as_ref());
        let done = known.as_ref().map_or(0, |known| known.at);
        let complete = known
            .as_ref()
            .is_some_and(|known| known.file.total == Some(known.at));
        Self {
            client,
            source: Source::of(&request.url, request.platform.as_ref(), artifact),
            sources: request.mirrors.into_iter(),
            platform: request.platform,
            earlier: Vec::new(),
            retry_for: request.retry_for,
            observer: request.observer,
            bucket: Bucket::new(request.rate),
            beginning,
            earlier_run: known.is_some(),
            file: known
                .as_ref()
                .map(|known| (request.url.clone(), known.file.as_identity())),
            url: request.url,
            layer_hash: None,
            done,
            pending: Bytes::new(),
            again: 0,
            state: if complete { State::Ended } else { State::Idle },
            trouble: None,
            changes: 0,
        }
    }

    /// Where the first chunk lies in the file; after [`Self::start_over`] anew.
    pub fn beginning(&self) -> &Beginning {
        &self.beginning
    }

    /// What to keep with a checkpoint, so that a later run can go on: see
    /// [`ImageRequest::resume`]. It changes when the stream starts over or goes on to another
    /// source.
    pub fn identity(&self) -> Option<FileIdentity> {
        let (url, identity) = self.file.as_ref()?;
        Some(FileIdentity::new(url, identity, self.artifact()))
    }

    /// The next bytes, `None` at the end of the file; the file is then complete as far as the
    /// server's length tells. Whether it is the right one only its checksum tells.
    ///
    /// Faults are bridged in here. Cancel-safe: dropping the future loses nothing.
    ///
    /// An error of kind [`SourceChanged`](crate::Kind::SourceChanged) makes void what was handed
    /// out so far: [`Self::start_over`], or give up. Every other error is final.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            if !self.pending.is_empty() {
                // What the server sends again costs its part of the line too.
                let taken = self.bucket.take(self.pending.len()).await;
                let mut chunk = self.pending.split_to(taken);
                let again = self.again.min(taken as u64);
                self.again -= again;
                // Not longer than `chunk`, so it fits.
                let _ = chunk.split_to(usize::try_from(again).unwrap_or(taken));
                if chunk.is_empty() {
                    continue;
                }
                self.done += chunk.len() as u64;
                return Ok(Some(chunk));
            }
            if matches!(self.state, State::Ended) {
                return Ok(None);
            }
            self.advance().await?;
        }
    }

    /// After [`Fault::SourceChanged`]: the next chunk is the file's first. Sources given up stay
    /// given up, and a file that changes again and again is given up too.
    pub fn start_over(&mut self) {
        let change = match &self.state {
            State::Failed(_) => return,
            State::Changed(FetchError {
                fault: Fault::SourceChanged(change),
                ..
            }) => change.clone(),
            // On the caller's own account.
            _ => Change::Unwanted,
        };
        self.restart(change);
        self.state = State::Idle;
    }

    /// Gives up the source being read, since its file is not what was promised: a checksum told
    /// that. Returns whether there is another source; the next chunk is then its file's first.
    pub fn reject_source(&mut self) -> bool {
        if matches!(self.state, State::Failed(_)) {
            return false;
        }
        let next = self.give_up(Fault::NotAsPromised).is_ok();
        if next {
            self.restart(Change::OtherSource);
        }
        next
    }

    fn restart(&mut self, change: Change) {
        self.beginning = Beginning::StartedOver {
            instead_of: self.done,
            change,
        };
        self.done = 0;
        self.file = None;
        self.earlier_run = false;
        self.layer_hash = None;
        self.pending = Bytes::new();
        self.again = 0;
    }

    /// Bytes handed out, and the file's length when known.
    pub fn progress(&self) -> Progress {
        Progress {
            done: self.done,
            total: self.file.as_ref().and_then(|(_, file)| file.total),
        }
    }

    /// The source being read.
    pub fn url(&self) -> &SourceUrl {
        &self.url
    }

    /// For a source in a registry: what its name stood for.
    pub fn artifact(&self) -> Option<Artifact> {
        self.source.artifact()
    }

    /// For a source in a registry: the URL being read with the digest of what it stood for in place
    /// of its tag. A later run that asks by it gets the same, whatever the tag has come to mean.
    pub fn pinned(&self) -> Option<SourceUrl> {
        self.source.pinned(&self.url)
    }

    /// One step: ask, take the answer, or take bytes. Called only with nothing pending.
    async fn advance(&mut self) -> Result<(), FetchError> {
        match &mut self.state {
            State::Idle => {
                if let Some(trouble) = self.trouble {
                    sleep_until(trouble.until).await;
                }
                self.state = State::Asking(self.question());
                Ok(())
            }
            State::Asking(answer) => match answer.await {
                Ok(answer) => self.take_answer(answer),
                Err(fault) => self.bear(fault),
            },
            State::Reading(reading) => match reading.next(self.client.timing.connect).await {
                Ok(received) => self.take_bytes(received),
                Err(fault) => self.bear(fault),
            },
            State::Ended => Ok(()),
            State::Changed(error) | State::Failed(error) => Err(error.clone()),
        }
    }

    fn question(&self) -> BoxFuture<'static, Result<Answer, Fault>> {
        // What another source calls its file means nothing here.
        let own = self.file.as_ref().filter(|(from, _)| *from == self.url);
        let question = Question {
            from: self.done,
            if_range: own.and_then(|(_, file)| file.validators.if_range()),
        };
        self.source.ask(&self.client, &self.url, question)
    }

    fn take_answer(&mut self, answer: Answer) -> Result<(), FetchError> {
        let begun = self
            .file
            .as_ref()
            .filter(|_| self.done > 0)
            .map(|(from, identity)| Begun {
                identity,
                done: self.done,
                same_source: *from == self.url,
                earlier_run: self.earlier_run,
            });
        match answer.judge(begun) {
            Verdict::Fault(fault) => self.bear(fault),
            Verdict::Changed(change) => self.change(change),
            Verdict::Read { skip, identity } => {
                let complete = identity.total == Some(self.done);
                self.file = Some((self.url.clone(), identity));
                self.earlier_run = false;
                if self.done == 0 {
                    self.layer_hash = self.artifact().map(|_| Sha256::default());
                } else {
                    self.tell(&Event::Resumed {
                        url: self.url.clone(),
                        at: self.done,
                        again: skip,
                    });
                }
                self.state = if complete {
                    State::Ended
                } else {
                    State::Reading(Reading {
                        body: answer.body(),
                        skip,
                        new: 0,
                        floor: FloorWatch::new(self.client.timing.floor),
                        waiting: None,
                    })
                };
                Ok(())
            }
        }
    }

    fn take_bytes(&mut self, received: Option<Bytes>) -> Result<(), FetchError> {
        let total = self.progress().total;
        let State::Reading(reading) = &mut self.state else {
            return Ok(());
        };
        let Some(bytes) = received else {
            let missing = reading.skip;
            return match total {
                Some(_) => self.bear(Fault::Truncated),
                // A body that promised no length is whole where HTTP says that it ends.
                None if missing == 0 => {
                    self.state = State::Ended;
                    Ok(())
                }
                None => self.change(Change::Length {
                    was: self.done,
                    is: self.done.saturating_sub(missing),
                }),
            };
        };
        let length = bytes.len() as u64;
        let again = reading.skip.min(length);
        reading.skip -= again;
        let new = length - again;
        reading.new = reading.new.saturating_add(new);
        // A trickle below the floor does not end the trouble: else it could go on for ever.
        let flows = reading.new >= self.client.timing.floor.bytes;
        let reached = self.done.saturating_add(new);
        if let Some(was) = total.filter(|&total| reached > total) {
            return self.change(Change::Length { was, is: reached });
        }
        if let Some(hash) = &mut self.layer_hash {
            // Not longer than `bytes`, so it fits.
            hash.update(&bytes[usize::try_from(again).unwrap_or(bytes.len())..]);
        }
        self.pending = bytes;
        self.again = again;
        if flows {
            self.trouble = None;
        }
        if total == Some(reached) {
            self.end();
        }
        Ok(())
    }

    /// What follows the last byte: a layer must have the digest that it was asked for by.
    ///
    /// That is seen only where all its bytes pass, which those of an earlier run do not; then the
    /// image's own checksum, which covers every byte in any case, is alone.
    fn end(&mut self) {
        self.state = State::Ended;
        let (Some(hash), Some(artifact)) = (self.layer_hash.take(), self.artifact()) else {
            return;
        };
        let found = digest::finish(hash);
        if found == artifact.layer {
            return;
        }
        let fault = Fault::WrongDigest {
            what: "layer",
            expected: artifact.layer,
            found,
        };
        let mut error = self.error(fault);
        error.progress.done = artifact.size;
        // The last bytes are still to be handed out; what is told then is kept in the state.
        if self.next_source(error).is_ok() {
            let change = Fault::SourceChanged(Change::OtherSource);
            self.state = State::Changed(self.error(change));
        }
    }

    /// Deals with a fault: plans another try, or goes on to the next source, or fails.
    fn bear(&mut self, fault: Fault) -> Result<(), FetchError> {
        self.state = State::Idle;
        let now = Instant::now();
        let (since, before) = self.trouble.map_or((now, 0), |t| (t.since, t.failures));
        let failures = before.saturating_add(1);
        let trouble = Trouble {
            failures,
            lasting: now - since,
            bearable: self.retry_for,
        };
        let backoff = self.client.timing.backoff;
        let Some(pause) = retry::pause(&fault, trouble, backoff, rand::random()) else {
            return self.give_up(fault);
        };
        self.trouble = Some(Ongoing {
            since,
            failures,
            until: now + pause,
        });
        let error = self.error(fault);
        tracing::info!(%error, ?pause, "asking again for the image");
        self.tell(&Event::Retrying {
            error,
            after: pause,
        });
        Ok(())
    }

    /// Goes on to the next source, or fails.
    fn give_up(&mut self, fault: Fault) -> Result<(), FetchError> {
        self.next_source(self.error(fault))
    }

    fn next_source(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.state = State::Idle;
        self.trouble = None;
        if let Some(next) = self.sources.next() {
            tracing::warn!(%error, %next, "source given up");
            self.tell(&Event::NextSource {
                error: error.clone(),
                next: next.clone(),
            });
            self.earlier.push(error);
            self.source = Source::of(&next, self.platform.as_ref(), None);
            self.url = next;
            self.changes = 0;
            return Ok(());
        }
        let error = FetchError {
            earlier: std::mem::take(&mut self.earlier),
            ..error
        };
        self.state = State::Failed(error.clone());
        Err(error)
    }

    fn change(&mut self, change: Change) -> Result<(), FetchError> {
        // Another source is started over once, without being held against it.
        if change != Change::OtherSource {
            self.changes += 1;
        }
        if self.changes > MAX_CHANGES {
            let times = self.changes;
            return self.give_up(Fault::KeepsChanging {
                times,
                last: change,
            });
        }
        let error = self.error(Fault::SourceChanged(change));
        self.state = State::Changed(error.clone());
        Err(error)
    }

    fn error(&self, fault: Fault) -> FetchError {
        FetchError {
            progress: self.progress(),
            ..FetchError::new(&self.url, fault)
        }
    }

    fn tell(&self, event: &Event) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

impl Reading {
    /// The next bytes from the network, unless they come too slowly.
    async fn next(&mut self, connect_timeout: Duration) -> Result<Option<Bytes>, Fault> {
        loop {
            let began = *self.waiting.get_or_insert_with(Instant::now);
            let patience = self.floor.patience().saturating_sub(began.elapsed());
            let received = timeout(patience, self.body.chunk(connect_timeout)).await;
            self.waiting = None;
            let waited = began.elapsed();
            match received {
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(bytes))) => {
                    self.floor.count(bytes.len() as u64, waited)?;
                    return Ok(Some(bytes));
                }
                Ok(Err(fault)) => return Err(fault),
                Err(_) => self.floor.count(0, waited)?,
            }
        }
    }
}

impl fmt::Debug for ImageBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageBody")
            .field("url", &self.url)
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ImageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageRequest")
            .field("url", &self.url)
            .field("mirrors", &self.mirrors)
            .field("retry_for", &self.retry_for)
            .field("rate", &self.rate.get())
            .finish_non_exhaustive()
    }
}
