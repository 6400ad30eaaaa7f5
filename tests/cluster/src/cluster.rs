//! Everything at once: the control plane, the switch, an image server and the nodes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kube::Client;
use monok8s_sandbox::{
    assets::{Assets, PodAssets},
    control_plane::{ControlPlane, Options, PodOptions},
    image_server::ImageServer,
    images::{Image, RootFs},
    kubectl::Kubectl,
    scratch,
    served_images::ServedImages,
};
use tempfile::TempDir;

use crate::{
    address::Part,
    container_image,
    control_groups::ControlGroups,
    network::Switch,
    node::{Node, Parts},
    product,
    registry::Registry,
    requirements,
    runtime::Runtime,
};

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// The version they begin with.
    pub version: String,
    /// Versions whose images are made and served, besides.
    pub images: Vec<String>,
    /// Expanded size of an image in bytes.
    pub image_size: u64,
    /// Incompressible bytes in an image.
    pub image_payload: u64,
}

impl Default for ClusterOptions {
    /// Three nodes.
    fn default() -> Self {
        Self {
            nodes: (1..=3).map(|number| format!("node-{number}")).collect(),
            version: "v1.34.1".into(),
            images: Vec::new(),
            image_size: 32 << 20,
            image_payload: 4 << 20,
        }
    }
}

/// How long a node may leave its Lease unrenewed before it is not Ready; its kubelet renews it every
/// 3 s.
const MONITOR_GRACE: Duration = Duration::from_secs(20);
/// Of a slot, in bytes: room for an image that is larger than the largest decoder's window.
const SLOT: u64 = 192 << 20;
/// Of the data partition, in bytes; nothing is taken from this machine's disk before it is written.
const DATA: u64 = 4 << 30;

/// What the registry calls the product's image.
const REPOSITORY: &str = "monok8s/ota";
/// Its only tag.
const TAG: &str = "0.1.0";

/// A running cluster. Dropping it ends it; [`stop`](Self::stop) does so in order.
pub struct Cluster {
    // In the order in which they are to be dropped.
    nodes: Vec<Node>,
    images: ServedImages,
    registry: Option<Registry>,
    client: Client,
    plane: ControlPlane,
    switch: Arc<Switch>,
    part: Part,
    folder: PathBuf,
    /// Removed with the cluster.
    temporary: Option<TempDir>,
}

impl Cluster {
    /// Starts it all in a temporary folder, and returns when every node is Ready.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        let folder = scratch::folder("real")?;
        let path = folder.path().to_path_buf();
        let mut cluster = Self::start_in(&path, options, &mut |line| eprintln!("{line}")).await?;
        cluster.temporary = Some(folder);
        Ok(cluster)
    }

    /// The same in a folder of the caller's, which stays the caller's; `say` is told what is done.
    pub async fn start_in(
        folder: &Path,
        options: ClusterOptions,
        say: &mut impl FnMut(&str),
    ) -> Result<Self> {
        if let Some(why) = requirements::forbidden().or_else(requirements::missing) {
            bail!("{why}");
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder
            .canonicalize()
            .context("a folder just made is gone")?;
        let assets = Assets::find(&mut *say).await?;
        let pods = PodAssets::find(&assets, &mut *say).await?;
        let runtime = Runtime::find(&mut *say).await?;
        let part = Part::take()?;
        ControlGroups::remove_stale(&format!("monok8s-{}-", part.number()))?;
        let switch = Arc::new(Switch::start(&part, &folder).await?);
        say("starting etcd, kube-apiserver, kube-controller-manager and kube-scheduler");
        let plane_options = Options {
            node_monitor_grace: MONITOR_GRACE,
            pods: Some(PodOptions {
                assets: pods.clone(),
                api_server: part.api_server(),
                service_range: part.services(),
            }),
        };
        let plane =
            ControlPlane::start(&assets, &folder.join("control-plane"), plane_options).await?;
        let usual = RootFs {
            size: options.image_size,
            payload: options.image_payload,
            mountable: true,
            ..RootFs::new(String::new())
        };
        let server = ImageServer::start_on(part.gateway()).await?;
        let images = ServedImages::new(server, &folder.join("images"), usual);
        let mut cluster = Self {
            nodes: Vec::new(),
            images,
            registry: None,
            client: plane.client().await?,
            plane,
            switch: Arc::clone(&switch),
            part,
            folder,
            temporary: None,
        };
        for version in [&options.version].into_iter().chain(&options.images) {
            say(&format!("making the image of {version}"));
            cluster.images.add_usual(version)?;
        }
        say("making container images");
        let folder = cluster.folder.join("container-images");
        let mut container_images = container_image::make(&folder)?;
        let product = product::archive(&folder, product::NAME, "local")?;
        // Not the same image: one that a kubelet has pulled is refused to pods that know it by another
        // name and may not pull it (KubeletEnsureSecretPulledImages, on since Kubernetes 1.35).
        let published = product::archive(&folder.join("registry"), TAG, "registry")?;
        let gateway = cluster.part.gateway();
        cluster.registry = Some(Registry::start(gateway, &published, REPOSITORY, TAG).await?);
        container_images.push(product);
        for (name, number) in options.nodes.iter().zip(1..) {
            say(&format!("starting {name}"));
            let parts = Parts {
                part: &cluster.part,
                switch: Arc::clone(&switch),
                runtime: &runtime,
                assets: &pods,
                image: cluster.image(&options.version)?,
                container_images: &container_images,
                slot_size: SLOT,
                data_size: DATA,
                registry: cluster.registry.as_ref().map(Registry::host),
            };
            let folder = cluster.folder.join("nodes").join(name);
            let node = Node::start(&cluster.plane, &folder, name, number, &parts).await?;
            cluster.nodes.push(node);
        }
        for node in &cluster.nodes {
            node.wait_ready().await?;
        }
        Ok(cluster)
    }

    /// Where it keeps everything.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `kubectl` as administrator.
    pub fn kubectl(&self) -> Kubectl {
        self.plane.kubectl()
    }

    /// A client as administrator.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The image server.
    pub fn image_server(&self) -> &ImageServer {
        self.images.server()
    }

    /// The name by which the product's image is pulled from the registry.
    pub fn pulled_image(&self) -> Result<String> {
        let registry = self.registry.as_ref().context("there is no registry")?;
        Ok(format!("{}/{REPOSITORY}:{TAG}", registry.host()))
    }

    /// The addresses.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|node| node.name() == name)
            .with_context(|| format!("there is no node {name}"))
    }

    /// The image of a version.
    pub fn image(&self, version: &str) -> Result<&Image> {
        self.images.image(version)
    }

    /// The path of a version's image on the image server.
    pub fn image_path(&self, version: &str) -> Result<String> {
        self.images.path(version)
    }

    /// The text of a catalog of these images as served, with the last one as `stable`.
    pub fn catalog(&self, versions: &[&str]) -> Result<String> {
        self.images.catalog(versions)
    }

    /// Ends it all in order. As long as what is returned is held, nobody else has these addresses.
    pub async fn stop(self) -> Result<Part> {
        for node in self.nodes {
            node.stop().await?;
        }
        self.plane.stop().await;
        drop(self.switch);
        drop(self.temporary);
        Ok(self.part)
    }
}
