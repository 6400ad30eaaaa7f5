//! What the tests against a real server share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by several tests, each of which uses a part"
)]

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use monok8s_fetch::{
    Backoff, Client, ClientBuilder, Event, FetchError, Floor, ImageRequest, Kind, Lookup, Policy,
    SourceUrl, Timing,
};

/// A test that takes longer hangs.
const HANGS: Duration = Duration::from_secs(120);

/// Short pauses; limits that a busy machine does not run into.
pub const PATIENT: Timing = Timing {
    connect: Duration::from_secs(30),
    answer: Duration::from_secs(30),
    document: Duration::from_secs(60),
    backoff: Backoff {
        first: Duration::from_millis(2),
        most: Duration::from_millis(20),
    },
    floor: Floor {
        bytes: 1000,
        window: Duration::from_secs(30),
    },
};

/// For servers that say nothing: limits that are run into soon.
pub const IMPATIENT: Timing = Timing {
    answer: Duration::from_millis(500),
    document: Duration::from_millis(1200),
    floor: Floor {
        bytes: 1000,
        window: Duration::from_millis(400),
    },
    ..PATIENT
};

pub fn builder() -> ClientBuilder {
    Client::builder()
        .policy(Policy::HTTP_ALLOWED)
        .timing(PATIENT)
        // Whoever runs the tests may sit behind a proxy; the servers here are on loopback.
        .environment_proxies(false)
}

pub fn client() -> Client {
    builder().build().unwrap()
}

pub fn impatient() -> Client {
    builder().timing(IMPATIENT).build().unwrap()
}

pub fn url(text: &str) -> SourceUrl {
    text.parse().unwrap()
}

/// Bytes no two stretches of which are equal by chance.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

/// A request whose events are kept.
pub fn request(url_text: &str, retry_for: Duration) -> (ImageRequest, Events) {
    let events = Events::default();
    let sink = events.clone();
    let request = ImageRequest {
        retry_for,
        observer: Some(Arc::new(move |event: &Event| {
            sink.0.lock().unwrap().push(event.clone());
        })),
        ..ImageRequest::new(url(url_text))
    };
    (request, events)
}

#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Vec<Event>>>);

impl Events {
    /// What was retried for, and the pause before.
    pub fn retries(&self) -> Vec<(FetchError, Duration)> {
        let events = self.0.lock().unwrap();
        let retry = |event: &Event| match event {
            Event::Retrying { error, after } => Some((error.clone(), *after)),
            _ => None,
        };
        events.iter().filter_map(retry).collect()
    }

    /// Why sources were given up.
    pub fn skipped(&self) -> Vec<FetchError> {
        let events = self.0.lock().unwrap();
        let skipped = |event: &Event| match event {
            Event::NextSource { error, .. } => Some(error.clone()),
            _ => None,
        };
        events.iter().filter_map(skipped).collect()
    }

    /// Offsets at which the stream went on, and bytes sent again.
    pub fn resumed(&self) -> Vec<(u64, u64)> {
        let events = self.0.lock().unwrap();
        let resumed = |event: &Event| match event {
            Event::Resumed { at, again, .. } => Some((*at, *again)),
            _ => None,
        };
        events.iter().filter_map(resumed).collect()
    }
}

/// Reads to the end, starting over where told to; the bytes and the number of starts.
pub async fn read(client: &Client, request: ImageRequest) -> Result<(Vec<u8>, u32), FetchError> {
    tokio::time::timeout(HANGS, read_all(client, request))
        .await
        .unwrap()
}

async fn read_all(client: &Client, request: ImageRequest) -> Result<(Vec<u8>, u32), FetchError> {
    let mut body = client.open(request).await?;
    let (mut bytes, mut starts) = (Vec::new(), 1);
    loop {
        match body.next_chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok((bytes, starts)),
            Err(error) if error.kind() == Kind::SourceChanged => {
                bytes.clear();
                body.start_over();
                starts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Every name has these addresses.
#[derive(Clone, Debug)]
pub struct Everywhere(pub Vec<IpAddr>);

impl Lookup for Everywhere {
    fn lookup(&self, _host: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        let addresses = self.0.clone();
        Box::pin(async move { Ok(addresses) })
    }
}
