//! A URL that cannot give away its query.

use std::{fmt, str::FromStr, sync::Arc};

use url::{Host, Url};

use crate::policy::PolicyRefusal;

/// Longest URL accepted, in bytes; the same bound as the CRD's.
pub const MAX_URL_LENGTH: usize = 2048;

/// An `http` or `https` URL without user info, whose `Display` and `Debug` leave out the query.
///
/// A query is where presigned URLs carry their key, so it is sent to the server and shown to
/// nobody. The fragment is dropped: it never leaves a client. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SourceUrl(Arc<Url>);

impl SourceUrl {
    /// Scheme, host and, unless it is the scheme's own, port.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// Whether the transport is encrypted.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Name or address of the server.
    pub fn host(&self) -> Option<Host<&str>> {
        self.0.host()
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
        if !matches!(url.scheme(), "http" | "https") {
            return Err(PolicyRefusal::Scheme {
                scheme: url.scheme().chars().take(20).collect(),
            });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(PolicyRefusal::UserInfo);
        }
        url.set_fragment(None);
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
