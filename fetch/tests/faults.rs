//! Every fault at every stage of a download, over real sockets: the table of what is made of it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a test that cannot go on fails; the support module is shared and used in parts"
)]

mod support;

use std::{sync::Arc, time::Duration};

use Cell::{Again, Bridged, Damaged, Nothing, Refused, Short};
use Stage::{BeforeHeaders, FirstByte, LastByte, Middle, ResumedRange};
use monok8s_fault_server::{Fault as Serve, FaultServer, Resource};
use monok8s_fetch::{Client, FetchError, Kind};
use support::{client, impatient, noise, read, request};

const SIZE: usize = 200_000;
/// Where the first connection breaks off for a fault in what comes after.
const MIDDLE: usize = 70_000;
/// Bytes of the range that was asked for then, before its fault.
const OF_RANGE: usize = 30_000;
/// Longer than any test takes that is to succeed.
const LONG: Duration = Duration::from_secs(120);
/// Long enough for a handful of tries.
const BRIEF: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Stall,
    Reset,
    SlowDrip,
    Truncation,
    FlippedBit,
    ClaimsMore,
    ClaimsLess,
    ETagChange,
    Busy,
    RedirectLoop,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    BeforeHeaders,
    FirstByte,
    Middle,
    LastByte,
    /// In the answer that carries on after the connection has broken off once.
    ResumedRange,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    /// The file arrives as if nothing had been; no byte is handed out twice.
    Bridged,
    /// The caller is told to start over, and the file arrives then.
    Again,
    /// Bytes arrive that only the image's checksum can tell from the right ones.
    Damaged,
    /// A file arrives that is shorter than it should be; the same holds.
    Short,
    /// An error at once.
    Refused(Kind),
    /// There is no such case.
    Nothing,
}

const STAGES: [Stage; 5] = [BeforeHeaders, FirstByte, Middle, LastByte, ResumedRange];
const LOOP: Cell = Refused(Kind::RefusedByPolicy);

/// What comes with the head of an answer (a length, a tag, a status) is at the later stages what
/// the next request gets when the connection has broken off there.
#[rustfmt::skip]
const TABLE: [(What, [Cell; 5]); 10] = [
    //                   before headers  first byte  middle   last byte  resumed range
    (What::Stall,        [Bridged,       Bridged,    Bridged, Bridged,   Bridged]),
    (What::Reset,        [Bridged,       Bridged,    Bridged, Bridged,   Bridged]),
    (What::SlowDrip,     [Nothing,       Bridged,    Bridged, Bridged,   Bridged]),
    (What::Truncation,   [Bridged,       Bridged,    Bridged, Bridged,   Bridged]),
    (What::FlippedBit,   [Nothing,       Damaged,    Damaged, Damaged,   Damaged]),
    (What::ClaimsMore,   [Again,         Again,      Again,   Again,     Again]),
    (What::ClaimsLess,   [Short,         Short,      Again,   Again,     Again]),
    (What::ETagChange,   [Bridged,       Bridged,    Again,   Again,     Again]),
    (What::Busy,         [Bridged,       Bridged,    Bridged, Bridged,   Bridged]),
    (What::RedirectLoop, [LOOP,          LOOP,       LOOP,    LOOP,      LOOP]),
];

impl What {
    /// A client that notices soon what has to be noticed by waiting, and else one that takes no busy
    /// machine for a server that stalls.
    fn client(self) -> Client {
        match self {
            Self::Stall | Self::SlowDrip => impatient(),
            _ => client(),
        }
    }
}

impl Stage {
    /// Bytes of the file before it.
    fn at(self) -> usize {
        match self {
            BeforeHeaders | FirstByte => 0,
            Middle => MIDDLE,
            LastByte => SIZE - 1,
            ResumedRange => MIDDLE + OF_RANGE,
        }
    }

    /// The same of the body that the fault is in.
    fn of_body(self) -> u64 {
        let before = if self == ResumedRange { MIDDLE } else { 0 };
        (self.at() - before) as u64
    }
}

fn replacement() -> Vec<u8> {
    noise(SIZE + 1)[1..].to_vec()
}

/// One answer after another.
fn script(what: What, stage: Stage) -> Vec<Serve> {
    let n = stage.of_body();
    let before = stage == BeforeHeaders;
    let in_body = match what {
        What::Stall if before => Some(Serve::NeverAnswer),
        What::Stall => Some(Serve::StallAfter(n)),
        What::Reset if before => Some(Serve::ResetBeforeAnswer),
        What::Reset => Some(Serve::ResetAfter(n)),
        What::SlowDrip => Some(Serve::DripAfter {
            after: n,
            bytes: 1,
            every: Duration::from_millis(20),
        }),
        What::Truncation if before => Some(Serve::CloseBeforeAnswer),
        What::Truncation => Some(Serve::TruncateAfter(n)),
        What::FlippedBit => Some(Serve::FlipBit(stage.at() as u64)),
        _ => None,
    };
    let with_head = match what {
        What::ClaimsMore => Some(Serve::ClaimLength(SIZE as u64 + 10)),
        What::ClaimsLess => Some(Serve::ClaimLength(SIZE as u64 - 10)),
        What::ETagChange => Some(Serve::Replace(replacement().into())),
        What::Busy => Some(Serve::retry_after(503, "0")),
        What::RedirectLoop => Some(Serve::Redirect("/loop".into())),
        _ => None,
    };
    let resumes = (stage == ResumedRange).then_some(Serve::TruncateAfter(MIDDLE as u64));
    let breaks_off = (with_head.is_some() && !before).then_some(Serve::TruncateAfter(n));
    [resumes, breaks_off, in_body, with_head]
        .into_iter()
        .flatten()
        .collect()
}

async fn serve(resource: Resource) -> FaultServer {
    FaultServer::builder()
        .at("/i", resource)
        .at(
            "/loop",
            Resource::new("").forever(Serve::Redirect("/loop".into())),
        )
        .start()
        .await
        .unwrap()
}

fn cells() -> impl Iterator<Item = (What, Stage, Cell)> {
    let row = |(what, cells): (What, [Cell; 5])| {
        let stages = STAGES.into_iter().zip(cells);
        stages.map(move |(stage, cell)| (what, stage, cell))
    };
    TABLE
        .into_iter()
        .flat_map(row)
        .filter(|(_, _, cell)| *cell != Nothing)
}

#[tokio::test]
async fn every_fault_at_every_stage() {
    for (what, stage, cell) in cells() {
        let name = format!("{what:?}, {stage:?}");
        let server = serve(Resource::new(noise(SIZE)).faults(script(what, stage))).await;
        let (wanted, _) = request(&server.url("/i?key=secret"), LONG);
        let result = read(&what.client(), wanted).await;
        let right = if what == What::ETagChange {
            replacement()
        } else {
            noise(SIZE)
        };
        let expected = match cell {
            Bridged => (right, 1),
            Again => (right, 2),
            Damaged => {
                let mut bytes = right;
                bytes[stage.at()] ^= 1;
                (bytes, 1)
            }
            Short => (right[..SIZE - 10].to_vec(), 1),
            Refused(kind) => {
                let refused = result.map(|_| ()).unwrap_err();
                assert_eq!(refused.kind(), kind, "{name}");
                continue;
            }
            Nothing => continue,
        };
        let found = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.1, expected.1, "{name}: starts");
        assert!(found.0 == expected.0, "{name}: other bytes");
    }
}

/// The same, and then the server serves no more: whatever came before, the error says of which URL
/// how many bytes of how many there are, and shows no query.
#[tokio::test]
async fn every_error_says_how_far_it_came() {
    for (what, stage, cell) in cells() {
        // The whole file has come by then: what is replaced before its first byte is just another
        // file, and a last byte that drips is there all the same.
        let whole = matches!(cell, Damaged | Short)
            || (what, cell) == (What::ETagChange, Bridged)
            || (what, stage) == (What::SlowDrip, LastByte);
        if whole {
            continue;
        }
        let name = format!("{what:?}, {stage:?}");
        let resource = Resource::new(noise(SIZE))
            .faults(script(what, stage))
            .forever(Serve::status(500));
        let server = serve(resource).await;
        let (bytes, error) = fail(&what.client(), &server).await;
        let place = server.url("/i");
        let shown = error.to_string();
        assert!(shown.starts_with(&place), "{name}: {shown}");
        assert!(
            !format!("{shown} {error:?}").contains("secret"),
            "{name}: {shown}"
        );
        assert_eq!(error.progress.done, bytes, "{name}: {shown}");
        let told = match error.progress.total {
            // No answer has told it.
            None => bytes == 0,
            Some(total) => shown.ends_with(&format!("(after {bytes} of {total} bytes)")),
        };
        assert!(told, "{name}: {shown}");
        // Reset, a connection may lose what was sent before.
        let exact = !matches!(what, What::Reset);
        if exact && cell == Bridged && what != What::SlowDrip {
            assert_eq!(bytes, stage.at() as u64, "{name}: {shown}");
        }
    }
}

/// Reads until it fails: the bytes since the last start, and why.
async fn fail(client: &Client, server: &FaultServer) -> (u64, FetchError) {
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (wanted, _) = request(&server.url("/i?key=secret"), BRIEF);
    let reading = async {
        let mut body = client.open(wanted).await?;
        loop {
            match body.next_chunk().await {
                Ok(Some(chunk)) => {
                    count.fetch_add(chunk.len() as u64, std::sync::atomic::Ordering::Relaxed);
                }
                Ok(None) => panic!("a whole file"),
                Err(error) if error.kind() == Kind::SourceChanged => {
                    count.store(0, std::sync::atomic::Ordering::Relaxed);
                    body.start_over();
                }
                Err(error) => return Err(error),
            }
        }
    };
    let result: Result<(), FetchError> = tokio::time::timeout(LONG, reading).await.unwrap();
    (
        count.load(std::sync::atomic::Ordering::Relaxed),
        result.unwrap_err(),
    )
}
