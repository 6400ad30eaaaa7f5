//! Which URLs, redirects and addresses may be asked.
//!
//! Pure. Loopback and private addresses are allowed: image servers of labs, factories and most
//! clusters are there. Link-local is not: it is where clouds serve a machine's credentials
//! (169.254.169.254), to whoever can make the machine send a GET, and where no image server is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Host;

use crate::url::SourceUrl;

/// Redirects followed before giving up.
pub const MAX_REDIRECTS: usize = 5;

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether plain `http` is allowed at all. An image may come by it, because its checksum came
    /// by a trusted way; a catalog may not, unless the administrator said so.
    pub allow_http: bool,
}

/// Why something is not asked for. Names no path and no query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyRefusal {
    /// Not an absolute URL with a host.
    #[error("not an absolute URL")]
    NotAUrl,
    /// Longer than the bound.
    #[error("longer than {} bytes", crate::url::MAX_URL_LENGTH)]
    TooLong,
    /// Neither http nor https.
    #[error("scheme {scheme:?} is not supported; use https or http")]
    Scheme {
        /// The scheme, cut at 20 characters.
        scheme: String,
    },
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
    #[error("a redirect from https to http at {origin} is never followed")]
    HttpsToHttp {
        /// Where it points, without path and query.
        origin: String,
    },
    /// A redirect to a place that was already visited.
    #[error("the redirects lead in a loop, back to {origin}")]
    RedirectLoop {
        /// Where the loop closes, without path and query.
        origin: String,
    },
    /// More than [`MAX_REDIRECTS`].
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
    /// A redirect to something that is itself refused.
    #[error("redirected to something that is not allowed: {0}")]
    RedirectTo(Box<PolicyRefusal>),
}

impl Policy {
    /// `https` only: catalogs.
    pub const HTTPS_ONLY: Self = Self { allow_http: false };
    /// `https` and `http`: images.
    pub const HTTP_ALLOWED: Self = Self { allow_http: true };

    /// Whether this URL may be asked, as far as the URL itself tells. The addresses behind a host
    /// name are judged when they are known, by [`forbidden_address`].
    pub fn check(&self, url: &SourceUrl) -> Result<(), PolicyRefusal> {
        if !self.allow_http && !url.is_https() {
            return Err(PolicyRefusal::HttpNotAllowed);
        }
        let literal = match url.host() {
            None => return Err(PolicyRefusal::NotAUrl),
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
            Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
        };
        if forbidden_address(literal) {
            return Err(PolicyRefusal::Address { address: literal });
        }
        Ok(())
    }

    /// Where a redirect leads, or why it is not followed.
    ///
    /// `visited` holds every URL asked so far, the one that answered with the redirect last.
    pub fn redirect(
        &self,
        visited: &[SourceUrl],
        location: &str,
    ) -> Result<SourceUrl, PolicyRefusal> {
        let from = visited.last().ok_or(PolicyRefusal::NotAUrl)?;
        let within = |refusal| PolicyRefusal::RedirectTo(Box::new(refusal));
        let to = from.join(location).map_err(within)?;
        if from.is_https() && !to.is_https() {
            return Err(PolicyRefusal::HttpsToHttp {
                origin: to.origin(),
            });
        }
        self.check(&to).map_err(within)?;
        if visited.contains(&to) {
            return Err(PolicyRefusal::RedirectLoop {
                origin: to.origin(),
            });
        }
        if visited.len() > MAX_REDIRECTS {
            return Err(PolicyRefusal::TooManyRedirects);
        }
        Ok(to)
    }
}

/// Metadata services that clouds serve outside the link-local ranges: AWS and Google Cloud over
/// IPv6 (unique local addresses of their own), Alibaba Cloud (shared address space), Oracle Cloud's
/// classic service. An image server has none of these addresses.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Whether an address is never asked: 169.254.0.0/16 (RFC 3927), fe80::/10 (RFC 4291), every IPv6
/// form that carries such an IPv4 address (mapped, compatible, NAT64, 6to4), and `METADATA`.
pub fn forbidden_address(address: IpAddr) -> bool {
    let v4 = |a: Ipv4Addr| a.is_link_local() || METADATA.contains(&IpAddr::V4(a));
    match address {
        IpAddr::V4(a) => v4(a),
        IpAddr::V6(a) => {
            a.is_unicast_link_local()
                || METADATA.contains(&IpAddr::V6(a))
                || embedded_v4(a).is_some_and(v4)
        }
    }
}

/// The IPv4 address that a translating IPv6 address stands for.
fn embedded_v4(a: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = a.segments();
    let from = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        // ::a.b.c.d (compatible), ::ffff:a.b.c.d (mapped, RFC 4291), ::ffff:0:a.b.c.d (RFC 2765).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            Some(from(high, low))
        }
        // 64:ff9b::/96 (RFC 6052); 64:ff9b:1::/48 (RFC 8215) as it is mostly used, with a /96.
        [0x64, 0xff9b, 0 | 1, _, _, _, high, low] => Some(from(high, low)),
        // 2002:a.b.c.d::/48, 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}
