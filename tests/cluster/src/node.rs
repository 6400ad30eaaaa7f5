//! A node, as a test or a person deals with it.

use std::{
    ffi::OsStr,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client};
use monok8s_sandbox::{
    assets::PodAssets, binaries, control_plane::ControlPlane, images::Image,
    kubeconfig::secret_file, process, wait,
};
use tokio::{
    process::Command,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    address::{MOST_NODES, Part},
    control_groups::ControlGroups,
    disk::Disk,
    first_process::{KUBELET_HELD, KUBELET_PROGRAM},
    machine::Machine,
    network::Switch,
    power::{self, Order, Power, Running, Supply},
    runtime::Runtime,
};

/// How long a node may take to be Ready.
const READY: Duration = Duration::from_secs(180);

/// What every node of a cluster is made from.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The addresses.
    pub part: &'a Part,
    /// The switch that it is plugged in.
    pub switch: Arc<Switch>,
    /// The container runtime.
    pub runtime: &'a Runtime,
    /// The kubelet.
    pub assets: &'a PodAssets,
    /// The image in slot A.
    pub image: &'a Image,
    /// Archives of container images that are part of the system.
    pub container_images: &'a [PathBuf],
    /// Size of a slot in bytes.
    pub slot_size: u64,
    /// Size of the data partition in bytes.
    pub data_size: u64,
    /// A registry without TLS that the runtime may pull from, such as `198.18.0.1:5000`.
    pub registry: Option<String>,
}

/// A real node. Dropping it cuts its power.
pub struct Node {
    machine: Machine,
    power: watch::Receiver<Power>,
    orders: mpsc::Sender<Order>,
    supply: JoinHandle<()>,
    switch: Arc<Switch>,
    admin: Client,
    _disk: Disk,
}

impl Node {
    /// Makes a node in `folder` and powers it on; [`wait_ready`](Self::wait_ready) tells when the
    /// cluster can use it.
    pub async fn start(
        plane: &ControlPlane,
        folder: &Path,
        name: &str,
        number: u8,
        parts: &Parts<'_>,
    ) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder
            .canonicalize()
            .context("a folder just made is gone")?;
        let disk = Disk::make(
            &folder.join("disk.img"),
            parts.image,
            parts.slot_size,
            parts.data_size,
        )?;
        let groups = ControlGroups::make(&format!("monok8s-{}-{name}", parts.part.number()))?;
        let others = (1..=MOST_NODES).filter(|other| *other != number);
        let machine = Machine {
            name: name.to_owned(),
            number,
            disk: disk.name(),
            slot_a: disk.slot(monok8s_boot::SlotName::A),
            slot_b: disk.slot(monok8s_boot::SlotName::B),
            boot: disk.boot(),
            data: disk.data(),
            address: parts.part.node(number),
            gateway: parts.part.gateway(),
            routes: others
                .map(|other| (parts.part.pods(other), parts.part.node(other)))
                .collect(),
            runtime: parts.runtime.folder().to_path_buf(),
            kubelet: parts.assets.kubelet.clone(),
            images: parts.container_images.to_vec(),
            groups: groups.folders().to_vec(),
            folder,
        };
        machine.write()?;
        plant_etc(&machine, plane, parts)?;
        let (send, orders) = mpsc::channel(1);
        let (tell, power) = watch::channel(Power::Off("it was never on".into()));
        let supply = Supply {
            machine: machine.clone(),
            groups,
            switch: Arc::clone(&parts.switch),
            program: binaries::find("cluster")?,
            downtime: Duration::from_millis(500),
        };
        let node = Self {
            machine,
            power,
            orders: send,
            supply: tokio::spawn(power::supply(supply, orders, tell)),
            switch: Arc::clone(&parts.switch),
            admin: plane.client().await?,
            _disk: disk,
        };
        node.power_on().await?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.machine.address
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.machine.folder
    }

    /// Puts its power on.
    pub async fn power_on(&self) -> Result<Running> {
        power::ask(&self.orders, Order::On).await
    }

    /// Cuts its power: everything in it is killed at once.
    pub async fn power_cut(&self) -> Result<()> {
        power::ask(&self.orders, Order::Cut).await
    }

    /// Whether it runs, to be watched.
    pub fn power(&self) -> watch::Receiver<Power> {
        self.power.clone()
    }

    /// The boot that is running now.
    pub fn running(&self) -> Result<Running> {
        match &*self.power.borrow() {
            Power::On(running) => Ok(running.clone()),
            other => bail!("{} does not run: {other:?}", self.name()),
        }
    }

    /// Lets the next trial boots hang, so that the firmware starts the old system.
    pub fn fail_trial_boots(&self, number: u32) -> Result<()> {
        self.machine.set_failing_trials(number)
    }

    /// Lets the next boot leave the kubelet down, and with it every pod, until it is let run.
    pub fn hold_kubelet_at_boot(&self) -> Result<()> {
        self.machine.hold_kubelet()
    }

    /// Pulls its network cable, or puts it back.
    pub fn set_connected(&self, connected: bool) -> Result<()> {
        self.switch.set_connected(self.machine.number, connected)
    }

    /// Kills the kubelet and keeps it down, or lets it run again: when this returns it is gone, or about
    /// to start. A reboot starts it in any case.
    pub async fn set_kubelet_running(&self, running: bool) -> Result<()> {
        let line = if running {
            format!("rm -f {KUBELET_HELD}")
        } else {
            format!(
                "touch {KUBELET_HELD}; \
                 while grep -qsz '^{KUBELET_PROGRAM}' /proc/[0-9]*/cmdline; do sleep 0.05; done"
            )
        };
        self.run(["sh", "-c", &line]).await.map(drop)
    }

    /// Where a file of the node is to be had from outside, while it runs.
    pub fn path(&self, inside: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!(
            "/proc/{}/root{inside}",
            self.running()?.pid
        )))
    }

    /// Runs a program in the node, as a person at its console would.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let arguments: Vec<A> = arguments.into_iter().collect();
        let pid = self.running()?.pid.to_string();
        let output = Command::new("nsenter")
            .args([
                "--target", &pid, "--mount", "--net", "--pid", "--uts", "--ipc", "--",
            ])
            .args(["env", "PATH=/run/runtime:/usr/sbin:/usr/bin"])
            .args(&arguments)
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run nsenter, which is in the Debian package util-linux")?;
        if !output.status.success() {
            let words: Vec<_> = arguments
                .iter()
                .map(|word| word.as_ref().to_string_lossy())
                .collect();
            bail!(
                "{} on {}: {}",
                words.join(" "),
                self.name(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until the API server knows that it is Ready in its present boot.
    pub async fn wait_ready(&self) -> Result<Running> {
        let nodes: Api<NodeObject> = Api::all(self.admin.clone());
        let what = format!("{} to be Ready", self.name());
        let outcome = wait::until(&what, READY, || async {
            if let Power::Off(why) = &*self.power.borrow() {
                bail!("{} is off: {why}", self.name());
            }
            let Ok(running) = self.running() else {
                return Ok(None);
            };
            // An API server that is away for a moment is no failure.
            let object = nodes.get_opt(self.name()).await.ok().flatten();
            let ready = object
                .as_ref()
                .is_some_and(|node| is_ready(node, &running.booted.boot_id));
            Ok(ready.then_some(running))
        })
        .await;
        outcome.with_context(|| self.logs())
    }

    /// The ends of its logs, for a message.
    pub fn logs(&self) -> String {
        let mut text = format!("{}\n", self.name());
        for name in ["containerd", "kubelet"] {
            let path = self
                .path(&format!("/var/log/{name}.log"))
                .unwrap_or_default();
            text = format!(
                "{text}\nthe end of its {name}.log:\n{}",
                process::tail(&path)
            );
        }
        text
    }

    /// Ends it and waits until nothing of it is left.
    pub async fn stop(self) -> Result<()> {
        self.power_cut().await?;
        drop(self.orders);
        self.supply.await.context("its power supply failed")
    }
}

/// Whether a Node says that it is Ready, in the boot with this identifier.
fn is_ready(node: &NodeObject, boot_id: &str) -> bool {
    let Some(status) = &node.status else {
        return false;
    };
    let same = status
        .node_info
        .as_ref()
        .is_some_and(|info| info.boot_id == boot_id);
    let mut conditions = status.conditions.iter().flatten();
    same && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What is in the node's `/etc` beside what its image has there.
fn plant_etc(machine: &Machine, plane: &ControlPlane, parts: &Parts<'_>) -> Result<()> {
    let etc = machine.etc();
    let write = |name: &str, content: &str| -> Result<()> {
        let path = etc.join(name);
        let folder = path.parent().context("a file without a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, content))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    for name in ["passwd", "group", "nsswitch.conf"] {
        let content = fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        write(name, &content)?;
    }
    let Machine { name, address, .. } = machine;
    write("hosts", &format!("127.0.0.1 localhost\n{address} {name}\n"))?;
    write("resolv.conf", "")?;
    write(
        "machine-id",
        &format!("{}\n", uuid::Uuid::new_v4().simple()),
    )?;
    write(
        "cni/net.d/10-pods.conflist",
        &pod_network(&parts.part.pods(machine.number)),
    )?;
    write("containerd/config.toml", CONTAINERD)?;
    if let Some(registry) = &parts.registry {
        let hosts = format!("server = \"http://{registry}\"\n[host.\"http://{registry}\"]\n");
        write(&format!("containerd/certs.d/{registry}/hosts.toml"), &hosts)?;
    }
    write("kubernetes/kubelet.yaml", KUBELET)?;
    write("kubernetes/ca.crt", plane.authority_certificate())?;
    let serving = plane.kubelet_certificate(name, *address)?;
    write("kubernetes/kubelet.crt", &serving.certificate)?;
    secret_file(&etc.join("kubernetes/kubelet.key"), &serving.key)?;
    plane.write_certificate_kubeconfig(
        &etc.join("kubernetes/kubelet.kubeconfig"),
        &format!("system:node:{name}"),
        Some("system:nodes"),
    )
}

/// The configuration of the network plugins.
fn pod_network(range: &str) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "pods",
            "isGateway": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": range}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
    .to_string()
}

/// Without `CAP_SYS_RESOURCE` no score below this process's own can be set, hence the scores.
const CONTAINERD: &str = r#"version = 3
oom_score = 0
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/run/runtime"]
    conf_dir = "/etc/cni/net.d"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "/run/runtime/runc"
      SystemdCgroup = false
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "/etc/containerd/certs.d"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "localhost/monok8s/pause:test"
"#;

/// Short intervals, so that tests see soon what a real cluster sees later.
const KUBELET: &str = r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/kubelet.key
clusterDNS: []
resolvConf: ""
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: 20000
nodeLeaseDurationSeconds: 12
nodeStatusUpdateFrequency: 2s
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard:
  memory.available: 100Mi
  nodefs.available: 0%
  imagefs.available: 0%
  nodefs.inodesFree: 0%
  imagefs.inodesFree: 0%
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_image::PAUSE;

    #[test]
    fn the_runtime_is_told_of_the_pause_image_that_there_is() {
        assert!(CONTAINERD.contains(PAUSE));
    }
}
