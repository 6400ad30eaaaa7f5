//! An artifact in an OCI registry whose only layer is the image
//! (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md>).
//!
//! The name is resolved once: tag, index, manifest, layer. From there on the layer is a file on an
//! HTTP server like any other, with its ranges and faults. A registry answers 401 with the address
//! of a server that gives out tokens, to anybody for what is public, and for the rest to who shows
//! credentials there. The address is the registry's choice and it sees the token, so credentials
//! are shown there only when they name the registry as well: any other registry could have another
//! one's tokens fetched for it. A token goes to the registry that asked for it and to no storage that the
//! registry redirects to.
//!
//! The layer is recognised by its digest and not by what the storage calls it, which need not be
//! the same at each of its addresses. Whether its bytes have that digest is checked by
//! [`ImageBody`](crate::ImageBody) while they pass.

mod answers;
mod challenge;
mod name;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(feature = "fuzzing"),
    allow(unreachable_pub, reason = "the fuzz targets reach it")
)]
pub mod promises;

use std::sync::Mutex;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, AUTHORIZATION},
};
use reqwest::Response;
use tokio::time::timeout;

use crate::{
    artifact::Artifact,
    client::Client,
    digest,
    error::{Fault, Progress},
    exchange::Proof,
    identity::Identity,
    platform::Platform,
    refusal::PolicyRefusal,
    resume::{content_length, status_fault},
    source::Question,
    url::SourceUrl,
};
use answers::Found;
use challenge::Challenge;
use name::{Name, Reference};

/// Largest manifest that is read, in bytes; the least that a registry must take.
const MAX_MANIFEST: u64 = 4 << 20;
/// Largest answer of a token server that is read, in bytes.
const MAX_TOKEN_ANSWER: u64 = 64 << 10;

/// One source in a registry, and what has been learnt of it.
pub(crate) struct Session {
    platform: Option<Platform>,
    learnt: Mutex<Learnt>,
}

#[derive(Default)]
struct Learnt {
    artifact: Option<Artifact>,
    token: Option<Proof>,
}

impl Session {
    /// `artifact` is what the name stood for in an earlier run.
    pub(super) fn new(platform: Option<&Platform>, artifact: Option<&Artifact>) -> Self {
        Self {
            platform: platform.cloned(),
            learnt: Mutex::new(Learnt {
                // From a disk: its digest becomes a part of a path.
                artifact: artifact
                    .filter(|artifact| digest::is_digest(&artifact.layer))
                    .cloned(),
                token: None,
            }),
        }
    }

    pub(super) fn artifact(&self) -> Option<Artifact> {
        self.learnt().artifact.clone()
    }

    /// The name with the digest of what it stood for in place of its tag.
    pub(super) fn pinned(&self, url: &SourceUrl) -> Option<SourceUrl> {
        let artifact = self.artifact()?;
        Name::of(url).ok()?.pinned(&artifact.digest).ok()
    }

    fn learnt(&self) -> std::sync::MutexGuard<'_, Learnt> {
        self.learnt
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Asks for the layer, or for the rest of it, and tells what it is known by.
    pub(super) async fn ask(
        &self,
        client: &Client,
        url: &SourceUrl,
        from: u64,
    ) -> Result<(Response, Identity), Fault> {
        let name = Name::of(url)?;
        let artifact = if let Some(artifact) = self.artifact() {
            artifact
        } else {
            let artifact = self.resolve(client, &name).await?;
            tracing::info!(%url, digest = artifact.digest, layer = artifact.layer, "resolved");
            self.learnt().artifact = Some(artifact.clone());
            artifact
        };
        let blob = name.blob(&artifact.layer)?;
        let headers = Question::from(from).headers();
        let response = self.authorized(client, &name, &blob, headers).await?;
        let promised = content_length(response.headers());
        if response.status() == StatusCode::OK && promised.is_some_and(|l| l != artifact.size) {
            return Err(Fault::Protocol {
                what: "a layer of another length than its manifest says",
            });
        }
        Ok((response, Identity::of_layer(&artifact)))
    }

    async fn resolve(&self, client: &Client, name: &Name) -> Result<Artifact, Fault> {
        let (digest, bytes) = self.manifest(client, name, name.reference()).await?;
        let platform = self.platform.as_ref();
        let layer = match answers::read(&bytes, platform)? {
            Found::Layer(layer) => layer,
            Found::Manifest(of_platform) => {
                let reference = Reference::Digest(of_platform);
                let (_, bytes) = self.manifest(client, name, &reference).await?;
                match answers::read(&bytes, platform)? {
                    Found::Layer(layer) => layer,
                    Found::Manifest(_) => {
                        return Err(Fault::NotAnArtifact {
                            what: "an index within an index".to_owned(),
                        });
                    }
                }
            }
        };
        Ok(Artifact {
            digest,
            layer: layer.digest,
            size: layer.size,
        })
    }

    /// A manifest or index, proven by its digest where it was asked for by one, and its digest.
    async fn manifest(
        &self,
        client: &Client,
        name: &Name,
        reference: &Reference,
    ) -> Result<(String, Vec<u8>), Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(answers::MEDIA_TYPES));
        let url = name.manifest(reference)?;
        let response = self.authorized(client, name, &url, headers).await?;
        let bytes = whole(client, response, MAX_MANIFEST).await?;
        let digest = digest::of(&bytes);
        match reference {
            Reference::Digest(expected) if *expected != digest => Err(Fault::WrongDigest {
                what: "manifest",
                expected: expected.clone(),
                found: digest,
            }),
            _ => Ok((digest, bytes)),
        }
    }

    /// Asks with the token that there is; with a new one when the registry wants that.
    async fn authorized(
        &self,
        client: &Client,
        name: &Name,
        url: &SourceUrl,
        headers: HeaderMap,
    ) -> Result<Response, Fault> {
        let token = self.learnt().token.clone();
        let response = client.ask_as(url, headers.clone(), token.as_ref()).await?;
        let from_registry = response.url().origin() == url.full().origin();
        if response.status() != StatusCode::UNAUTHORIZED || !from_registry {
            return Ok(response);
        }
        let Some(challenge) = Challenge::of(response.headers()) else {
            return Ok(response);
        };
        let trusted = client.has_credentials_for(url);
        let asking = if trusted {
            client
        } else {
            &client.without_credentials()
        };
        let token = token_for(asking, name, &challenge).await?;
        self.learnt().token = Some(token.clone());
        client.ask_as(url, headers, Some(&token)).await
    }
}

/// A token for reading a repository.
async fn token_for(client: &Client, name: &Name, challenge: &Challenge) -> Result<Proof, Fault> {
    let realm: SourceUrl = challenge.url(name.repository()).ok_or(Fault::Protocol {
        what: "a challenge that leads to no token server",
    })?;
    if !realm.is_https() {
        return Err(PolicyRefusal::InsecureTokenServer.into());
    }
    let response = client.ask(&realm, HeaderMap::new()).await?;
    let bytes = whole(client, response, MAX_TOKEN_ANSWER).await?;
    let token = answers::token(&bytes).ok_or(Fault::Protocol {
        what: "a token server that gives no token",
    })?;
    let mut value =
        HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Fault::Protocol {
            what: "a token that fits into no header",
        })?;
    value.set_sensitive(true);
    Ok(Proof {
        origin: name.origin().to_owned(),
        header: AUTHORIZATION,
        value,
    })
}

/// A small answer as a whole.
async fn whole(client: &Client, response: Response, limit: u64) -> Result<Vec<u8>, Fault> {
    if response.status() != StatusCode::OK {
        return Err(status_fault(response.status(), response.headers()));
    }
    let after = client.timing.document;
    let mut progress = Progress::default();
    match timeout(after, client.read(response, limit, &mut progress)).await {
        Ok(document) => Ok(document?.bytes.to_vec()),
        Err(_) => Err(Fault::TimedOut { after }),
    }
}
