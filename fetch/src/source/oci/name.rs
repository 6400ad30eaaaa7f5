//! `oci://HOST/REPOSITORY:TAG` and `oci://HOST/REPOSITORY@sha256:HEX`. Pure.

use crate::{digest::is_digest, refusal::PolicyRefusal, url::SourceUrl};

/// A name in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// `https://` and the host, as the URLs below it are written: in small letters, without a port
    /// that is https's own.
    origin: String,
    repository: String,
    reference: Reference,
}

/// Which of a repository's manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    /// The one that a tag points to at the moment.
    Tag(String),
    /// The one with this digest, `sha256:` and 64 hex digits.
    Digest(String),
}

impl Name {
    /// The name that a URL spells (the grammar of the distribution specification, "Pulling
    /// manifests").
    pub(super) fn of(url: &SourceUrl) -> Result<Self, PolicyRefusal> {
        let refused = PolicyRefusal::NotAnArtifactName;
        let place = url.origin();
        let host = place.strip_prefix("oci://").ok_or(refused.clone())?;
        let path = url.full().path();
        let path = path.strip_prefix('/').ok_or(refused.clone())?;
        let (repository, reference) = if let Some((repository, digest)) = path.split_once('@') {
            (repository, Reference::Digest(digest.to_owned()))
        } else {
            let (repository, tag) = path.rsplit_once(':').ok_or(refused.clone())?;
            (repository, Reference::Tag(tag.to_owned()))
        };
        let is_reference = match &reference {
            Reference::Tag(tag) => is_tag(tag),
            Reference::Digest(digest) => is_digest(digest),
        };
        if !is_repository(repository) || !is_reference {
            return Err(refused);
        }
        // The host of a scheme that the URL's parser does not know is not looked into by it.
        let origin = format!("https://{host}/")
            .parse::<SourceUrl>()
            .map_err(|_| refused)?
            .origin();
        Ok(Self {
            origin,
            repository: repository.to_owned(),
            reference,
        })
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    pub(super) fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The name of what a digest stands for in the same repository, as a URL.
    pub(super) fn pinned(&self, digest: &str) -> Result<SourceUrl, PolicyRefusal> {
        let host = self.origin.strip_prefix("https://").unwrap_or_default();
        format!("oci://{host}/{}@{digest}", self.repository).parse()
    }

    /// Where a manifest is.
    pub(super) fn manifest(&self, reference: &Reference) -> Result<SourceUrl, PolicyRefusal> {
        let (Reference::Tag(reference) | Reference::Digest(reference)) = reference;
        self.endpoint("manifests", reference)
    }

    /// Where a layer is.
    pub(super) fn blob(&self, digest: &str) -> Result<SourceUrl, PolicyRefusal> {
        self.endpoint("blobs", digest)
    }

    fn endpoint(&self, kind: &str, reference: &str) -> Result<SourceUrl, PolicyRefusal> {
        format!("{}/v2/{}/{kind}/{reference}", self.origin, self.repository).parse()
    }
}

/// Parts of small letters and digits, between which there may be single dots, one or two
/// underscores, or dashes; at most 255 characters.
fn is_repository(text: &str) -> bool {
    let is_part = |part: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let between = part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .filter(|between| !between.is_empty());
        part.bytes().next().is_some_and(plain)
            && part.bytes().last().is_some_and(plain)
            && between
                .into_iter()
                .all(|b| matches!(b, "." | "_" | "__") || b.bytes().all(|b| b == b'-'))
    };
    text.len() <= 255 && text.split('/').all(is_part)
}

fn is_tag(text: &str) -> bool {
    let first = text.bytes().next();
    text.len() <= 128
        && first.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        let by_digest = format!("oci://[fd00::1]:5000/a@{digest}");
        for (text, origin, repository, reference) in [
            (
                "oci://Registry.example/monok8s/rootfs:v1.35.1",
                "https://registry.example",
                "monok8s/rootfs",
                Reference::Tag("v1.35.1".into()),
            ),
            (
                "oci://localhost:5000/a__b.c--d/e:Latest_1",
                "https://localhost:5000",
                "a__b.c--d/e",
                Reference::Tag("Latest_1".into()),
            ),
            (
                "oci://registry.example:443/a:t",
                "https://registry.example",
                "a",
                Reference::Tag("t".into()),
            ),
            (
                &by_digest,
                "https://[fd00::1]:5000",
                "a",
                Reference::Digest(digest.clone()),
            ),
        ] {
            let name = Name::of(&text.parse().unwrap()).unwrap();
            assert_eq!(name.origin(), origin, "{text}");
            assert_eq!(name.repository(), repository);
            assert_eq!(*name.reference(), reference);
            let pinned = name.pinned(&digest).unwrap();
            assert_eq!(pinned.pinned_digest(), Some(&*digest), "{pinned}");
            assert_eq!(Name::of(&pinned).unwrap().repository(), repository);
            assert_eq!(Name::of(&pinned).unwrap().origin(), name.origin());
            let manifest = name.manifest(name.reference()).unwrap();
            assert!(manifest.is_https(), "{manifest}");
            assert!(manifest.to_string().contains("/v2/"), "{manifest}");
        }
    }

    #[test]
    fn what_is_no_host() {
        for host in [
            "registry.%19xample",
            "registry%2fexample",
            "u%40registry.example",
        ] {
            let url = format!("oci://{host}/a:t").parse().unwrap();
            let refused = Name::of(&url).unwrap_err();
            assert_eq!(refused, PolicyRefusal::NotAnArtifactName, "{host}");
        }
    }

    #[test]
    fn what_is_no_name() {
        for path in [
            "",
            "/",
            "/a",
            "/:tag",
            "/A:tag",
            "/a/:tag",
            "/a//b:tag",
            "/-a:tag",
            "/a___b:tag",
            "/a..b:tag",
            "/a:",
            "/a:.tag",
            "/a:t%20",
            "/a@sha256:0f",
            "/a@sha512:0f",
            "/a:tag@sha256:0f",
        ] {
            let url = format!("oci://registry.example{path}").parse().unwrap();
            let refused = Name::of(&url).unwrap_err();
            assert_eq!(refused, PolicyRefusal::NotAnArtifactName, "{path}");
        }
    }
}
