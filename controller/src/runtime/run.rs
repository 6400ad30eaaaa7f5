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
    reconcile::Reconciler,
    watches::{Shared, Watches, WatchesEnded},
    writer::Writer,
};
use crate::decide::{OwnPods, Settings};

/// How long the writes under way may take once the end was asked for.
const GRACE: Duration = Duration::from_secs(5);

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
    let reconciler = Reconciler {
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
            leadership,
            stop.clone(),
            metrics.clone(),
            Drainer::new(&client, shared.clone()),
        ),
        pods: PodWatches::new(client.clone(), shared.clone(), metrics.clone()),
        metrics: metrics.clone(),
        shared,
        stop: stop.clone(),
    };

    let elected = async {
        watches.synced().await?;
        campaign.win().await;
        Ok::<(), WatchesEnded>(())
    };
    if let Some(elected) = stop.run_until_cancelled(elected).await {
        elected?;
        tracing::info!(identity, "leading");
        metrics.leads(true);
        tokio::select! {
            led = Box::pin(lead(reconciler, campaign, &stop)) => led?,
            ended = watches.ended() => return Err(ended.into()),
        }
    }
    stop.cancel();
    tracing::info!("ending");
    match serving.await {
        Ok(result) => Ok(result?),
        Err(_) => Ok(()),
    }
}

/// Reconciles for as long as the Lease is held. On request it lets the writes under way finish and
/// gives the Lease back; a lost Lease ends everything at once.
async fn lead(
    reconciler: Reconciler,
    mut campaign: Campaign,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let mut reconciling = Box::pin(reconciler.run());
    tokio::select! {
        biased;
        () = campaign.keep() => return Err(RunError::LostLease),
        () = &mut reconciling => {}
        () = stop.cancelled() => {
            if timeout(GRACE, reconciling).await.is_err() {
                // What was sent may still be written: the next leader had better wait.
                tracing::warn!("writes under way did not end in time; the Lease runs out by itself");
                return Ok(());
            }
        }
    }
    campaign.give_back().await;
    Ok(())
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
