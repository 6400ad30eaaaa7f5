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
    /// Another scheme than a catalog may have.
    #[error("its scheme is neither https nor http")]
    Scheme,
    /// Another scheme than an image may have.
    #[error("its scheme is none of https, http, oci and file")]
    ImageScheme,
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

/// A URL that an image may be fetched from: http or https, `oci://HOST/REPOSITORY:TAG` or
/// `…@sha256:HEX`, or `file:///PATH` for a file of the node; no user info, no link-local address.
///
/// Whether a node reads files at all, and from which folders, is for its agent's flags to say.
pub fn image_url(text: &str) -> Result<Url, LocationError> {
    if text.len() > MAX_URL_LEN {
        return Err(LocationError::TooLong);
    }
    let url = Url::parse(text).map_err(|_| LocationError::NotAUrl)?;
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    match url.scheme() {
        "http" | "https" => {}
        "oci" if has_host && url.query().is_none() => {}
        // With a host it would be another machine's.
        "file" if !has_host && url.query().is_none() => {}
        "oci" | "file" => return Err(LocationError::NotAUrl),
        _ => return Err(LocationError::ImageScheme),
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

/// A URL that a catalog may be fetched from: https, and http where `allow_http` says so; otherwise as
/// for an image.
pub fn catalog_url(text: &str, allow_http: bool) -> Result<Url, LocationError> {
    let url = image_url(text).map_err(|error| match error {
        LocationError::ImageScheme => LocationError::Scheme,
        other => other,
    })?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if allow_http => Ok(url),
        "http" => Err(LocationError::PlainHttp),
        _ => Err(LocationError::Scheme),
    }
}

/// Whether the host is written as a link-local address (RFC 3927, RFC 4291), in whatever notation.
/// What a name leads to is for the one who connects to judge.
fn is_link_local(url: &Url) -> bool {
    let v4 = |a: Ipv4Addr| a.is_link_local();
    let v6 = |a: Ipv6Addr| a.is_unicast_link_local() || a.to_ipv4().is_some_and(v4);
    match url.host() {
        Some(Host::Ipv4(a)) => v4(a),
        Some(Host::Ipv6(a)) => v6(a),
        // Of the schemes that are not the web's, the parser leaves an address as it is written.
        Some(Host::Domain(name)) if url.scheme() == "oci" => {
            Url::parse(&format!("https://{name}/")).is_ok_and(|as_web| is_link_local(&as_web))
        }
        Some(Host::Domain(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_fetched_is_refused_in_every_notation() {
        use LocationError as E;
        let long = format!("https://a.example/{}", "a".repeat(MAX_URL_LEN));
        let grows = format!("https://a.example/{}", "\u{e4}".repeat(MAX_URL_LEN / 4));
        for (text, error) in [
            ("", E::NotAUrl),
            ("images/v1.35.1.img.zst", E::NotAUrl),
            ("//a.example/1", E::NotAUrl),
            ("https://", E::NotAUrl),
            ("oci:repository", E::NotAUrl),
            ("oci:///repository:tag", E::NotAUrl),
            ("oci://a.example/repository:tag?q", E::NotAUrl),
            ("oci://user@a.example/repository:tag", E::UserInfo),
            ("oci://169.254.169.254/repository:tag", E::LinkLocal),
            ("file://a.example/1", E::NotAUrl),
            ("file:///media/1?q", E::NotAUrl),
            ("https://user@a.example/1", E::UserInfo),
            ("https://:secret@a.example/1", E::UserInfo),
            ("http://169.254.169.254/latest/meta-data", E::LinkLocal),
            ("http://0xA9FEA9FE/", E::LinkLocal),
            ("http://2852039166/", E::LinkLocal),
            ("http://0251.0376.0251.0376/", E::LinkLocal),
            ("https://[fe80::1]/", E::LinkLocal),
            ("https://[febf::1]:8443/", E::LinkLocal),
            ("https://[::ffff:169.254.169.254]/", E::LinkLocal),
            ("https://[::169.254.169.254]/", E::LinkLocal),
            (&long, E::TooLong),
            (&grows, E::TooLong),
        ] {
            assert_eq!(image_url(text), Err(error), "{text}");
            assert_eq!(catalog_url(text, true), Err(error), "{text}");
        }
    }

    #[test]
    fn registries_and_files_are_for_images_alone() {
        for text in [
            "oci://registry.example:5000/monok8s/rootfs:v1.35.1",
            "file:///run/media/stick/v1.35.1.img.zst",
        ] {
            assert!(image_url(text).is_ok(), "{text}");
            assert_eq!(catalog_url(text, true), Err(LocationError::Scheme));
        }
        for text in ["ftp://a.example/1", "data:text/plain,hello"] {
            assert_eq!(image_url(text), Err(LocationError::ImageScheme), "{text}");
            assert_eq!(catalog_url(text, true), Err(LocationError::Scheme));
        }
    }

    #[test]
    fn plain_http_is_for_images_and_for_those_who_ask() {
        for text in [
            "http://localhost:8000/rootfs.ext4.zst",
            "http://10.0.0.1/",
            "http://[::1]/",
        ] {
            assert!(image_url(text).is_ok(), "{text}");
            assert!(catalog_url(text, true).is_ok(), "{text}");
            assert_eq!(
                catalog_url(text, false),
                Err(LocationError::PlainHttp),
                "{text}"
            );
        }
        assert!(catalog_url("https://a.example/catalog.yaml?token=x", false).is_ok());
    }

    #[test]
    fn no_message_repeats_the_url() {
        let error = image_url("ftp://s3cret.example/?token=s3cret").unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
    }
}
