//! What a supervisor supervises: a cluster, whatever its nodes are.

use std::{future::Future, path::Path, time::Duration};

use anyhow::Result;

use crate::{
    cluster::{Cluster, ClusterOptions},
    image_server::ImageServer,
    kubectl::Kubectl,
    node::{Node, NodeOptions},
    supervisor::Plan,
};

/// A cluster that takes orders.
pub trait Site: Sized {
    /// Starts it with everything in `home`; `say` is told what is done.
    fn start(
        home: &Path,
        plan: &Plan,
        say: &mut impl FnMut(&str),
    ) -> impl Future<Output = Result<Self>>;

    /// Its image server.
    fn image_server(&self) -> &ImageServer;

    /// `kubectl` as administrator.
    fn kubectl(&self) -> Kubectl;

    /// The path of a version's image on the image server.
    fn image_path(&self, version: &str) -> Result<String>;

    /// The text of a catalog of these images as served, with the last one as `stable`.
    fn catalog(&self, versions: &[&str]) -> Result<String>;

    /// The nodes' names.
    fn nodes(&self) -> Vec<String>;

    /// Cuts a node's power.
    fn power_cut(&self, node: &str) -> impl Future<Output = Result<()>>;

    /// Puts a node's power on.
    fn power_on(&self, node: &str) -> impl Future<Output = Result<()>>;

    /// Lets a node's next trial boot hang.
    fn fail_trial(&self, node: &str) -> Result<()>;

    /// Ends it in order.
    fn stop(self) -> impl Future<Output = Result<()>>;
}

impl Site for Cluster {
    async fn start(home: &Path, plan: &Plan, say: &mut impl FnMut(&str)) -> Result<Self> {
        Self::start_in(home, options(plan), say).await
    }

    fn image_server(&self) -> &ImageServer {
        self.image_server()
    }

    fn kubectl(&self) -> Kubectl {
        self.kubectl()
    }

    fn image_path(&self, version: &str) -> Result<String> {
        self.image_path(version)
    }

    fn catalog(&self, versions: &[&str]) -> Result<String> {
        self.catalog(versions)
    }

    fn nodes(&self) -> Vec<String> {
        let names = self.nodes().iter().map(Node::name);
        names.map(str::to_owned).collect()
    }

    async fn power_cut(&self, node: &str) -> Result<()> {
        self.node(node)?.power_cut().await
    }

    async fn power_on(&self, node: &str) -> Result<()> {
        self.node(node)?.power_on().await.map(drop)
    }

    fn fail_trial(&self, node: &str) -> Result<()> {
        self.node(node)?.fail_trial_boots(1);
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.stop().await
    }
}

fn options(plan: &Plan) -> ClusterOptions {
    let node = |number| {
        let mut node = NodeOptions::new(format!("node-{number}"));
        // People want to see the bar move; a real node reports less often.
        node.agent_arguments = vec!["--report-interval=1s".into()];
        node.downtime = Duration::from_secs(2);
        node
    };
    ClusterOptions {
        nodes: (1..=plan.nodes).map(node).collect(),
        version: plan.version.clone(),
        images: plan.images.clone(),
        // Room for the file system's own structures.
        image_size: plan.payload + (16 << 20),
        image_payload: plan.payload,
        controllers: plan.controllers,
        manifests: plan.nodes > 0,
        ..ClusterOptions::default()
    }
}
