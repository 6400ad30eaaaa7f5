//! Whether an answer carries on a file that was begun. Pure.

use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE},
};

use crate::{
    error::{Change, Fault},
    identity::Identity,
    retry::retry_after,
    validators::Validators,
};

/// The file so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun<'a> {
    pub(crate) identity: &'a Identity,
    /// Bytes that are there already; more than none.
    pub(crate) done: u64,
    /// Whether the answer is from the source that the identity is from.
    pub(crate) same_source: bool,
    /// Whether an earlier run of the program read it. Between two tries of one run a file seldom
    /// changes, and if equal lengths mislead the checksum tells; between two runs anything may
    /// have happened, and starting over costs less than a checksum that does not match.
    pub(crate) earlier_run: bool,
}

/// What to do with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Read on, after skipping so many bytes that are there already.
    Read {
        skip: u64,
        identity: Identity,
    },
    Changed(Change),
    Fault(Fault),
}

/// Judges the answer to a request for a whole file (`begun` is `None`) or for the rest of one.
/// `name` is what the file is known by whatever the header fields say: a layer by its digest.
pub(crate) fn judge(
    begun: Option<Begun<'_>>,
    status: StatusCode,
    headers: &HeaderMap,
    name: Option<&Identity>,
) -> Verdict {
    let found = |total: Option<u64>| match name {
        Some(name) => Identity {
            total: total.or(name.total),
            ..name.clone()
        },
        None => Identity {
            validators: Validators::of(headers),
            total,
        },
    };
    match (status, begun) {
        (StatusCode::OK, None) => Verdict::Read {
            skip: 0,
            identity: found(content_length(headers)),
        },
        (StatusCode::OK, Some(begun)) => {
            carry_on(begun, begun.done, false, found(content_length(headers)))
        }
        (StatusCode::PARTIAL_CONTENT, Some(begun)) => match content_range(headers) {
            Some(Range::Part {
                first,
                total,
                to_the_end,
            }) if first == begun.done => match carry_on(begun, 0, true, found(total)) {
                // Everything that is missing was asked for.
                Verdict::Read { .. } if !to_the_end => Verdict::Fault(Fault::Protocol {
                    what: "less than the range that was asked for",
                }),
                verdict => verdict,
            },
            // What cannot be carried on may be had from its beginning all the same.
            _ if begun.earlier_run => Verdict::Changed(Change::Unrecognisable),
            _ => Verdict::Fault(Fault::Protocol {
                what: "another range than was asked for",
            }),
        },
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(begun)) => match content_range(headers) {
            // Nothing was missing but the length.
            Some(Range::Unsatisfied { total: is })
                if is == begun.done && begun.identity.total.is_none_or(|was| was == is) =>
            {
                carry_on(begun, 0, true, found(Some(is)))
            }
            Some(Range::Unsatisfied { total: is }) if begun.identity.total != Some(is) => {
                Verdict::Changed(Change::Length {
                    was: begun.identity.total.unwrap_or(begun.done),
                    is,
                })
            }
            _ if begun.earlier_run => Verdict::Changed(Change::Unrecognisable),
            _ => Verdict::Fault(Fault::UnexpectedStatus {
                status: status.as_u16(),
            }),
        },
        _ => Verdict::Fault(status_fault(status, headers)),
    }
}

/// Judges a file that was opened at the place asked for.
pub(crate) fn judge_file(begun: Option<Begun<'_>>, identity: Identity) -> Verdict {
    match begun {
        None => Verdict::Read { skip: 0, identity },
        Some(begun) => carry_on(begun, 0, true, identity),
    }
}

/// What a status that is no success means.
pub(crate) fn status_fault(status: StatusCode, headers: &HeaderMap) -> Fault {
    let code = status.as_u16();
    match code {
        401 | 403 => Fault::Forbidden { status: code },
        404 | 410 => Fault::NotFound { status: code },
        408 | 429 | 500..=599 => Fault::ServerBusy {
            status: code,
            retry_after: retry_after(headers),
        },
        _ => Fault::UnexpectedStatus { status: code },
    }
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn carry_on(begun: Begun<'_>, skip: u64, partial: bool, found: Identity) -> Verdict {
    match difference(begun, partial, &found) {
        Some(change) => Verdict::Changed(change),
        None => Verdict::Read {
            skip,
            identity: Identity {
                total: found.total.or(begun.identity.total),
                validators: if found.validators.is_empty() {
                    begun.identity.validators.clone()
                } else {
                    found.validators
                },
            },
        },
    }
}

/// By what the file found differs from the one begun.
fn difference(begun: Begun<'_>, partial: bool, found: &Identity) -> Option<Change> {
    let known = begun.identity;
    if let (Some(was), Some(is)) = (known.total, found.total)
        && was != is
    {
        return Some(Change::Length { was, is });
    }
    let (old, new) = (&known.validators, &found.validators);
    if !begun.same_source {
        // Mirrors are often copied together with their dates, from which servers make tags.
        let same_tag = old.strong_etag().is_some() && old.strong_etag() == new.strong_etag();
        return (!same_tag).then_some(Change::OtherSource);
    }
    if let (Some(was), Some(is)) = (&old.etag, &new.etag) {
        return (was != is).then_some(Change::ETag);
    }
    if let (Some(was), Some(is)) = (&old.last_modified, &new.last_modified) {
        return (was != is).then_some(Change::LastModified);
    }
    // No tag or date in common. A partial answer to `If-Range` says by itself that the file is the
    // same. Else equal lengths are the last sign; if they mislead, the checksum tells in the end.
    let vouched = partial && old.if_range().is_some();
    let same_length = !begun.earlier_run && known.total.is_some() && known.total == found.total;
    (!vouched && !same_length).then_some(Change::Unrecognisable)
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Part {
        first: u64,
        total: Option<u64>,
        to_the_end: bool,
    },
    Unsatisfied {
        total: u64,
    },
}

/// `Content-Range` (RFC 9110, section 14.4).
fn content_range(headers: &HeaderMap) -> Option<Range> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    if range == "*" {
        return Some(Range::Unsatisfied {
            total: total.parse().ok()?,
        });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        number => Some(number.parse::<u64>().ok()?),
    };
    let to_the_end = total.is_none_or(|total| last.checked_add(1) == Some(total));
    (first <= last).then_some(Range::Part {
        first,
        total,
        to_the_end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DATE: &str = "Sat, 21 Nov 2026 09:00:00 GMT";
    const LATER: &str = "Sat, 21 Nov 2026 09:00:01 GMT";

    fn headers(text: &str) -> HeaderMap {
        text.split('|')
            .filter(|field| !field.is_empty())
            .map(|field| {
                let (name, value) = field.split_once(": ").unwrap();
                (
                    name.parse::<http::HeaderName>().unwrap(),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }

    fn identity(text: &str, total: Option<u64>) -> Identity {
        Identity {
            validators: Validators::of(&headers(text)),
            total,
        }
    }

    #[test]
    fn a_whole_file() {
        let judged = judge(
            None,
            StatusCode::OK,
            &headers("etag: \"a\"|content-length: 100"),
            None,
        );
        assert_eq!(
            judged,
            Verdict::Read {
                skip: 0,
                identity: identity("etag: \"a\"", Some(100))
            }
        );
        // 206 without a request for a range.
        assert!(matches!(
            judge(None, StatusCode::PARTIAL_CONTENT, &HeaderMap::new(), None),
            Verdict::Fault(Fault::UnexpectedStatus { status: 206 })
        ));
    }

    /// What is made of an answer to a request for the bytes from 40: how much is skipped.
    fn judged(
        known: &Identity,
        same_source: bool,
        status: u16,
        answer: &str,
    ) -> Result<u64, Change> {
        let begun = Begun {
            identity: known,
            done: 40,
            same_source,
            earlier_run: false,
        };
        let status = StatusCode::from_u16(status).unwrap();
        match judge(Some(begun), status, &headers(answer), None) {
            Verdict::Read { skip, .. } => Ok(skip),
            Verdict::Changed(change) => Err(change),
            Verdict::Fault(fault) => panic!("{fault} for {answer}"),
        }
    }

    const REST: &str = "content-range: bytes 40-99/100";

    #[test]
    fn the_rest_of_a_file_from_the_same_source() {
        let tag = identity("etag: \"a\"", Some(100));
        let weak = identity(&format!("etag: W/\"a\"|last-modified: {DATE}"), Some(100));
        let date = identity(&format!("last-modified: {DATE}"), Some(100));
        let bare = identity("", Some(100));
        let nothing = identity("", None);
        let length = |is| Err(Change::Length { was: 100, is });
        for (known, status, answer, expected) in [
            (&tag, 206, format!("etag: \"a\"|{REST}"), Ok(0)),
            (&tag, 206, REST.to_owned(), Ok(0)),
            (&tag, 206, "content-range: bytes 40-99/*".into(), Ok(0)),
            // A server that heeds Range and not If-Range.
            (&tag, 206, format!("etag: \"b\"|{REST}"), Err(Change::ETag)),
            (
                &tag,
                206,
                "etag: \"a\"|content-range: bytes 40-89/90".into(),
                length(90),
            ),
            (&tag, 200, "etag: \"a\"|content-length: 100".into(), Ok(40)),
            (&tag, 200, "etag: \"a\"".into(), Ok(40)),
            (
                &tag,
                200,
                "etag: \"b\"|content-length: 100".into(),
                Err(Change::ETag),
            ),
            (
                &tag,
                200,
                "etag: \"a\"|content-length: 99".into(),
                length(99),
            ),
            (&tag, 200, "content-length: 100".into(), Ok(40)),
            (&tag, 200, String::new(), Err(Change::Unrecognisable)),
            // The length tells before it matters how much of it comes.
            (
                &tag,
                206,
                "etag: \"a\"|content-range: bytes 40-99/110".into(),
                length(110),
            ),
            (&tag, 416, "content-range: bytes */30".into(), length(30)),
            (
                &weak,
                206,
                format!("etag: W/\"b\"|{REST}"),
                Err(Change::ETag),
            ),
            (
                &weak,
                206,
                format!("last-modified: {LATER}|{REST}"),
                Err(Change::LastModified),
            ),
            (&date, 206, format!("last-modified: {DATE}|{REST}"), Ok(0)),
            (
                &date,
                200,
                format!("last-modified: {LATER}"),
                Err(Change::LastModified),
            ),
            (&bare, 206, REST.to_owned(), Ok(0)),
            (&bare, 200, "content-length: 100".into(), Ok(40)),
            (
                &bare,
                206,
                "content-range: bytes 40-49/50".into(),
                length(50),
            ),
            (&nothing, 206, REST.to_owned(), Err(Change::Unrecognisable)),
            (&nothing, 200, String::new(), Err(Change::Unrecognisable)),
        ] {
            let found = judged(known, true, status, &answer);
            assert_eq!(found, expected, "{known:?} {status} {answer}");
        }
    }

    #[test]
    fn the_rest_of_a_file_from_another_source() {
        let tag = identity("etag: \"a\"", Some(100));
        let date = identity(&format!("last-modified: {DATE}"), Some(100));
        let bare = identity("", Some(100));
        for (known, status, answer, expected) in [
            (&tag, 206, format!("etag: \"a\"|{REST}"), Ok(0)),
            (
                &tag,
                206,
                format!("etag: \"b\"|{REST}"),
                Err(Change::OtherSource),
            ),
            (&tag, 206, REST.to_owned(), Err(Change::OtherSource)),
            (
                &date,
                206,
                format!("last-modified: {DATE}|{REST}"),
                Err(Change::OtherSource),
            ),
            (
                &bare,
                200,
                "content-length: 100".into(),
                Err(Change::OtherSource),
            ),
        ] {
            let found = judged(known, false, status, &answer);
            assert_eq!(found, expected, "{known:?} {status} {answer}");
        }
    }

    #[test]
    fn the_rest_of_what_an_earlier_run_began() {
        let tag = identity("etag: \"a\"", Some(100));
        let weak = identity("etag: W/\"a\"", Some(100));
        let date = identity(&format!("last-modified: {DATE}"), Some(100));
        let bare = identity("", Some(100));
        let unrecognisable = Err(Change::Unrecognisable);
        for (known, status, answer, expected) in [
            (&tag, 206, format!("etag: \"a\"|{REST}"), Ok(0)),
            // The server heeds If-Range, which says that it is the same.
            (&tag, 206, REST.to_owned(), Ok(0)),
            (&tag, 200, "etag: \"a\"|content-length: 100".into(), Ok(40)),
            (
                &tag,
                200,
                "etag: \"b\"|content-length: 100".into(),
                Err(Change::ETag),
            ),
            (
                &tag,
                200,
                "content-length: 100".into(),
                unrecognisable.clone(),
            ),
            (&weak, 206, format!("etag: W/\"a\"|{REST}"), Ok(0)),
            (&weak, 206, REST.to_owned(), unrecognisable.clone()),
            (&date, 206, format!("last-modified: {DATE}|{REST}"), Ok(0)),
            (
                &date,
                206,
                format!("last-modified: {LATER}|{REST}"),
                Err(Change::LastModified),
            ),
            // Equal lengths are not enough.
            (&bare, 206, REST.to_owned(), unrecognisable.clone()),
            (
                &bare,
                200,
                "content-length: 100".into(),
                unrecognisable.clone(),
            ),
            // A server that is at odds with ranges may serve the whole file.
            (
                &tag,
                206,
                "content-range: bytes 0-99/100".into(),
                unrecognisable.clone(),
            ),
            (&tag, 416, String::new(), unrecognisable),
        ] {
            let begun = Begun {
                identity: known,
                done: 40,
                same_source: true,
                earlier_run: true,
            };
            let status = StatusCode::from_u16(status).unwrap();
            let found = match judge(Some(begun), status, &headers(&answer), None) {
                Verdict::Read { skip, .. } => Ok(skip),
                Verdict::Changed(change) => Err(change),
                Verdict::Fault(fault) => panic!("{fault} for {answer}"),
            };
            assert_eq!(found, expected, "{known:?} {status} {answer}");
        }
    }

    /// A layer is what its digest says, whatever the storage calls it today.
    #[test]
    fn a_file_with_a_name_of_its_own() {
        let layer = identity("etag: \"sha256:0\"", Some(100));
        let begun = Begun {
            identity: &layer,
            done: 40,
            same_source: false,
            earlier_run: true,
        };
        for (status, answer, skip) in [
            (206, format!("etag: \"x\"|{REST}"), 0),
            (200, "etag: \"y\"".to_owned(), 40),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let judged = judge(Some(begun), status, &headers(&answer), Some(&layer));
            let identity = layer.clone();
            assert_eq!(judged, Verdict::Read { skip, identity }, "{answer}");
        }
    }

    /// Where no length was told, only asking for more shows that there is none.
    #[test]
    fn nothing_but_the_length_was_missing() {
        let known = identity("etag: \"a\"", None);
        for (is, expected) in [(40, true), (41, false), (30, false)] {
            let begun = Begun {
                identity: &known,
                done: 40,
                same_source: true,
                earlier_run: false,
            };
            let answer = headers(&format!("content-range: bytes */{is}"));
            let judged = judge(
                Some(begun),
                StatusCode::RANGE_NOT_SATISFIABLE,
                &answer,
                None,
            );
            let complete = Verdict::Read {
                skip: 0,
                identity: identity("etag: \"a\"", Some(40)),
            };
            assert_eq!(judged == complete, expected, "{is}: {judged:?}");
        }
    }

    #[test]
    fn answers_that_cannot_be_used() {
        let known = identity("etag: \"a\"", Some(100));
        let begun = Begun {
            identity: &known,
            done: 40,
            same_source: true,
            earlier_run: false,
        };
        for (status, answer, kind) in [
            (206, "", "Protocol"),
            (206, "content-range: bytes 0-99/100", "Protocol"),
            (206, "content-range: bytes 41-99/100", "Protocol"),
            (206, "content-range: bytes 40-49/100", "Protocol"),
            (206, "content-range: bytes 40-39/40", "Protocol"),
            (206, "content-range: items 40-99/100", "Protocol"),
            (
                206,
                "content-type: multipart/byteranges; boundary=x",
                "Protocol",
            ),
            (416, "content-range: bytes */100", "UnexpectedStatus"),
            (204, "", "UnexpectedStatus"),
            (304, "", "UnexpectedStatus"),
            (400, "", "UnexpectedStatus"),
            (401, "", "Forbidden"),
            (403, "", "Forbidden"),
            (404, "", "NotFound"),
            (410, "", "NotFound"),
            (408, "", "ServerBusy"),
            (429, "", "ServerBusy"),
            (500, "", "ServerBusy"),
            (503, "retry-after: 7", "ServerBusy"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let Verdict::Fault(fault) = judge(Some(begun), status, &headers(answer), None) else {
                panic!("{status} {answer} is no fault");
            };
            assert!(
                format!("{fault:?}").starts_with(kind),
                "{status}: {fault:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_content_range_is_survived(value in "[ -~]{0,60}") {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, value.parse().unwrap());
            let _ = content_range(&headers);
        }

        /// Bytes are never skipped or carried on for a file of another length or tag.
        #[test]
        fn another_file_is_never_carried_on(
            was in 41_u64..200,
            is in 41_u64..200,
            same_tag in any::<bool>(),
            partial in any::<bool>(),
            same_source in any::<bool>(),
        ) {
            let known = identity("etag: \"a\"", Some(was));
            let tag = if same_tag { "a" } else { "b" };
            let answer = if partial {
                format!("etag: \"{tag}\"|content-range: bytes 40-{}/{is}", is - 1)
            } else {
                format!("etag: \"{tag}\"|content-length: {is}")
            };
            let status = if partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
            let begun = Begun { identity: &known, done: 40, same_source, earlier_run: false };
            let read = matches!(
                judge(Some(begun), status, &headers(&answer), None),
                Verdict::Read { .. }
            );
            prop_assert_eq!(read, was == is && same_tag);
        }
    }
}
