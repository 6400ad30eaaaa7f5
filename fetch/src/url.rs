//! A URL that cannot give away its query.

use std::{fmt, str::FromStr, sync::Arc};

use url::{Host, Url};

use crate::{
    digest::is_digest,
    refusal::{MAX_URL_LENGTH, PolicyRefusal},
};

/// How a source is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP over TLS.
    Https,
    /// HTTP without TLS.
    Http,
    /// An artifact in an OCI registry, over TLS.
    Oci,
    /// A file of this machine.
    File,
}

impl Scheme {
    fn of(url: &Url) -> Option<Self> {
        match url.scheme() {
            "https" => Some(Self::Https),
            "http" => Some(Self::Http),
            "oci" => Some(Self::Oci),
            "file" => Some(Self::File),
            _ => None,
        }
    }
}

/// An `https`, `http`, `oci` or `file` URL without user info, whose `Display` and `Debug` leave out
/// the query.
///
/// A query is where presigned URLs carry their key, so it is sent to the server and shown to
/// nobody. The fragment is dropped: it never leaves a client. Cheap to clone.
///
/// That a text is such a URL does not mean that it may be asked: see [`crate::Policy`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SourceUrl(Arc<Url>);

impl SourceUrl {
    /// How it is reached.
    pub fn scheme(&self) -> Scheme {
        // No other is admitted.
        Scheme::of(&self.0).unwrap_or(Scheme::Https)
    }

    /// Scheme, host and, unless it is the scheme's own, port.
    pub fn origin(&self) -> String {
        match self.scheme() {
            Scheme::Https | Scheme::Http => self.0.origin().ascii_serialization(),
            Scheme::Oci | Scheme::File => {
                let port = self.0.port().map_or_else(String::new, |p| format!(":{p}"));
                let host = self.0.host_str().unwrap_or_default();
                format!("{}://{host}{port}", self.0.scheme())
            }
        }
    }

    /// Whether it is asked over HTTP with TLS.
    pub fn is_https(&self) -> bool {
        self.scheme() == Scheme::Https
    }

    /// Name or address of the server; none for a file.
    pub fn host(&self) -> Option<Host<&str>> {
        self.0.host()
    }

    /// For a name in a registry: the digest that it names.
    pub(crate) fn pinned_digest(&self) -> Option<&str> {
        let (_, digest) = self.0.path().split_once('@')?;
        (self.scheme() == Scheme::Oci && is_digest(digest)).then_some(digest)
    }

    /// The whole URL, query included; for the request and nothing else.
    pub(crate) fn full(&self) -> &Url {
        &self.0
    }

    /// Resolves the `Location` of a redirect against this URL.
    pub(crate) fn join(&self, location: &str) -> Result<Self, PolicyRefusal> {
        let joined = self.0.join(location).map_err(|_| PolicyRefusal::NotAUrl)?;
        Self::admit(joined)
    }

    fn admit(mut url: Url) -> Result<Self, PolicyRefusal> {
        if url.as_str().len() > MAX_URL_LENGTH {
            return Err(PolicyRefusal::TooLong);
        }
        let Some(scheme) = Scheme::of(&url) else {
            return Err(PolicyRefusal::Scheme {
                scheme: url.scheme().chars().take(20).collect(),
            });
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(PolicyRefusal::UserInfo);
        }
        url.set_fragment(None);
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        // `file://host/path` is another machine's, which nothing here can read.
        if has_host == (scheme == Scheme::File) {
            return Err(PolicyRefusal::NotAUrl);
        }
        if matches!(scheme, Scheme::Oci | Scheme::File) && url.query().is_some() {
            return Err(PolicyRefusal::NotAUrl);
        }
        Ok(Self(Arc::new(url)))
    }
}

impl FromStr for SourceUrl {
    type Err = PolicyRefusal;

    /// Parses and normalises; refuses other schemes, user info and more than [`MAX_URL_LENGTH`].
    fn from_str(text: &str) -> Result<Self, PolicyRefusal> {
        if text.len() > MAX_URL_LENGTH {
            return Err(PolicyRefusal::TooLong);
        }
        Self::admit(Url::parse(text).map_err(|_| PolicyRefusal::NotAUrl)?)
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.0.path())?;
        if self.0.query().is_some() {
            f.write_str("?…")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUrl({self})")
    }
}
