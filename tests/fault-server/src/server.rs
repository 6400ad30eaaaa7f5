//! The sockets.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    answer::{self, Answer, Body, End},
    content::{Content, Resource},
    fault::Fault,
    request::{MAX_HEAD, Request},
    tls::{ClientCertificate, Tls},
};

/// Bytes read from a content at a time.
const PIECE: usize = 256 * 1024;

/// A running server.
#[derive(Debug)]
pub struct FaultServer {
    address: SocketAddr,
    ca_pem: Option<String>,
    client: Option<ClientCertificate>,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What a server is to serve.
#[derive(Debug, Default)]
pub struct Builder {
    listen: Option<SocketAddr>,
    tls: Option<Tls>,
    site: Site,
}

#[derive(Debug, Default)]
struct Site {
    paths: HashMap<String, Resource>,
    anywhere: Option<Resource>,
}

#[derive(Debug, Default)]
struct Shared {
    site: Mutex<Site>,
    requests: Mutex<Vec<Request>>,
    body_bytes: AtomicU64,
}

/// A lock whose holder cannot leave it half changed, so poisoning means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Builder {
    /// Where to listen. Default: 127.0.0.1, a free port.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Serves https in place of http.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Serves this at one path.
    #[must_use]
    pub fn at(mut self, path: &str, resource: Resource) -> Self {
        self.site.paths.insert(path.into(), resource);
        self
    }

    /// Serves this at every path that has nothing of its own. Without it they are 404.
    #[must_use]
    pub fn anywhere(mut self, resource: Resource) -> Self {
        self.site.anywhere = Some(resource);
        self
    }

    /// Binds and serves, on tasks of the current runtime.
    pub async fn start(self) -> io::Result<FaultServer> {
        let listen = self.listen.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (acceptor, ca_pem, client) = match self.tls {
            Some(tls) => {
                let made = tls.make(&["http/1.1"])?;
                (Some(made.acceptor), Some(made.ca_pem), made.client)
            }
            None => (None, None, None),
        };
        let shared = Arc::new(Shared {
            site: Mutex::new(self.site),
            ..Shared::default()
        });
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Ok(FaultServer {
            address,
            ca_pem,
            client,
            shared,
            accepting,
        })
    }
}

impl FaultServer {
    /// Nothing to serve yet.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Serves one content at every path over http, with these faults, one per request.
    pub async fn start(content: impl Into<Content>, faults: Vec<Fault>) -> io::Result<Self> {
        Self::builder()
            .anywhere(Resource::new(content).faults(faults))
            .start()
            .await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.ca_pem.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{path}", self.address)
    }

    /// The certificate authority of a server with TLS, as PEM.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// What a server that asks for client certificates lets in.
    pub fn client_certificate(&self) -> Option<&ClientCertificate> {
        self.client.as_ref()
    }

    /// Every request so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Bytes of bodies given to the sockets so far.
    pub fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::Relaxed)
    }

    /// Serves this at a path from now on, in place of what was there.
    pub fn set(&self, path: &str, resource: Resource) {
        lock(&self.shared.site).paths.insert(path.into(), resource);
    }

    /// Adds faults to the script at a path, or to that for every other path.
    pub fn inject(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        if let Some(resource) = lock(&self.shared.site).find(path) {
            resource.script.extend(faults);
        }
    }

    /// Serves until the process ends.
    pub async fn serve(mut self) -> io::Result<()> {
        (&mut self.accepting).await.map_err(io::Error::other)
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Site {
    fn find(&mut self, path: &str) -> Option<&mut Resource> {
        self.paths.get_mut(path).or(self.anywhere.as_mut())
    }
}

/// Aborted by the server's drop, and every connection with it.
async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // An error is the client's going away: there is nobody left to tell.
                    let _ = match acceptor {
                        None => serve(stream, &shared).await,
                        Some(tls) => match tls.accept(stream).into_fallible().await {
                            Ok(stream) => serve(stream, &shared).await,
                            // Closed with bytes unread it would be reset, and the alert that says
                            // what is wrong be lost.
                            Err((_, mut stream)) => stall(&mut stream).await,
                        },
                    };
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A connection that can be cut off with a reset.
trait Connection: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Connection for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Connection for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

async fn serve(mut stream: impl Connection, shared: &Shared) -> io::Result<()> {
    stream.tcp().set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(request) = read_head(&mut stream, &mut buffer).await? {
        let answer = shared.decide(&request);
        stream.write_all(answer.head.as_bytes()).await?;
        write_body(&mut stream, &answer, &shared.body_bytes).await?;
        stream.flush().await?;
        match answer.end {
            End::KeepAlive => {}
            End::Close | End::Truncate(_) => return stream.shutdown().await,
            End::Reset(_) => return stream.tcp().set_zero_linger(),
            End::Stall(_) => return stall(&mut stream).await,
        }
    }
    Ok(())
}

impl Shared {
    fn decide(&self, request: &Request) -> Answer {
        lock(&self.requests).push(request.clone());
        match lock(&self.site).find(request.path()) {
            None => answer::nothing_here(),
            Some(resource) => {
                let fault = resource.next_fault();
                if let Fault::Replace(content) = &fault {
                    resource.replace(content.clone());
                }
                answer::answer(request, resource, &fault)
            }
        }
    }
}

/// Stays silent until the client goes away.
async fn stall(stream: &mut impl Connection) -> io::Result<()> {
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

async fn read_head(
    stream: &mut impl Connection,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Request>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            let head = std::mem::replace(buffer, rest);
            return Ok(std::str::from_utf8(&head[..end])
                .ok()
                .and_then(Request::parse));
        }
        if buffer.len() > MAX_HEAD || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn write_body(
    stream: &mut impl Connection,
    answer: &Answer,
    count: &AtomicU64,
) -> io::Result<()> {
    let (content, mut at, to) = match &answer.body {
        Body::Empty => return Ok(()),
        Body::Short(bytes) => return stream.write_all(bytes).await,
        Body::Part { content, from, to } => (content, *from, *to),
    };
    let cut = match answer.end {
        End::Reset(n) | End::Stall(n) | End::Truncate(n) => Some(n),
        End::KeepAlive | End::Close => None,
    };
    let stop = cut.map_or(to, |n| to.min(at.saturating_add(n)));
    // Where the pieces begin.
    let slow = answer
        .pace
        .map_or(stop, |pace| stop.min(at.saturating_add(pace.after)));
    while at < stop {
        let pace = answer.pace.filter(|_| at >= slow);
        let piece = pace.map_or(PIECE, |pace| pace.bytes);
        let end = if pace.is_some() { stop } else { slow };
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let bytes = flipped(content.read(at, piece.min(left)).await?, at, answer.flip);
        if answer.chunked {
            stream
                .write_all(format!("{:x}\r\n", bytes.len()).as_bytes())
                .await?;
        }
        stream.write_all(&bytes).await?;
        if answer.chunked {
            stream.write_all(b"\r\n").await?;
        }
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        at += bytes.len() as u64;
        if let Some(pace) = pace {
            stream.flush().await?;
            tokio::time::sleep(pace.every).await;
        }
    }
    if answer.chunked && cut.is_none() {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

/// The bytes at `at`, with the lowest bit of the one at `flip` turned.
fn flipped(bytes: Bytes, at: u64, flip: Option<u64>) -> Bytes {
    let within = flip
        .and_then(|offset| offset.checked_sub(at))
        .and_then(|offset| usize::try_from(offset).ok())
        .filter(|&offset| offset < bytes.len());
    match within {
        None => bytes,
        Some(offset) => {
            let mut turned = bytes.to_vec();
            turned[offset] ^= 1;
            turned.into()
        }
    }
}
