//! The images of a cluster, on the server that its nodes and its catalogs take them from.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    image_server::ImageServer,
    images::{self, Image, RootFs},
};

/// Images by version, each of them served.
#[derive(Debug)]
pub struct ServedImages {
    server: ImageServer,
    folder: PathBuf,
    usual: RootFs,
    images: BTreeMap<String, Image>,
}

impl ServedImages {
    /// None yet. They will be made in `folder`, by default of what `usual` has but its version.
    pub fn new(server: ImageServer, folder: &Path, usual: RootFs) -> Self {
        Self {
            server,
            folder: folder.to_path_buf(),
            usual,
            images: BTreeMap::new(),
        }
    }

    /// Their server.
    pub fn server(&self) -> &ImageServer {
        &self.server
    }

    /// The image of a version.
    pub fn image(&self, version: &str) -> Result<&Image> {
        self.images.get(version).with_context(|| {
            let known: Vec<_> = self.images.keys().map(String::as_str).collect();
            format!(
                "there is no image of {version}, only of {}",
                known.join(", ")
            )
        })
    }

    /// Makes the usual image of a version and serves it.
    pub fn add_usual(&mut self, version: &str) -> Result<&Image> {
        let root = RootFs {
            version: version.to_owned(),
            ..self.usual.clone()
        };
        self.add(&root)
    }

    /// Makes a further image and serves it, in place of one of the same version.
    pub fn add(&mut self, root: &RootFs) -> Result<&Image> {
        let folder = &self.folder;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let image = images::build(folder, root)?;
        self.server.publish_image(&image)?;
        self.images.insert(root.version.clone(), image);
        self.image(&root.version)
    }

    /// The path of a version's image on the server.
    pub fn path(&self, version: &str) -> Result<String> {
        Ok(format!("/{}", self.image(version)?.file_name()))
    }

    /// The text of a catalog of these versions as served, with the last one as `stable`.
    pub fn catalog(&self, versions: &[&str]) -> Result<String> {
        let entry =
            |version: &&str| Ok((self.image(version)?, self.server.url(&self.path(version)?)));
        let entries = versions.iter().map(entry).collect::<Result<Vec<_>>>()?;
        Ok(images::catalog(&entries, versions.last().copied(), &[]))
    }
}
