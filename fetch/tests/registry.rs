//! Images from OCI registries: Debian's docker-registry, and for what it never does (lies, connections
//! that break off) a server that fails on demand.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use monok8s_fault_server::{Fault as Serve, FaultServer, Resource, Tls};
use monok8s_fetch::{
    Authorization, Beginning, Client, Credentials, Fault, FetchError, Kind, PolicyRefusal, Resume,
};
use monok8s_registry::{
    Access, INDEX, MANIFEST, PASSWORD, Pki, Registry, USER, descriptor, digest, manifest,
};
use serde_json::json;
use support::{builder, noise, read, request};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);
const SIZE: usize = 300_000;

fn trusting(pki: &Pki) -> Client {
    builder().ca_pem(&pki.ca_pem()).unwrap().build().unwrap()
}

async fn image(client: &Client, url: &str) -> Result<Vec<u8>, FetchError> {
    read(client, request(url, SHORT).0)
        .await
        .map(|(bytes, _)| bytes)
}

#[tokio::test]
async fn a_tag_a_digest_and_an_index() {
    let Some(registry) = Registry::start(Access::Anyone).await else {
        return;
    };
    let client = trusting(&registry.pki);
    let (image_a, image_b) = (noise(SIZE), noise(SIZE / 2));
    for blob in [&image_a, &image_b] {
        registry.push_blob(blob).await;
    }
    let single = manifest(&[&image_a]);
    let other = manifest(&[&image_b]);
    let double = manifest(&[&image_a, &image_b]);
    let entry = |bytes: &[u8], architecture: &str| {
        let mut entry = descriptor(bytes, MANIFEST);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    for (tag, bytes) in [("single", &single), ("other", &other), ("double", &double)] {
        registry.push_manifest(tag, bytes).await;
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [entry(&other, "arm64"), entry(&single, "amd64")],
    })
    .to_string()
    .into_bytes();
    registry.push_manifest("both", &index).await;

    assert!(image(&client, &registry.name(":single")).await.unwrap() == image_a);
    let by_digest = registry.name(&format!("@{}", digest(&other)));
    assert!(image(&client, &by_digest).await.unwrap() == image_b);
    for (platform, expected) in [("linux/amd64", &image_a), ("linux/arm64", &image_b)] {
        let (mut wanted, _) = request(&registry.name(":both"), SHORT);
        wanted.platform = Some(platform.parse().unwrap());
        let body = client.open(wanted.clone()).await.unwrap();
        let artifact = body.artifact().unwrap();
        // Unread it would hold up the next one on the same connection.
        drop(body);
        assert_eq!(artifact.digest, digest(&index));
        assert_eq!(artifact.layer, digest(expected));
        assert_eq!(artifact.size, expected.len() as u64);
        assert!(read(&client, wanted).await.unwrap().0 == **expected);
    }
    let (mut wanted, _) = request(&registry.name(":both"), SHORT);
    wanted.platform = Some("linux/s390x".parse().unwrap());
    let error = read(&client, wanted).await.unwrap_err();
    assert!(
        error.to_string().contains("none for linux/s390x"),
        "{error}"
    );

    let error = image(&client, &registry.name(":double")).await.unwrap_err();
    assert!(error.to_string().contains("2 layers"), "{error}");
    for absent in [":absent", &format!("@sha256:{}", "0".repeat(64))] {
        let error = image(&client, &registry.name(absent)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
    }
    let error = image(&builder().build().unwrap(), &registry.name(":single"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Untrusted, "{error}");
}

/// A registry with one image, which whoever `access` lets in may read.
async fn with_an_image(access: Access) -> Option<(Registry, Vec<u8>)> {
    let open = Registry::start(Access::Anyone).await?;
    let content = noise(SIZE);
    open.push("t", &content).await;
    Some((open.restart(access).await, content))
}

fn fields(fields: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
    fields.iter().map(owned).collect()
}

#[tokio::test]
async fn a_password_is_shown_to_the_host_it_is_for() {
    let Some((registry, content)) = with_an_image(Access::Password).await else {
        return;
    };
    let client = trusting(&registry.pki);
    let url = registry.name(":t");
    let error = image(&client, &url).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden, "{error}");
    for (hosts, password, expected) in [
        (registry.host(), PASSWORD, None),
        (registry.host(), "wrong", Some(Kind::Forbidden)),
        ("other.example".into(), PASSWORD, Some(Kind::Forbidden)),
    ] {
        let secret = fields(&[
            ("hosts", &hosts),
            ("username", USER),
            ("password", password),
        ]);
        let credentials = Credentials::from_fields(&secret).unwrap();
        let client = client.with_credentials(credentials).unwrap();
        match (image(&client, &url).await, expected) {
            (Ok(bytes), None) => assert!(bytes == content),
            (Err(error), Some(kind)) => assert_eq!(error.kind(), kind, "{error}"),
            (found, _) => panic!("{:?} for {hosts}", found.map(|bytes| bytes.len())),
        }
    }
}

#[tokio::test]
async fn a_certificate_is_shown_to_the_host_it_is_for() {
    let Some((registry, content)) = with_an_image(Access::Certificate).await else {
        return;
    };
    let client = trusting(&registry.pki);
    let url = registry.name(":t");
    assert!(image(&client, &url).await.is_err());
    let (certificate, key) = registry.pki.issue("node");
    for (hosts, let_in) in [(registry.host(), true), ("other.example".into(), false)] {
        let secret = fields(&[
            ("hosts", &hosts),
            ("tls.crt", &certificate),
            ("tls.key", &key),
        ]);
        let credentials = Credentials::from_fields(&secret).unwrap();
        let client = client.with_credentials(credentials).unwrap();
        match image(&client, &url).await {
            Ok(bytes) => assert!(let_in && bytes == content),
            Err(error) => assert!(!let_in, "{error}"),
        }
    }
    let broken = fields(&[
        ("hosts", "a.example"),
        ("tls.crt", &certificate),
        ("tls.key", "no key"),
    ]);
    let credentials = Credentials::from_fields(&broken).unwrap();
    let error = client.with_credentials(credentials).unwrap_err();
    assert!(error.to_string().contains("client certificate"), "{error}");
}

/// A server that gives a token to whoever asks, and that only this token lets in.
async fn token_server() -> (FaultServer, Access) {
    let pki = Pki::new();
    let token = json!({"token": pki.token("monok8s/rootfs")}).to_string();
    let tokens = FaultServer::builder()
        .tls(Tls::default())
        .at("/token", Resource::new(token))
        .start()
        .await
        .unwrap();
    let access = Access::Token {
        realm: tokens.url("/token"),
        pki: Box::new(pki),
    };
    (tokens, access)
}

/// A client that trusts a registry's authority and those of other servers.
fn trusting_both(pki: &Pki, servers: &[&FaultServer]) -> Client {
    servers
        .iter()
        .fold(
            builder().ca_pem(&pki.ca_pem()).unwrap(),
            |builder, server| builder.ca_pem(server.ca_pem().unwrap()).unwrap(),
        )
        .build()
        .unwrap()
}

/// The registry sends for a token to a server of its own choice, and checks the token's signature.
#[tokio::test]
async fn a_token_is_fetched_for_the_registry() {
    let (tokens, access) = token_server().await;
    let Some((registry, content)) = with_an_image(access).await else {
        return;
    };
    let client = trusting_both(&registry.pki, &[&tokens]);
    let url = registry.name(":t");
    assert!(image(&client, &url).await.unwrap() == content);
    let asked = tokens.requests();
    // Once for manifest and layer both.
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].target,
        "/token?service=registry&scope=repository%3Amonok8s%2Frootfs%3Apull"
    );
    assert_eq!(asked[0].header("authorization"), None);

    // Credentials go to the token server when it is named beside the registry that sends for the token: named
    // alone, it is asked as if by anybody.
    let (server, registrys) = (tokens.address().to_string(), registry.host());
    for (hosts, shown) in [
        (server.clone(), false),
        (registrys.clone(), false),
        (format!("{server}, {registrys}"), true),
    ] {
        let secret = fields(&[
            ("hosts", &hosts),
            ("username", USER),
            ("password", PASSWORD),
        ]);
        let client = client
            .with_credentials(Credentials::from_fields(&secret).unwrap())
            .unwrap();
        assert!(image(&client, &url).await.unwrap() == content);
        let asked = tokens.requests().pop().unwrap();
        let basic = asked
            .header("authorization")
            .is_some_and(|value| value.starts_with("Basic "));
        assert_eq!(basic, shown, "{hosts}");
    }
    assert_eq!(tokens.requests().len(), 4);
}

/// The registry redirects to its storage, which is not shown the token that opened the registry.
#[tokio::test]
async fn storage_that_a_registry_redirects_to_is_not_shown_its_token() {
    let content = noise(SIZE);
    let stored = Resource::new(content.clone()).faults([Serve::TruncateAfter(70_000)]);
    let storage = FaultServer::builder().tls(Tls::default()).anywhere(stored);
    let storage = storage.start().await.unwrap();
    let Some(registry) = Registry::start(Access::Anyone).await else {
        return;
    };
    registry.push("t", &content).await;
    let (tokens, access) = token_server().await;
    let registry = registry.restart_before(&storage.url("/"), access).await;
    let client = trusting_both(&registry.pki, &[&tokens, &storage]);
    let (wanted, events) = request(&registry.name(":t"), LONG);
    let (bytes, starts) = read(&client, wanted).await.unwrap();
    assert!(bytes == content && starts == 1);
    assert_eq!(events.resumed(), [(70_000, 0)]);
    assert_eq!(tokens.requests().len(), 1, "the registry wanted a token");
    let asked = storage.requests();
    assert_eq!(asked.len(), 2);
    for request in asked {
        assert!(request.path().ends_with("/data"), "{}", request.path());
        assert_eq!(request.header("authorization"), None);
    }
}

/// A catalog names a registry whose challenge leads to the token server of another one, straight or by a redirect, and
/// asks there for what only the node may read: the token would then be shown to the first.
#[tokio::test]
async fn a_registry_gets_no_token_of_another_one() {
    let start = || FaultServer::builder().tls(Tls::default()).start();
    let (good, evil) = (start().await.unwrap(), start().await.unwrap());
    good.set("/token", Resource::new(r#"{"token": "t"}"#));
    let theirs = good.url("/token?service=good&scope=repository:secret/app:pull");
    let away = Serve::Redirect(theirs.clone());
    evil.set("/away", Resource::new("").forever(away));
    let client = builder()
        .ca_pem(good.ca_pem().unwrap())
        .unwrap()
        .ca_pem(evil.ca_pem().unwrap())
        .unwrap()
        .build()
        .unwrap();
    let basic = Authorization::Basic {
        user: USER.into(),
        password: PASSWORD.into(),
    };
    let client = client
        .with_credentials(Credentials::new([good.address().to_string()], basic))
        .unwrap();
    for realm in [theirs, evil.url("/away")] {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"good\"");
        let unauthorized = Serve::Status {
            code: 401,
            headers: vec![("WWW-Authenticate".into(), challenge)],
            body: String::new(),
        };
        evil.set("/v2/a/manifests/t", Resource::new("").forever(unauthorized));
        let name = format!("oci://{}/a:t", evil.address());
        let error = image(&client, &name).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Forbidden, "{error}");
    }
    let asked = good.requests();
    assert_eq!(asked.len(), 2);
    assert_eq!(
        asked[0].target, "/token?service=good&scope=repository%3Aa%3Apull",
        "what the realm asks for itself is left out"
    );
    for request in asked {
        assert_eq!(request.header("authorization"), None, "{}", request.target);
    }
}

/// What a registry and its storage look like from here; what is at the paths, and where the blob is.
struct Imitation {
    registry: FaultServer,
    storage: FaultServer,
    content: Vec<u8>,
}

impl Imitation {
    /// `blob` are the faults of the storage.
    async fn start(blob: impl IntoIterator<Item = Serve>) -> Self {
        let content = noise(SIZE);
        let storage = FaultServer::builder()
            .tls(Tls::default())
            .at("/stored", Resource::new(content.clone()).faults(blob))
            .start()
            .await
            .unwrap();
        let registry = FaultServer::builder()
            .tls(Tls::default())
            .at("/token", Resource::new(r#"{"token": "hush"}"#))
            .start()
            .await
            .unwrap();
        let challenge = format!("Bearer realm=\"{}\"", registry.url("/token"));
        let unauthorized = Serve::Status {
            code: 401,
            headers: vec![("WWW-Authenticate".into(), challenge)],
            body: String::new(),
        };
        let manifest = Resource::new(manifest(&[&content])).faults([unauthorized]);
        registry.set("/v2/a/manifests/t", manifest);
        let away = Serve::Redirect(storage.url("/stored?signature=hush"));
        let blob = format!("/v2/a/blobs/{}", digest(&content));
        registry.set(&blob, Resource::new("").forever(away));
        Self {
            registry,
            storage,
            content,
        }
    }

    fn client(&self) -> Client {
        trusting_all(&[self])
    }

    fn name(&self) -> String {
        format!("oci://{}/a:t", self.registry.address())
    }

    /// Paths that the registry was asked for, and whether a token came along.
    fn asked(&self) -> Vec<(String, bool)> {
        let asked = self.registry.requests();
        asked
            .iter()
            .map(|r| (r.path().to_owned(), r.header("authorization").is_some()))
            .collect()
    }
}

/// A client that trusts each one's registry and storage.
fn trusting_all(worlds: &[&Imitation]) -> Client {
    let servers = worlds.iter().flat_map(|w| [&w.registry, &w.storage]);
    servers
        .fold(builder(), |builder, server| {
            builder.ca_pem(server.ca_pem().unwrap()).unwrap()
        })
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_name_is_resolved_once_and_its_token_stays_with_the_registry() {
    let world =
        Imitation::start([Serve::TruncateAfter(100_000), Serve::TruncateAfter(50_000)]).await;
    let (wanted, events) = request(&world.name(), LONG);
    let (bytes, starts) = read(&world.client(), wanted).await.unwrap();
    assert!(bytes == world.content && starts == 1);
    assert_eq!(events.resumed().len(), 2);
    let blob = format!("/v2/a/blobs/{}", digest(&world.content));
    let expected = [
        ("/v2/a/manifests/t", false),
        ("/token", false),
        ("/v2/a/manifests/t", true),
        (&blob, true),
        (&blob, true),
        (&blob, true),
    ];
    let expected = expected.map(|(path, token)| (path.to_owned(), token));
    assert_eq!(world.asked(), expected);
    for request in world.storage.requests() {
        assert_eq!(request.header("authorization"), None);
    }
}

/// The same host in capitals is the same server, and gets the token that was fetched for it.
#[tokio::test]
async fn a_host_in_capitals_is_shown_its_token() {
    let world = Imitation::start([]).await;
    let port = world.registry.address().port();
    let name = format!("oci://LOCALHOST:{port}/a:t");
    assert!(image(&world.client(), &name).await.unwrap() == world.content);
    let blob = format!("/v2/a/blobs/{}", digest(&world.content));
    let expected = [
        ("/v2/a/manifests/t", false),
        ("/token", false),
        ("/v2/a/manifests/t", true),
        (&blob, true),
    ];
    let expected = expected.map(|(path, token)| (path.to_owned(), token));
    assert_eq!(world.asked(), expected);
}

/// An earlier run had resolved the name: the tag may have moved, the layer is the one begun.
#[tokio::test]
async fn a_layer_is_gone_on_with_whatever_its_tag_has_come_to_stand_for() {
    const AT: usize = 70_000;
    let world = Imitation::start([]).await;
    let client = world.client();
    let body = client.open(request(&world.name(), LONG).0).await.unwrap();
    let file = body.identity().unwrap();
    assert_eq!(file.artifact, body.artifact());
    let pinned = body.pinned().unwrap().to_string();
    let digest_of_manifest = digest(&manifest(&[&world.content]));
    let repository = world.name().replace(":t", "");
    assert_eq!(pinned, format!("{repository}@{digest_of_manifest}"));
    assert_eq!(file.total, Some(SIZE as u64));
    drop(body);
    let manifest_path = "/v2/a/manifests/t";
    let moved = Resource::new(manifest(&[b"another image"]));
    world.registry.set(manifest_path, moved);
    // Storage may call the same bytes something else each time, and may not have ranges.
    let content = &world.content;
    for (place, stored) in [
        (
            world.name(),
            Resource::new(content.clone()).etag(Some("\"x\"")),
        ),
        (
            world.name(),
            Resource::new(content.clone())
                .etag(Some("\"y\""))
                .without_ranges(),
        ),
        (
            pinned,
            Resource::new(content.clone())
                .etag(None)
                .faults([Serve::TruncateAfter(50_000)]),
        ),
    ] {
        world.storage.set("/stored", stored);
        let asked = world.registry.requests().len();
        let (mut wanted, _) = request(&place, LONG);
        let at = AT as u64;
        let file = file.clone();
        wanted.resume = Some(Resume { at, file });
        let mut body = client.open(wanted).await.unwrap();
        assert_eq!(body.beginning(), &Beginning::Resumed { at });
        let mut rest = Vec::new();
        while let Some(chunk) = body.next_chunk().await.unwrap() {
            rest.extend_from_slice(&chunk);
        }
        assert!(rest == content[AT..]);
        let asked = &world.registry.requests()[asked..];
        assert!(asked.iter().all(|request| request.path() != manifest_path));
    }
    for request in world.storage.requests() {
        assert_eq!(
            request.header("if-range"),
            None,
            "the digest says which it is"
        );
    }
}

/// A cache between that has the right length and the wrong bytes.
#[tokio::test]
async fn a_layers_bytes_must_have_its_digest() {
    let good = Imitation::start([]).await;
    let stored = || Resource::new(good.content.clone()).forever(Serve::FlipBit(70_000));
    let bad = Imitation::start([]).await;
    bad.storage.set("/stored", stored());
    let error = image(&bad.client(), &bad.name()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotUsable);
    let shown = error.to_string();
    let mut damaged = good.content.clone();
    damaged[70_000] ^= 1;
    for part in [
        &bad.name(),
        &format!("expected {}", digest(&good.content)),
        &format!("got {}", digest(&damaged)),
        &format!("after {SIZE} of {SIZE} bytes"),
    ] {
        assert!(shown.contains(part), "{shown}");
    }

    // Another registry has it, and is asked from the first byte on.
    let client = trusting_all(&[&bad, &good]);
    let (mut wanted, events) = request(&bad.name(), LONG);
    wanted.mirrors = vec![support::url(&good.name())];
    let (bytes, starts) = read(&client, wanted).await.unwrap();
    assert!(bytes == good.content && starts == 2);
    let skipped = events.skipped();
    assert!(matches!(
        skipped[0].fault,
        Fault::WrongDigest { what: "layer", .. }
    ));
}

/// Two registries with one layer: the second goes on where the first broke off.
#[tokio::test]
async fn a_mirror_with_the_same_layer_goes_on() {
    let (one, two) = (
        Imitation::start([Serve::TruncateAfter(70_000)]).await,
        Imitation::start([]).await,
    );
    one.storage
        .inject("/stored", (0..9).map(|_| Serve::status(404)));
    let client = trusting_all(&[&one, &two]);
    let (mut wanted, events) = request(&one.name(), LONG);
    wanted.mirrors = vec![support::url(&two.name())];
    let (bytes, starts) = read(&client, wanted).await.unwrap();
    assert!(bytes == one.content && starts == 1);
    assert_eq!(events.resumed().len(), 1);
    assert!(two.storage.requests()[0].header("range").is_some());
}

/// Credentials named for the registry are not shown to the storage either.
#[tokio::test]
async fn credentials_stay_with_the_registry_too() {
    let world = Imitation::start([]).await;
    let credentials = Credentials::new(
        [world.registry.address().to_string()],
        Authorization::Bearer("hush".into()),
    );
    let client = world.client().with_credentials(credentials).unwrap();
    assert!(image(&client, &world.name()).await.unwrap() == world.content);
    for request in world.storage.requests() {
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test]
async fn registries_that_lie() {
    let world = Imitation::start([]).await;
    let client = world.client();
    let manifest_path = "/v2/a/manifests/t";
    let insecure = Serve::Status {
        code: 401,
        headers: vec![(
            "WWW-Authenticate".into(),
            "Bearer realm=\"http://127.0.0.1:1/token\"".into(),
        )],
        body: String::new(),
    };
    world
        .registry
        .set(manifest_path, Resource::new("").forever(insecure));
    let error = image(&client, &world.name()).await.unwrap_err();
    assert_eq!(
        error.fault,
        Fault::Policy(PolicyRefusal::InsecureTokenServer)
    );

    // By digest, and something else is served.
    let by_digest = format!(
        "oci://{}/a@sha256:{}",
        world.registry.address(),
        "0".repeat(64)
    );
    let path = format!("/v2/a/manifests/sha256:{}", "0".repeat(64));
    let served = Resource::new(manifest(&[&world.content]));
    world.registry.set(&path, served);
    let error = image(&client, &by_digest).await.unwrap_err();
    let Fault::WrongDigest {
        what: "manifest",
        expected,
        found,
    } = error.fault
    else {
        panic!("{error}");
    };
    assert_eq!(expected, format!("sha256:{}", "0".repeat(64)));
    assert_eq!(found, digest(&manifest(&[&world.content])));

    for (served, part) in [
        (
            Resource::new("<html>").content_type("text/html"),
            "a web page",
        ),
        (Resource::new("{}"), "no manifest"),
        (
            Resource::new(vec![b' '; (4 << 20) + 1]),
            "limit of 4194304 bytes",
        ),
        (Resource::new(manifest(&[])), "0 layers"),
    ] {
        world.registry.set(manifest_path, served);
        let error = image(&client, &world.name()).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }

    // The layer is longer than the manifest says.
    let small = world.content.get(1..).unwrap_or_default();
    world
        .registry
        .set(manifest_path, Resource::new(manifest(&[small])));
    world.registry.set(
        &format!("/v2/a/blobs/{}", digest(small)),
        Resource::new(world.content.clone()),
    );
    let error = image(&client, &world.name()).await.unwrap_err();
    assert!(error.to_string().contains("another length"), "{error}");
}
