//! From flags to a running controller, and its end.

use std::{sync::Arc, time::Duration};

use kube::{Api, Config};
use monok8s_telemetry::{
    metrics,
    server::{Readiness, ServeError, Server},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    catalog_source::{Catalogs, Urls},
    client,
    clock::Clock,
    drain::Drainer,
    events::Publisher,
    lease::{Campaign, Leadership},
    metrics::Metrics,
    options::{Options, OptionsError},
    pod_watches::PodWatches,
    reconcile::{Ended, Reconciler},
    request::Requests,
    watches::{Shared, Watches, WatchesEnded},
    writer::Writer,
};
use crate::{
    decide::{OwnPods, Settings},
    index::Progress,
};

/// How long the writes under way may take once the end was asked for.
const GRACE: Duration = Duration::from_secs(5);
/// How long the Events told of may take after that.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Why the controller ended otherwise than on request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Flags that do not fit together.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The API server's address or credentials were not found.
    #[error(
        "cannot tell how to reach the API server: {0}; set KUBECONFIG, or run in a Pod with a service account"
    )]
    Config(#[source] kube::Error),
    /// The HTTP client for catalogs could not be made.
    #[error("cannot fetch catalogs: {0}")]
    Fetch(#[from] monok8s_fetch::BuildError),
    /// Health and metrics could not be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Signals could not be listened to.
    #[error("cannot listen to signals: {0}")]
    Signals(#[source] std::io::Error),
    /// A watch ended, and with it what this process knows of the cluster.
    #[error(transparent)]
    Watches(#[from] WatchesEnded),
    /// The Lease could not be renewed, or somebody else holds it.
    #[error(
        "lost the Lease: it could not be renewed within two thirds of --lease-duration, or another replica holds it; ending, so that nothing is written by mistake"
    )]
    LostLease,
}

/// Runs until SIGTERM or SIGINT, or until the Lease is lost.
pub async fn run(options: Options) -> Result<(), RunError> {
    let timing = options.timing()?;
    let stop = CancellationToken::new();
    listen_for_the_end(stop.clone()).map_err(RunError::Signals)?;

    let urls = Urls::new(options.allow_http_catalogs, options.ca_file.as_deref())?;
    let clock = Clock::start();
    let config = Config::infer()
        .await
        .map_err(|error| RunError::Config(kube::Error::InferConfig(error)))?;
    let client = client::asking_once(config).map_err(RunError::Config)?;
    let mut registry = metrics::registry("controller", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::new(&mut registry);
    let readiness = Readiness::default();
    let shared = Arc::new(Shared::new(clock));
    let mut watches = Watches::start(&client, &shared, &readiness, &metrics);
    let server = Server::bind(options.listen).await?;
    tracing::info!(address = %server.address(), namespace = options.namespace, "started");
    let serving = tokio::spawn(server.run(registry, readiness, stop.clone().cancelled_owned()));

    // A replica of the same name may just have ended: the random part keeps the two apart.
    let identity = format!("{}_{}", options.identity, uuid::Uuid::new_v4());
    let leadership = Leadership::none(clock);
    let mut campaign = Campaign::new(
        Api::namespaced(client.clone(), &options.namespace),
        identity.clone(),
        timing,
        clock,
        leadership.clone(),
    );
    let requests = Requests::new(leadership, stop.clone(), metrics.clone());
    let mut reconciler = Reconciler {
        client: client.clone(),
        settings: Settings {
            own: OwnPods {
                namespace: options.namespace.clone(),
            },
            stall_after: options.stall_after.0,
            ..Settings::default()
        },
        catalogs: Catalogs::new(
            client.clone(),
            &options.namespace,
            urls,
            options.catalog_reread.0,
            shared.clone(),
            metrics.clone(),
        ),
        writer: Writer::new(
            &client,
            Publisher::start(client.clone(), options.identity),
            shared.clone(),
            requests.clone(),
            Drainer::new(&client, shared.clone(), requests),
            options.node_name.clone(),
        ),
        pods: PodWatches::new(client.clone(), shared.clone(), metrics.clone()),
        metrics: metrics.clone(),
        shared: shared.clone(),
        stop: stop.clone(),
    };
    let own_node = options.node_name;
    let goes_down = || {
        let own = own_node.as_ref();
        own.is_some_and(|node| shared.read(|i| i.progresses_of(node).any(Progress::goes_down)))
    };

    loop {
        let elected = async {
            watches.synced().await?;
            campaign.win(&goes_down).await;
            Ok::<(), WatchesEnded>(())
        };
        let Some(elected) = stop.run_until_cancelled(elected).await else {
            break;
        };
        elected?;
        tracing::info!(identity, "leading");
        metrics.leads(true);
        let ended = tokio::select! {
            ended = Box::pin(lead(&mut reconciler, &mut campaign, &stop)) => ended?,
            ended = watches.ended() => return Err(ended.into()),
        };
        metrics.leads(false);
        if ended == Ended::Stopped {
            break;
        }
        tracing::info!("standing by, for the node of this replica reboots");
    }
    if timeout(LAST_EVENTS, reconciler.finish()).await.is_err() {
        tracing::warn!("not every Event was written in time");
    }
    stop.cancel();
    tracing::info!("ending");
    match serving.await {
        Ok(result) => Ok(result?),
        Err(_) => Ok(()),
    }
}

/// Reconciles for as long as the Lease is held. On request, or before its own node goes down, it lets
/// the writes under way finish and gives the Lease back; a lost Lease ends everything at once.
async fn lead(
    reconciler: &mut Reconciler,
    campaign: &mut Campaign,
    stop: &CancellationToken,
) -> Result<Ended, RunError> {
    let mut reconciling = Box::pin(reconciler.run());
    let ended = tokio::select! {
        biased;
        () = campaign.keep() => return Err(RunError::LostLease),
        ended = &mut reconciling => ended,
        () = stop.cancelled() => {
            if timeout(GRACE, reconciling).await.is_err() {
                // What was sent may still be written: the next leader had better wait.
                tracing::warn!("writes under way did not end in time; the Lease runs out by itself");
                return Ok(Ended::Stopped);
            }
            Ended::Stopped
        }
    };
    campaign.give_back().await;
    Ok(ended)
}

fn listen_for_the_end(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
