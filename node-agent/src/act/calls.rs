//! How the agent talks to the API server: with a limit for every request, and pauses that differ between nodes.

use std::{future::Future, time::Duration};

use crate::act::effects::Away;

/// Longest time a request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(30);

/// What a request came to.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server or the way to it said something.
    #[error("{0}")]
    Kube(Box<kube::Error>),
    /// Nothing was heard in time.
    #[error("the API server gave no answer within {} s", LIMIT.as_secs())]
    TimedOut,
}

impl CallError {
    /// The object, and not merely the API server, is not there: a 404 that names it.
    pub fn is_gone(&self, name: &str) -> bool {
        let Self::Kube(e) = self else {
            return false;
        };
        matches!(&**e, kube::Error::Api(s)
            if s.is_not_found() && s.details.as_ref().is_some_and(|d| d.name == name))
    }

    /// The request was understood and refused as not allowed.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Kube(e) if matches!(&**e, kube::Error::Api(s) if s.is_forbidden()))
    }

    /// The object that was meant is not the one that is there: another UID.
    pub fn is_other_object(&self) -> bool {
        matches!(self, Self::Kube(e)
            if matches!(&**e, kube::Error::Api(s) if s.is_conflict() || s.is_invalid()))
    }
}

impl From<CallError> for Away {
    fn from(e: CallError) -> Self {
        Self(e.to_string())
    }
}

/// A request with a limit.
pub async fn limited<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(CallError::Kube(Box::new(e))),
        Err(_) => Err(CallError::TimedOut),
    }
}

/// Between half of `pause` and one and a half.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}

/// Pauses that grow.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let pause = Duration::from_millis(500).saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        jittered(pause.min(LONGEST))
    }

    /// Nothing has failed since the last success.
    pub fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// Begins anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.next_pause()).collect();
        assert!(pauses[0] < Duration::from_secs(1));
        assert!(pauses.iter().all(|p| *p <= LONGEST.mul_f64(1.5)));
        assert!(pauses[20..].iter().all(|p| *p >= LONGEST / 2));
        assert!(pauses[20..].windows(2).any(|w| w[0] != w[1]));
        backoff.reset();
        assert!(backoff.next_pause() < Duration::from_secs(1));
    }

    #[test]
    fn only_a_404_that_names_the_object_says_that_it_is_gone() {
        let status = |code: u16, name: Option<&str>| {
            let details = name.map(|n| serde_json::json!({"name": n}));
            let status = serde_json::from_value(serde_json::json!({
                "status": "Failure", "code": code, "message": "m",
                "reason": if code == 404 { "NotFound" } else { "Forbidden" }, "details": details,
            }))
            .unwrap();
            CallError::Kube(Box::new(kube::Error::Api(Box::new(status))))
        };
        assert!(status(404, Some("p")).is_gone("p"));
        assert!(
            !status(404, None).is_gone("p"),
            "no such resource: the CRD is missing"
        );
        assert!(!status(403, Some("p")).is_gone("p"));
        assert!(!CallError::TimedOut.is_gone("p"));
    }
}
