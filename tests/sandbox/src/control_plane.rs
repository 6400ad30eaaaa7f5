//! The real control plane on 127.0.0.1: etcd, kube-apiserver, kube-controller-manager, each with a
//! credential of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, Config, api::PostParams, config::KubeConfigOptions};
use rustix::process::Signal;

use crate::{
    assets::{Assets, PodAssets},
    kubeconfig::{self, Identity},
    kubectl::Kubectl,
    pki::{self, Authority, Credential},
    ports::Port,
    process::{Process, Spawn},
    wait,
};

/// How long a component may take to be ready. Generous: the machine may be busy with builds.
const READY: Duration = Duration::from_secs(120);
/// How long a component may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// Tokens for anybody else are refused.
const ISSUER: &str = "https://kubernetes.default.svc";

/// How the control plane is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a node may leave its Lease unrenewed before it is marked not Ready. Kubernetes'
    /// default is 50 s; tests want to see it sooner.
    pub node_monitor_grace: Duration,
    /// What it takes to have pods in the cluster; none where nobody would run them.
    pub pods: Option<PodOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_monitor_grace: Duration::from_secs(12),
            pods: None,
        }
    }
}

/// What a control plane has when nodes run pods.
#[derive(Clone, Debug)]
pub struct PodOptions {
    /// The scheduler, and the kubelet that the API server calls.
    pub assets: PodAssets,
    /// The API server's address, which pods and nodes reach. It is the first of `service_range`, so
    /// that the `kubernetes` Service needs nobody to translate it.
    pub api_server: Ipv4Addr,
    /// Where Services get their addresses, such as `10.96.0.0/16`.
    pub service_range: String,
}

/// A Node that a token is bound to: the token dies with that object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundNode {
    /// The Node's name.
    pub name: String,
    /// The Node object's UID.
    pub uid: String,
}

/// A service account's token.
#[derive(Clone)]
pub struct Token {
    /// The bearer token.
    pub token: String,
    /// When it ends; the API server may grant less than was asked for.
    pub expires: Timestamp,
}

/// A running control plane. Dropping it kills its processes; its folder is the caller's.
pub struct ControlPlane {
    folder: PathBuf,
    assets: Assets,
    options: Options,
    authority: Authority,
    api_port: Port,
    etcd_port: Port,
    etcd_peer_port: Port,
    manager_port: Port,
    scheduler_port: Port,
    etcd: Option<Process>,
    api_server: Option<Process>,
    manager: Option<Process>,
    scheduler: Option<Process>,
}

impl ControlPlane {
    /// Starts everything with data, keys and logs in `folder`, and returns when the API server is
    /// ready and the controllers work.
    pub async fn start(assets: &Assets, folder: &Path, options: Options) -> Result<Self> {
        crate::install_crypto_provider();
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // The programs get this path in their arguments, whatever folder they start in.
        let folder = folder
            .canonicalize()
            .with_context(|| format!("cannot find {}", folder.display()))?;
        let mut plane = Self {
            authority: Authority::new("monok8s-sandbox")?,
            api_port: Port::reserve()?,
            etcd_port: Port::reserve()?,
            etcd_peer_port: Port::reserve()?,
            manager_port: Port::reserve()?,
            scheduler_port: Port::reserve()?,
            folder,
            assets: assets.clone(),
            options,
            etcd: None,
            api_server: None,
            manager: None,
            scheduler: None,
        };
        plane.write_keys()?;
        plane.start_etcd().await?;
        plane.start_api_server().await?;
        plane.start_controller_manager().await?;
        plane.start_scheduler().await?;
        plane.controllers_work().await?;
        Ok(plane)
    }

    /// The API server's address.
    pub fn url(&self) -> String {
        format!("https://{}", self.api_address())
    }

    /// Where the API server listens.
    pub fn api_address(&self) -> SocketAddr {
        match &self.options.pods {
            // Every instance has an address of its own, and Services have this port.
            Some(pods) => (pods.api_server, 443).into(),
            None => (Ipv4Addr::LOCALHOST, self.api_port.number()).into(),
        }
    }

    /// Where it keeps data, keys and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The programs it runs.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// The kubeconfig of a cluster administrator.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    /// `kubectl` as cluster administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(
            &self.assets.kubectl,
            self.admin_kubeconfig(),
            self.path("kubectl-cache"),
        )
    }

    /// A client as cluster administrator.
    pub async fn client(&self) -> Result<Client> {
        client(&self.admin_kubeconfig()).await
    }

    /// Writes the kubeconfig of `user` in `group`, with a certificate made for it.
    pub fn write_certificate_kubeconfig(
        &self,
        path: &Path,
        user: &str,
        group: Option<&str>,
    ) -> Result<()> {
        let credential = self.authority.client(user, group)?;
        kubeconfig::write(
            path,
            &self.url(),
            self.authority.certificate(),
            Identity::Certificate(&credential),
        )
    }

    /// The certificate, in PEM, by which the API server is known.
    pub fn authority_certificate(&self) -> &str {
        self.authority.certificate()
    }

    /// A certificate for a kubelet's own server at `address`.
    pub fn kubelet_certificate(&self, node: &str, address: Ipv4Addr) -> Result<Credential> {
        let names = [node, &address.to_string()];
        self.authority
            .server(&format!("system:node:{node}"), &names)
    }

    /// Writes the kubeconfig of whoever the token in the file `token` belongs to.
    pub fn write_token_kubeconfig(&self, path: &Path, token: &Path) -> Result<()> {
        kubeconfig::write(
            path,
            &self.url(),
            self.authority.certificate(),
            Identity::TokenFile(token),
        )
    }

    /// A token of a service account as administrator, bound to a Node or to nothing.
    pub async fn mint_token(
        &self,
        namespace: &str,
        account: &str,
        node: Option<&BoundNode>,
        lifetime: Duration,
    ) -> Result<Token> {
        mint_token(&self.client().await?, namespace, account, node, lifetime).await
    }

    /// Starts the API server and waits until it is ready; nothing happens when it runs.
    pub async fn start_api_server(&mut self) -> Result<()> {
        if self
            .api_server
            .as_ref()
            .is_some_and(|process| process.exit_status().is_none())
        {
            return Ok(());
        }
        let client = self.client().await?;
        let process = Process::spawn(self.api_server_command()).await?;
        let process = &*self.api_server.insert(process);
        wait_ready(process, READY, || is_ready(&client)).await
    }

    /// Ends the API server, in order. Its address refuses connections until it is started again.
    pub async fn stop_api_server(&mut self) {
        if let Some(process) = self.api_server.take() {
            process.stop(GRACE).await;
        }
    }

    /// Kills the API server with SIGKILL.
    pub async fn kill_api_server(&mut self) {
        if let Some(process) = self.api_server.take() {
            process.kill().await;
        }
    }

    /// Stops the API server and starts it again.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.stop_api_server().await;
        self.start_api_server().await
    }

    /// The API server's process number, none while it is stopped.
    pub fn api_server_pid(&self) -> Option<u32> {
        self.api_server
            .as_ref()
            .filter(|process| process.exit_status().is_none())
            .map(Process::pid)
    }

    /// Processor time the API server has used since it was started.
    pub fn api_server_cpu(&self) -> Result<Duration> {
        let pid = self.api_server_pid().context("the API server is stopped")?;
        let stat =
            fs::read_to_string(format!("/proc/{pid}/stat")).context("the API server is gone")?;
        cpu_time(&stat).context("/proc/PID/stat has another form than proc(5) says")
    }

    /// Ends everything, the API server before its etcd: without it, it hangs on to its port.
    pub async fn stop(mut self) {
        for process in [self.scheduler.take(), self.manager.take()]
            .into_iter()
            .flatten()
        {
            process.stop(GRACE).await;
        }
        self.stop_api_server().await;
        if let Some(process) = self.etcd.take() {
            process.stop(GRACE).await;
        }
    }

    /// Kills everything with SIGKILL.
    pub async fn kill(mut self) {
        for process in [
            self.scheduler.take(),
            self.manager.take(),
            self.api_server.take(),
            self.etcd.take(),
        ]
        .into_iter()
        .flatten()
        {
            process.kill().await;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Keys and certificates. etcd has an authority of its own: whoever may talk to the API server
    /// must not be able to talk to its database.
    fn write_keys(&self) -> Result<()> {
        let pki = self.path("pki");
        fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;
        let keep = |name: &str, content: &str| kubeconfig::secret_file(&pki.join(name), content);
        let keep_pair = |name: &str, credential: &Credential| {
            keep(&format!("{name}.crt"), &credential.certificate)?;
            keep(&format!("{name}.key"), &credential.key)
        };
        keep("ca.crt", self.authority.certificate())?;
        let address = self.api_address().ip().to_string();
        let names = [
            "127.0.0.1",
            "10.96.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default.svc",
            &address,
        ];
        keep_pair(
            "api-server",
            &self.authority.server("kube-apiserver", &names)?,
        )?;
        let etcd = Authority::new("monok8s-sandbox-etcd")?;
        keep("etcd-ca.crt", etcd.certificate())?;
        keep_pair("etcd", &etcd.server("etcd", &["127.0.0.1", "localhost"])?)?;
        keep_pair("etcd-client", &etcd.client("kube-apiserver", None)?)?;
        let (private, public) = pki::signing_key()?;
        keep("service-account.key", &private)?;
        keep("service-account.pub", &public)?;
        self.write_certificate_kubeconfig(
            &self.admin_kubeconfig(),
            "sandbox-admin",
            Some("system:masters"),
        )?;
        if self.options.pods.is_some() {
            let calling = self
                .authority
                .client("kube-apiserver", Some("system:masters"))?;
            keep_pair("kubelet-client", &calling)?;
        }
        for component in ["kube-controller-manager", "kube-scheduler"] {
            let path = self.path(&format!("{component}.kubeconfig"));
            self.write_certificate_kubeconfig(&path, &format!("system:{component}"), None)?;
        }
        Ok(())
    }

    async fn start_etcd(&mut self) -> Result<()> {
        let pki = self.path("pki");
        let client = format!("https://127.0.0.1:{}", self.etcd_port.number());
        let peer = format!("http://127.0.0.1:{}", self.etcd_peer_port.number());
        let spawn = Spawn::new("etcd", &self.assets.etcd, self.path("etcd.log"))
            .flag("data-dir", self.path("etcd"))
            .flag("listen-client-urls", &client)
            .flag("advertise-client-urls", &client)
            .flag("listen-peer-urls", &peer)
            .flag("initial-advertise-peer-urls", &peer)
            .flag("initial-cluster", format!("default={peer}"))
            .flag("cert-file", pki.join("etcd.crt"))
            .flag("key-file", pki.join("etcd.key"))
            .flag("trusted-ca-file", pki.join("etcd-ca.crt"))
            .args([
                "--client-cert-auth",
                "--socket-reuse-port",
                "--log-level=warn",
            ])
            // A test's data need not survive the machine's power cut.
            .arg("--unsafe-no-fsync");
        self.etcd = Some(Process::spawn(spawn).await?);
        Ok(())
    }

    fn api_server_command(&self) -> Spawn {
        let pki = self.path("pki");
        let address = self.api_address();
        let spawn = Spawn::new(
            "kube-apiserver",
            &self.assets.kube_apiserver,
            self.path("kube-apiserver.log"),
        )
        .flag(
            "etcd-servers",
            format!("https://127.0.0.1:{}", self.etcd_port.number()),
        )
        .flag("etcd-cafile", pki.join("etcd-ca.crt"))
        .flag("etcd-certfile", pki.join("etcd-client.crt"))
        .flag("etcd-keyfile", pki.join("etcd-client.key"))
        .flag("bind-address", address.ip().to_string())
        .flag("advertise-address", address.ip().to_string())
        .flag("secure-port", address.port().to_string())
        .arg("--permit-port-sharing")
        .flag("client-ca-file", pki.join("ca.crt"))
        .flag("tls-cert-file", pki.join("api-server.crt"))
        .flag("tls-private-key-file", pki.join("api-server.key"))
        .flag("service-account-issuer", ISSUER)
        .flag("service-account-key-file", pki.join("service-account.pub"))
        .flag(
            "service-account-signing-key-file",
            pki.join("service-account.key"),
        )
        .flag("authorization-mode", "Node,RBAC")
        // The agent's DaemonSet is privileged, as most clusters allow.
        .arg("--allow-privileged=true")
        // Nobody translates a Service's address, and a loopback address may not stand in an endpoint.
        .flag("endpoint-reconciler-type", "none");
        match &self.options.pods {
            None => spawn.flag("service-cluster-ip-range", "10.96.0.0/16"),
            Some(pods) => spawn
                .flag("service-cluster-ip-range", &pods.service_range)
                .flag("enable-admission-plugins", "NodeRestriction")
                .flag("kubelet-certificate-authority", pki.join("ca.crt"))
                .flag("kubelet-client-certificate", pki.join("kubelet-client.crt"))
                .flag("kubelet-client-key", pki.join("kubelet-client.key"))
                .flag("kubelet-preferred-address-types", "InternalIP"),
        }
    }

    async fn start_controller_manager(&mut self) -> Result<()> {
        let pki = self.path("pki");
        let kubeconfig = self.path("kube-controller-manager.kubeconfig");
        let grace = self.options.node_monitor_grace.as_millis();
        let spawn = Spawn::new(
            "kube-controller-manager",
            &self.assets.kube_controller_manager,
            self.path("kube-controller-manager.log"),
        )
        .flag("kubeconfig", &kubeconfig)
        .flag("authentication-kubeconfig", &kubeconfig)
        .flag("authorization-kubeconfig", &kubeconfig)
        .flag("bind-address", "127.0.0.1")
        .flag("secure-port", self.manager_port.number().to_string())
        .args([
            "--permit-port-sharing",
            "--leader-elect=false",
            "--use-service-account-credentials",
        ])
        .flag(
            "service-account-private-key-file",
            pki.join("service-account.key"),
        )
        .flag("root-ca-file", pki.join("ca.crt"))
        .flag("node-monitor-period", "1s")
        .flag("node-monitor-grace-period", format!("{grace}ms"));
        self.manager = Some(Process::spawn(spawn).await?);
        Ok(())
    }

    /// Starts the scheduler where there are pods to place.
    async fn start_scheduler(&mut self) -> Result<()> {
        let Some(pods) = &self.options.pods else {
            return Ok(());
        };
        let kubeconfig = self.path("kube-scheduler.kubeconfig");
        let spawn = Spawn::new(
            "kube-scheduler",
            &pods.assets.kube_scheduler,
            self.path("kube-scheduler.log"),
        )
        .flag("kubeconfig", &kubeconfig)
        .flag("authentication-kubeconfig", &kubeconfig)
        .flag("authorization-kubeconfig", &kubeconfig)
        .flag("bind-address", "127.0.0.1")
        .flag("secure-port", self.scheduler_port.number().to_string())
        .args(["--permit-port-sharing", "--leader-elect=false"]);
        self.scheduler = Some(Process::spawn(spawn).await?);
        Ok(())
    }

    /// Waits for something only the controller manager makes: a namespace's service account.
    async fn controllers_work(&self) -> Result<()> {
        let process = self
            .manager
            .as_ref()
            .context("the controller manager is not started")?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, "default");
        wait_ready(process, READY, || async {
            accounts
                .get_opt("default")
                .await
                .is_ok_and(|account| account.is_some())
        })
        .await
    }

    /// Stops the API server's process without ending it, as a machine that hangs does.
    pub fn pause_api_server(&self) {
        if let Some(process) = &self.api_server {
            process.signal(Signal::STOP);
        }
    }

    /// Lets a paused API server go on.
    pub fn resume_api_server(&self) {
        if let Some(process) = &self.api_server {
            process.signal(Signal::CONT);
        }
    }
}

/// A client with the identity of a kubeconfig file.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    crate::install_crypto_provider();
    Client::try_from(config(kubeconfig).await?).context("cannot make a client")
}

/// A token of a service account, bound to a Node or to nothing, by a client that may make them.
pub async fn mint_token(
    client: &Client,
    namespace: &str,
    account: &str,
    node: Option<&BoundNode>,
    lifetime: Duration,
) -> Result<Token> {
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            // Empty: the API server's own.
            audiences: None,
            expiration_seconds: Some(
                i64::try_from(lifetime.as_secs()).context("a lifetime of ages")?,
            ),
            bound_object_ref: node.map(|node| BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.name.clone()),
                uid: Some(node.uid.clone()),
            }),
        }),
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let status = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("no token for service account {namespace}/{account}"))?
        .status;
    let granted = status.and_then(|status| Some((status.token?, status.expiration_timestamp?.0)));
    let (token, expires) =
        granted.context("the API server answered a token request without a token")?;
    Ok(Token { token, expires })
}

async fn config(kubeconfig: &Path) -> Result<Config> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use {}", kubeconfig.display()))?;
    config.proxy_url = None;
    Ok(config)
}

/// Waits until `ready`, and fails with the process's log when it ends or the time is over.
async fn wait_ready<F: Future<Output = bool>>(
    process: &Process,
    limit: Duration,
    mut ready: impl FnMut() -> F,
) -> Result<()> {
    let outcome = wait::until("readiness", limit, || {
        let asked = ready();
        async move {
            if process.exit_status().is_some() {
                return Err(process.failure("ended before it was ready"));
            }
            Ok(asked.await.then_some(()))
        }
    })
    .await;
    match outcome {
        Err(_) if process.exit_status().is_none() => {
            Err(process.failure(&format!("was not ready within {} s", limit.as_secs())))
        }
        outcome => outcome,
    }
}

async fn is_ready(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    let asked = tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await;
    matches!(asked, Ok(Ok(_)))
}

/// User and system time of a process: fields 14 and 15 of /proc/PID/stat (proc(5)), after the
/// program's name in parentheses, in ticks of a hundredth of a second.
fn cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}
