//! `WWW-Authenticate: Bearer realm="…",service="…"` (RFC 9110, section 11.6.1, as registries use it:
//! <https://distribution.github.io/distribution/spec/auth/token/>). Pure.

use http::{HeaderMap, header::WWW_AUTHENTICATE};
use url::Url;

use crate::url::SourceUrl;

/// Longest header field that is looked at, in bytes.
const MAX_LENGTH: usize = 4_096;

/// Where a token is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    /// The first challenge for a bearer token in an answer.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .filter(|value| value.len() <= MAX_LENGTH)
            .find_map(Self::parse)
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, parameters) = text.trim_start().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        let mut rest = parameters.trim_start();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = value(after)?;
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if after.is_empty() => "",
                None => return None,
            };
        }
        Some(Self {
            realm: realm?,
            service,
        })
    }

    /// The URL that gives a token for pulling from a repository. What the registry proposes as
    /// scope, or has written into the realm, is not asked for: it could be more.
    pub(super) fn url(&self, repository: &str) -> Option<SourceUrl> {
        let mut url = Url::parse(&self.realm).ok()?;
        url.set_query(None);
        let mut query = url.query_pairs_mut();
        if let Some(service) = &self.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &format!("repository:{repository}:pull"));
        drop(query);
        url.as_str().parse().ok()
    }
}

/// A quoted string or a token, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges() {
        for (text, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull,push""#,
                Some(
                    "https://auth.example/token?service=registry.example&scope=repository%3Aa%3Apull",
                ),
            ),
            (
                r#"bearer  service=x, realm="https://auth.example/\"t\"" , error="invalid_token""#,
                Some("https://auth.example/%22t%22?service=x&scope=repository%3Aa%3Apull"),
            ),
            (
                r#"Bearer realm="https://auth.example/t?scope=repository:secret:pull&service=y",service="x""#,
                Some("https://auth.example/t?service=x&scope=repository%3Aa%3Apull"),
            ),
            (
                "Bearer realm=https://a.example",
                Some("https://a.example/?scope=repository%3Aa%3Apull"),
            ),
            (r#"Basic realm="registry""#, None),
            (r#"Bearer service="x""#, None),
            (r#"Bearer realm="unfinished"#, None),
            (r#"Bearer realm="a" nonsense"#, None),
            ("Bearer", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, text.parse().unwrap());
            let url = Challenge::of(&headers).and_then(|c| c.url("a"));
            let url = url.map(|url| url.full().to_string());
            assert_eq!(url.as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in "(Bearer )?[ -~]{0,60}") {
            let _ = Challenge::parse(&text).and_then(|c| c.url("a"));
        }
    }
}
