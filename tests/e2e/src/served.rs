//! An image on the image server under a path of a case's own, so that faults and requests are that
//! case's alone, and the objects that ask for it.

use anyhow::{Context, Result};
use monok8s_sandbox::{
    cluster::Cluster,
    image_server::{Content, Fault},
    images::Image,
    wait,
};
use serde_json::{Value, json};

use crate::objects::{self, LIMIT, entry};

/// A case's image as it is served.
pub struct Served<'a> {
    cluster: &'a Cluster,
    /// The case: its node, its label, its objects and its folder on the server are named after it.
    case: &'a str,
    image: &'a Image,
    path: String,
}

impl<'a> Served<'a> {
    /// Serves the cluster's image of `version` for a case.
    pub fn new(cluster: &'a Cluster, case: &'a str, version: &str) -> Result<Self> {
        let image = cluster.image(version)?;
        let content = Content::file(&image.file)
            .with_context(|| format!("cannot serve {}", image.file.display()))?;
        let path = format!("/{case}/rootfs.ext4.zst");
        cluster.image_server().publish(&path, content);
        Ok(Self {
            cluster,
            case,
            image,
            path,
        })
    }

    /// The same, answering every request with a fault until it is [cured](Self::cure).
    pub fn faulty(
        cluster: &'a Cluster,
        case: &'a str,
        version: &str,
        fault: Fault,
    ) -> Result<Self> {
        let served = Self::new(cluster, case, version)?;
        cluster.image_server().fault(&served.path, fault);
        Ok(served)
    }

    /// The image.
    pub fn image(&self) -> &Image {
        self.image
    }

    /// Its path on the server.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.cluster.image_server().url(&self.path)
    }

    /// Answers the next requests with one of these faults each.
    pub fn fault_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.cluster.image_server().fault_next(&self.path, faults);
    }

    /// Ends the fault, for requests to come.
    pub fn cure(&self) {
        self.cluster.image_server().cure(&self.path);
    }

    /// How often it was asked for.
    pub fn asked(&self) -> usize {
        let requests = self.cluster.image_server().requests();
        requests.iter().filter(|r| r.path() == self.path).count()
    }

    /// Waits until it was asked for so often.
    pub async fn wait_asked(&self, times: usize) -> Result<()> {
        let what = format!("request number {times} for {}", self.path);
        wait::until(&what, LIMIT, || async {
            Ok((self.asked() >= times).then_some(()))
        })
        .await
    }

    /// A catalog of this image alone.
    pub fn catalog(&self) -> String {
        let (image, size) = (self.image, Some(self.image.size));
        let entry = entry(&image.version, &self.url(), &image.file_sha256, size);
        format!("images:\n{entry}")
    }

    /// An OSUpgrade to it, named after the case, for the case's node.
    pub fn upgrade(&self) -> Value {
        let catalog = objects::inline(self.catalog());
        objects::upgrade(self.case, &self.image.version, self.case, &catalog)
    }

    /// Applies [`upgrade`](Self::upgrade).
    pub async fn begin_upgrade(&self) -> Result<()> {
        objects::apply(&self.cluster.kubectl(), &self.upgrade()).await
    }

    /// A progress by hand, named after the case, for the case's node.
    pub fn progress(&self, release: &str) -> Value {
        objects::progress(self.case, self.case, self.image, &self.url(), release)
    }

    /// Applies such a progress, and a source that selects no node: see [`objects::by_hand`].
    pub async fn begin(&self, release: &str) -> Result<()> {
        self.begin_with(release, &json!({})).await
    }

    /// The same, with more in its spec.
    pub async fn begin_with(&self, release: &str, more: &Value) -> Result<()> {
        let (case, url) = (self.case, self.url());
        let progress = objects::by_hand(case, case, self.image, &url, release, more);
        objects::apply(&self.cluster.kubectl(), &progress).await
    }
}
