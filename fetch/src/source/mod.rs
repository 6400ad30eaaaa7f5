//! Where an image's bytes come from: one file per scheme, behind one question.

mod file;
pub(crate) mod oci;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, header};
use reqwest::Response;

use crate::{
    artifact::Artifact,
    client::Client,
    error::Fault,
    identity::Identity,
    platform::Platform,
    resume::{Begun, Verdict, judge, judge_file},
    url::{Scheme, SourceUrl},
};

/// From where on the file is wanted, and how its version is to be recognised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Question {
    /// Bytes that are there already.
    pub(crate) from: u64,
    /// `If-Range`, where the same source was asked before.
    pub(crate) if_range: Option<HeaderValue>,
}

impl Question {
    /// The same for a file whose name says by itself which version it is.
    pub(crate) fn from(from: u64) -> Self {
        Self {
            from,
            if_range: None,
        }
    }

    /// As HTTP puts it.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.from > 0 {
            if let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.from)) {
                headers.insert(header::RANGE, range);
            }
            if let Some(same) = self.if_range.clone() {
                headers.insert(header::IF_RANGE, same);
            }
        }
        headers
    }
}

/// A source, with what it has learnt while it was asked.
#[derive(Clone)]
pub(crate) enum Source {
    Http,
    File,
    Oci(Arc<oci::Session>),
}

/// What a source answered; its bytes unread.
pub(crate) enum Answer {
    Http(Response),
    /// A layer, and what it is known by.
    Layer(Response, Identity),
    File(file::OpenFile),
}

/// Bytes under way.
pub(crate) enum Body {
    Http(Response),
    File(file::OpenFile),
}

impl Source {
    /// The source of a URL. `platform` is the entry to choose where there are several; `artifact`
    /// is what the name stood for in an earlier run.
    pub(crate) fn of(
        url: &SourceUrl,
        platform: Option<&Platform>,
        artifact: Option<&Artifact>,
    ) -> Self {
        match url.scheme() {
            Scheme::Https | Scheme::Http => Self::Http,
            Scheme::File => Self::File,
            Scheme::Oci => Self::Oci(Arc::new(oci::Session::new(platform, artifact))),
        }
    }

    /// Asks once. Owns all that it needs, so that the answer can be waited for in pieces.
    pub(crate) fn ask(
        &self,
        client: &Client,
        url: &SourceUrl,
        question: Question,
    ) -> BoxFuture<'static, Result<Answer, Fault>> {
        let (client, url) = (client.clone(), url.clone());
        match self {
            Self::Http => Box::pin(async move {
                let response = client.ask(&url, question.headers()).await?;
                Ok(Answer::Http(response))
            }),
            Self::File => Box::pin(async move {
                let opened = file::open(&client.file_roots, &url, question.from).await?;
                Ok(Answer::File(opened))
            }),
            Self::Oci(session) => {
                let session = Arc::clone(session);
                Box::pin(async move {
                    let (response, layer) = session.ask(&client, &url, question.from).await?;
                    Ok(Answer::Layer(response, layer))
                })
            }
        }
    }

    /// What a name in a registry stood for, once that is known.
    pub(crate) fn artifact(&self) -> Option<Artifact> {
        match self {
            Self::Http | Self::File => None,
            Self::Oci(session) => session.artifact(),
        }
    }

    /// For a source in a registry: a URL that stands for what it now is for ever.
    pub(crate) fn pinned(&self, url: &SourceUrl) -> Option<SourceUrl> {
        match self {
            Self::Http | Self::File => None,
            Self::Oci(session) => session.pinned(url),
        }
    }
}

impl Answer {
    /// Whether it carries on what was begun.
    pub(crate) fn judge(&self, begun: Option<Begun<'_>>) -> Verdict {
        match self {
            Self::Http(response) => judge(begun, response.status(), response.headers(), None),
            Self::Layer(response, layer) => {
                judge(begun, response.status(), response.headers(), Some(layer))
            }
            Self::File(file) => judge_file(begun, file.identity.clone()),
        }
    }

    pub(crate) fn body(self) -> Body {
        match self {
            Self::Http(response) | Self::Layer(response, _) => Body::Http(response),
            Self::File(file) => Body::File(file),
        }
    }
}

impl Body {
    /// The next bytes, `None` at the end.
    pub(crate) async fn chunk(
        &mut self,
        connect_timeout: Duration,
    ) -> Result<Option<Bytes>, Fault> {
        match self {
            Self::Http(response) => response
                .chunk()
                .await
                .map_err(|error| Fault::of(&error, connect_timeout)),
            Self::File(file) => file.chunk().await,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "Http",
            Self::File => "File",
            Self::Oci(_) => "Oci",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_asked_for_by_range() {
        assert!(Question::default().headers().is_empty());
        let rest = Question {
            from: 40,
            if_range: Some(HeaderValue::from_static("\"a\"")),
        };
        let headers = rest.headers();
        assert_eq!(headers[header::RANGE], "bytes=40-");
        assert_eq!(headers[header::IF_RANGE], "\"a\"");
    }

    #[test]
    fn schemes() {
        for (url, source) in [
            ("https://a.example/i", "Http"),
            ("http://a.example/i", "Http"),
            ("file:///media/i", "File"),
            ("oci://a.example/i:1", "Oci"),
        ] {
            let source_of = Source::of(&url.parse().unwrap(), None, None);
            assert_eq!(format!("{source_of:?}"), source);
        }
    }
}
