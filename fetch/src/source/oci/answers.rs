//! What registries and token servers answer. Pure; the bytes come from a network.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;

use crate::{digest::is_digest, error::Fault, platform::Platform};

/// What manifests are asked for as: OCI's and Docker's, single and by platform.
pub(super) const MEDIA_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Longest token that is used, in bytes.
const MAX_TOKEN: usize = 32 << 10;

/// What a manifest leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The one for a platform: its digest.
    Manifest(String),
    /// The image.
    Layer(Layer),
}

/// A layer of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) digest: String,
    pub(super) size: u64,
}

/// Reads a manifest, or an index, in which the entry for the platform is looked for.
pub(super) fn read(bytes: &[u8], platform: Option<&Platform>) -> Result<Found, Fault> {
    /// What tells the two apart, whatever the media type says.
    #[derive(Deserialize)]
    struct Shape {
        manifests: Option<serde::de::IgnoredAny>,
    }
    let not_read = |_| Fault::NotAnArtifact {
        what: "what it sent is no manifest".to_owned(),
    };
    let shape: Shape = serde_json::from_slice(bytes).map_err(not_read)?;
    if shape.manifests.is_some() {
        let index: ImageIndex = serde_json::from_slice(bytes).map_err(not_read)?;
        choose(&index, platform).map(Found::Manifest)
    } else {
        let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(not_read)?;
        only_layer(&manifest).map(Found::Layer)
    }
}

fn choose(index: &ImageIndex, platform: Option<&Platform>) -> Result<String, Fault> {
    let entries = index.manifests().as_slice();
    let none = |why: String| Fault::NotAnArtifact {
        what: format!("its index has {} entries {why}", entries.len()),
    };
    // An index of one that does not say for what: made for one kind of machine.
    if let [only] = entries
        && (only.platform().is_none() || platform.is_none())
    {
        return sha256(only);
    }
    let platform = platform.ok_or_else(|| none("and no platform was asked for".to_owned()))?;
    let entry_for = |wanted: &Platform| {
        entries.iter().find(|entry| {
            entry.platform().as_ref().is_some_and(|p| {
                let (os, architecture) = (p.os().to_string(), p.architecture().to_string());
                wanted.takes(&os, &architecture, p.variant().as_deref())
            })
        })
    };
    // What is for every variant does for this one.
    let entry = entry_for(platform)
        .or_else(|| entry_for(&platform.without_variant()))
        .ok_or_else(|| none(format!("and none for {platform}")))?;
    sha256(entry)
}

fn only_layer(manifest: &ImageManifest) -> Result<Layer, Fault> {
    match manifest.layers().as_slice() {
        [layer] => Ok(Layer {
            digest: sha256(layer)?,
            size: layer.size(),
        }),
        layers => Err(Fault::NotAnArtifact {
            what: format!(
                "it has {} layers; expected is an artifact whose only layer is the image, as \
                 `oras push REGISTRY/REPOSITORY:TAG FILE` makes it",
                layers.len()
            ),
        }),
    }
}

fn sha256(entry: &Descriptor) -> Result<String, Fault> {
    let digest = entry.digest().to_string();
    if is_digest(&digest) {
        Ok(digest)
    } else {
        Err(Fault::NotAnArtifact {
            what: "it names a part by another digest than SHA-256".to_owned(),
        })
    }
}

/// The token in a token server's answer.
pub(super) fn token(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        /// The same under OAuth's name; some servers have only this one.
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn hex(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    fn amd64() -> Platform {
        "linux/amd64".parse().unwrap()
    }

    fn descriptor(digit: &str, platform: Option<(&str, &str)>) -> Value {
        let mut entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": hex(digit), "size": 7,
        });
        if let Some((os, architecture)) = platform {
            entry["platform"] = json!({"os": os, "architecture": architecture});
        }
        entry
    }

    fn index(entries: &[Value]) -> Vec<u8> {
        json!({"schemaVersion": 2, "manifests": entries})
            .to_string()
            .into_bytes()
    }

    fn manifest(layers: &[Value]) -> Vec<u8> {
        json!({"schemaVersion": 2, "config": descriptor("0", None), "layers": layers})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn what_a_manifest_leads_to() {
        let amd = descriptor("a", Some(("linux", "amd64")));
        let arm = descriptor("b", Some(("linux", "arm64")));
        let windows = descriptor("c", Some(("windows", "amd64")));
        let mut other_digest = descriptor("d", None);
        other_digest["digest"] = json!(format!("sha512:{}", "d".repeat(128)));
        let layer = |digit: &str| {
            Ok(Found::Layer(Layer {
                digest: hex(digit),
                size: 7,
            }))
        };
        for (bytes, expected) in [
            (manifest(&[descriptor("d", None)]), layer("d")),
            (
                index(&[windows.clone(), arm.clone(), amd.clone()]),
                Ok(Found::Manifest(hex("a"))),
            ),
            (
                index(&[descriptor("e", None)]),
                Ok(Found::Manifest(hex("e"))),
            ),
            (
                index(&[windows, arm]),
                Err("2 entries and none for linux/amd64"),
            ),
            (index(&[]), Err("0 entries")),
            (manifest(&[]), Err("0 layers")),
            (manifest(&[amd.clone(), amd]), Err("2 layers")),
            (manifest(&[other_digest]), Err("another digest")),
            (b"<html>".to_vec(), Err("no manifest")),
            (b"{}".to_vec(), Err("no manifest")),
            (b"[]".to_vec(), Err("no manifest")),
        ] {
            let text = String::from_utf8_lossy(&bytes);
            match (read(&bytes, Some(&amd64())), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(fault), Err(part)) => {
                    assert!(fault.to_string().contains(part), "{fault}: {text}");
                }
                (found, _) => panic!("{found:?}: {text}"),
            }
        }
    }

    #[test]
    fn the_entry_for_a_platform() {
        let entry = |digit: &str, architecture: &str, variant: Option<&str>| {
            let mut entry = descriptor(digit, Some(("linux", architecture)));
            if let Some(variant) = variant {
                entry["platform"]["variant"] = json!(variant);
            }
            entry
        };
        let any = entry("a", "arm", None);
        let v6 = entry("b", "arm", Some("v6"));
        let v7 = entry("c", "arm", Some("v7"));
        let v8 = entry("d", "arm64", Some("v8"));
        let all = index(&[v6.clone(), v7.clone(), v8, any]);
        for (entries, platform, expected) in [
            (&all, "linux/arm", Ok("a")),
            (&all, "linux/arm/v7", Ok("c")),
            (&all, "linux/arm/v5", Ok("a")),
            (&all, "linux/arm64", Ok("d")),
            (
                &index(&[v6.clone(), v7.clone()]),
                "linux/arm/v5",
                Err("none for linux/arm/v5"),
            ),
            (&all, "", Err("no platform was asked for")),
            (&index(&[v7]), "", Ok("c")),
        ] {
            let wanted = platform.parse().ok();
            match (read(entries, wanted.as_ref()), expected) {
                (Ok(found), Ok(digit)) => {
                    assert_eq!(found, Found::Manifest(hex(digit)), "{platform}");
                }
                (Err(fault), Err(part)) => assert!(fault.to_string().contains(part), "{fault}"),
                (found, _) => panic!("{found:?} for {platform}"),
            }
        }
    }

    #[test]
    fn tokens() {
        for (text, expected) in [
            (r#"{"token": "t", "expires_in": 300}"#, Some("t")),
            (r#"{"access_token": "a"}"#, Some("a")),
            (r#"{"token": ""}"#, None),
            (r#"{"token": 7}"#, None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(token(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read(&bytes, Some(&amd64())), read(&bytes, None), token(&bytes));
        }
    }
}
