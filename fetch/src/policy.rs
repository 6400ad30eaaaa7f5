//! Which URLs, redirects and addresses may be asked.
//!
//! Pure. Loopback and private addresses are allowed: image servers of labs, factories and most
//! clusters are there. Link-local is not: it is where clouds serve a machine's credentials
//! (169.254.169.254), to whoever can make the machine send a GET, and where no image server is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Host;

use crate::{
    refusal::{MAX_REDIRECTS, PolicyRefusal},
    url::{Scheme, SourceUrl},
};

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether plain `http` is allowed at all. An image may come by it, because its checksum came
    /// by a trusted way; a catalog may not, unless the administrator said so.
    pub allow_http: bool,
}

impl Policy {
    /// `https` only: catalogs.
    pub const HTTPS_ONLY: Self = Self { allow_http: false };
    /// `https` and `http`: images.
    pub const HTTP_ALLOWED: Self = Self { allow_http: true };

    /// Whether this URL may be asked over HTTP, as far as the URL itself tells. The addresses behind a host
    /// name are judged when they are known, by [`forbidden_address`].
    pub fn check(&self, url: &SourceUrl) -> Result<(), PolicyRefusal> {
        match url.scheme() {
            Scheme::Https => {}
            Scheme::Http if self.allow_http => {}
            Scheme::Http => return Err(PolicyRefusal::HttpNotAllowed),
            Scheme::Oci | Scheme::File => return Err(PolicyRefusal::NotHttp),
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
            return Err(PolicyRefusal::HttpsToHttp);
        }
        self.check(&to).map_err(within)?;
        if visited.contains(&to) {
            return Err(PolicyRefusal::RedirectLoop);
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

/// Whether an address is never asked: `169.254.0.0/16` (RFC 3927), `fe80::/10` (RFC 4291), every IPv6
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
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let from = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // ::a.b.c.d (compatible), ::ffff:a.b.c.d (mapped, RFC 4291), ::ffff:0:a.b.c.d (RFC 2765);
        // 64:ff9b::/96 (RFC 6052); 64:ff9b:1::/48 (RFC 8215) as it is mostly used, with a /96;
        // 2002:a.b.c.d::/48, 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0 | 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> SourceUrl {
        text.parse().unwrap()
    }

    #[test]
    fn texts_that_are_no_source() {
        for (text, expected) in [
            ("", "not an absolute URL"),
            ("images/a.zst", "not an absolute URL"),
            ("https://", "not an absolute URL"),
            ("ftp://a.example/x", "scheme \"ftp\""),
            ("file://host/etc/shadow", "not an absolute URL"),
            ("file:///media/a?b", "not an absolute URL"),
            ("oci:registry/a", "not an absolute URL"),
            ("oci:///a", "not an absolute URL"),
            ("oci://u@registry/a", "user info"),
            ("gopher://169.254.169.254/", "scheme \"gopher\""),
            ("https://user@a.example/", "user info"),
            ("https://user:secret@a.example/", "user info"),
            ("https://:secret@a.example/", "user info"),
        ] {
            let refusal = text.parse::<SourceUrl>().unwrap_err().to_string();
            assert!(refusal.contains(expected), "{text}: {refusal}");
            assert!(!refusal.contains("secret"), "{refusal}");
        }
        let long = format!(
            "https://a.example/{}",
            "x".repeat(crate::refusal::MAX_URL_LENGTH)
        );
        assert_eq!(long.parse::<SourceUrl>(), Err(PolicyRefusal::TooLong));
    }

    #[test]
    fn which_urls_may_be_asked() {
        let forbidden = |text: &str| {
            Err(PolicyRefusal::Address {
                address: text.parse().unwrap(),
            })
        };
        for (text, allow_http, expected) in [
            ("https://a.example/x?y", false, Ok(())),
            ("http://a.example/x", true, Ok(())),
            (
                "http://a.example/x",
                false,
                Err(PolicyRefusal::HttpNotAllowed),
            ),
            ("file:///etc/shadow", true, Err(PolicyRefusal::NotHttp)),
            (
                "oci://registry.example/a",
                true,
                Err(PolicyRefusal::NotHttp),
            ),
            ("http://127.0.0.1:8000/", true, Ok(())),
            ("http://[::1]:8000/", true, Ok(())),
            ("http://10.1.2.3/", true, Ok(())),
            ("https://[fd00::1]/", true, Ok(())),
            (
                "http://169.254.169.254/latest",
                true,
                forbidden("169.254.169.254"),
            ),
            ("https://169.254.0.1/", true, forbidden("169.254.0.1")),
            // The other ways to write it that URLs know.
            ("http://2852039166/", true, forbidden("169.254.169.254")),
            ("http://0xa9fea9fe/", true, forbidden("169.254.169.254")),
            (
                "http://0251.0376.0251.0376/",
                true,
                forbidden("169.254.169.254"),
            ),
            ("http://169.254.43518/", true, forbidden("169.254.169.254")),
            (
                "http://\u{ff11}69.254.169.254/",
                true,
                forbidden("169.254.169.254"),
            ),
            ("http://[fe80::1]/", true, forbidden("fe80::1")),
            (
                "http://[::ffff:169.254.169.254]/",
                true,
                forbidden("::ffff:169.254.169.254"),
            ),
            (
                "http://[64:ff9b::a9fe:a9fe]/",
                true,
                forbidden("64:ff9b::a9fe:a9fe"),
            ),
        ] {
            let policy = Policy { allow_http };
            assert_eq!(policy.check(&url(text)), expected, "{text}");
        }
    }

    #[test]
    fn forbidden_addresses() {
        for (text, expected) in [
            ("169.253.255.255", false),
            ("169.254.0.0", true),
            ("169.254.255.255", true),
            ("169.255.0.0", false),
            ("fe7f::1", false),
            ("fe80::1", true),
            ("febf:ffff::1", true),
            ("fec0::1", false),
            ("::ffff:169.254.1.1", true),
            ("::ffff:10.0.0.1", false),
            ("::169.254.1.1", true),
            ("::ffff:0:169.254.1.1", true),
            ("64:ff9b:1::169.254.1.1", true),
            ("64:ff9b::10.0.0.1", false),
            ("2002:a9fe:a9fe::1", true),
            ("2002:a00:1::1", false),
            ("fd00:ec2::254", true),
            ("fd20:ce::254", true),
            ("100.100.100.200", true),
            ("192.0.0.192", true),
            ("::ffff:100.100.100.200", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("::", false),
            ("192.168.1.1", false),
            ("8.8.8.8", false),
        ] {
            assert_eq!(forbidden_address(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn which_redirects_are_followed() {
        let (a, b) = ("https://a.example/x", "https://b.example/");
        for (visited, location, expected) in [
            (vec![a], "/y", Ok("https://a.example/y")),
            (
                vec!["https://a.example/x/y"],
                "z?q",
                Ok("https://a.example/x/z?…"),
            ),
            (vec![a], b, Ok(b)),
            (vec![a], "//b.example/", Ok(b)),
            (vec!["http://a.example/x"], a, Ok(a)),
            (
                vec!["http://a.example/x"],
                "http://b.example/",
                Ok("http://b.example/"),
            ),
            (vec![a], "http://a.example/x", Err("https to http")),
            (vec![a], "/x", Err("in a loop")),
            (vec![a], "/x#y", Err("in a loop")),
            (vec![a, b], a, Err("in a loop")),
            (
                vec!["http://a.example/"],
                "http://169.254.169.254/",
                Err("metadata service"),
            ),
            (
                vec!["http://a.example/"],
                "http://u:p@b.example/",
                Err("with user info"),
            ),
            (
                vec!["http://a.example/"],
                "file:///etc/passwd",
                Err("scheme"),
            ),
            (vec!["http://a.example/"], "http://[", Err("no URL")),
        ] {
            let visited: Vec<_> = visited.into_iter().map(url).collect();
            match (Policy::HTTP_ALLOWED.redirect(&visited, location), expected) {
                (Ok(to), Ok(expected)) => assert_eq!(to.to_string(), expected),
                (Err(refusal), Err(part)) => {
                    assert!(refusal.to_string().contains(part), "{location}: {refusal}");
                }
                (found, _) => panic!("{location}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn five_redirects_are_followed_and_not_a_sixth() {
        let mut visited = vec![url("https://a.example/0")];
        for n in 1..=MAX_REDIRECTS {
            let to = Policy::HTTPS_ONLY.redirect(&visited, &format!("/{n}"));
            visited.push(to.unwrap());
        }
        assert_eq!(
            Policy::HTTPS_ONLY.redirect(&visited, "/6"),
            Err(PolicyRefusal::TooManyRedirects)
        );
    }

    #[test]
    fn a_refused_redirect_is_told_without_a_word_of_its_location() {
        for location in [
            "http://secret.example/secret?secret",
            "secret://secret",
            "https://secret@secret.example/",
            "https://169.254.77.77/secret",
            "http://[secret",
        ] {
            let visited = [url("https://a.example/secret?secret")];
            let refusal = Policy::HTTPS_ONLY.redirect(&visited, location).unwrap_err();
            let shown = refusal.to_string();
            assert!(shown.contains("a redirect leads"), "{shown}");
            assert!(
                !shown.contains("secret") && !shown.contains("77"),
                "{shown}"
            );
        }
    }

    proptest! {
        /// However it is written, what is followed passes the check, and never leaves TLS.
        #[test]
        fn what_is_followed_passes_the_check(location in "[ -~]{0,40}", https in any::<bool>()) {
            let from = url(if https { "https://a.example/x" } else { "http://a.example/x" });
            let policy = Policy::HTTP_ALLOWED;
            if let Ok(to) = policy.redirect(std::slice::from_ref(&from), &location) {
                prop_assert!(policy.check(&to).is_ok());
                prop_assert!(to.is_https() || !https);
                prop_assert_ne!(to, from);
            }
        }

        #[test]
        fn link_local_is_refused_in_every_form(low in any::<u16>(), prefix in 0_usize..5) {
            let v4 = Ipv4Addr::from(0xa9fe_0000 | u32::from(low));
            let prefix = ["", "::ffff:", "::", "64:ff9b::", "64:ff9b:1::"][prefix];
            let text = format!("{prefix}{v4}");
            prop_assert!(forbidden_address(text.parse().unwrap()), "{}", text);
        }

        /// Neither `Display` nor `Debug` shows what stands after the question mark.
        #[test]
        fn a_query_is_never_shown(path in "[a-z/]{0,10}", query in "[a-z]{0,3}SECRET[a-z=&]{0,3}") {
            let source = url(&format!("https://a.example/{path}?{query}#SECRET"));
            let shown = format!("{source} {source:?}");
            prop_assert!(!shown.contains("SECRET"), "{}", shown);
        }
    }
}
