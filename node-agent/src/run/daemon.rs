//! Puts the real parts together and runs them until SIGTERM.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use monok8s_boot::{
    Host, Reboot, Roots,
    host::{RealMachine, VirtualNode},
    loader::{grub::Grub, hook::Hook},
    reboot,
};
use monok8s_fetch::{Client as FetchClient, Credentials, FileRoots, Policy};
use monok8s_telemetry::{
    metrics::registry,
    server::{Gate, Readiness, Server},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch as channel,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    act::{
        credentials::Secrets,
        events::Events,
        install::{Installer, Settings, Tools},
        lock::{LockError, StateLock},
        machine::{Hardware, Loader},
        metrics::Metrics,
        objects::Objects,
        osnode::{self, Facts},
        reporter::Reporter,
        source::Source,
        this_node::ThisNode,
    },
    args::{Args, BootLoader},
    decide::{pace::Rate, status::Live},
    run::{
        executor::Executor,
        node::{self, Node},
        watch,
    },
};

/// How long the executor may take to come to a stop after SIGTERM.
const STOP: Duration = Duration::from_secs(8);

/// Longest time for a connection to the API server to come up.
const CONNECT: Duration = Duration::from_secs(5);

/// Pause between two looks whether the agent before has ended.
const LOCK_AGAIN: Duration = Duration::from_secs(1);

/// Time between two lines that say that another agent runs.
const REMIND: Duration = Duration::from_secs(60);

/// Why the agent cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No way to the API server.
    #[error(
        "the API server's address or credentials cannot be told: {0}; set KUBECONFIG or run in a pod"
    )]
    Kube(String),
    /// The endpoints.
    #[error(transparent)]
    Serve(#[from] monok8s_telemetry::server::ServeError),
    /// The HTTP client.
    #[error(transparent)]
    Fetch(#[from] monok8s_fetch::BuildError),
    /// The client certificate for image servers.
    #[error("the client certificate cannot be used: {0}; see --client-cert")]
    ClientCertificate(String),
    /// Signals.
    #[error("signals cannot be received: {0}")]
    Signals(#[from] std::io::Error),
    /// What runs beside the executor.
    #[error(
        "{0}, so that the agent would hear or say nothing any more: it ends and is to be started again"
    )]
    Ended(String),
}

/// Runs the agent until SIGTERM or SIGINT.
pub async fn run(args: Args) -> Result<(), StartError> {
    // Another part of the process may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stop = stop_on_signal()?;
    let client = client(&args).await?;

    let mut metrics_registry = registry("agent", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&mut metrics_registry);
    let readiness = Readiness::default();
    let heard = readiness.gate("watch");
    let alone = readiness.gate("state");
    let server = Server::bind(args.listen).await?;
    info!(node = %args.node_name, address = %server.address(), "agent {}", env!("CARGO_PKG_VERSION"));
    let stopping = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        if let Err(e) = server.run(metrics_registry, readiness, stopping).await {
            warn!("{e}");
        }
    });

    let objects = Objects::default();
    let this_node = ThisNode::new(client.clone(), &args.node_name, objects.clone());
    let recheck: Duration = args.recheck_interval.into();
    let (live, shown) = channel::channel(Live::default());
    let (facts, published) = channel::channel(Facts::default());
    let reporter = Reporter::new(
        client.clone(),
        objects.clone(),
        shown,
        Rate {
            interval: args.report_interval.into(),
            points: args.report_points,
        },
        metrics.clone(),
    );
    let mut beside = JoinSet::new();
    beside.spawn(reporter.clone().run());
    let os_node = osnode::Writer::new(client.clone(), &args.node_name, this_node.clone(), recheck);
    beside.spawn(os_node.run(published));
    {
        let (client, name) = (client.clone(), args.node_name.clone());
        let (this_node, objects) = (this_node.clone(), objects.clone());
        beside.spawn(
            async move { watch::run(client, &name, this_node, objects, heard, recheck).await },
        );
    }

    let (hardware, rebooter) = machine(&args);
    let fetch = fetch_client(&args)?;
    let installer = Installer::new(
        Tools {
            client: fetch.with_policy(Policy { allow_http: true }),
            secrets: Secrets::new(client.clone(), &args.namespace),
            host: Arc::clone(&hardware.host),
            objects: objects.clone(),
            live,
            metrics: metrics.clone(),
        },
        settings(&args, &hardware),
        stop.clone(),
    );
    let node = Node {
        hardware,
        rebooter,
        reboot_limit: args.reboot_timeout.into(),
        objects,
        this_node,
        reporter,
        installer,
        source: Source::new(client.clone(), fetch, args.namespace.clone()),
        facts,
        events: Events::new(client, &args.node_name),
        metrics,
        stop: stop.clone(),
        reboot: None,
        look: None,
    };
    let mut outcome = Ok(());
    let ending = async {
        tokio::select! {
            () = stop.cancelled() => {}
            why = ended(&mut beside) => {
                outcome = Err(why);
                stop.cancel();
            }
        }
        tokio::time::sleep(STOP).await;
    };
    // A switch has no await in it, so that it is over or has not begun when this is given up.
    tokio::select! {
        () = alone_on_the_node(node, alone) => {}
        () = ending => warn!("the executor did not stop within {STOP:?}"),
    }
    info!("ended");
    outcome
}

/// Runs the executor once no other agent does: the one before may still be ending.
async fn alone_on_the_node(node: Node, alone: Gate) {
    let mut told = None;
    while let Err(e @ LockError::Held { .. }) = node.hardware.take_lock() {
        let again = told.is_none_or(|at: Instant| at.elapsed() > REMIND);
        if again {
            warn!("{e}");
            told = Some(Instant::now());
        }
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(LOCK_AGAIN) => {}
        }
    }
    // A folder that cannot be locked cannot hold a record either: the executor says so.
    alone.open();
    node::run(Executor::new(node)).await;
}

/// Waits until one of the tasks that are to run for ever does not run any more.
async fn ended(beside: &mut JoinSet<()>) -> StartError {
    StartError::Ended(match beside.join_next().await {
        Some(Err(e)) => format!("a task of the agent's has ended: {e}"),
        Some(Ok(())) | None => "a task of the agent's has ended".to_owned(),
    })
}

fn stop_on_signal() -> Result<CancellationToken, StartError> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("ending");
        stopping.cancel();
    });
    Ok(stop)
}

async fn client(args: &Args) -> Result<Client, StartError> {
    let unusable = |e: &dyn std::fmt::Display| StartError::Kube(e.to_string());
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|e| unusable(&e))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|e| unusable(&e))?
        }
        None => Config::infer().await.map_err(|e| unusable(&e))?,
    };
    // The environment's proxy is for images (docs/images.md), as it is with a pod's service account, which heeds none.
    let variables = ["HTTPS_PROXY", "https_proxy"];
    let environments = variables
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    if environments.and_then(|proxy| proxy.parse().ok()) == config.proxy_url {
        config.proxy_url = None;
    }
    config.connect_timeout = Some(CONNECT);
    // A failed write is replaced by the newest state, with pauses of our own: the client's would hold on to the old one.
    config.default_retry = false;
    Client::try_from(config).map_err(|e| unusable(&e))
}

/// Images and catalogs come by the same client; only images may come by plain http.
fn fetch_client(args: &Args) -> Result<FetchClient, StartError> {
    let mut builder = FetchClient::builder();
    if let Some(path) = &args.ca_file {
        builder = builder.ca_file(path)?;
    }
    // A virtual node's agent sees the files of the machine it lives on.
    let machine = match args.sandbox {
        Some(_) => Path::new("/"),
        None => &args.host_root,
    };
    let roots = FileRoots::new(machine, args.file_root.iter().cloned());
    let client = builder.file_roots(roots).build()?;
    let (Some(cert), Some(key)) = (&args.client_cert, &args.client_key) else {
        return Ok(client);
    };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|e| {
            StartError::ClientCertificate(format!("{} cannot be read: {e}", path.display()))
        })
    };
    let fields = [
        ("hosts", args.client_cert_host.join(",").into_bytes()),
        ("tls.crt", read(cert)?),
        ("tls.key", read(key)?),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    let unusable = |e: &dyn std::fmt::Display| {
        StartError::ClientCertificate(format!("{} with its key: {e}", cert.display()))
    };
    let credentials = Credentials::from_fields(&fields.into()).map_err(|e| unusable(&e))?;
    client
        .with_credentials(credentials)
        .map_err(|e| unusable(&e))
}

/// How slots are filled.
fn settings(args: &Args, hardware: &Hardware) -> Settings {
    let named = |file: &&PathBuf| !file.as_os_str().is_empty();
    Settings {
        state_dir: hardware.state_dir.clone(),
        version_keys: args.version_key.clone(),
        boot_files: args.boot_file.iter().filter(named).cloned().collect(),
        window_limit: args.window_limit,
        compare_before_write: args.compare_before_write,
    }
}

/// The machine and how to reboot it.
fn machine(args: &Args) -> (Hardware, Arc<dyn Reboot>) {
    if let Some(folder) = &args.sandbox {
        let node = VirtualNode::new(folder);
        let state_dir = args
            .state_dir
            .clone()
            .unwrap_or_else(|| node.data().join("monok8s"));
        let grub = Grub::new(node.grubenv());
        let rebooter = reboot::for_virtual_node(&args.reboot, &node);
        return (
            Hardware {
                host: Arc::new(node) as Arc<dyn Host>,
                loader: Loader::Given(Arc::new(grub)),
                version_keys: args.version_key.clone(),
                lock: Arc::new(Mutex::new(StateLock::new(&state_dir))),
                state_dir,
            },
            Arc::from(rebooter),
        );
    }
    let roots = Roots::under(&args.host_root);
    let matters = [args.state_dir.as_deref(), args.grubenv.parent()];
    let matters = matters.into_iter().flatten().map(Path::to_path_buf);
    let rebooter = reboot::for_machine(&args.reboot, &roots, matters.collect());
    let host = RealMachine::new(roots, args.slot_a.clone(), args.slot_b.clone());
    let loader = match &args.boot_loader {
        BootLoader::Grub => Loader::Given(Arc::new(Grub::of(&host, &args.grubenv))),
        BootLoader::Auto => Loader::Auto {
            grubenv: args.grubenv.clone(),
            grub: Arc::new(Grub::of(&host, &args.grubenv)),
        },
        BootLoader::Hook(program) => Loader::Given(Arc::new(Hook::new(program))),
    };
    let state_dir = args.state_dir.clone().unwrap_or_default();
    let hardware = Hardware {
        host: Arc::new(host),
        loader,
        version_keys: args.version_key.clone(),
        lock: Arc::new(Mutex::new(StateLock::new(&state_dir))),
        state_dir,
    };
    (hardware, Arc::from(rebooter))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_client_certificate_that_cannot_be_used_is_named_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        let args = Args::parse_from([
            "node-agent".to_owned(),
            "--node-name=n".to_owned(),
            "--sandbox=/s".to_owned(),
            format!("--client-cert={}", cert.display()),
            format!("--client-key={}", key.display()),
            "--client-cert-host=images.example".to_owned(),
        ]);
        let told = || fetch_client(&args).unwrap_err().to_string();
        assert!(told().contains("c.pem cannot be read"), "{}", told());
        std::fs::write(&cert, "hunter2").unwrap();
        assert!(told().contains("k.pem cannot be read"), "{}", told());
        std::fs::write(&key, "hunter2").unwrap();
        assert!(told().contains("c.pem with its key"), "{}", told());
        assert!(!told().contains("hunter2"), "{}", told());
    }

    #[tokio::test]
    async fn a_task_that_ends_ends_the_agent() {
        let mut beside = JoinSet::new();
        beside.spawn(std::future::pending());
        beside.spawn(async { panic!("a defect") });
        let why = ended(&mut beside).await.to_string();
        assert!(why.contains("a defect"), "{why}");
        beside.spawn(async {});
        assert!(matches!(ended(&mut beside).await, StartError::Ended(_)));
    }
}
