//! What a server says to recognise one version of a file by.

/// `ETag` and `Last-Modified` of a response (RFC 9110, section 8.8), as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// Entity tag, quotes and a `W/` prefix included.
    pub etag: Option<String>,
    /// HTTP date.
    pub last_modified: Option<String>,
}
