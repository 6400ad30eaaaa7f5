//! A ceiling and a floor for the rate of a stream.

use std::num::NonZeroU64;

use tokio::sync::watch;

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
    fn default() -> Self {
        Self::new(None)
    }
}
