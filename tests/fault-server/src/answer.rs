//! From a request, a resource and a fault to what is written to the socket. Pure.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    content::{Content, Resource},
    fault::Fault,
    request::Request,
};

/// What is written.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Status line and header fields, the empty line included.
    pub(crate) head: String,
    pub(crate) body: Body,
    /// Whether the body is framed as HTTP/1.1 chunks.
    pub(crate) chunked: bool,
    pub(crate) end: End,
    pub(crate) pace: Option<Pace>,
    /// Offset in the file of a byte with a flipped bit.
    pub(crate) flip: Option<u64>,
}

/// A body that comes in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Bytes of the body that come at once before.
    pub(crate) after: u64,
    /// Bytes per piece.
    pub(crate) bytes: usize,
    /// Pause after each.
    pub(crate) every: Duration,
}

#[derive(Debug)]
pub(crate) enum Body {
    Empty,
    Short(Bytes),
    /// Bytes `from..to` of the content.
    Part {
        content: Content,
        from: u64,
        to: u64,
    },
}

/// How the answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The connection serves the next request.
    KeepAlive,
    /// Orderly close after the body.
    Close,
    /// Orderly close in the middle, after so many bytes.
    Truncate(u64),
    /// Reset after so many bytes.
    Reset(u64),
    /// Silence after so many bytes.
    Stall(u64),
}

/// Decides; `None` is no answer at all (the caller resets or stays silent).
pub(crate) fn answer(request: &Request, resource: &Resource, fault: &Fault) -> Answer {
    match fault {
        Fault::Status {
            code,
            headers,
            body,
        } => {
            return short(*code, headers, "text/plain", body.clone());
        }
        Fault::Redirect(to) => {
            return short(
                302,
                &[("Location".into(), to.clone())],
                "text/plain",
                String::new(),
            );
        }
        Fault::Html => {
            let page = "<!DOCTYPE html><html><body>Please log in, secret-of-the-page</body></html>";
            return short(200, &[], "text/html; charset=utf-8", page.into());
        }
        Fault::NeverAnswer => return silent(End::Stall(0)),
        Fault::ResetBeforeAnswer => return silent(End::Reset(0)),
        Fault::CloseBeforeAnswer => return silent(End::Close),
        _ => {}
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return short(405, &[], "text/plain", String::new());
    }
    let mut fields = Vec::new();
    if let Some(etag) = &resource.etag {
        fields.push(("ETag".to_owned(), etag.clone()));
    }
    if let Some(date) = &resource.last_modified {
        fields.push(("Last-Modified".to_owned(), date.clone()));
    }
    if not_modified(request, resource) {
        return short(304, &fields, "", String::new());
    }

    let len = resource.content.len();
    let claimed = match fault {
        Fault::ClaimLength(claimed) => *claimed,
        _ => len,
    };
    let (mut status, mut from, mut to) = (200, 0, len);
    let heed_range = resource.ranges
        && !matches!(fault, Fault::IgnoreRange)
        && (matches!(fault, Fault::IgnoreIfRange) || if_range_holds(request, resource));
    if resource.ranges {
        fields.push(("Accept-Ranges".into(), "bytes".into()));
    }
    if let Some((first, last)) = request.range().filter(|_| heed_range) {
        if first >= len {
            fields.push(("Content-Range".into(), format!("bytes */{claimed}")));
            return short(416, &fields, "text/plain", String::new());
        }
        status = 206;
        from = first;
        to = last.map_or(len, |last| len.min(last.saturating_add(1)));
        fields.push((
            "Content-Range".into(),
            format!("bytes {from}-{}/{claimed}", to - 1),
        ));
    }
    let chunked = status == 200 && !resource.length;
    if chunked {
        fields.push(("Transfer-Encoding".into(), "chunked".into()));
    } else {
        let body = (to - from) + claimed.saturating_sub(len);
        let body = body.saturating_sub(len.saturating_sub(claimed));
        fields.push(("Content-Length".into(), body.to_string()));
    }
    fields.push(("Content-Type".into(), resource.content_type.clone()));
    let head_only = request.method == "HEAD";
    Answer {
        head: head(status, &fields),
        body: if head_only {
            Body::Empty
        } else {
            Body::Part {
                content: resource.content.clone(),
                from,
                to,
            }
        },
        chunked: chunked && !head_only,
        end: end(fault),
        pace: pace(fault),
        flip: match fault {
            Fault::FlipBit(offset) => Some(*offset),
            _ => None,
        },
    }
}

fn end(fault: &Fault) -> End {
    match fault {
        Fault::StallAfter(n) => End::Stall(*n),
        Fault::ResetAfter(n) => End::Reset(*n),
        Fault::TruncateAfter(n) => End::Truncate(*n),
        Fault::ClaimLength(_) => End::Close,
        _ => End::KeepAlive,
    }
}

fn pace(fault: &Fault) -> Option<Pace> {
    let (after, bytes, every) = match fault {
        Fault::Drip { bytes, every } => (0, *bytes, *every),
        Fault::DripAfter {
            after,
            bytes,
            every,
        } => (*after, *bytes, *every),
        _ => return None,
    };
    Some(Pace {
        after,
        bytes,
        every,
    })
}

/// 404, for a path at which nothing is served.
pub(crate) fn nothing_here() -> Answer {
    short(404, &[], "text/plain", String::new())
}

fn silent(end: End) -> Answer {
    Answer {
        head: String::new(),
        body: Body::Empty,
        chunked: false,
        end,
        pace: None,
        flip: None,
    }
}

fn short(status: u16, fields: &[(String, String)], content_type: &str, body: String) -> Answer {
    let mut all = fields.to_vec();
    if status != 304 {
        all.push(("Content-Length".into(), body.len().to_string()));
        all.push(("Content-Type".into(), content_type.into()));
    }
    Answer {
        head: head(status, &all),
        body: Body::Short(body.into()),
        chunked: false,
        end: End::KeepAlive,
        pace: None,
        flip: None,
    }
}

fn head(status: u16, fields: &[(String, String)]) -> String {
    use std::fmt::Write;
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    if !fields
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("date"))
        && let Ok(date) = jiff::fmt::rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&jiff::Timestamp::now())
    {
        let _ = write!(head, "Date: {date}\r\n");
    }
    for (name, value) in fields {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    head
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        304 => "Not Modified",
        404 => "Not Found",
        416 => "Range Not Satisfiable",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// RFC 9110, section 13.2.2: `If-None-Match` goes before `If-Modified-Since`.
fn not_modified(request: &Request, resource: &Resource) -> bool {
    match (
        request.header("if-none-match"),
        request.header("if-modified-since"),
    ) {
        (Some(tag), _) => resource.etag.as_deref() == Some(tag),
        (None, Some(date)) => resource.last_modified.as_deref() == Some(date),
        (None, None) => false,
    }
}

/// RFC 9110, section 13.1.5; dates are compared for equality.
fn if_range_holds(request: &Request, resource: &Resource) -> bool {
    match request.header("if-range") {
        None => true,
        Some(tag) if tag.starts_with('"') => resource.etag.as_deref() == Some(tag),
        Some(date) => resource.last_modified.as_deref() == Some(date),
    }
}
