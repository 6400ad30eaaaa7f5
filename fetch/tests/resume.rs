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
    Beginning, Change, Client, Fault, FetchError, FileIdentity, FileRoots, ImageBody, Resume,
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

/// What the file is when the stream is taken up.
#[derive(Clone, Copy, PartialEq)]
enum Now {
    Same,
    Another,
    Grown,
}

/// What a server says of its file, what it says the next time, and what is made of it.
#[tokio::test]
async fn goes_on_only_in_the_file_that_it_was() {
    let content = |now| match now {
        Now::Same => noise(SIZE),
        Now::Another => noise(SIZE + 1)[1..].to_vec(),
        Now::Grown => noise(SIZE + 10),
    };
    let plain = |now| Resource::new(content(now));
    let bare = |now| plain(now).etag(None);
    let tagged = |now| plain(now).etag(Some("\"a\""));
    let dated = |date| bare(Now::Same).last_modified(Some(date));
    let same = || plain(Now::Same);
    let other = || plain(Now::Another);
    let length = Change::Length {
        was: SIZE as u64,
        is: SIZE as u64 + 10,
    };
    let etag = Some(Change::ETag);
    for (name, before, after, now, change) in [
        ("same", same(), same(), Now::Same, None),
        ("by its date", dated(DATE), dated(DATE), Now::Same, None),
        (
            "no length",
            same().without_length(),
            same().without_length(),
            Now::Same,
            None,
        ),
        (
            "a server that has lost its ranges",
            same(),
            same().without_ranges(),
            Now::Same,
            None,
        ),
        ("another", same(), other(), Now::Another, etag.clone()),
        (
            "another, without ranges",
            same(),
            other().without_ranges(),
            Now::Another,
            etag.clone(),
        ),
        (
            "another, and If-Range is not heeded",
            same(),
            other().faults([Serve::IgnoreIfRange]),
            Now::Another,
            etag,
        ),
        (
            "later",
            dated(DATE),
            dated(LATER),
            Now::Same,
            Some(Change::LastModified),
        ),
        (
            "grown under its name",
            tagged(Now::Same),
            tagged(Now::Grown),
            Now::Grown,
            Some(length),
        ),
        (
            "nothing to recognise it by",
            bare(Now::Same),
            bare(Now::Same),
            Now::Same,
            Some(Change::Unrecognisable),
        ),
    ] {
        let server = serve(before).await;
        let place = server.url("/i?key=secret");
        let file = earlier_run(&client(), &place).await;
        server.set("/i", after);
        let asked = server.requests().len();
        let mut body = client().open(at(&place, AT, file)).await.unwrap();
        let beginning = body.beginning().clone();
        let bytes = rest(&mut body).await.unwrap();
        let whole = content(now);
        if let Some(change) = change {
            let instead_of = AT as u64;
            let expected = Beginning::StartedOver { instead_of, change };
            assert_eq!(beginning, expected, "{name}");
            assert!(bytes == whole, "{name}");
        } else {
            assert_eq!(beginning, Beginning::Resumed { at: AT as u64 }, "{name}");
            assert!(bytes == whole[AT..], "{name}");
            assert_eq!(server.requests().len(), asked + 1, "{name}");
        }
        assert_eq!(body.progress().done, whole.len() as u64, "{name}");
        let first = &server.requests()[asked];
        assert_eq!(first.header("range"), Some("bytes=70000-"), "{name}");
    }
}

#[tokio::test]
async fn the_rest_is_as_patient_as_the_beginning() {
    let content = noise(SIZE);
    let server = serve(Resource::new(content.clone())).await;
    let place = server.url("/i");
    let file = earlier_run(&client(), &place).await;
    server.inject(
        "/i",
        [
            Serve::ResetBeforeAnswer,
            Serve::retry_after(503, "0"),
            Serve::TruncateAfter(50_000),
            Serve::IgnoreRange,
        ],
    );
    let sent = server.body_bytes();
    let mut body = client().open(at(&place, AT, file)).await.unwrap();
    assert_eq!(body.beginning(), &Beginning::Resumed { at: AT as u64 });
    assert!(rest(&mut body).await.unwrap() == content[AT..]);
    // The last answer brought the whole file, of which the beginning was passed over.
    assert_eq!(server.body_bytes() - sent, 50_000 + SIZE as u64);
}

/// The file changes after the stream was taken up: what the earlier run had is void as well.
#[tokio::test]
async fn a_change_in_the_middle_of_the_rest_starts_over_from_the_first_byte() {
    let new = noise(SIZE + 1)[1..].to_vec();
    let server = serve(Resource::new(noise(SIZE))).await;
    let place = server.url("/i");
    let file = earlier_run(&client(), &place).await;
    server.inject(
        "/i",
        [
            Serve::TruncateAfter(50_000),
            Serve::Replace(new.clone().into()),
        ],
    );
    let mut body = client().open(at(&place, AT, file)).await.unwrap();
    assert_eq!(body.beginning(), &Beginning::Resumed { at: AT as u64 });
    let error = rest(&mut body).await.unwrap_err();
    assert_eq!(error.fault, Fault::SourceChanged(Change::ETag));
    assert_eq!(error.progress.done, AT as u64 + 50_000);
    body.start_over();
    let change = Change::ETag;
    let instead_of = AT as u64 + 50_000;
    let expected = Beginning::StartedOver { instead_of, change };
    assert_eq!(body.beginning(), &expected);
    assert!(rest(&mut body).await.unwrap() == new);
}

#[tokio::test]
async fn the_source_that_was_read_is_asked_first() {
    let content = noise(SIZE);
    let first = serve(Resource::new(content.clone()).etag(Some("\"1\""))).await;
    let second = serve(Resource::new(content.clone()).etag(Some("\"2\""))).await;
    let file = earlier_run(&client(), &second.url("/i")).await;
    let request = |file: &FileIdentity| {
        let mut wanted = at(&first.url("/i"), AT, file.clone());
        wanted.mirrors = vec![url(&second.url("/i"))];
        wanted
    };
    let mut body = client().open(request(&file)).await.unwrap();
    assert_eq!(body.beginning(), &Beginning::Resumed { at: AT as u64 });
    assert_eq!(body.url(), &url(&second.url("/i")));
    assert!(rest(&mut body).await.unwrap() == content[AT..]);
    assert!(first.requests().is_empty());

    // Where it is gone the others are asked, and begin at the first byte unless they prove to have
    // the same file.
    second.set("/i", Resource::new("").forever(Serve::status(404)));
    let change = Change::OtherSource;
    let instead_of = AT as u64;
    for (tag, expected) in [
        ("\"1\"", Beginning::StartedOver { instead_of, change }),
        ("\"2\"", Beginning::Resumed { at: AT as u64 }),
    ] {
        first.set("/i", Resource::new(content.clone()).etag(Some(tag)));
        let mut body = client().open(request(&file)).await.unwrap();
        assert_eq!(body.beginning(), &expected);
        let from = if tag == "\"2\"" { AT } else { 0 };
        assert!(rest(&mut body).await.unwrap() == content[from..]);
    }
}

/// A place in a file of a URL that is no longer among those given: no server could say anything
/// about it.
#[tokio::test]
async fn a_place_that_is_of_no_use_is_not_asked_for() {
    let content = noise(SIZE);
    let server = serve(Resource::new(content.clone())).await;
    let file = earlier_run(&client(), &server.url("/i?other")).await;
    let of_this = earlier_run(&client(), &server.url("/i")).await;
    let beyond = Change::Length {
        was: SIZE as u64 + 1,
        is: SIZE as u64,
    };
    for (file, place, change) in [(file, AT, Change::OtherSource), (of_this, SIZE + 1, beyond)] {
        let asked = server.requests().len();
        let wanted = at(&server.url("/i"), place, file);
        let mut body = client().open(wanted).await.unwrap();
        let instead_of = place as u64;
        let expected = Beginning::StartedOver { instead_of, change };
        assert_eq!(body.beginning(), &expected);
        assert_eq!(server.requests()[asked].header("range"), None);
        assert!(rest(&mut body).await.unwrap() == content);
    }
}

#[tokio::test]
async fn nothing_is_asked_where_nothing_is_missing() {
    let server = serve(Resource::new(noise(SIZE))).await;
    let file = earlier_run(&client(), &server.url("/i")).await;
    let asked = server.requests().len();
    let wanted = at(&server.url("/i"), SIZE, file.clone());
    let mut body = client().open(wanted).await.unwrap();
    assert_eq!(body.beginning(), &Beginning::Resumed { at: SIZE as u64 });
    assert_eq!(body.next_chunk().await.unwrap(), None);
    assert_eq!(body.identity(), Some(file));
    assert_eq!(server.requests().len(), asked);

    // A server that never told the length is asked for more, and says that there is none.
    let server = serve(Resource::new(noise(SIZE)).without_length()).await;
    let file = earlier_run(&client(), &server.url("/i")).await;
    assert_eq!(file.total, None);
    let wanted = at(&server.url("/i"), SIZE, file);
    let mut body = client().open(wanted).await.unwrap();
    assert_eq!(body.next_chunk().await.unwrap(), None);
    assert_eq!(body.beginning(), &Beginning::Resumed { at: SIZE as u64 });
    assert_eq!(body.progress().total, Some(SIZE as u64));
}

#[tokio::test]
async fn a_file_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("media")).unwrap();
    let path = folder.path().join("media/i");
    let content = noise(700_000);
    std::fs::write(&path, &content).unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let roots = FileRoots::new(folder.path(), ["/media".into()]);
    let client = builder().file_roots(roots).build().unwrap();
    let place = "file:///media/i";
    let file = earlier_run(&client, place).await;
    let mut body = client.open(at(place, AT, file.clone())).await.unwrap();
    assert_eq!(body.beginning(), &Beginning::Resumed { at: AT as u64 });
    assert!(rest(&mut body).await.unwrap() == content[AT..]);

    // The same bytes on another medium, or the same one mounted again: another inode.
    let copy = folder.path().join("media/copy");
    std::fs::write(&copy, &content).unwrap();
    let set = |path: &std::path::Path, time| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    };
    set(&copy, modified);
    std::fs::rename(&copy, &path).unwrap();
    let body = client.open(at(place, AT, file.clone())).await.unwrap();
    assert_eq!(body.beginning(), &Beginning::Resumed { at: AT as u64 });

    // Written to since.
    set(&path, modified + Duration::from_nanos(1));
    let mut body = client.open(at(place, AT, file)).await.unwrap();
    let (instead_of, change) = (AT as u64, Change::ETag);
    let expected = Beginning::StartedOver { instead_of, change };
    assert_eq!(body.beginning(), &expected);
    assert!(rest(&mut body).await.unwrap() == content);
}

/// The checksum decides which file is the right one, and only the caller knows it.
#[tokio::test]
async fn a_source_whose_file_is_not_the_promised_one_is_passed_over() {
    let (right, wrong) = (noise(SIZE), noise(SIZE + 1)[1..].to_vec());
    let bad = serve(Resource::new(wrong.clone())).await;
    let good = serve(Resource::new(right.clone())).await;
    let (mut wanted, events) = request(&bad.url("/i"), LONG);
    wanted.mirrors = vec![url(&good.url("/i"))];
    let mut body = client().open(wanted).await.unwrap();
    assert!(rest(&mut body).await.unwrap() == wrong);
    assert!(body.reject_source());
    let (instead_of, change) = (SIZE as u64, Change::OtherSource);
    let expected = Beginning::StartedOver { instead_of, change };
    assert_eq!(body.beginning(), &expected);
    assert!(rest(&mut body).await.unwrap() == right);
    let skipped = events.skipped();
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].fault, Fault::NotAsPromised);
    assert!(
        skipped[0].to_string().starts_with(&bad.url("/i")),
        "{}",
        skipped[0]
    );

    assert!(!body.reject_source(), "there is no third one");
    let error = body.next_chunk().await.unwrap_err();
    assert!(error.to_string().contains(&good.url("/i")), "{error}");
    assert_eq!(error.earlier.len(), 1);
    body.start_over();
    assert!(body.next_chunk().await.is_err(), "it is final");
}
