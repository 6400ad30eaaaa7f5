//! Durations as Kubernetes objects write them.

use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A non-negative length of time in Go's notation: `90s`, `10m`, `1h30m`, `250ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

/// Longest duration accepted: a year. Beyond it a typing error is likelier than a wish.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a duration: expected numbers with units like 90s, 10m or 1h30m, at most 8784h"
)]
pub struct DurationError {
    /// The text as given, cut at 40 characters.
    pub text: String,
}

/// The same grammar as a regular expression, for the CRD.
const PATTERN: &str = r"^(0|([0-9]{1,10}(\.[0-9]{1,9})?(ms|s|m|h))+)$";

impl GoDuration {
    /// From whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl From<GoDuration> for Duration {
    fn from(d: GoDuration) -> Self {
        d.0
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let refuse = || DurationError {
            text: text.chars().take(40).collect(),
        };
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if text.is_empty() || text.len() > 64 {
            return Err(refuse());
        }
        let mut total = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(refuse)?;
            let (number, tail) = rest.split_at(digits);
            let unit_len = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let seconds = match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(refuse()),
            };
            if !number.starts_with(|c: char| c.is_ascii_digit())
                || !number.ends_with(|c: char| c.is_ascii_digit())
            {
                return Err(refuse());
            }
            let value: f64 = number.parse().map_err(|_| refuse())?;
            let part = Duration::try_from_secs_f64(value * seconds).map_err(|_| refuse())?;
            total = total
                .checked_add(part)
                .filter(|t| *t <= MAX_DURATION)
                .ok_or_else(refuse)?;
            rest = tail;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        let millis = self.0.subsec_millis();
        let (h, m, s) = (secs / 3600, secs / 60 % 60, secs % 60);
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        for (n, unit) in [(h, "h"), (m, "m"), (s, "s"), (u64::from(millis), "ms")] {
            if n > 0 {
                write!(f, "{n}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
impl JsonSchema for GoDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The bound keeps out of the API server what this type would refuse to read: one object that cannot be read
        // would hold up the watch of all.
        json_schema!({
            "type": "string",
            "maxLength": 64,
            "pattern": PATTERN,
            "x-kubernetes-validations": [{
                "rule": "duration(self) <= duration('8784h')",
                "message": "must be at most 8784h"
            }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_gos_notation() {
        for (text, millis, written) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("90s", 90_000, "1m30s"),
            ("10m", 600_000, "10m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("1.5h", 5_400_000, "1h30m"),
            ("250ms", 250, "250ms"),
        ] {
            let d: GoDuration = text.parse().unwrap();
            assert_eq!(d.0, Duration::from_millis(millis), "{text}");
            assert_eq!(d.to_string(), written);
            assert_eq!(written.parse(), Ok(d));
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "10",
            "-1s",
            "1d",
            "s",
            ".5s",
            "5.s",
            "1e3s",
            "9999h",
            "1s ",
            "99999999999h",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }
}
