//! Why something is not asked for.

use std::net::IpAddr;

/// Longest URL accepted, in bytes; the same bound as the CRD's.
pub const MAX_URL_LENGTH: usize = 2048;
/// Redirects followed before giving up.
pub const MAX_REDIRECTS: usize = 5;

/// Why something is not asked for.
///
/// The message may be read by someone who may not see the network this machine is in, so it tells
/// nothing that a server said: not even where a refused redirect leads. The log tells that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyRefusal {
    /// Not an absolute URL with a host.
    #[error("not an absolute URL")]
    NotAUrl,
    /// Longer than the bound.
    #[error("longer than {} bytes", MAX_URL_LENGTH)]
    TooLong,
    /// A scheme that nothing here speaks.
    #[error("scheme {scheme:?} is not supported; use https, http, oci or file")]
    Scheme {
        /// The scheme, cut at 20 characters.
        scheme: String,
    },
    /// `oci` or `file` where only a document over HTTP is taken.
    #[error("only https and http are allowed here")]
    NotHttp,
    /// Something else than `oci://HOST/REPOSITORY:TAG` or `oci://HOST/REPOSITORY@sha256:HEX`.
    #[error(
        "not the name of an artifact; expected oci://HOST/REPOSITORY:TAG or \
         oci://HOST/REPOSITORY@sha256:HEX, in small letters"
    )]
    NotAnArtifactName,
    /// A registry that sends for tokens without TLS.
    #[error("the registry's token server is not reached by https, so it is not asked")]
    InsecureTokenServer,
    /// A file outside the folders that may be read.
    #[error(
        "the file is not in one of the folders that images may be read from ({})",
        .allowed.join(", ")
    )]
    OutsideRoots {
        /// The folders.
        allowed: Vec<String>,
    },
    /// A link in such a folder that leads out of it.
    #[error("a link in the path leads out of the folder that images may be read from")]
    LinkLeadsOut,
    /// A file where no folder may be read.
    #[error("no folder is set up here to read images from")]
    NoRoots,
    /// `http` where only `https` is allowed.
    #[error("plain http is not allowed here; use https")]
    HttpNotAllowed,
    /// `user:password@` in the URL.
    #[error("user info in a URL is not allowed; it would be shown wherever the URL is")]
    UserInfo,
    /// Link-local, or one of the few other addresses at which clouds serve credentials.
    #[error("address {address} is link-local or a cloud's metadata service, which is never asked")]
    Address {
        /// The address.
        address: IpAddr,
    },
    /// A redirect that would leave TLS.
    #[error("a redirect leads from https to http, which is never followed")]
    HttpsToHttp,
    /// A redirect to a place that was already visited.
    #[error("the redirects lead in a loop")]
    RedirectLoop,
    /// More than [`MAX_REDIRECTS`].
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
    /// A redirect to something that is itself refused.
    #[error("a redirect leads to {}", .0.in_general())]
    RedirectTo(Box<PolicyRefusal>),
}

impl PolicyRefusal {
    /// What a refused redirect leads to, in words that hold nothing of its `Location`.
    fn in_general(&self) -> &'static str {
        match self {
            Self::NotAUrl => "something that is no URL",
            Self::TooLong => "an overlong URL",
            Self::Scheme { .. } | Self::NotHttp => "another scheme than https and http",
            Self::HttpNotAllowed => "plain http, which is not allowed here",
            Self::UserInfo => "a URL with user info",
            Self::Address { .. } => "a link-local address or a cloud's metadata service",
            Self::HttpsToHttp
            | Self::NotAnArtifactName
            | Self::InsecureTokenServer
            | Self::OutsideRoots { .. }
            | Self::LinkLeadsOut
            | Self::NoRoots
            | Self::RedirectLoop
            | Self::TooManyRedirects
            | Self::RedirectTo(_) => "another redirect that is not followed",
        }
    }
}
