//! A ceiling and a floor for the rate of a stream.

use std::{num::NonZeroU64, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::error::Fault;

/// Of the ceiling: what is handed out at a time. Small enough that a slow stream flows evenly.
const PIECE: Duration = Duration::from_millis(50);
/// Of the ceiling: what may be saved up while the caller is busy. Over ten seconds it makes 2.5 %.
const BURST: Duration = Duration::from_millis(250);

/// A ceiling in bytes per second, shared: clones are handles to one value, and a change is heeded
/// by a stream that is under way.
#[derive(Clone, Debug)]
pub struct RateLimit(watch::Sender<Option<NonZeroU64>>);

impl RateLimit {
    /// A ceiling, or none.
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self(watch::Sender::new(bytes_per_second))
    }

    /// Changes the ceiling for everyone who holds it.
    pub fn set(&self, bytes_per_second: Option<NonZeroU64>) {
        self.0.send_if_modified(|current| {
            let changed = *current != bytes_per_second;
            *current = bytes_per_second;
            changed
        });
    }

    /// The ceiling now.
    pub fn get(&self) -> Option<NonZeroU64> {
        *self.0.borrow()
    }
}

impl Default for RateLimit {
    /// No ceiling.
    fn default() -> Self {
        Self::new(None)
    }
}

/// One stream's share of a [`RateLimit`]: a token bucket.
///
/// Time is the runtime's monotonic clock. It stands still while a machine sleeps, which only makes
/// the stream slower.
#[derive(Debug)]
pub(crate) struct Bucket {
    limit: RateLimit,
    available: f64,
    filled: Option<Instant>,
}

impl Bucket {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            available: 0.0,
            filled: None,
        }
    }

    /// Waits until some of `most` bytes may be handed out, and takes them: at least one, if there
    /// is one. Cancel-safe: nothing is taken by a wait that was dropped.
    // Rates and sizes are far below 2^52, where f64 counts single bytes.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub(crate) async fn take(&mut self, most: usize) -> usize {
        let mut changes = self.limit.0.subscribe();
        loop {
            let Some(limit) = *changes.borrow_and_update() else {
                self.filled = None;
                return most;
            };
            let rate = limit.get() as f64;
            let piece = (rate * PIECE.as_secs_f64()).floor().max(1.0);
            let wanted = piece.min(most as f64);
            let now = Instant::now();
            let since = self
                .filled
                .replace(now)
                .map_or(Duration::ZERO, |at| now - at);
            let burst = (rate * BURST.as_secs_f64()).max(wanted);
            self.available = (self.available + since.as_secs_f64() * rate).min(burst);
            if self.available >= wanted {
                self.available -= wanted;
                return wanted as usize;
            }
            let wait = Duration::from_secs_f64(((wanted - self.available) / rate).min(60.0));
            tokio::select! {
                () = sleep(wait.max(Duration::from_millis(1))) => {}
                _ = changes.changed() => {}
            }
        }
    }
}

/// A connection on which less than `bytes` arrive in `window`, counting only time spent waiting for
/// them, is taken for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Least bytes per window.
    pub bytes: u64,
    /// Length of the window.
    pub window: Duration,
}

/// Watches one connection against a [`Floor`].
///
/// Only time in which the stream waits for the network counts: a disk that is slow to take what has
/// arrived, or a ceiling, is not the server's fault.
#[derive(Debug)]
pub(crate) struct FloorWatch {
    floor: Floor,
    waited: Duration,
    received: u64,
}

impl FloorWatch {
    pub(crate) fn new(floor: Floor) -> Self {
        Self {
            floor,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    /// How much longer may be waited before there is something to judge.
    pub(crate) fn patience(&self) -> Duration {
        self.floor.window.saturating_sub(self.waited)
    }

    /// Counts bytes and the wait for them.
    pub(crate) fn count(&mut self, received: u64, waited: Duration) -> Result<(), Fault> {
        self.received = self.received.saturating_add(received);
        self.waited += waited;
        if self.waited < self.floor.window {
            return Ok(());
        }
        if self.received < self.floor.bytes {
            return Err(Fault::Stalled {
                received: self.received,
                over: self.waited,
                floor: self.floor.bytes,
            });
        }
        *self = Self::new(self.floor);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_second(bytes: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(bytes)
    }

    /// Bytes taken until so much (virtual) time has passed, asking for `chunk` at a time.
    async fn taken(bucket: &mut Bucket, chunk: usize, over: Duration) -> f64 {
        let end = Instant::now() + over;
        let mut sum = 0_u32;
        while Instant::now() < end {
            sum += u32::try_from(bucket.take(chunk).await).unwrap();
        }
        f64::from(sum)
    }

    fn assert_within_5_percent(bytes: f64, expected: f64) {
        assert!(
            (bytes - expected).abs() <= expected * 0.05,
            "{bytes} bytes, {expected} expected"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_ceiling_holds_within_5_percent_over_10_seconds() {
        for rate in [100_u32, 10_000, 1_048_576, 100_000_000] {
            for chunk in [10, 1_000, 262_144] {
                // Chunks of ten bytes at the highest rate are a test of patience, not of the rate.
                if rate / chunk > 200_000 {
                    continue;
                }
                let limit = RateLimit::new(per_second(u64::from(rate)));
                let mut bucket = Bucket::new(limit);
                let bytes = taken(
                    &mut bucket,
                    usize::try_from(chunk).unwrap(),
                    Duration::from_secs(10),
                )
                .await;
                assert_within_5_percent(bytes, f64::from(rate) * 10.0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_caller_saves_up_a_quarter_of_a_second_at_most() {
        let mut bucket = Bucket::new(RateLimit::new(per_second(1000)));
        bucket.take(1).await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        let bytes = taken(&mut bucket, 10_000, Duration::from_secs(10)).await;
        assert_within_5_percent(bytes, 10_000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_heeded_in_the_middle_of_a_wait() {
        let limit = RateLimit::new(per_second(1));
        let mut bucket = Bucket::new(limit.clone());
        bucket.take(1).await;
        let before = Instant::now();
        let (taken, ()) = tokio::join!(bucket.take(1_000_000), async { limit.set(None) });
        assert_eq!((taken, Instant::now()), (1_000_000, before));

        limit.set(per_second(2000));
        let bytes = super::tests::taken(&mut bucket, 4096, Duration::from_secs(10)).await;
        assert_within_5_percent(bytes, 20_000.0);
    }

    #[test]
    fn the_floor() {
        let floor = Floor {
            bytes: 1000,
            window: Duration::from_secs(10),
        };
        let second = Duration::from_secs(1);

        let mut silent = FloorWatch::new(floor);
        assert_eq!(silent.patience(), floor.window);
        assert_eq!(
            silent.count(0, floor.window),
            Err(Fault::Stalled {
                received: 0,
                over: floor.window,
                floor: 1000
            })
        );

        let mut slow = FloorWatch::new(floor);
        for _ in 0..9 {
            assert_eq!(slow.count(99, second), Ok(()));
        }
        assert!(slow.count(99, second).is_err());

        let mut just_fast_enough = FloorWatch::new(floor);
        for _ in 0..1000 {
            assert_eq!(just_fast_enough.count(100, second), Ok(()));
        }

        // A burst long ago does not excuse silence now.
        let mut dried_up = FloorWatch::new(floor);
        assert_eq!(dried_up.count(1_000_000, floor.window), Ok(()));
        assert!(dried_up.count(0, floor.window).is_err());
    }
}
