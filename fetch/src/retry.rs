//! When to ask again. Pure; time and chance are arguments.

use std::time::Duration;

use http::{
    HeaderMap,
    header::{DATE, RETRY_AFTER},
};
use jiff::{Timestamp, fmt::rfc2822};

use crate::error::{Fault, Kind};

/// Pauses between tries: doubling from `first` to `most`, each shortened by up to half at random so
/// that nodes which failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub most: Duration,
}

impl Backoff {
    /// The pause after so many failures in a row. `chance` is between 0 and 1.
    fn pause(&self, failures: u32, chance: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let full = self.first.saturating_mul(doubled).min(self.most);
        full.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

/// A source that does not serve, and since when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    /// Failures in a row, the latest included.
    pub(crate) failures: u32,
    /// Time since the first of them.
    pub(crate) lasting: Duration,
    /// How long trouble may last.
    pub(crate) bearable: Duration,
}

/// How long to wait before asking again; `None` to give up.
///
/// `Retry-After` is honoured where it asks for more than the backoff. Neither makes the trouble
/// last longer than is bearable: the pause is cut so that a last try falls on that moment.
pub(crate) fn pause(
    fault: &Fault,
    trouble: Trouble,
    backoff: Backoff,
    chance: f64,
) -> Option<Duration> {
    if fault.kind() != Kind::Unreachable {
        return None;
    }
    let left = trouble.bearable.checked_sub(trouble.lasting)?;
    if left.is_zero() {
        return None;
    }
    let asked = match fault {
        Fault::ServerBusy { retry_after, .. } => retry_after.unwrap_or_default(),
        _ => Duration::ZERO,
    };
    Some(backoff.pause(trouble.failures, chance).max(asked).min(left))
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date, which is taken relative to the
/// same response's `Date`, since this machine's clock may be wrong.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let parse = |text: &str| -> Option<Timestamp> {
        rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
    };
    let now = parse(headers.get(DATE)?.to_str().ok()?)?;
    Duration::try_from(parse(value)?.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(1),
        most: Duration::from_secs(30),
    };

    fn busy(retry_after: Option<u64>) -> Fault {
        Fault::ServerBusy {
            status: 503,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn pauses() {
        let truncated = Fault::Truncated;
        let gone = Fault::NotFound { status: 404 };
        // fault, failures, seconds of trouble, seconds bearable, chance, pause in ms
        for (fault, failures, lasting, bearable, chance, expected) in [
            (&truncated, 1, 0, 600, 1.0, Some(1_000)),
            (&truncated, 1, 0, 600, 0.0, Some(500)),
            (&truncated, 4, 7, 600, 1.0, Some(8_000)),
            (&truncated, 40, 7, 600, 1.0, Some(30_000)),
            (&truncated, 9, 590, 600, 1.0, Some(10_000)),
            (&truncated, 9, 600, 600, 1.0, None),
            (&truncated, 9, 601, 600, 1.0, None),
            (&truncated, 1, 0, 0, 1.0, None),
            (&gone, 1, 0, 600, 1.0, None),
            (&busy(None), 1, 0, 600, 1.0, Some(1_000)),
            (&busy(Some(120)), 1, 0, 600, 1.0, Some(120_000)),
            (&busy(Some(120)), 1, 590, 600, 1.0, Some(10_000)),
            (&busy(Some(0)), 3, 0, 600, 1.0, Some(4_000)),
            (&busy(Some(u64::MAX)), 1, 0, 600, 1.0, Some(600_000)),
        ] {
            let trouble = Trouble {
                failures,
                lasting: Duration::from_secs(lasting),
                bearable: Duration::from_secs(bearable),
            };
            assert_eq!(
                pause(fault, trouble, BACKOFF, chance),
                expected.map(Duration::from_millis),
                "{fault} {trouble:?}"
            );
        }
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        for (value, date, expected) in [
            ("120", None, Some(120)),
            (
                "Sat, 21 Nov 2026 09:00:30 GMT",
                Some("Sat, 21 Nov 2026 09:00:00 GMT"),
                Some(30),
            ),
            // A server in 1970: what counts is its own clock.
            (
                "Thu, 01 Jan 1970 00:01:00 GMT",
                Some("Thu, 01 Jan 1970 00:00:00 GMT"),
                Some(60),
            ),
            // In the past.
            (
                "Sat, 21 Nov 2026 08:00:00 GMT",
                Some("Sat, 21 Nov 2026 09:00:00 GMT"),
                None,
            ),
            ("Sat, 21 Nov 2026 09:00:30 GMT", None, None),
            ("-1", None, None),
            ("soon", Some("Sat, 21 Nov 2026 09:00:00 GMT"), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            if let Some(date) = date {
                headers.insert(DATE, date.parse().unwrap());
            }
            assert_eq!(
                retry_after(&headers),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_longer_than_bearable_and_never_at_once(
            failures in 1_u32..,
            lasting in 0_u64..10_000,
            bearable in 0_u64..10_000,
            asked in proptest::option::of(any::<u64>()),
            chance in 0.0..1.0_f64,
        ) {
            let trouble = Trouble {
                failures,
                lasting: Duration::from_secs(lasting),
                bearable: Duration::from_secs(bearable),
            };
            match pause(&busy(asked), trouble, BACKOFF, chance) {
                None => prop_assert!(lasting >= bearable),
                Some(pause) => {
                    prop_assert!(trouble.lasting + pause <= trouble.bearable);
                    prop_assert!(pause >= BACKOFF.first / 2);
                }
            }
        }

        #[test]
        fn any_header_is_survived(value in "[ -~]{0,40}", date in "[ -~]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            headers.insert(DATE, date.parse().unwrap());
            let _ = retry_after(&headers);
        }
    }
}
