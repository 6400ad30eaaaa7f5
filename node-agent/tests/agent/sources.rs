//! Images that come another way than from the nearest web server: from a registry, from a server that lets in only who
//! shows a certificate, through a proxy.

use std::{fs, path::Path};

use monok8s_api::reason::ProgressPhase;
use monok8s_boot::SlotName;
use monok8s_fault_server::{Content, FaultServer, Resource, Tls, Tunnels};
use monok8s_registry::{Access, Registry};
use monok8s_sandbox::{node::NodeOptions, scratch, wait};
use serde_json::json;

use crate::{
    credentials::{allow, secret},
    scene::{LIMIT, NEW, Scene},
};

const IMAGE: &str = "/rootfs.ext4.zst";

/// A name that nobody but a proxy knows.
const BEHIND: &str = "images.invalid";

/// Serves nothing yet: its authority has to be known before there is an agent.
async fn server(tls: Tls) -> FaultServer {
    FaultServer::builder().tls(tls).start().await.unwrap()
}

/// That the node runs the image, and slot B holds it.
fn runs_it(scene: &Scene, name: &str) {
    let node = scene.node(name);
    let boot = node.boot().unwrap();
    assert_eq!((boot.slot, boot.version.as_str()), (SlotName::B, &NEW[1..]));
    let slot = fs::read(node.slot_device(SlotName::B).unwrap()).unwrap();
    let image = fs::read(&scene.cluster.image(NEW).unwrap().expanded).unwrap();
    assert!(slot[..image.len()] == image, "slot B holds something else");
}

/// By a tag, which is resolved once: it is moved while the agent is dead in the middle of the download.
async fn tagged(scene: &Scene, registry: &Registry) {
    let name = "tagged";
    let layer = fs::read(&scene.cluster.image(NEW).unwrap().file).unwrap();
    let digest = registry.push("stable", &layer).await;
    let spec = json!({"image": scene.image(&registry.name(":stable")),
                      "download": {"retryFor": "2m", "maxBytesPerSecond": 64 << 10}});
    scene.progress(name, spec).await;
    let kubectl = scene.cluster.kubectl();
    let shown = || kubectl.ok(["get", "osup", name, "-o", "jsonpath={.status.image.url}"]);
    wait::until("the digest in the status", LIMIT, || async {
        Ok(shown().await?.contains('@').then_some(()))
    })
    .await
    .unwrap();
    let pinned = registry.name(&format!("@{digest}"));
    assert_eq!(shown().await.unwrap(), pinned);

    scene.phase(name, ProgressPhase::Downloading).await;
    let node = scene.node(name);
    node.kill_agent_and_hold().await;
    registry.push("stable", b"another image").await;
    scene
        .patch(name, json!({"download": {"maxBytesPerSecond": null}}))
        .await;
    node.start_agent();
    scene.phase(name, ProgressPhase::Completed).await;
    assert_eq!(shown().await.unwrap(), pinned);
    runs_it(scene, name);
}

/// With a certificate from a Secret, and not without it.
async fn identified(scene: &Scene, server: &FaultServer) {
    let name = "identified";
    let hosts = server.address().to_string();
    // The node itself does not trust that server's authority.
    let authority = server.ca_pem().unwrap();
    let client = server.client_certificate().unwrap();
    secret(
        scene,
        "stranger",
        "monok8s.io/download",
        &[("hosts", &hosts), ("token", "t"), ("ca.crt", authority)],
    )
    .await;
    secret(
        scene,
        "known",
        "monok8s.io/download",
        &[
            ("hosts", &hosts),
            ("tls.crt", &client.certificate),
            ("tls.key", &client.key),
            ("ca.crt", authority),
        ],
    )
    .await;
    allow(scene, &["stranger", "known"]).await;
    let spec = json!({"image": scene.image(&server.url(IMAGE)),
                      "download": {"retryFor": "1m", "credentials": "stranger"}});
    scene.progress(name, spec).await;
    let status = scene.fails(name, "DownloadForbidden").await;
    for part in [
        server.url(IMAGE).as_str(),
        "client certificate",
        "it was shown none",
        "Secret mono-system/stranger",
        "nothing was written",
    ] {
        assert!(status.message.contains(part), "{part}: {}", status.message);
    }
    assert!(server.requests().is_empty(), "a stranger was let in");
    assert!(scene.slot_b_is_untouched(name));

    let retry = json!({"retryNonce": "known", "download": {"credentials": "known"}});
    scene.patch(name, retry).await;
    scene.phase(name, ProgressPhase::Completed).await;
    runs_it(scene, name);
}

/// With a certificate that lies on the node.
async fn by_flags(scene: &Scene, server: &FaultServer) {
    let name = "by-flags";
    let spec = json!({"image": scene.image(&server.url(IMAGE)), "release": "Stage"});
    scene.progress(name, spec).await;
    scene.phase(name, ProgressPhase::Staged).await;
    assert!(!server.requests().is_empty());
}

/// Through the proxy that the environment names, past which the API server is asked all the same.
async fn proxied(scene: &Scene, server: &FaultServer, proxy: &Tunnels) {
    let name = "proxied";
    let url = format!("https://{BEHIND}{IMAGE}");
    let spec = json!({"image": scene.image(&url), "release": "Stage"});
    scene.progress(name, spec).await;
    scene.phase(name, ProgressPhase::Staged).await;
    let asked = proxy.asked();
    let tunnel = format!("CONNECT {BEHIND}:443 HTTP/1.1");
    assert!(
        !asked.is_empty() && asked.iter().all(|line| *line == tunnel),
        "{asked:?}"
    );
    assert!(!server.requests().is_empty());
}

/// Writes a file for an agent's flag, and returns the flag.
fn flag(folder: &Path, flag: &str, text: &str) -> String {
    let path = folder.join(flag);
    fs::write(&path, text).unwrap();
    format!("--{flag}={}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_from_registries_strict_servers_and_through_proxies() {
    let registry = Registry::start(Access::Anyone).await;
    let strict = || Tls::default().client_certificates();
    let (known, flagged) = (server(strict()).await, server(strict()).await);
    let behind = server(Tls::default().names(&[BEHIND])).await;
    let proxy = Tunnels::start(behind.address()).await.unwrap();

    let folder = scratch::folder("sources").unwrap();
    let folder = folder.path();
    let mut authorities = [&flagged, &behind].map(|s| s.ca_pem().unwrap()).concat();
    if let Some(registry) = &registry {
        authorities.push_str(&registry.pki.ca_pem());
    }
    let trusting = flag(folder, "ca-file", &authorities);
    let client = flagged.client_certificate().unwrap();
    let shows = [
        flag(folder, "client-cert", &client.certificate),
        flag(folder, "client-key", &client.key),
        format!("--client-cert-host={}", flagged.address()),
    ];
    let mut nodes = Vec::from(["identified", "by-flags", "proxied"].map(NodeOptions::new));
    nodes[1].agent_arguments = [&shows[..], std::slice::from_ref(&trusting)].concat();
    nodes[2].agent_arguments = vec![trusting.clone()];
    nodes[2].agent_variables = vec![("HTTPS_PROXY".into(), proxy.url())];
    if registry.is_some() {
        let mut tagged = NodeOptions::new("tagged");
        tagged.agent_arguments = vec![trusting];
        nodes.push(tagged);
    }
    let scene = Scene::start(nodes).await;
    let image = scene.cluster.image(NEW).unwrap();
    for server in [&known, &flagged, &behind] {
        server.set(IMAGE, Resource::new(Content::file(&image.file).unwrap()));
    }
    let from_registry = async {
        if let Some(registry) = &registry {
            tagged(&scene, registry).await;
        }
    };
    tokio::join!(
        from_registry,
        identified(&scene, &known),
        by_flags(&scene, &flagged),
        proxied(&scene, &behind, &proxy)
    );
}
