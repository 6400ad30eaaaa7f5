//! A registry of container images without TLS, of one image: what the OCI distribution specification
//! asks of one for a pull.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use monok8s_fault_server::{Builder, Content, FaultServer, Request, Resource};
use serde_json::Value;
use tempfile::TempDir;

use crate::network::run;

/// A running registry. Dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    server: FaultServer,
    _blobs: TempDir,
}

impl Registry {
    /// Serves the image in an OCI archive as `repository` with `tag`, at this address.
    pub async fn start(
        address: Ipv4Addr,
        archive: &Path,
        repository: &str,
        tag: &str,
    ) -> Result<Self> {
        let folder = archive.parent().unwrap_or(Path::new("."));
        let blobs = tempfile::tempdir_in(folder).context("no folder for a registry")?;
        run(Command::new("tar")
            .arg("-C")
            .arg(blobs.path())
            .arg("-xf")
            .arg(archive))?;
        let index = read(&blobs.path().join("index.json"))?;
        let digest = digest(&index["manifests"][0])?;
        let base = format!("/v2/{repository}");
        let mut builder = FaultServer::builder().at("/v2/", Resource::new("{}"));
        let named = format!("{base}/manifests/{tag}");
        builder = manifest(builder, blobs.path(), &base, digest, Some(named))?;
        let server = builder
            .listen((address, 0).into())
            .start()
            .await
            .context("the registry cannot listen")?;
        Ok(Self {
            server,
            _blobs: blobs,
        })
    }

    /// Host and port, as they stand before an image's name.
    pub fn host(&self) -> String {
        self.server.address().to_string()
    }

    /// What was asked for so far.
    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }
}

/// Adds a manifest, or an index of some, and all that it names.
fn manifest(
    builder: Builder,
    blobs: &Path,
    base: &str,
    digest: &str,
    named: Option<String>,
) -> Result<Builder> {
    let file = blob(blobs, digest);
    let document = read(&file)?;
    let kind = document["mediaType"]
        .as_str()
        .context("a manifest without a kind")?;
    let bytes = fs::read(&file).context("a manifest is gone")?;
    let resource = Resource::new(bytes).content_type(kind);
    let mut builder = builder.at(&format!("{base}/manifests/{digest}"), resource.clone());
    if let Some(path) = named {
        builder = builder.at(&path, resource);
    }
    for inner in list(&document["manifests"]) {
        builder = manifest(builder, blobs, base, self::digest(inner)?, None)?;
    }
    let config = Some(&document["config"]).filter(|config| config.is_object());
    for part in config.into_iter().chain(list(&document["layers"])) {
        let digest = self::digest(part)?;
        let content = Content::file(blob(blobs, digest)).context("a blob is missing")?;
        builder = builder.at(&format!("{base}/blobs/{digest}"), Resource::new(content));
    }
    Ok(builder)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn digest(descriptor: &Value) -> Result<&str> {
    descriptor["digest"]
        .as_str()
        .context("a descriptor without a digest")
}

fn blob(folder: &Path, digest: &str) -> PathBuf {
    folder.join("blobs").join(digest.replace(':', "/"))
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))
}
