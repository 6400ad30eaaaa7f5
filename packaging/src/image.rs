//! What describes the layer: the image's configuration, its manifest, and the index over both machines.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use oci_spec::image::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_LICENSES, ANNOTATION_REF_NAME,
    ANNOTATION_REVISION, ANNOTATION_TITLE, ANNOTATION_VERSION, ConfigBuilder, Descriptor,
    DescriptorBuilder, HistoryBuilder, ImageConfigurationBuilder, ImageIndex, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder, Sha256Digest,
};
use serde::Serialize;

use crate::{archive::Blob, digest::Digest, layer::Layer, platform::Platform, rootfs::USER};

/// What the labels say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The full name, such as `localhost/monok8s/ota:local`.
    pub name: String,
    /// The programs' version.
    pub version: String,
    /// The commit that was built, when it is known.
    pub revision: Option<String>,
    /// When the source was last changed: the time of every file, in seconds since 1970.
    pub epoch: u64,
}

impl About {
    /// `epoch` as RFC 3339 writes it.
    pub fn created(&self) -> Result<String> {
        let seconds = i64::try_from(self.epoch).context("SOURCE_DATE_EPOCH")?;
        let time = jiff::Timestamp::from_second(seconds).context("SOURCE_DATE_EPOCH")?;
        Ok(time.to_string())
    }

    /// The `org.opencontainers.image` labels.
    fn labels(&self) -> Result<HashMap<String, String>> {
        let mut labels = HashMap::from([
            (ANNOTATION_TITLE.to_owned(), "MonoK8s OTA".to_owned()),
            (
                ANNOTATION_DESCRIPTION.to_owned(),
                "Upgrades of the operating system of Kubernetes nodes: node-agent, controller, ctl"
                    .to_owned(),
            ),
            (ANNOTATION_VERSION.to_owned(), self.version.clone()),
            (ANNOTATION_LICENSES.to_owned(), "Apache-2.0".to_owned()),
            (ANNOTATION_CREATED.to_owned(), self.created()?),
        ]);
        if let Some(revision) = &self.revision {
            labels.insert(ANNOTATION_REVISION.to_owned(), revision.clone());
        }
        Ok(labels)
    }
}

/// One machine's image.
#[derive(Clone, Debug)]
pub struct Image {
    described: Descriptor,
    config: Blob,
    manifest: Blob,
}

impl Image {
    /// By which a registry knows it.
    pub fn manifest_digest(&self) -> &Digest {
        self.manifest.digest()
    }
}

/// What gives the image its name.
#[derive(Clone, Debug)]
pub struct Index {
    /// `index.json`.
    pub document: serde_json::Value,
    /// The digest that the name stands for.
    pub image: String,
    /// Configurations, manifests and, for several machines, the index over them.
    pub blobs: Vec<Blob>,
}

/// Describes `layer` as the image for `platform`.
pub fn describe(about: &About, platform: Platform, layer: &Layer) -> Result<Image> {
    let created = about.created()?;
    let run = ConfigBuilder::default()
        .user(format!("{USER}:{USER}"))
        .env(vec!["PATH=/usr/bin".to_owned()])
        .working_dir("/")
        .cmd(vec!["ctl".to_owned(), "--help".to_owned()])
        .labels(about.labels()?)
        .build()?;
    let config = ImageConfigurationBuilder::default()
        .created(created.clone())
        .architecture(platform.arch())
        .os(Os::Linux)
        .config(run)
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids(vec![layer.content.prefixed()])
                .build()?,
        )
        .history(vec![
            HistoryBuilder::default()
                .created(created)
                .created_by("make container")
                .build()?,
        ])
        .build()?;
    let config = Blob::json(&sorted(&config)?)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(MediaType::ImageConfig, config.digest())?)
        .layers(vec![descriptor(MediaType::ImageLayerZstd, &layer.blob)?])
        .annotations(about.labels()?)
        .build()?;
    let manifest = Blob::json(&sorted(&manifest)?)?;
    let mut described = descriptor(MediaType::ImageManifest, manifest.digest())?;
    described.set_platform(Some(
        PlatformBuilder::default()
            .architecture(platform.arch())
            .os(Os::Linux)
            .build()?,
    ));
    Ok(Image {
        described,
        config,
        manifest,
    })
}

/// The archive's index: for one machine its manifest is the image, for several an index over their manifests.
pub fn index(about: &About, images: Vec<Image>) -> Result<Index> {
    let mut manifests = Vec::new();
    let mut blobs = Vec::new();
    for image in images {
        manifests.push(image.described);
        blobs.extend([image.config, image.manifest]);
    }
    let mut top = match <[Descriptor; 1]>::try_from(manifests) {
        Ok([one]) => one,
        Err(manifests) => {
            let all = Blob::json(&sorted(&index_over(manifests)?)?)?;
            let top = descriptor(MediaType::ImageIndex, all.digest())?;
            blobs.push(all);
            top
        }
    };
    // The first is read by containerd, the second by podman, skopeo and the OCI tools.
    top.set_annotations(Some(HashMap::from([
        ("io.containerd.image.name".to_owned(), about.name.clone()),
        (ANNOTATION_REF_NAME.to_owned(), about.name.clone()),
    ])));
    let image = top.digest().to_string();
    Ok(Index {
        document: sorted(&index_over(vec![top])?)?,
        image,
        blobs,
    })
}

fn index_over(manifests: Vec<Descriptor>) -> Result<ImageIndex> {
    Ok(ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()?)
}

fn descriptor(kind: MediaType, digest: &Digest) -> Result<Descriptor> {
    let sha: Sha256Digest = digest.hex.parse()?;
    Ok(DescriptorBuilder::default()
        .media_type(kind)
        .digest(sha)
        .size(digest.size)
        .build()?)
}

/// With its keys in order: the types keep labels in a map without one, and the digest must not depend on chance.
fn sorted(value: &impl Serialize) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(value)
}
