//! How much memory an image may ask its decoder for.

use std::{fmt, str::FromStr};

/// The largest decoder window that is accepted, in bytes: the decoder takes that much memory for it and nothing beyond.
///
/// Written as Kubernetes writes quantities of memory: `134217728` or `128Mi`. 128 MiB unless said otherwise, which is what
/// `zstd -d` itself accepts without `--long`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimit(pub u64);

/// Why a text is no [`WindowLimit`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number of bytes from 1Ki on: write 134217728 or 128Mi")]
pub struct WindowLimitError(String);

/// The units, the largest first, and by how many bits they shift.
const UNITS: [(&str, u32); 4] = [("Gi", 30), ("Mi", 20), ("Ki", 10), ("", 0)];

/// The smallest window that a zstd frame can name (RFC 8878, 3.1.1.1.2).
const LEAST: u64 = 1 << 10;

impl Default for WindowLimit {
    fn default() -> Self {
        Self(128 << 20)
    }
}

impl FromStr for WindowLimit {
    type Err = WindowLimitError;

    fn from_str(text: &str) -> Result<Self, WindowLimitError> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = &text[digits.len()..];
        let shift = UNITS.iter().find(|(name, _)| *name == unit);
        // `parse` takes a sign too.
        let number = digits
            .parse::<u64>()
            .ok()
            .filter(|_| !text.starts_with('+'));
        number
            .zip(shift)
            .and_then(|(number, (_, shift))| number.checked_mul(1 << shift))
            .filter(|bytes| *bytes >= LEAST)
            .map(Self)
            .ok_or_else(|| WindowLimitError(text.to_owned()))
    }
}

impl fmt::Display for WindowLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every number is a multiple of the last unit.
        let whole = |shift: &u32| self.0.is_multiple_of(1 << shift);
        let (unit, shift) = UNITS
            .iter()
            .find(|(_, shift)| whole(shift))
            .unwrap_or(&("", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_and_written_as_quantities_are() {
        for (text, bytes, written) in [
            ("128Mi", 128 << 20, "128Mi"),
            ("1024", 1 << 10, "1Ki"),
            ("1025", 1025, "1025"),
            ("8Ki", 8 << 10, "8Ki"),
            ("1024Mi", 1 << 30, "1Gi"),
            ("1536Mi", 1536 << 20, "1536Mi"),
        ] {
            let limit: WindowLimit = text.parse().unwrap();
            assert_eq!(limit, WindowLimit(bytes), "{text}");
            assert_eq!(limit.to_string(), written, "{text}");
        }
        for text in [
            "",
            "Mi",
            "-1Mi",
            "+1Mi",
            "1.5Mi",
            "1M",
            "1 Mi",
            "128mi",
            "0",
            "1023",
            "20000000000Gi",
            "1Miä",
        ] {
            let error = text.parse::<WindowLimit>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
        assert_eq!(WindowLimit::default().to_string(), "128Mi");
    }
}
