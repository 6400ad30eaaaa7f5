//! Documents from a real server that misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a test that cannot go on fails; the support module is shared and used in parts"
)]

mod support;

use std::{path::Path, time::Duration};

use monok8s_fault_server::{Fault as Serve, FaultServer, Resource, Tls};
use monok8s_fetch::{
    Client, Document, Fault, FetchError, Fetched, Kind, Policy, PolicyRefusal, Validators,
};
use support::{Everywhere, IMPATIENT, builder, client, impatient, url};

const CATALOG: &str = "stable: v1.35.1\nimages: []\n";
const LIMIT: u64 = 1024;

async fn serve(resource: Resource) -> FaultServer {
    FaultServer::builder()
        .at("/c", resource)
        .start()
        .await
        .unwrap()
}

fn catalog() -> Resource {
    Resource::new(CATALOG).content_type("application/yaml")
}

async fn get(client: &Client, place: &str) -> Result<Document, FetchError> {
    match client.document(&url(place), LIMIT, None).await? {
        Fetched::Document(document) => Ok(document),
        Fetched::NotModified => panic!("not asked conditionally"),
    }
}

#[tokio::test]
async fn a_document_and_who_asked_for_it() {
    let server = serve(catalog()).await;
    let document = get(&client(), &server.url("/c?key=1")).await.unwrap();
    assert_eq!(document.bytes, CATALOG);
    let request = server.requests().remove(0);
    assert_eq!(request.target, "/c?key=1");
    assert_eq!(
        request.header("user-agent"),
        Some(monok8s_fetch::client::USER_AGENT)
    );
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("cookie"), None);
}

#[tokio::test]
async fn asked_again_it_is_sent_only_when_changed() {
    let date = "Sat, 21 Nov 2026 09:00:00 GMT";
    for resource in [
        catalog(),
        catalog().etag(None).last_modified(Some(date)),
        catalog().etag(Some("W/\"weak\"")),
    ] {
        let server = serve(resource).await;
        let client = client();
        let place = url(&server.url("/c"));
        let known = get(&client, &server.url("/c")).await.unwrap().validators;
        assert!(!known.is_empty());
        let again = client.document(&place, LIMIT, Some(&known)).await.unwrap();
        assert_eq!(again, Fetched::NotModified);

        server.set("/c", Resource::new("other: v1.35.2\n"));
        match client.document(&place, LIMIT, Some(&known)).await.unwrap() {
            Fetched::Document(document) => assert_eq!(document.bytes, "other: v1.35.2\n"),
            Fetched::NotModified => panic!("it was modified"),
        }
    }
}

#[tokio::test]
async fn a_304_that_was_not_asked_for_is_no_document() {
    let server = serve(catalog().faults([Serve::status(304)])).await;
    let nothing = Validators::default();
    let error = client()
        .document(&url(&server.url("/c")), LIMIT, Some(&nothing))
        .await
        .unwrap_err();
    assert_eq!(error.fault, Fault::UnexpectedStatus { status: 304 });
}

#[tokio::test]
async fn what_fails_at_once() {
    for (fault, kind) in [
        (Serve::status(400), Kind::NotUsable),
        (Serve::status(401), Kind::Forbidden),
        (Serve::status(403), Kind::Forbidden),
        (Serve::status(404), Kind::NotFound),
        (Serve::status(410), Kind::NotFound),
        (Serve::status(204), Kind::NotUsable),
        (Serve::Html, Kind::NotUsable),
        (
            Serve::Redirect("ftp://a.example/".into()),
            Kind::RefusedByPolicy,
        ),
        (Serve::status(302), Kind::NotUsable),
    ] {
        let name = format!("{fault:?}");
        let server = serve(catalog().forever(fault)).await;
        let error = get(&client(), &server.url("/c?key=secret"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(!error.is_retryable());
        assert_eq!(server.requests().len(), 1, "{name}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("/c?…"), "{shown}");
    }
}

#[tokio::test]
async fn what_passes_is_waited_for() {
    for fault in [
        Serve::ResetBeforeAnswer,
        Serve::ResetAfter(5),
        Serve::TruncateAfter(5),
        Serve::ClaimLength(500),
        Serve::status(408),
        Serve::status(429),
        Serve::status(500),
        Serve::status(502),
        Serve::retry_after(503, "0"),
    ] {
        let name = format!("{fault:?}");
        let server = serve(catalog().faults([fault])).await;
        let document = get(&client(), &server.url("/c")).await;
        assert_eq!(document.unwrap().bytes, CATALOG, "{name}");
        assert_eq!(server.requests().len(), 2, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_asked_again() {
    let server = serve(catalog().faults([Serve::NeverAnswer])).await;
    let document = get(&impatient(), &server.url("/c")).await;
    assert_eq!(document.unwrap().bytes, CATALOG);
}

#[tokio::test]
async fn what_does_not_pass_is_told_when_the_deadline_falls() {
    for (fault, expected) in [
        (Serve::status(500), "cannot serve it now (500)"),
        (Serve::retry_after(503, "3600"), "cannot serve it now (503)"),
        (Serve::ResetBeforeAnswer, "broke off"),
        (
            Serve::TruncateAfter(5),
            "ended before the file did (after 5 of",
        ),
        (Serve::NeverAnswer, "no answer within 0.5 s"),
        (Serve::StallAfter(5), "no answer within 1.2 s (after 5 of"),
    ] {
        let name = format!("{fault:?}");
        let server = serve(catalog().forever(fault)).await;
        let error = get(&impatient(), &server.url("/c")).await.unwrap_err();
        assert!(error.is_retryable(), "{name}: {error}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

#[tokio::test]
async fn nobody_listening_is_named() {
    // Kept, so that no other test is given the port, and not listened on.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let error = get(&impatient(), &format!("http://127.0.0.1:{port}/c"))
        .await
        .unwrap_err();
    assert!(error.is_retryable());
    assert!(
        error
            .to_string()
            .contains("cannot connect: Connection refused"),
        "{error}"
    );
}

#[tokio::test]
async fn the_limit_holds_with_and_without_a_length() {
    let exact = "x".repeat(1024);
    let over = "x".repeat(1025);
    for (resource, fits) in [
        (Resource::new(exact.clone()), true),
        (Resource::new(exact.clone()).without_length(), true),
        (Resource::new(over.clone()), false),
        (Resource::new(over.clone()).without_length(), false),
        // A length that says less than comes is cut there by HTTP itself, not read past.
        (
            Resource::new(over.clone()).faults([Serve::ClaimLength(1024)]),
            true,
        ),
    ] {
        let server = serve(resource).await;
        match get(&client(), &server.url("/c")).await {
            Ok(document) => assert!(fits && document.bytes.len() == 1024),
            Err(error) => {
                assert!(!fits, "{error}");
                assert_eq!(error.fault, Fault::TooLarge { limit: LIMIT });
            }
        }
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn too_large_is_told_before_the_body_is_read() {
    let server = serve(Resource::new("x".repeat(1_000_000)).faults([Serve::StallAfter(0)])).await;
    let error = get(&client(), &server.url("/c")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    assert_eq!(error.progress.total, Some(1_000_000));
}

#[tokio::test]
async fn markup_is_no_catalog_whatever_it_is_called() {
    for resource in [
        Resource::new("stable: v1").content_type("text/html"),
        Resource::new("\n <!doctype html>secret").content_type("application/yaml"),
    ] {
        let server = serve(resource).await;
        let error = get(&client(), &server.url("/c")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotUsable);
        assert!(
            error
                .to_string()
                .contains("a web page instead of the document"),
            "{error}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn redirects_are_followed_five_times() {
    let mut site = FaultServer::builder();
    for n in 0..6 {
        let next = Serve::Redirect(format!("/{}", n + 1));
        site = site.at(&format!("/{n}"), catalog().forever(next));
    }
    let server = site.at("/6", catalog()).start().await.unwrap();
    let client = client();
    assert_eq!(
        get(&client, &server.url("/1")).await.unwrap().bytes,
        CATALOG
    );
    let error = get(&client, &server.url("/0")).await.unwrap_err();
    assert_eq!(error.fault, Fault::Policy(PolicyRefusal::TooManyRedirects));
}

#[tokio::test]
async fn a_redirect_loop_is_named() {
    let server = FaultServer::builder()
        .at("/a", catalog().forever(Serve::Redirect("/b".into())))
        .at("/b", catalog().forever(Serve::Redirect("/a".into())))
        .start()
        .await
        .unwrap();
    let error = get(&client(), &server.url("/a")).await.unwrap_err();
    assert!(
        matches!(error.fault, Fault::Policy(PolicyRefusal::RedirectLoop)),
        "{error}"
    );
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_redirect_to_link_local_is_not_followed() {
    for to in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://2852039166/",
    ] {
        let server = serve(catalog().forever(Serve::Redirect(to.into()))).await;
        let error = get(&client(), &server.url("/c")).await.unwrap_err();
        assert!(
            matches!(error.fault, Fault::Policy(PolicyRefusal::RedirectTo(_))),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_name_that_leads_to_link_local_is_not_asked() {
    let hidden = |addresses: &[&str]| {
        Everywhere(addresses.iter().map(|text| text.parse().unwrap()).collect())
    };
    for addresses in [
        &["169.254.169.254"][..],
        &["fe80::1", "169.254.169.254"],
        &["::ffff:169.254.169.254"],
    ] {
        let client = builder().lookup(hidden(addresses)).build().unwrap();
        let error = get(&client, "http://innocent.example/c").await.unwrap_err();
        assert!(
            matches!(error.fault, Fault::Policy(PolicyRefusal::Address { .. })),
            "{addresses:?}: {error}"
        );
        assert!(!error.is_retryable());
    }
    // The same through a redirect.
    let server = serve(catalog().forever(Serve::Redirect("http://innocent.example/".into()))).await;
    let client = builder()
        .lookup(hidden(&["169.254.169.254"]))
        .build()
        .unwrap();
    let error = get(&client, &server.url("/c")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::RefusedByPolicy, "{error}");

    // A name with an honest address beside it is asked there.
    let server = serve(catalog()).await;
    let client = builder()
        .lookup(hidden(&["169.254.169.254", "127.0.0.1"]))
        .build()
        .unwrap();
    let place = format!("http://innocent.example:{}/c", server.address().port());
    assert_eq!(get(&client, &place).await.unwrap().bytes, CATALOG);
}

#[tokio::test]
async fn a_name_without_an_address_says_so() {
    let client = builder()
        .timing(IMPATIENT)
        .lookup(Everywhere(Vec::new()))
        .build()
        .unwrap();
    let error = get(&client, "http://nowhere.example/c").await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn plain_http_is_refused_where_it_is_not_allowed() {
    let server = serve(catalog()).await;
    let client = client().with_policy(Policy::HTTPS_ONLY);
    let error = get(&client, &server.url("/c")).await.unwrap_err();
    assert_eq!(error.fault, Fault::Policy(PolicyRefusal::HttpNotAllowed));
    assert!(server.requests().is_empty());
}

async fn tls_server(tls: Tls, resource: Resource) -> (FaultServer, Client) {
    let server = FaultServer::builder()
        .tls(tls)
        .at("/c", resource)
        .start()
        .await
        .unwrap();
    let client = builder()
        .ca_pem(server.ca_pem().unwrap())
        .unwrap()
        .build()
        .unwrap();
    (server, client)
}

#[tokio::test]
async fn https_with_an_authority_of_ones_own() {
    let (server, trusting) = tls_server(Tls::default(), catalog()).await;
    let trusting = trusting.with_policy(Policy::HTTPS_ONLY);
    assert_eq!(
        get(&trusting, &server.url("/c")).await.unwrap().bytes,
        CATALOG
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), server.ca_pem().unwrap()).unwrap();
    let from_file = builder()
        .ca_file(Path::new(file.path()))
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(
        get(&from_file, &server.url("/c")).await.unwrap().bytes,
        CATALOG
    );

    let error = get(&client(), &server.url("/c")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Untrusted, "{error}");
    assert!(error.to_string().contains("CA file"), "{error}");
}

#[tokio::test]
async fn https_never_leads_to_http() {
    let plain = serve(catalog()).await;
    let (server, client) = tls_server(
        Tls::default(),
        catalog().forever(Serve::Redirect(plain.url("/c"))),
    )
    .await;
    let error = get(&client, &server.url("/c")).await.unwrap_err();
    assert!(
        matches!(error.fault, Fault::Policy(PolicyRefusal::HttpsToHttp)),
        "{error}"
    );
    assert!(plain.requests().is_empty());
}

#[tokio::test]
async fn a_certificate_out_of_its_time_points_at_the_clock() {
    for (from, to, which) in [
        ((1975, 1, 1), (1980, 1, 1), "has expired"),
        ((4000, 1, 1), (4096, 1, 1), "is not valid yet"),
    ] {
        let (server, _) = tls_server(Tls::default().valid(from, to), catalog()).await;
        let in_a_hurry = builder().timing(IMPATIENT).ca_pem(server.ca_pem().unwrap());
        let in_a_hurry = in_a_hurry.unwrap().build().unwrap();
        let error = get(&in_a_hurry, &server.url("/c")).await.unwrap_err();
        assert!(
            matches!(error.fault, Fault::CertificateTime { .. }),
            "{error}"
        );
        // The clock may be set while we wait.
        assert!(error.is_retryable());
        let shown = error.to_string();
        assert!(
            shown.contains(which) && shown.contains(" UTC; if that is wrong"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_trusted_and_not_quoted() {
    let (server, client) = tls_server(Tls::default().names(&["internal.example"]), catalog()).await;
    let error = get(&client, &server.url("/c")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Untrusted);
    assert!(
        !format!("{error} {error:?}").contains("internal"),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_default_patience_is_that_of_a_node() {
    let timing = monok8s_fetch::Timing::default();
    // As docs/images.md says.
    assert_eq!(timing.floor.bytes, 30 << 10);
    assert_eq!(timing.floor.window, Duration::from_secs(30));
    assert_eq!(timing.backoff.first, Duration::from_secs(1));
    assert_eq!(timing.backoff.most, Duration::from_secs(30));
    assert!(timing.connect < timing.answer);
    assert!(timing.document >= Duration::from_secs(10));
}
