//! By what a file is recognised: within a run after a dropped connection, and by a later run after
//! this one was killed.

use serde::{Deserialize, Serialize};

use crate::{artifact::Artifact, digest, url::SourceUrl, validators::Validators};

/// What is known of the file being read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) validators: Validators,
    /// Length in bytes.
    pub(crate) total: Option<u64>,
}

impl Identity {
    /// Of a layer, wherever it comes from.
    pub(crate) fn of_layer(artifact: &Artifact) -> Self {
        Self {
            validators: Validators {
                etag: Some(format!("\"{}\"", artifact.layer)),
                last_modified: None,
            },
            total: Some(artifact.size),
        }
    }
}

/// What a source said of its file: to be kept with a checkpoint of what was made of the file, and
/// given back in [`Resume`].
///
/// A few hundred bytes. It holds no URL, whose query may be a key, but the URL's digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileIdentity {
    /// Digest of the URL that the file was asked for by, query included.
    pub source: String,
    /// What the server recognises its file by; of a file of this machine: its length and time of
    /// change.
    #[serde(default)]
    pub validators: Validators,
    /// Length in bytes, where the server told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// For a name in a registry: what it stood for. A later run asks for that, whatever the name
    /// has come to stand for since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
}

/// Where an earlier run had got to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Bytes of the file that the caller has made use of, and needs no more.
    pub at: u64,
    /// Which file that was: [`ImageBody::identity`](crate::ImageBody::identity) of that run.
    pub file: FileIdentity,
}

impl FileIdentity {
    pub(crate) fn new(url: &SourceUrl, identity: &Identity, artifact: Option<Artifact>) -> Self {
        Self {
            source: of_url(url),
            validators: identity.validators.clone(),
            total: identity.total,
            artifact,
        }
    }

    /// Whether it is of this source: asked for by this URL, or by the digest that this URL names.
    pub(crate) fn is_from(&self, url: &SourceUrl) -> bool {
        let artifact = self.artifact.as_ref();
        let pinned = artifact.is_some_and(|a| url.pinned_digest() == Some(&*a.digest));
        pinned || self.source == of_url(url)
    }

    pub(crate) fn as_identity(&self) -> Identity {
        Identity {
            validators: self.validators.clone(),
            total: self.total,
        }
    }
}

fn of_url(url: &SourceUrl) -> String {
    digest::of(url.full().as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_known_by_its_digest_too() {
        let tag: SourceUrl = "oci://registry.example/a:t".parse().unwrap();
        let artifact = Artifact {
            digest: digest::of(b"index"),
            layer: digest::of(b"layer"),
            size: 100,
        };
        let identity = Identity::of_layer(&artifact);
        let kept = FileIdentity::new(&tag, &identity, Some(artifact));
        for (reference, expected) in [
            (":t".to_owned(), true),
            (format!("@{}", digest::of(b"index")), true),
            // The tag alone says nothing.
            (":other".to_owned(), false),
            (format!("@{}", digest::of(b"layer")), false),
        ] {
            let url = format!("oci://registry.example/a{reference}");
            assert_eq!(kept.is_from(&url.parse().unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn is_kept_as_text_and_shows_no_query() {
        let url: SourceUrl = "https://a.example/i?key=secret".parse().unwrap();
        let identity = Identity {
            validators: Validators {
                etag: Some("\"a\"".into()),
                last_modified: None,
            },
            total: Some(100),
        };
        let artifact = Artifact {
            digest: digest::of(b"index"),
            layer: digest::of(b"layer"),
            size: 100,
        };
        for artifact in [None, Some(artifact)] {
            let kept = FileIdentity::new(&url, &identity, artifact);
            let text = serde_json::to_string(&kept).unwrap();
            assert!(!text.contains("secret") && text.len() < 600, "{text}");
            assert_eq!(serde_json::from_str::<FileIdentity>(&text).unwrap(), kept);
            assert!(kept.is_from(&url));
            // What the query says may make it another file.
            assert!(!kept.is_from(&"https://a.example/i".parse().unwrap()));
        }
        // Another release may know more, or have known less.
        let other: FileIdentity =
            serde_json::from_str(r#"{"source": "sha256:0", "novelty": 1}"#).unwrap();
        assert_eq!(other.as_identity(), Identity::default());
    }
}
