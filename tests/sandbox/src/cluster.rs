//! Everything at once: control plane, image server, nodes, and the controller as a process.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use kube::{Api, Client, api::ListParams};
use monok8s_api::OSNode;
use tempfile::TempDir;

use crate::{
    assets::Assets,
    binaries,
    control_plane::{ControlPlane, Options},
    controller::Controller,
    image_server::ImageServer,
    images::{Image, RootFs},
    kubectl::Kubectl,
    manifests,
    node::{Node, NodeOptions},
    scratch,
    served_images::ServedImages,
    wait,
};

/// How long the agents may take to say which version they run.
const OBSERVED: Duration = Duration::from_secs(180);

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The nodes to begin with.
    pub nodes: Vec<NodeOptions>,
    /// The version they begin with.
    pub version: String,
    /// Versions whose images are made and served, besides.
    pub images: Vec<String>,
    /// Expanded size of an image in bytes.
    pub image_size: u64,
    /// Incompressible bytes in an image.
    pub image_payload: u64,
    /// How many replicas of the controller run.
    pub controllers: usize,
    /// Whether `manifests/` are applied.
    pub manifests: bool,
    /// More arguments for the controller.
    pub controller_arguments: Vec<String>,
    /// How long a node may leave its Lease unrenewed before it is not Ready.
    pub node_monitor_grace: Duration,
}

impl Default for ClusterOptions {
    /// Three nodes, one controller, no images beyond the nodes' own version.
    fn default() -> Self {
        Self {
            nodes: (1..=3)
                .map(|number| NodeOptions::new(format!("node-{number}")))
                .collect(),
            version: "v1.34.1".into(),
            images: Vec::new(),
            image_size: 32 << 20,
            image_payload: 4 << 20,
            controllers: 1,
            manifests: true,
            controller_arguments: Vec::new(),
            node_monitor_grace: Options::default().node_monitor_grace,
        }
    }
}

/// A running cluster. Dropping it kills its processes and removes its folder;
/// [`stop`](Self::stop) does so in order.
pub struct Cluster {
    // In the order in which they are to be dropped.
    controllers: Vec<Controller>,
    nodes: Vec<Node>,
    images: ServedImages,
    client: Client,
    plane: ControlPlane,
    options: ClusterOptions,
    folder: Folder,
}

/// Where a cluster keeps everything.
enum Folder {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Given(folder) => folder,
        }
    }
}

impl Cluster {
    /// Starts it all in a temporary folder, and returns when every node is Ready and has said which
    /// version it runs.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        Self::build(
            Folder::Temporary(scratch::folder("cluster")?),
            options,
            &mut |line| eprintln!("{line}"),
        )
        .await
    }

    /// The same in a folder of the caller's, which stays the caller's; `say` is told what is done.
    pub async fn start_in(
        folder: &Path,
        options: ClusterOptions,
        say: &mut impl FnMut(&str),
    ) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Self::build(Folder::Given(folder.to_path_buf()), options, say).await
    }

    async fn build(
        folder: Folder,
        options: ClusterOptions,
        say: &mut impl FnMut(&str),
    ) -> Result<Self> {
        // Named now rather than by a node that never says which version it runs.
        if options.nodes.iter().any(|node| node.agent) {
            binaries::find("node-agent")?;
        }
        if options.controllers > 0 {
            binaries::find("controller")?;
        }
        let assets = Assets::find(&mut *say).await?;
        say("starting etcd, kube-apiserver and kube-controller-manager");
        let plane_options = Options {
            node_monitor_grace: options.node_monitor_grace,
            ..Options::default()
        };
        let plane =
            ControlPlane::start(&assets, &folder.path().join("control-plane"), plane_options)
                .await?;
        if options.manifests {
            say("installing the custom resources, roles and the agents' fence");
            manifests::install(&plane.kubectl()).await?;
        }
        let usual = RootFs {
            size: options.image_size,
            payload: options.image_payload,
            ..RootFs::new(String::new())
        };
        let server = ImageServer::start().await?;
        let images = ServedImages::new(server, &folder.path().join("images"), usual);
        let mut cluster = Self {
            controllers: Vec::new(),
            nodes: Vec::new(),
            images,
            client: plane.client().await?,
            plane,
            options: ClusterOptions {
                nodes: Vec::new(),
                ..options.clone()
            },
            folder,
        };
        for version in options
            .nodes
            .first()
            .map(|_| &options.version)
            .into_iter()
            .chain(&options.images)
        {
            say(&format!("making the image of {version}"));
            cluster.images.add_usual(version)?;
        }
        for number in 1..=options.controllers {
            cluster
                .start_controller(&format!("controller-{number}"))
                .await?;
        }
        for node in options.nodes {
            say(&format!("starting {}", node.name));
            cluster.add_node(node).await?;
        }
        cluster.wait_observed().await?;
        Ok(cluster)
    }

    /// Where it keeps everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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

    /// The control plane, to stop and start parts of it.
    pub fn control_plane_mut(&mut self) -> &mut ControlPlane {
        &mut self.plane
    }

    /// The image server.
    pub fn image_server(&self) -> &ImageServer {
        self.images.server()
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| {
                let names: Vec<_> = self.nodes.iter().map(Node::name).collect();
                format!("there is no node {name}, only {}", names.join(", "))
            })
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Adds a node with the version the cluster began with, and waits until it is Ready.
    pub async fn add_node(&mut self, options: NodeOptions) -> Result<&Node> {
        let folder = self.folder.path().join("nodes").join(&options.name);
        let version = self.options.version.clone();
        let image = match self.images.image(&version) {
            Ok(image) => image.clone(),
            Err(_) => self.images.add_usual(&version)?.clone(),
        };
        let node = Node::start(&self.plane, &folder, &image, options).await?;
        self.nodes.push(node);
        self.nodes.last().context("the node just added is gone")
    }

    /// Waits until every node with an agent has said which version it runs.
    pub async fn wait_observed(&self) -> Result<()> {
        // Without agents there is nothing to wait for, nor, without manifests, the kind to ask for.
        if !self.nodes.iter().any(Node::expects_agent) {
            return Ok(());
        }
        let api: Api<OSNode> = Api::all(self.client());
        let outcome = wait::until("every node's OSNode", OBSERVED, || async {
            let observed = api
                .list(&ListParams::default())
                .await
                .context("cannot list OSNodes")?;
            let knows = |node: &&Node| {
                !node.expects_agent()
                    || observed.iter().any(|object| {
                        object.metadata.name.as_deref() == Some(node.name())
                            && object
                                .status
                                .as_ref()
                                .is_some_and(|status| !status.version.is_empty())
                    })
            };
            Ok(self.nodes.iter().all(|node| knows(&node)).then_some(()))
        })
        .await;
        outcome.with_context(|| {
            self.nodes.first().map_or_else(String::new, |node| {
                format!("the log of its agent:\n{}", node.agent_log())
            })
        })
    }

    /// The controller's replicas.
    pub fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// Starts a further replica of the controller.
    pub async fn start_controller(&mut self, identity: &str) -> Result<&Controller> {
        let home = self.folder.path().join("controllers");
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        let arguments = self.options.controller_arguments.clone();
        let controller = Controller::start(&self.plane, home, identity, &arguments).await?;
        self.controllers.push(controller);
        self.controllers
            .last()
            .context("the controller just started is gone")
    }

    /// The image of a version.
    pub fn image(&self, version: &str) -> Result<&Image> {
        self.images.image(version)
    }

    /// Makes a further image and serves it, in place of one of the same version.
    pub fn add_image(&mut self, root: &RootFs) -> Result<&Image> {
        self.images.add(root)
    }

    /// The path of a version's image on the image server.
    pub fn image_path(&self, version: &str) -> Result<String> {
        self.images.path(version)
    }

    /// The text of a catalog of these images as served, with the last one as `stable`.
    pub fn catalog(&self, versions: &[&str]) -> Result<String> {
        self.images.catalog(versions)
    }

    /// Ends it all in order.
    pub async fn stop(self) -> Result<()> {
        for controller in &self.controllers {
            controller.stop_and_hold().await;
        }
        drop(self.controllers);
        for node in self.nodes {
            node.stop().await?;
        }
        self.plane.stop().await;
        Ok(())
    }
}
