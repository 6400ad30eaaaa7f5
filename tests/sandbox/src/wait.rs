//! Waiting for something to become true: a poll with a deadline, never a sleep alone.

use std::{future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Time between two looks.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// Calls `look` every [`INTERVAL`] until it returns `Some`.
///
/// Fails when `deadline` has passed, naming `what` was waited for, and at once when `look` fails.
pub async fn until<T, F>(what: &str, deadline: Duration, look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    until_every(INTERVAL, what, deadline, look).await
}

/// [`until`] with another time between two looks, for what is over soon.
pub async fn until_every<T, F>(
    interval: Duration,
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for {what}", deadline.as_secs());
        }
        tokio::time::sleep(interval).await;
    }
}
