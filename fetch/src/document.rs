//! A small document as a whole: a catalog.

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use reqwest::Response;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    client::Client,
    error::{Fault, FetchError, Progress},
    resume::{content_length, status_fault},
    retry::{self, Trouble},
    url::SourceUrl,
    validators::Validators,
};

/// Outcome of a fetch that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// A document.
    Document(Document),
    /// 304: it is still what the validators given describe.
    NotModified,
}

/// A document as served.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    /// Its bytes, at most the limit given.
    pub bytes: Bytes,
    /// To be given with the next request for the same URL.
    pub validators: Validators,
}

impl std::fmt::Debug for Document {
    /// Leaves out the content: it comes from a network and may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document")
            .field("bytes", &self.bytes.len())
            .field("validators", &self.validators)
            .finish()
    }
}

/// What is told when the deadline falls.
#[derive(Default)]
struct Latest {
    /// Of the try under way.
    progress: Progress,
    /// How the try before ended, and how far it had come.
    failed: Option<(Fault, Progress)>,
}

impl Client {
    /// Fetches a document of at most `limit` bytes; with `known`, only when it is another one.
    ///
    /// Transient faults are retried inside one deadline for everything,
    /// [`Timing::document`](crate::client::Timing::document). HTML where a document is expected is
    /// an error, so that a login page is not parsed as a catalog.
    pub async fn document(
        &self,
        url: &SourceUrl,
        limit: u64,
        known: Option<&Validators>,
    ) -> Result<Fetched, FetchError> {
        let mut latest = Latest::default();
        let tries = self.try_until_final(url, limit, known, &mut latest);
        let result = timeout(self.timing.document, tries).await;
        let (fault, progress) = match result {
            Ok(Ok(fetched)) => return Ok(fetched),
            Ok(Err(fault)) => (fault, latest.progress),
            Err(_) => {
                let after = self.timing.document;
                // What kept the tries from succeeding says more than that they took long.
                latest
                    .failed
                    .unwrap_or((Fault::TimedOut { after }, latest.progress))
            }
        };
        Err(FetchError {
            progress,
            ..FetchError::new(url, fault)
        })
    }

    async fn try_until_final(
        &self,
        url: &SourceUrl,
        limit: u64,
        known: Option<&Validators>,
        latest: &mut Latest,
    ) -> Result<Fetched, Fault> {
        let started = Instant::now();
        for failures in 1.. {
            latest.progress = Progress::default();
            let fault = match self.try_once(url, limit, known, &mut latest.progress).await {
                Ok(fetched) => return Ok(fetched),
                Err(fault) => fault,
            };
            let trouble = Trouble {
                failures,
                lasting: started.elapsed(),
                bearable: self.timing.document,
            };
            let Some(pause) = retry::pause(&fault, trouble, self.timing.backoff, rand::random())
            else {
                return Err(fault);
            };
            tracing::debug!(%url, %fault, ?pause, "asking again for a document");
            latest.failed = Some((fault, latest.progress));
            sleep(pause).await;
        }
        Err(Fault::TimedOut {
            after: started.elapsed(),
        })
    }

    async fn try_once(
        &self,
        url: &SourceUrl,
        limit: u64,
        known: Option<&Validators>,
        progress: &mut Progress,
    ) -> Result<Fetched, Fault> {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            known.make_conditional(&mut headers);
        }
        let asked_conditionally = !headers.is_empty();
        let response = self.ask(url, headers).await?;
        match response.status() {
            StatusCode::OK => self
                .read(response, limit, progress)
                .await
                .map(Fetched::Document),
            StatusCode::NOT_MODIFIED if asked_conditionally => Ok(Fetched::NotModified),
            status => Err(status_fault(status, response.headers())),
        }
    }

    pub(crate) async fn read(
        &self,
        mut response: Response,
        limit: u64,
        progress: &mut Progress,
    ) -> Result<Document, Fault> {
        refuse_other_media(response.headers())?;
        let too_large = Fault::TooLarge { limit };
        progress.total = content_length(response.headers());
        if progress.total.is_some_and(|length| length > limit) {
            return Err(too_large);
        }
        let validators = Validators::of(response.headers());
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| Fault::of(&error, self.timing.connect))?
        {
            progress.done += chunk.len() as u64;
            if progress.done > limit {
                return Err(too_large);
            }
            bytes.extend_from_slice(&chunk);
        }
        if looks_like_markup(&bytes) {
            return Err(Fault::NotADocument { what: "a web page" });
        }
        Ok(Document {
            bytes: bytes.freeze(),
            validators,
        })
    }
}

fn refuse_other_media(headers: &HeaderMap) -> Result<(), Fault> {
    let text = |name| {
        let value: &http::HeaderValue = headers.get(name)?;
        Some(value.to_str().ok()?.trim().to_ascii_lowercase())
    };
    if text(CONTENT_ENCODING).is_some_and(|encoding| !matches!(&*encoding, "" | "identity")) {
        return Err(Fault::NotADocument {
            what: "compressed content, which was not asked for,",
        });
    }
    let html = text(CONTENT_TYPE).is_some_and(|media_type| {
        media_type.starts_with("text/html") || media_type.starts_with("application/xhtml")
    });
    if html {
        return Err(Fault::NotADocument { what: "a web page" });
    }
    Ok(())
}

/// Whether the first thing in a text is `<`, with which no catalog can begin.
fn looks_like_markup(bytes: &[u8]) -> bool {
    bytes
        .strip_prefix("\u{feff}".as_bytes())
        .unwrap_or(bytes)
        .trim_ascii_start()
        .starts_with(b"<")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_told_by_its_first_sign() {
        for (text, expected) in [
            ("<!DOCTYPE html>", true),
            ("\u{feff}\r\n <html>", true),
            ("stable: v1", false),
            ("# <html>", false),
            ("", false),
        ] {
            assert_eq!(looks_like_markup(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn media_types() {
        for (name, value, refused) in [
            ("content-type", "text/html", true),
            ("content-type", "Text/HTML; charset=utf-8", true),
            ("content-type", "application/xhtml+xml", true),
            ("content-type", "application/yaml", false),
            ("content-type", "text/plain", false),
            ("content-type", "application/octet-stream", false),
            ("content-encoding", "gzip", true),
            ("content-encoding", "identity", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(
                name.parse::<http::HeaderName>().unwrap(),
                value.parse().unwrap(),
            );
            assert_eq!(
                refuse_other_media(&headers).is_err(),
                refused,
                "{name}: {value}"
            );
        }
    }
}
