//! One request to the API server: sent only while this process leads, given up after a while, counted
//! by its result.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{lease::Leadership, metrics::Metrics};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(15);

/// How a plan went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Writes that failed because the index was behind.
    pub(super) conflicts: usize,
    /// Writes that failed for another reason; whether they were carried out is not known.
    pub(super) errors: usize,
    /// Writes that the API server does not take as they are. They were not carried out, so that what
    /// was counted still holds.
    pub(super) refused: usize,
    /// Something was left out, because the plan was found to be out of date.
    pub(super) left_out: bool,
    /// The node that this process runs on was let go into its reboot.
    pub(super) goes_down: bool,
    /// When a status that was held back may be written.
    pub(super) held_until: Option<Duration>,
}

impl Outcome {
    /// Whether everything was written. Otherwise the next plan must not wait for a change: nothing
    /// need ever change again, and a watch may have shown already what a write collided with.
    pub(super) fn is_final(self) -> bool {
        self.is_as_planned() && self.refused == 0
    }

    /// Whether everything is as the plan took it to be. One object that the API server does not let
    /// be written, by a policy of somebody's or for its size, must not hold up all the others.
    pub(super) fn is_as_planned(self) -> bool {
        self.conflicts == 0 && self.errors == 0 && !self.left_out
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("this process does not lead any more, or is about to end")]
    NotLeading,
    #[error("somebody was faster: {0}")]
    Conflict(String),
    #[error("it is not there any more: {0}")]
    Gone(String),
    #[error("the API server refuses: {0}")]
    Refused(String),
    #[error("no answer within {} s; whether it was written is not known", LIMIT.as_secs())]
    Slow,
    #[error("whether it was written is not known: {0}")]
    Unclear(kube::Error),
}

impl WriteError {
    fn result(&self) -> &'static str {
        match self {
            Self::NotLeading => "not_leading",
            Self::Conflict(_) => "conflict",
            Self::Gone(_) => "gone",
            Self::Refused(_) => "refused",
            Self::Slow => "timeout",
            Self::Unclear(_) => "error",
        }
    }
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            // There already, or another version of it.
            kube::Error::Api(status) if status.code == 409 => Self::Conflict(status.message),
            kube::Error::Api(status) if matches!(status.code, 404 | 410) => {
                Self::Gone(status.message)
            }
            kube::Error::Api(status) if (400..500).contains(&status.code) => {
                Self::Refused(status.message)
            }
            other => Self::Unclear(other),
        }
    }
}

/// How a leader asks. Clones share the leadership.
#[derive(Clone)]
pub(super) struct Requests {
    leadership: Leadership,
    stop: CancellationToken,
    metrics: Metrics,
}

impl Requests {
    pub(super) fn new(leadership: Leadership, stop: CancellationToken, metrics: Metrics) -> Self {
        Self {
            leadership,
            stop,
            metrics,
        }
    }

    /// Whether this process may write: it leads, and is not about to end.
    pub(super) fn may_write(&self) -> bool {
        self.leadership.holds() && !self.stop.is_cancelled()
    }

    /// Counts a result, and adds it to how the plan goes.
    pub(super) fn record(
        &self,
        kind: &'static str,
        name: &str,
        result: Result<(), WriteError>,
        outcome: &mut Outcome,
    ) -> bool {
        let Err(error) = result else {
            self.metrics.wrote(kind, "ok");
            return true;
        };
        self.metrics.wrote(kind, error.result());
        match error {
            // Between two renewals the Lease may run out for a moment and be renewed after all.
            WriteError::NotLeading => outcome.left_out = true,
            WriteError::Conflict(_) | WriteError::Gone(_) => {
                outcome.conflicts += 1;
                tracing::debug!(kind, name, %error, "not written");
            }
            WriteError::Refused(_) => {
                outcome.refused += 1;
                tracing::warn!(kind, name, %error, "not written");
            }
            WriteError::Slow | WriteError::Unclear(_) => {
                outcome.errors += 1;
                tracing::warn!(kind, name, %error, "not written");
            }
        }
        false
    }

    /// Sends a request.
    pub(super) async fn request<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        if !self.may_write() {
            return Err(WriteError::NotLeading);
        }
        match timeout(LIMIT, request).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(WriteError::Slow),
        }
    }

    /// The same, with whatever the API server answered as it is.
    pub(super) async fn answered<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        let answer = self.request(async { Ok(request.await) }).await?;
        answer.map_err(WriteError::Unclear)
    }

    /// Counts what is no failure of a write even when it was refused.
    pub(super) fn count(&self, kind: &'static str, accepted: bool) {
        let result = if accepted { "ok" } else { "refused" };
        self.metrics.wrote(kind, result);
    }
}
