//! Everything at once: control plane, image server, nodes, and the controller as a process.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use kube::Client;

use crate::{
    control_plane::ControlPlane,
    image_server::ImageServer,
    images::{Image, RootFs},
    kubectl::Kubectl,
    node::{Node, NodeOptions},
};

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The nodes to begin with.
    pub nodes: Vec<NodeOptions>,
    /// The version they begin with.
    pub version: String,
    /// Versions whose images are made and served.
    pub images: Vec<String>,
    /// How many replicas of the controller run.
    pub controllers: usize,
    /// More arguments for the controller.
    pub controller_arguments: Vec<String>,
    /// How long a node may leave its Lease unrenewed before it is not Ready.
    pub node_monitor_grace: Duration,
    /// Expanded size of an image in bytes.
    pub image_size: u64,
    /// Incompressible bytes in an image.
    pub image_payload: u64,
}

/// A running cluster. Dropping it kills its processes and removes its folder.
pub struct Cluster {}

/// One replica of the controller.
pub struct Controller {}

impl Controller {
    /// Its identity in the Lease.
    pub fn identity(&self) -> &str {
        ""
    }

    /// Its process number, none when it is not running.
    pub fn pid(&self) -> Option<u32> {
        None
    }

    /// SIGKILL, and stays away until [`start`](Self::start).
    pub async fn kill(&self) {}

    /// SIGTERM, and stays away until [`start`](Self::start).
    pub async fn stop(&self) {}

    /// SIGSTOP.
    pub fn pause(&self) {}

    /// SIGCONT.
    pub fn resume(&self) {}

    /// Starts it again.
    pub async fn start(&self) -> Result<()> {
        bail!("not yet")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        String::new()
    }

    /// The address of its health and metrics endpoints.
    pub fn url(&self) -> String {
        String::new()
    }
}

impl Cluster {
    /// Starts it all and waits until every node is Ready and one controller leads.
    pub async fn start(_options: ClusterOptions) -> Result<Self> {
        bail!("not yet")
    }

    /// Where it keeps everything.
    pub fn folder(&self) -> &Path {
        Path::new("")
    }

    /// `kubectl` as administrator.
    pub fn kubectl(&self) -> Kubectl {
        loop {}
    }

    /// A client as administrator.
    pub fn client(&self) -> Client {
        loop {}
    }

    /// The control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        loop {}
    }

    /// The control plane, to stop and start parts of it.
    pub fn control_plane_mut(&mut self) -> &mut ControlPlane {
        loop {}
    }

    /// The image server.
    pub fn image_server(&self) -> &ImageServer {
        loop {}
    }

    /// A node by name; an error names those that are there.
    pub fn node(&self, _name: &str) -> Result<&Node> {
        bail!("not yet")
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &[]
    }

    /// Adds a node.
    pub async fn add_node(&mut self, _options: NodeOptions) -> Result<&Node> {
        bail!("not yet")
    }

    /// The controller's replicas.
    pub fn controllers(&self) -> &[Controller] {
        &[]
    }

    /// The image of a version.
    pub fn image(&self, _version: &str) -> Result<&Image> {
        bail!("not yet")
    }

    /// Makes a further image and serves it.
    pub fn add_image(&mut self, _root: &RootFs) -> Result<&Image> {
        bail!("not yet")
    }

    /// The text of a catalog of these images as served, the last one `stable`.
    pub fn catalog(&self, _versions: &[&str]) -> Result<String> {
        bail!("not yet")
    }

    /// Ends it all in order.
    pub async fn stop(self) -> Result<()> {
        bail!("not yet")
    }
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
            controllers: 1,
            controller_arguments: Vec::new(),
            node_monitor_grace: Duration::from_secs(12),
            image_size: 32 << 20,
            image_payload: 4 << 20,
        }
    }
}
