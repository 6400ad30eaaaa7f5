//! `/healthz`, `/readyz` and `/metrics` over plain HTTP.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::metrics;

/// How long open connections may take to finish once shutdown has begun.
const GRACE: Duration = Duration::from_secs(2);

/// Why the endpoints cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address could not be listened on.
    #[error(
        "cannot listen on {address} for health and metrics: {source}; choose another with --listen"
    )]
    Bind {
        /// The address as asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The listening socket failed.
    #[error("the health and metrics server stopped: {0}")]
    Serve(#[source] io::Error),
}

/// Whether the daemon is ready: it is when every [`Gate`] is open. Clones share the gates.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    gates: Arc<RwLock<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    /// Adds a condition that readiness depends on; it begins closed. Asking again for a name gives
    /// the same gate.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.gates
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name)
            .or_insert(false);
        Gate {
            name,
            readiness: self.clone(),
        }
    }

    /// Names of the gates that are closed.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.gates
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(_, open)| !**open)
            .map(|(name, _)| *name)
            .collect()
    }
}

/// One condition that readiness depends on.
#[derive(Clone, Debug)]
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
}

impl Gate {
    /// The condition holds.
    pub fn open(&self) {
        self.set(true);
    }
    /// The condition does not hold, or no longer.
    pub fn close(&self) {
        self.set(false);
    }
    fn set(&self, open: bool) {
        self.readiness
            .gates
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.name, open);
    }
}

/// The endpoints, bound but not served yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds the address; port 0 takes a free one. `[::]` stands for every address of the machine, whether it knows
    /// IPv6 or not.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let bind = |source| ServeError::Bind { address, source };
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(e) => match without_ipv6(address, &e) {
                Some(other) => TcpListener::bind(other).await.map_err(bind)?,
                None => return Err(bind(e)),
            },
        };
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address })
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is done, then lets open requests finish for two seconds.
    pub async fn run(
        self,
        registry: Registry,
        readiness: Readiness,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let (stopping, mut stopped) = tokio::sync::watch::channel(());
        let signal = async move {
            shutdown.await;
            drop(stopping);
        };
        let serving =
            axum::serve(self.listener, router(registry, readiness)).with_graceful_shutdown(signal);
        tokio::select! {
            served = serving => served.map_err(ServeError::Serve),
            () = async {
                // Nothing is ever sent: it ends when the sender is dropped.
                while stopped.changed().await.is_ok() {}
                tokio::time::sleep(GRACE).await;
            } => Ok(()),
        }
    }
}

/// Where to listen instead of `address` on a kernel without IPv6 (booted with `ipv6.disable=1`), where binding `[::]`
/// fails with EAFNOSUPPORT.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let unspecified = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    (unspecified && error.raw_os_error() == Some(libc::EAFNOSUPPORT))
        .then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(scrape).with_state(Arc::new(registry)))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let waiting_for = readiness.waiting_for();
    if waiting_for.is_empty() {
        "ok\n".into_response()
    } else {
        let text = format!("not ready: waiting for {}\n", waiting_for.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn scrape(State(registry): State<Arc<Registry>>) -> Response {
    match metrics::encode(&registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn a_kernel_without_ipv6_is_listened_on_all_the_same() {
        let error = |number| io::Error::from_raw_os_error(number);
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let every = address("[::]:8080");
        assert_eq!(
            without_ipv6(every, &error(libc::EAFNOSUPPORT)),
            Some(address("0.0.0.0:8080"))
        );
        assert_eq!(without_ipv6(every, &error(libc::EADDRINUSE)), None);
        // Who asks for one address does not want all.
        let one = address("[::1]:8080");
        assert_eq!(without_ipv6(one, &error(libc::EAFNOSUPPORT)), None);
    }

    #[tokio::test]
    async fn ready_only_while_every_gate_is_open() {
        let readiness = Readiness::default();
        let (watches, disk) = (readiness.gate("watches"), readiness.gate("disk"));
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let registry = metrics::registry("agent", "9.9.9");
        let running = tokio::spawn(server.run(registry, readiness, async {
            stopped.await.ok();
        }));

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("not ready: waiting for disk, watches\n"));
        watches.open();
        disk.open();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        disk.close();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        let answer = fetch(address, "/metrics").await;
        assert!(answer.contains("monok8s_agent_build_info"), "{answer}");
        assert!(fetch(address, "/other").await.starts_with("HTTP/1.1 404"));

        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_does_not_hold_up_the_end() {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut silent = TcpStream::connect(server.address()).await.unwrap();
        silent.write_all(b"GET /hea").await.unwrap();
        let registry = metrics::registry("agent", "9.9.9");
        server
            .run(registry, Readiness::default(), std::future::ready(()))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let first = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = Server::bind(first.address()).await.unwrap_err();
        assert!(error.to_string().contains(&first.address().to_string()));
        assert!(error.to_string().contains("--listen"));
    }
}
