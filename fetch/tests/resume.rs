//! A stream that is taken up where an earlier run of the program left it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a test that cannot go on fails; the support module is shared and used in parts"
)]

mod support;

use std::time::Duration;

use monok8s_fault_server::{Fault as Serve, FaultServer, Resource};
use monok8s_fetch::{
    Beginning, Change, Client, FetchError, FileIdentity, FileRoots, ImageBody, Resume,
};
use support::{builder, client, noise, request, url};

const SIZE: usize = 200_000;
/// Where the earlier run was killed.
const AT: usize = 70_000;
const DATE: &str = "Sat, 21 Nov 2026 09:00:00 GMT";
const LATER: &str = "Sat, 21 Nov 2026 09:00:01 GMT";
/// Longer than any test takes that is to succeed.
const LONG: Duration = Duration::from_secs(60);

async fn serve(resource: Resource) -> FaultServer {
    FaultServer::builder()
        .at("/i", resource)
        .start()
        .await
        .unwrap()
}

/// What an earlier run keeps: some of the file is read, and all else is forgotten.
async fn earlier_run(client: &Client, place: &str) -> FileIdentity {
    let mut body = client.open(request(place, LONG).0).await.unwrap();
    body.next_chunk().await.unwrap();
    let kept = serde_json::to_string(&body.identity().unwrap()).unwrap();
    assert!(!kept.contains("secret"), "{kept}");
    serde_json::from_str(&kept).unwrap()
}

/// The bytes from where the stream begins, starting over where told to.
async fn rest(body: &mut ImageBody) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn at(place: &str, at: usize, file: FileIdentity) -> monok8s_fetch::ImageRequest {
    let (mut wanted, _) = request(place, LONG);
    let at = at as u64;
    wanted.resume = Some(Resume { at, file });
    wanted
}

/// What a server says of its file, what it says the next time, and what is made of it.
#[tokio::test]
async fn goes_on_only_in_the_file_that_it_was() {
    let (old, new) = (noise(SIZE), noise(SIZE + 1)[1..].to_vec());
    let grown = noise(SIZE + 10);
    let plain = || Resource::new(old.clone());
    let dated = |date| plain().etag(None).last_modified(Some(date));
    let length = Change::Length {
        was: SIZE as u64,
        is: SIZE as u64 + 10,
    };
    for (name, before, now, change) in [
        ("same", plain(), plain(), None),
        ("same, by its date", dated(DATE), dated(DATE), None),
        (
            "without length",
            plain().without_length(),
            plain().without_length(),
            None,
        ),
        (
            "a server that has lost its ranges",
            plain(),
            plain().without_ranges(),
            None,
        ),
        (
            "another",
            plain(),
            Resource::new(new.clone()),
            Some(Change::ETag),
        ),
        (
            "another, without ranges",
            plain(),
            Resource::new(new.clone()).without_ranges(),
            Some(Change::ETag),
        ),
        (
            "another, and If-Range is not heeded",
            plain(),
            Resource::new(new.clone()).faults([Serve::IgnoreIfRange]),
            Some(Change::ETag),
        ),
        (
            "later",
            dated(DATE),
            dated(LATER),
            Some(Change::LastModified),
        ),
        (
            "grown under its name",
            plain().etag(Some("\"a\"")),
            Resource::new(grown.clone()).etag(Some("\"a\"")),
            Some(length),
        ),
        (
            "nothing to recognise it by",
            plain().etag(None),
            plain().etag(None),
            Some(Change::Unrecognisable),
        ),
    ] {
        let server = serve(before).await;
        let place = server.url("/i?key=secret");
        let file = earlier_run(&client(), &place).await;
        let content = match now.clone() {
            r if format!("{r:?}")
                == format!("{:?}", Resource::new(grown.clone()).etag(Some("\"a\""))) =>
            {
                &grown
            }
            _ if name.starts_with("another") => &new,
            _ => &old,
        };
        server.set("/i", now);
        let asked = server.requests().len();
        let mut body = client().open(at(&place, AT, file)).await.unwrap();
        let beginning = body.beginning().clone();
        let bytes = rest(&mut body).await.unwrap();
        match change {
            None => {
                assert_eq!(beginning, Beginning::Resumed { at: AT as u64 }, "{name}");
                assert!(bytes == content[AT..], "{name}");
                assert_eq!(body.progress().done, SIZE as u64, "{name}");
                assert_eq!(server.requests().len(), asked + 1, "{name}");
            }
            Some(change) => {
                let instead_of = AT as u64;
                let expected = Beginning::StartedOver { instead_of, change };
                assert_eq!(beginning, expected, "{name}");
                assert!(bytes == *content, "{name}");
            }
        }
        let first = &server.requests()[asked];
        assert_eq!(first.header("range"), Some("bytes=70000-"), "{name}");
    }
}
