//! The cluster as a supervisor sees it: for `make cluster` and the demo.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use kube::{Api, api::ListParams};
use monok8s_api::OSNode;
use monok8s_sandbox::{
    image_server::ImageServer, kubectl::Kubectl, scratch, site::Site, supervisor::Plan, wait,
};

use crate::{
    cluster::{Cluster, ClusterOptions},
    node::Node,
};

/// How long the product's pods may take to be up, and to say what they found.
const UP: Duration = Duration::from_secs(180);

impl Cluster {
    /// Installs the product on every node, as docs/install.md says.
    pub async fn install(&self) -> Result<()> {
        let kubectl = self.kubectl();
        kubectl
            .ok(["label", "node", "--all", "monok8s.io/managed=true"])
            .await?;
        let manifests = scratch::repository().join("manifests");
        kubectl
            .ok(["apply".as_ref(), "-k".as_ref(), manifests.as_os_str()])
            .await?;
        let timeout = format!("--timeout={}s", UP.as_secs());
        for workload in ["deployment/controller", "daemonset/node-agent"] {
            let status = ["rollout", "status", workload, "-n", "mono-system", &timeout];
            kubectl
                .ok(status)
                .await
                .context("the product's pods do not come up")?;
        }
        let observed: Api<OSNode> = Api::all(self.client());
        let count = self.nodes().len();
        wait::until("every node's version", UP, || async {
            let all = observed.list(&ListParams::default()).await?;
            let known = all.iter().filter_map(|node| node.status.as_ref());
            let known = known.filter(|status| !status.version.is_empty());
            Ok((known.count() == count).then_some(()))
        })
        .await
    }
}

impl Site for Cluster {
    async fn start(home: &Path, plan: &Plan, say: &mut impl FnMut(&str)) -> Result<Self> {
        let options = ClusterOptions {
            nodes: (1..=plan.nodes)
                .map(|number| format!("node-{number}"))
                .collect(),
            version: plan.version.clone(),
            images: plan.images.clone(),
            // Room for the file system's own structures.
            image_size: plan.payload + (16 << 20),
            image_payload: plan.payload,
        };
        let cluster = Self::start_in(home, options, &mut *say).await?;
        if plan.controllers > 0 {
            say("kubectl apply -k manifests");
            cluster.install().await?;
        }
        Ok(cluster)
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
        self.node(node)?.fail_trial_boots(1)
    }

    async fn stop(self) -> Result<()> {
        self.stop().await.map(drop)
    }
}
