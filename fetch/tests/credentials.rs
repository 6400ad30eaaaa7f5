//! Credentials are shown to the hosts that they name and to nobody else, wherever a redirect leads.
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

use monok8s_fault_server::{ClientCertificate, Fault as Serve, FaultServer, Resource, Tls};
use monok8s_fetch::{Authorization, Client, Credentials, Fault, Kind, PolicyRefusal};
use support::{builder, noise, read, request, url};

const SIZE: usize = 100_000;
const LIMIT: u64 = 1 << 20;
/// Longer than any test takes that is to succeed.
const LONG: Duration = Duration::from_secs(60);

/// The server that the credentials are for, and others.
struct World {
    named: FaultServer,
    other: FaultServer,
    plain: FaultServer,
}

fn redirect(from: &FaultServer, path: &str, to: String) {
    from.set(path, Resource::new("").forever(Serve::Redirect(to)));
}

/// For each server and request: whether it was shown a token.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    named: Vec<bool>,
    other: Vec<bool>,
    plain: Vec<bool>,
}

impl World {
    /// All have the file at `/i`.
    async fn start() -> Self {
        let file = || Resource::new(noise(SIZE));
        let secure = || FaultServer::builder().tls(Tls::default()).at("/i", file());
        let (named, other) = (secure().start().await, secure().start().await);
        let plain = FaultServer::builder().at("/i", file()).start().await;
        Self {
            named: named.unwrap(),
            other: other.unwrap(),
            plain: plain.unwrap(),
        }
    }

    fn client(&self) -> Client {
        let token = Authorization::Bearer("hush".into());
        builder()
            .ca_pem(self.named.ca_pem().unwrap())
            .and_then(|builder| builder.ca_pem(self.other.ca_pem().unwrap()))
            .and_then(monok8s_fetch::ClientBuilder::build)
            .and_then(|client| {
                let hosts = [self.named.address().to_string()];
                client.with_credentials(Credentials::new(hosts, token))
            })
            .unwrap()
    }

    fn shown(&self) -> Shown {
        let of = |server: &FaultServer| {
            let requests = server.requests();
            let shown = |request: &monok8s_fault_server::Request| {
                let field = request.header("authorization");
                assert!(
                    field.is_none_or(|field| field == "Bearer hush"),
                    "{field:?}"
                );
                field.is_some()
            };
            requests.iter().map(shown).collect()
        };
        Shown {
            named: of(&self.named),
            other: of(&self.other),
            plain: of(&self.plain),
        }
    }
}

/// Fetches an image from a place, and in another world a document: each time these and no others are
/// asked and shown the token, and this comes of it.
async fn fetch(shown: Shown, fault: Option<Fault>, place: impl Fn(&World) -> String) {
    for image in [true, false] {
        let world = World::start().await;
        let place = place(&world);
        let result = if image {
            let wanted = request(&place, LONG).0;
            read(&world.client(), wanted).await.map(|_| ())
        } else {
            let place = url(&place);
            let fetched = world.client().document(&place, LIMIT, None).await;
            fetched.map(|_| ())
        };
        assert_eq!(result.err().map(|error| error.fault), fault);
        assert_eq!(world.shown(), shown);
    }
}

#[tokio::test]
async fn to_the_named_host_and_along_its_own_redirects() {
    let shown = Shown {
        named: vec![true, true],
        ..Shown::default()
    };
    fetch(shown, None, |world| {
        redirect(&world.named, "/away", "/i".into());
        world.named.url("/away")
    })
    .await;
}

#[tokio::test]
async fn to_no_other_port() {
    let shown = Shown {
        named: vec![true],
        other: vec![false],
        ..Shown::default()
    };
    fetch(shown, None, |world| {
        redirect(&world.named, "/away", world.other.url("/i"));
        world.named.url("/away")
    })
    .await;
}

/// The same server under a name that the credentials do not have.
#[tokio::test]
async fn to_no_other_host() {
    let shown = Shown {
        named: vec![true, false],
        ..Shown::default()
    };
    fetch(shown, None, |world| {
        let port = world.named.address().port();
        let elsewhere = format!("https://localhost:{port}/i");
        redirect(&world.named, "/away", elsewhere);
        world.named.url("/away")
    })
    .await;
}

/// The plain server is not even asked.
#[tokio::test]
async fn to_nobody_without_tls() {
    let shown = Shown {
        named: vec![true],
        ..Shown::default()
    };
    let refused = Fault::Policy(PolicyRefusal::HttpsToHttp);
    fetch(shown, Some(refused), |world| {
        redirect(&world.named, "/away", world.plain.url("/i"));
        world.named.url("/away")
    })
    .await;
}

#[tokio::test]
async fn to_nobody_without_tls_who_is_named() {
    let world = World::start().await;
    let token = Authorization::Bearer("hush".into());
    let hosts = [world.plain.address().to_string()];
    let client = builder().build().unwrap();
    let client = client.with_credentials(Credentials::new(hosts, token));
    let wanted = request(&world.plain.url("/i"), LONG).0;
    read(&client.unwrap(), wanted).await.unwrap();
    assert_eq!(world.shown().plain, [false]);
}

/// Who sends a client on to the named host gets nothing; the named host does.
#[tokio::test]
async fn from_another_host_on_the_way_to_the_named_one() {
    let shown = Shown {
        named: vec![true],
        other: vec![false],
        ..Shown::default()
    };
    fetch(shown, None, |world| {
        redirect(&world.other, "/away", world.named.url("/i"));
        world.other.url("/away")
    })
    .await;
}

/// A server that lets in nobody without, and one that leads to it.
#[tokio::test]
async fn a_certificate_goes_to_the_named_host_and_along_no_redirect() {
    let strict = |tls: Tls| {
        let file = Resource::new(noise(SIZE));
        FaultServer::builder()
            .tls(tls.client_certificates())
            .at("/i", file)
            .start()
    };
    let (server, stranger) = (strict(Tls::default()).await, strict(Tls::default()).await);
    let (server, stranger) = (server.unwrap(), stranger.unwrap());
    let before = FaultServer::builder().tls(Tls::default()).start();
    let before = before.await.unwrap();
    redirect(&before, "/away", server.url("/i"));
    let plain = [&server, &before]
        .into_iter()
        .fold(builder(), |builder, server| {
            builder.ca_pem(server.ca_pem().unwrap()).unwrap()
        })
        .build()
        .unwrap();
    let showing = |certificate: &ClientCertificate, host: &FaultServer| {
        let fields = [
            ("hosts", host.address().to_string()),
            ("tls.crt", certificate.certificate.clone()),
            ("tls.key", certificate.key.clone()),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.into_bytes()));
        let credentials = Credentials::from_fields(&fields.into()).unwrap();
        plain.with_credentials(credentials).unwrap()
    };
    let right = server.client_certificate().unwrap();
    let wrong = stranger.client_certificate().unwrap();
    for (client, place, refused) in [
        (plain.clone(), server.url("/i"), "it was shown none"),
        (
            showing(wrong, &server),
            server.url("/i"),
            "it does not trust the one that it was shown",
        ),
        (
            showing(right, &before),
            before.url("/away"),
            "it was shown none",
        ),
    ] {
        let error = read(&client, request(&place, LONG).0).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Forbidden, "{error}");
        assert!(error.to_string().contains(refused), "{error}");
    }
    assert!(server.requests().is_empty());

    let (bytes, _) = read(&showing(right, &server), request(&server.url("/i"), LONG).0)
        .await
        .unwrap();
    assert!(bytes == noise(SIZE));
}

/// A private authority from a Secret vouches for the hosts that the Secret names.
#[tokio::test]
async fn an_authority_is_trusted_for_the_named_hosts_alone() {
    let world = World::start().await;
    let client = builder().build().unwrap();
    let trusting = |hosts: &str, pem: &str| {
        let fields = [("hosts", hosts), ("ca.crt", pem)];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        let credentials = Credentials::from_fields(&fields.into()).unwrap();
        client.with_credentials(credentials)
    };
    let (named, pem) = (
        world.named.address().to_string(),
        world.named.ca_pem().unwrap(),
    );
    let get = |client: Client| {
        let wanted = request(&world.named.url("/i"), LONG).0;
        async move { read(&client, wanted).await.map(|(bytes, _)| bytes) }
    };
    assert!(get(trusting(&named, pem).unwrap()).await.unwrap() == noise(SIZE));
    let elsewhere = trusting("other.example", pem).unwrap();
    assert_eq!(get(elsewhere).await.unwrap_err().kind(), Kind::Untrusted);
    let another = trusting(&named, world.other.ca_pem().unwrap()).unwrap();
    assert_eq!(get(another).await.unwrap_err().kind(), Kind::Untrusted);
    let error = trusting(&named, "no certificate").unwrap_err();
    assert!(error.to_string().contains("`ca.crt`"), "{error}");
}

/// The rest of a file is asked for by a request of its own, and a mirror by another one.
#[tokio::test]
async fn when_a_stream_goes_on_and_when_a_mirror_takes_over() {
    let world = World::start().await;
    redirect(&world.named, "/away", world.other.url("/i"));
    world.other.inject(
        "/i",
        [
            Serve::TruncateAfter(50_000),
            Serve::TruncateAfter(10_000),
            Serve::status(404),
        ],
    );
    let (mut wanted, _) = request(&world.named.url("/away"), LONG);
    wanted.mirrors = vec![url(&world.plain.url("/i")), url(&world.named.url("/i"))];
    let (bytes, starts) = read(&world.client(), wanted).await.unwrap();
    assert!(bytes == noise(SIZE) && starts == 1);
    let expected = Shown {
        named: vec![true; 3],
        other: vec![false; 3],
        plain: vec![false],
    };
    assert_eq!(world.shown(), expected);
}
