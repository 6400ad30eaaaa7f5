//! Where catalogs and images may lie.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::catalog::MAX_URL_LEN;

/// Why a URL is not used. No variant repeats the URL: it may carry a token in its query, and a
/// catalog's content is never quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Not an absolute URL.
    #[error("it is not an absolute URL such as https://images.example.com/v1.35.1.img.zst")]
    NotAUrl,
    /// Longer than an object can carry.
    #[error("it is longer than 2048 characters")]
    TooLong,
    /// Another scheme than http and https.
    #[error("its scheme is neither https nor http")]
    Scheme,
    /// Plain http where only https is allowed.
    #[error(
        "it is plain http, which the controller fetches only with --allow-http-catalogs; use https"
    )]
    PlainHttp,
    /// A user name or a password before the host.
    #[error(
        "it carries user info before the host; put credentials into a Secret (spec.download.credentials)"
    )]
    UserInfo,
    /// A link-local address, where cloud providers keep their metadata services.
    #[error("its host is a link-local address")]
    LinkLocal,
}

/// A URL that an image may be fetched from: http or https, no user info, no link-local address.
pub fn image_url(text: &str) -> Result<Url, LocationError> {
    if text.len() > MAX_URL_LEN {
        return Err(LocationError::TooLong);
    }
    let url = Url::parse(text).map_err(|_| LocationError::NotAUrl)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(LocationError::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(LocationError::UserInfo);
    }
    if is_link_local(&url) {
        return Err(LocationError::LinkLocal);
    }
    // Escaping may have made it longer.
    if url.as_str().len() > MAX_URL_LEN {
        return Err(LocationError::TooLong);
    }
    Ok(url)
}

/// A URL that a catalog may be fetched from: as [`image_url`], and https unless `allow_http`.
pub fn catalog_url(text: &str, allow_http: bool) -> Result<Url, LocationError> {
    let url = image_url(text)?;
    if url.scheme() == "http" && !allow_http {
        return Err(LocationError::PlainHttp);
    }
    Ok(url)
}

/// Whether the host is written as a link-local address (RFC 3927, RFC 4291), in whatever notation.
/// What a name leads to is for the one who connects to judge.
fn is_link_local(url: &Url) -> bool {
    let v4 = |a: Ipv4Addr| a.is_link_local();
    let v6 = |a: Ipv6Addr| a.is_unicast_link_local() || a.to_ipv4().is_some_and(v4);
    match url.host() {
        Some(Host::Ipv4(a)) => v4(a),
        Some(Host::Ipv6(a)) => v6(a),
        Some(Host::Domain(_)) | None => false,
    }
}
