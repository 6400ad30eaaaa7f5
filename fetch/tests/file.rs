//! Images from folders of this machine.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use monok8s_fault_server::FaultServer;
use monok8s_fetch::{Client, Fault, FileRoots, Kind, PolicyRefusal};
use support::{builder, noise, read, request};

const SHORT: Duration = Duration::from_millis(50);

/// A machine whose `/` is at a folder, as in a container, with images below `/media`.
struct Machine {
    root: tempfile::TempDir,
    client: Client,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("media/stick")).unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/shadow"), "secret").unwrap();
        let roots = FileRoots::new(root.path(), ["/media".into()]);
        let client = builder().file_roots(roots).build().unwrap();
        Self { root, client }
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        fs::write(self.root.path().join(path), bytes).unwrap();
    }

    async fn fault(&self, url: &str) -> (Fault, Kind) {
        let error = read(&self.client, request(url, SHORT).0).await.unwrap_err();
        assert!(error.to_string().starts_with(url), "{error}");
        let kind = error.kind();
        (error.fault, kind)
    }
}

#[tokio::test]
async fn a_file_is_read_like_any_other_source() {
    let machine = Machine::new();
    let content = noise(700_000);
    machine.put("media/stick/v1.img.zst", &content);
    let url = "file:///media/stick/v1.img.zst";
    let (bytes, starts) = read(&machine.client, request(url, SHORT).0).await.unwrap();
    assert!(bytes == content && starts == 1);
    let body = machine.client.open(request(url, SHORT).0).await.unwrap();
    assert_eq!(body.progress().total, Some(700_000));

    // A mirror takes its place when the stick is not there.
    let server = FaultServer::start(content.clone(), Vec::new())
        .await
        .unwrap();
    let (mut with_mirror, events) = request("file:///media/stick/missing", SHORT);
    with_mirror.mirrors = vec![server.url("/i").parse().unwrap()];
    let (bytes, _) = read(&machine.client, with_mirror).await.unwrap();
    assert!(bytes == content);
    assert_eq!(events.skipped()[0].fault, Fault::NoSuchFile);
}

#[tokio::test]
async fn only_what_is_in_the_folders_is_read() {
    let machine = Machine::new();
    let root = machine.root.path();
    machine.put("media/a", b"image");
    symlink("a", root.join("media/within")).unwrap();
    symlink("../etc/shadow", root.join("media/out")).unwrap();
    symlink("/etc/shadow", root.join("media/absolute")).unwrap();
    symlink("../etc", root.join("media/folder")).unwrap();
    let within = read(&machine.client, request("file:///media/within", SHORT).0).await;
    assert_eq!(within.unwrap().0, b"image");

    for (url, expected, kind) in [
        (
            "file:///media/out",
            Fault::Policy(PolicyRefusal::LinkLeadsOut),
            Kind::RefusedByPolicy,
        ),
        (
            "file:///media/absolute",
            Fault::Policy(PolicyRefusal::LinkLeadsOut),
            Kind::RefusedByPolicy,
        ),
        (
            "file:///media/folder/shadow",
            Fault::Policy(PolicyRefusal::LinkLeadsOut),
            Kind::RefusedByPolicy,
        ),
        (
            "file:///etc/shadow",
            Fault::Policy(PolicyRefusal::OutsideRoots {
                allowed: vec!["/media".into()],
            }),
            Kind::RefusedByPolicy,
        ),
        ("file:///media/none", Fault::NoSuchFile, Kind::NotFound),
        ("file:///media/a/b", Fault::NoSuchFile, Kind::NotFound),
        ("file:///media/stick", Fault::NotAFile, Kind::NotUsable),
    ] {
        assert_eq!(machine.fault(url).await, (expected, kind), "{url}");
    }
    // A pipe that nobody writes to, which would otherwise be waited for.
    let pipe = root.join("media/pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let (fault, _) = machine.fault("file:///media/pipe").await;
    assert_eq!(fault, Fault::NotAFile);
    let none = builder().build().unwrap();
    let error = read(&none, request("file:///media/a", SHORT).0)
        .await
        .unwrap_err();
    assert_eq!(error.fault, Fault::Policy(PolicyRefusal::NoRoots));
}

/// A server may not send a client to its own files.
#[tokio::test]
async fn no_redirect_leads_to_a_file() {
    let machine = Machine::new();
    machine.put("media/a", b"image");
    for location in ["file:///media/a", "oci://registry.example/a:t"] {
        let away = monok8s_fault_server::Fault::Redirect(location.into());
        let server = FaultServer::start("", vec![away]).await.unwrap();
        let (fault, kind) = machine.fault(&server.url("/i")).await;
        assert_eq!(kind, Kind::RefusedByPolicy, "{fault}");
    }
}

#[tokio::test]
async fn a_file_that_is_put_in_anothers_place_is_noticed() {
    let machine = Machine::new();
    let file = machine.root.path().join("media/a");
    fs::write(&file, noise(2_000_000)).unwrap();
    let url = "file:///media/a";
    let mut body = machine.client.open(request(url, SHORT).0).await.unwrap();
    let mut read = body.next_chunk().await.unwrap().unwrap().len();
    // It gets shorter under the reader: the end comes early.
    let other = machine.root.path().join("media/b");
    fs::write(&other, noise(1_500_000)).unwrap();
    let shortened = fs::OpenOptions::new().write(true).open(&file).unwrap();
    shortened.set_len(1_000_000).unwrap();
    let error = loop {
        match body.next_chunk().await {
            Ok(Some(chunk)) => read += chunk.len(),
            Ok(None) => panic!("the end after {read} bytes"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::SourceChanged, "{error}");
    rename(&other, &file);
    body.start_over();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next_chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert!(bytes == noise(1_500_000));
}

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}
