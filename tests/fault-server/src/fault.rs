//! The ways to fail.

use std::{str::FromStr, time::Duration};

use crate::content::Content;

/// What goes wrong with one answer. Counts of bytes are of the body of that answer; offsets are of
/// the file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: a pause in the script.
    None,
    /// The connection is reset when the request has been read.
    ResetBeforeAnswer,
    /// The connection is closed in an orderly way when the request has been read.
    CloseBeforeAnswer,
    /// The request is read and nothing is ever answered.
    NeverAnswer,
    /// Nothing more comes after so many bytes; the connection stays open.
    StallAfter(u64),
    /// The connection is reset after so many bytes.
    ResetAfter(u64),
    /// The connection is closed in an orderly way after so many bytes, although the head promised
    /// more.
    TruncateAfter(u64),
    /// The body comes in pieces, with a pause after each.
    Drip {
        /// Bytes per piece.
        bytes: usize,
        /// Pause after each.
        every: Duration,
    },
    /// The same from some byte of the body on; what is before comes at once.
    DripAfter {
        /// Bytes that come at once.
        after: u64,
        /// Bytes per piece.
        bytes: usize,
        /// Pause after each.
        every: Duration,
    },
    /// `Content-Length` (and the total of a `Content-Range`) claims this many bytes; the body is
    /// the real one, then the connection is closed.
    ClaimLength(u64),
    /// One bit of the byte at this offset is flipped.
    FlipBit(u64),
    /// A status of one's choice, with further header fields and a short body.
    Status {
        /// The status code.
        code: u16,
        /// Header fields, in place of the server's own where they share a name.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// 302 to this `Location`.
    Redirect(String),
    /// A `Range` is answered with 200 and the whole file.
    IgnoreRange,
    /// 206 although `If-Range` does not match: a server that reads `Range` and nothing else.
    IgnoreIfRange,
    /// From this request on the file is another one, with another entity tag.
    Replace(Content),
    /// 200 with a page for people.
    Html,
}

impl Fault {
    /// A status without further fields.
    pub fn status(code: u16) -> Self {
        Self::Status {
            code,
            headers: Vec::new(),
            body: String::new(),
        }
    }

    /// A status with `Retry-After`, in seconds or as a date.
    pub fn retry_after(code: u16, value: &str) -> Self {
        Self::Status {
            code,
            headers: vec![("Retry-After".into(), value.into())],
            body: String::new(),
        }
    }
}

/// A text that names no fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultSyntax(String);

impl std::fmt::Display for FaultSyntax {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} names no fault: none, reset, close, never-answer, html, ignore-range, \
             ignore-if-range, stall-after=N, reset-after=N, truncate-after=N, claim-length=N, \
             flip-bit=N, drip=BYTES/MILLISECONDS, status=CODE, status=CODE/RETRY_AFTER, \
             redirect=URL, replace=FILE",
            self.0
        )
    }
}

impl std::error::Error for FaultSyntax {}

impl FromStr for Fault {
    type Err = FaultSyntax;

    /// The notation of the command line: `stall-after=1000`, `status=503/2`, `drip=10/100`.
    fn from_str(text: &str) -> Result<Self, FaultSyntax> {
        let refuse = || FaultSyntax(text.into());
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let number = || value.parse::<u64>().map_err(|_| refuse());
        Ok(match name {
            "none" => Self::None,
            "reset" => Self::ResetBeforeAnswer,
            "close" => Self::CloseBeforeAnswer,
            "never-answer" => Self::NeverAnswer,
            "html" => Self::Html,
            "ignore-range" => Self::IgnoreRange,
            "ignore-if-range" => Self::IgnoreIfRange,
            "stall-after" => Self::StallAfter(number()?),
            "reset-after" => Self::ResetAfter(number()?),
            "truncate-after" => Self::TruncateAfter(number()?),
            "claim-length" => Self::ClaimLength(number()?),
            "flip-bit" => Self::FlipBit(number()?),
            "redirect" if !value.is_empty() => Self::Redirect(value.into()),
            "replace" => Self::Replace(Content::file(value).map_err(|_| refuse())?),
            "drip" => {
                let (bytes, millis) = value.split_once('/').ok_or_else(refuse)?;
                Self::Drip {
                    bytes: bytes.parse().map_err(|_| refuse())?,
                    every: Duration::from_millis(millis.parse().map_err(|_| refuse())?),
                }
            }
            "status" => match value.split_once('/') {
                Some((code, after)) => {
                    Self::retry_after(code.parse().map_err(|_| refuse())?, after)
                }
                None => Self::status(value.parse().map_err(|_| refuse())?),
            },
            _ => return Err(refuse()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notation_of_the_command_line() {
        for (text, debug) in [
            ("none", "None"),
            ("reset", "ResetBeforeAnswer"),
            ("close", "CloseBeforeAnswer"),
            ("stall-after=1000", "StallAfter(1000)"),
            ("drip=10/100", "Drip { bytes: 10, every: 100ms }"),
            ("redirect=/x", "Redirect(\"/x\")"),
        ] {
            assert_eq!(format!("{:?}", text.parse::<Fault>().unwrap()), debug);
        }
        let Fault::Status { code, headers, .. } = "status=503/2".parse().unwrap() else {
            panic!("not a status");
        };
        assert_eq!((code, headers[0].1.as_str()), (503, "2"));
        for text in [
            "",
            "stall",
            "stall-after",
            "drip=1",
            "status=x",
            "redirect",
            "replace=/no/such",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
