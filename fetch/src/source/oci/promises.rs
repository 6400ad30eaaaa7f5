//! What must hold of everything a registry, or whoever poses as one, can say. Shared by the fuzz
//! targets (`fuzz/`) and the tests that replay their seeds.
#![allow(
    clippy::missing_panics_doc,
    reason = "each panics when its promise is broken"
)]

use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};

use super::{
    answers::{self, Found},
    challenge::Challenge,
    name::Name,
};
use crate::{
    error::Fault,
    platform::Platform,
    url::{Scheme, SourceUrl},
};

/// Longest message that may come of an answer, whose parts may get into it.
const MAX_MESSAGE: usize = 512;

/// A manifest or index: it is refused, or leads to a digest that makes a URL of the same
/// repository.
pub fn manifest(bytes: &[u8]) {
    for platform in ["", "linux/amd64", "linux/arm/v7"] {
        let platform: Option<Platform> = platform.parse().ok();
        match answers::read(bytes, platform.as_ref()) {
            Ok(Found::Manifest(digest)) => stays_in_the_repository(&digest),
            Ok(Found::Layer(layer)) => stays_in_the_repository(&layer.digest),
            Err(fault) => {
                assert!(matches!(fault, Fault::NotAnArtifact { .. }), "{fault:?}");
                let message = fault.to_string();
                assert!(message.len() <= MAX_MESSAGE, "{message}");
                assert!(!message.contains(char::is_control), "{message:?}");
            }
        }
    }
}

fn stays_in_the_repository(digest: &str) {
    let url: Result<SourceUrl, _> = "oci://registry.example/a/b:t".parse();
    let blob = url
        .and_then(|url| Name::of(&url))
        .and_then(|name| name.blob(digest));
    let expected = format!("https://registry.example/v2/a/b/blobs/{digest}");
    assert_eq!(blob.map(|url| url.full().to_string()), Ok(expected));
}

/// A token server's answer: no token, or one of a size that fits into a request.
pub fn token(bytes: &[u8]) {
    if let Some(token) = answers::token(bytes) {
        assert!((1..=32 << 10).contains(&token.len()), "{}", token.len());
    }
}

/// A `WWW-Authenticate` field: what is asked of the server it leads to is to pull from this
/// repository and nothing else.
pub fn challenge(field: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(field) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(WWW_AUTHENTICATE, value);
    let Some(url) = Challenge::of(&headers).and_then(|challenge| challenge.url("a/b")) else {
        return;
    };
    assert!(matches!(url.scheme(), Scheme::Https | Scheme::Http));
    let asked: Vec<(String, String)> = url
        .full()
        .query_pairs()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let (last, before) = asked
        .split_last()
        .map_or((None, &[][..]), |(l, b)| (Some(l), b));
    let scope = ("scope".to_owned(), "repository:a/b:pull".to_owned());
    assert_eq!(last, Some(&scope), "{asked:?}");
    assert!(before.len() <= 1, "{asked:?}");
    assert!(
        before.iter().all(|(name, _)| name == "service"),
        "{asked:?}"
    );
}

/// An `oci` URL, as a catalog writes it: refused, or all that is asked for is below the
/// repository's path at its registry.
pub fn name(text: &str) {
    let Ok(url) = text.parse::<SourceUrl>() else {
        return;
    };
    let Ok(name) = Name::of(&url) else {
        return;
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    let below = format!("{}/v2/{}/", name.origin(), name.repository());
    for asked in [name.manifest(name.reference()), name.blob(&digest)] {
        let asked = asked.map(|url| url.full().to_string());
        assert!(
            asked.as_ref().is_ok_and(|asked| asked.starts_with(&below)),
            "{asked:?} {below}"
        );
    }
    let pinned = name.pinned(&digest);
    let again = pinned.clone().and_then(|url| Name::of(&url));
    assert!(
        again.is_ok_and(|again| again.repository() == name.repository()),
        "{pinned:?}"
    );
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// The seeds of a target, also broken off and damaged at every place.
    fn replay(target: &str, promise: impl Fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut count = 0;
        for entry in fs::read_dir(corpus).unwrap() {
            let seed = fs::read(entry.unwrap().path()).unwrap();
            promise(&seed);
            for at in 0..seed.len() {
                promise(&seed[..at]);
                let mut damaged = seed.clone();
                damaged[at] ^= 0x15;
                promise(&damaged);
            }
            count += 1;
        }
        assert!(count >= 4, "{count} seeds of {target}");
    }

    #[test]
    fn hold_for_the_seeds_of_the_fuzz_targets() {
        replay("manifest", manifest);
        replay("token", token);
        replay("challenge", challenge);
        replay("name", |bytes| name(&String::from_utf8_lossy(bytes)));
    }
}
