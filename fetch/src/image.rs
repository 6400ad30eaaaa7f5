//! A large file as a stream: an image.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    client::Client,
    error::{Change, Fault, FetchError, Progress},
    rate::{Bucket, FloorWatch, RateLimit},
    resume::{Begun, Identity, Verdict},
    retry::{self, Trouble},
    source::{Answer, Artifact, Body, Question, Source},
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
    /// The platform to choose where a source has several, such as `linux/amd64`. Default: this
    /// program's own.
    pub platform: Option<String>,
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
    platform: Option<String>,
    earlier: Vec<FetchError>,
    retry_for: Duration,
    observer: Option<Observer>,
    bucket: Bucket,

    /// The file being read, and the source that told so.
    file: Option<(SourceUrl, Identity)>,
    done: u64,
    /// Received and not yet handed out.
    pending: Bytes,
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
            rate: RateLimit::default(),
            observer: None,
        }
    }
}

impl Client {
    /// Opens a stream: returns once a source has answered with the file.
    pub async fn open(&self, request: ImageRequest) -> Result<ImageBody, FetchError> {
        let mut body = ImageBody {
            client: self.clone(),
            sources: request.mirrors.into_iter(),
            source: Source::of(&request.url, request.platform.as_deref()),
            url: request.url,
            platform: request.platform,
            earlier: Vec::new(),
            retry_for: request.retry_for,
            observer: request.observer,
            bucket: Bucket::new(request.rate),
            file: None,
            done: 0,
            pending: Bytes::new(),
            state: State::Idle,
            trouble: None,
            changes: 0,
        };
        while matches!(body.state, State::Idle | State::Asking(_)) {
            body.advance().await?;
        }
        Ok(body)
    }
}

impl ImageBody {
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
                let taken = self.bucket.take(self.pending.len()).await;
                let chunk = self.pending.split_to(taken);
                self.done += taken as u64;
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
        if !matches!(self.state, State::Failed(_)) {
            self.done = 0;
            self.file = None;
            self.pending = Bytes::new();
            self.state = State::Idle;
        }
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
            });
        match answer.judge(begun) {
            Verdict::Fault(fault) => self.bear(fault),
            Verdict::Changed(change) => self.change(change),
            Verdict::Read { skip, identity } => {
                let complete = identity.total == Some(self.done);
                self.file = Some((self.url.clone(), identity));
                if self.done > 0 {
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
        let State::Reading(reading) = &mut self.state else {
            return Ok(());
        };
        let total = self.file.as_ref().and_then(|(_, file)| file.total);
        let Some(mut bytes) = received else {
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
        let skipped = reading.skip.min(bytes.len() as u64);
        reading.skip -= skipped;
        // Not longer than `bytes`, so it fits.
        let _ = bytes.split_to(usize::try_from(skipped).unwrap_or(bytes.len()));
        if bytes.is_empty() {
            return Ok(());
        }
        let new = bytes.len() as u64;
        reading.new = reading.new.saturating_add(new);
        // A trickle below the floor does not end the trouble: else it could go on for ever.
        let flows = reading.new >= self.client.timing.floor.bytes;
        let reached = self.done.saturating_add(new);
        if let Some(was) = total.filter(|&total| reached > total) {
            return self.change(Change::Length { was, is: reached });
        }
        self.pending = bytes;
        if flows {
            self.trouble = None;
        }
        if total == Some(reached) {
            self.state = State::Ended;
        }
        Ok(())
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
        let error = self.error(fault);
        self.state = State::Idle;
        self.trouble = None;
        if let Some(next) = self.sources.next() {
            tracing::warn!(%error, %next, "source given up");
            self.tell(&Event::NextSource {
                error: error.clone(),
                next: next.clone(),
            });
            self.earlier.push(error);
            self.source = Source::of(&next, self.platform.as_deref());
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
