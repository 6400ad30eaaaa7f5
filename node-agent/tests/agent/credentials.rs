//! Credentials for an image server: a Secret that the progress names and a Role that names the Secret, and that they are
//! sent to the hosts that it lists, and shown nowhere else.

use std::{fs, io::ErrorKind, path::Path};

use k8s_openapi::{
    ByteString,
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        core::v1::Secret,
    },
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use monok8s_api::reason::ProgressPhase;
use monok8s_fault_server::{Content, Fault, FaultServer, Request, Resource, Tls};
use monok8s_sandbox::{images::Image, node::NodeOptions, scratch, wait};
use serde_json::{Value, json};

use crate::scene::{LIMIT, NEW, Scene};

const NAMESPACE: &str = "mono-system";
const IMAGE: &str = "/rootfs.ext4.zst";

/// What nobody but the named hosts may see.
const TOKEN: &str = "xyzzy-1f2e3d4c";

/// Serves nothing yet: its authority has to be known before there is an agent.
async fn server() -> FaultServer {
    let server = FaultServer::builder().tls(Tls::default());
    server.start().await.unwrap()
}

fn place(server: &FaultServer) -> String {
    server.address().to_string()
}

pub(crate) async fn secret(scene: &Scene, name: &str, of_type: &str, fields: &[(&str, &str)]) {
    let secrets: Api<Secret> = Api::namespaced(scene.cluster.client(), NAMESPACE);
    let data = fields
        .iter()
        .map(|(field, value)| ((*field).to_owned(), ByteString(value.as_bytes().to_vec())));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(of_type.to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    };
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
}

/// Adds the rule as docs/security.md says, for these Secrets, and waits until the API server heeds it.
pub(crate) async fn allow(scene: &Scene, names: &[&str]) {
    let page = fs::read_to_string(scratch::repository().join("docs/security.md")).unwrap();
    let mut lines = page.lines();
    let line = lines.find_map(|line| line.strip_prefix("kubectl patch role "));
    let (words, patch) = line.unwrap().split_once(" -p ").unwrap();
    let patch = patch.trim_matches('\'');
    let written = r#"["image-server"]"#;
    assert!(patch.contains(written), "{patch}");
    let patch = patch.replace(written, &json!(names).to_string());
    let arguments = ["patch", "role"].into_iter().chain(words.split(' '));
    let arguments: Vec<&str> = arguments.chain(["-p", &patch]).collect();
    scene.cluster.kubectl().ok(arguments).await.unwrap();
    for name in names {
        wait::until("the rule to count", LIMIT, || async {
            Ok(may_read(scene, Some(name)).await.then_some(()))
        })
        .await
        .unwrap();
    }
    assert!(!may_read(scene, None).await, "the rule allows every Secret");
}

/// Whether agents may read this Secret, or any there is.
async fn may_read(scene: &Scene, name: Option<&str>) -> bool {
    let reviews: Api<SubjectAccessReview> = Api::all(scene.cluster.client());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{NAMESPACE}:node-agent")),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(NAMESPACE.to_owned()),
                resource: Some("secrets".to_owned()),
                verb: Some("get".to_owned()),
                name: name.map(ToOwned::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap();
    answer.status.is_some_and(|s| s.allowed)
}

fn spec(scene: &Scene, node: &str, server: &FaultServer, credentials: &str) -> Value {
    json!({"nodeName": node, "image": scene.image(&server.url(IMAGE)), "release": "Stage",
           "download": {"retryFor": "5s", "credentials": credentials}})
}

fn authorizations(requests: &[Request]) -> Vec<Option<&str>> {
    requests.iter().map(|r| r.header("authorization")).collect()
}

/// Without the rule the message says which Secret, which Role and which line; with it, the image comes.
async fn ruled(scene: &Scene, image: &Image, server: &FaultServer) {
    let name = "ruled";
    let hosts = place(server);
    // The node itself does not trust that server's authority.
    let authority = server.ca_pem().unwrap();
    secret(
        scene,
        "images",
        "monok8s.io/download",
        &[("hosts", &hosts), ("token", TOKEN), ("ca.crt", authority)],
    )
    .await;
    scene
        .progress(name, spec(scene, name, server, "images"))
        .await;
    let status = scene.fails(name, "DownloadForbidden").await;
    for part in [
        "Secret mono-system/images",
        "Role node-agent-download in namespace mono-system",
        "{apiGroups: [\"\"], resources: [secrets], resourceNames: [images], verbs: [get]}",
        "nothing was written",
    ] {
        assert!(status.message.contains(part), "{part}: {}", status.message);
    }
    assert!(scene.slot_b_is_untouched(name));
    assert!(
        server.requests().is_empty(),
        "the server was asked without credentials"
    );

    allow(scene, &["images", "absent", "opaque", "elsewhere"]).await;
    scene.patch(name, json!({"retryNonce": "ruled"})).await;
    let staged = scene.phase(name, ProgressPhase::Staged).await;
    assert_eq!(staged.bytes_done, i64::try_from(image.size).unwrap());
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(authorizations(&server.requests()), [Some(bearer.as_str())]);
}

/// A Secret that no rule names, one that is not there, one that is for something else.
async fn refused(scene: &Scene, server: &FaultServer) {
    let node = "refused";
    secret(
        scene,
        "opaque",
        "Opaque",
        &[("hosts", "images.example"), ("token", TOKEN)],
    )
    .await;
    secret(
        scene,
        "unnamed",
        "monok8s.io/download",
        &[("hosts", "images.example"), ("token", TOKEN)],
    )
    .await;
    for (credentials, reason, part) in [
        ("unnamed", "DownloadForbidden", "resourceNames: [unnamed]"),
        ("absent", "DownloadNotFound", "no Secret mono-system/absent"),
        (
            "opaque",
            "DownloadForbidden",
            "of type Opaque and not monok8s.io/download",
        ),
        (
            "../secrets/images",
            "DownloadForbidden",
            "not the name of a Secret",
        ),
    ] {
        let name = format!(
            "{node}-{}",
            credentials.trim_matches(['.', '/']).replace('/', "-")
        );
        scene
            .progress(&name, spec(scene, node, server, credentials))
            .await;
        let status = scene.fails(&name, reason).await;
        assert!(status.message.contains(part), "{part}: {}", status.message);
        assert!(
            status.message.contains("nothing was written"),
            "{}",
            status.message
        );
    }
    assert!(scene.slot_b_is_untouched(node));
}

/// A server that the Secret does not list sees nothing of it, asked itself or by a redirect from one that is listed.
async fn elsewhere(scene: &Scene, listed: &FaultServer, other: &FaultServer) {
    let name = "elsewhere";
    let (hosts, authority) = (place(listed), listed.ca_pem().unwrap());
    secret(
        scene,
        name,
        "monok8s.io/download",
        &[
            ("hosts", &hosts),
            ("username", "u"),
            ("password", TOKEN),
            ("ca.crt", authority),
        ],
    )
    .await;
    scene.progress(name, spec(scene, name, other, name)).await;
    scene.phase(name, ProgressPhase::Staged).await;
    assert_eq!(authorizations(&other.requests()), [None]);

    let name = "redirected";
    let away = "/away/rootfs.ext4.zst";
    listed.set(
        away,
        Resource::new(Vec::new()).forever(Fault::Redirect(other.url(IMAGE))),
    );
    let mut spec = spec(scene, name, listed, "elsewhere");
    spec["image"]["url"] = json!(listed.url(away));
    scene.progress(name, spec).await;
    scene.phase(name, ProgressPhase::Staged).await;
    assert_eq!(authorizations(&other.requests()), [None, None]);
    let asked = listed.requests();
    let first = asked.iter().find(|r| r.path() == away).unwrap();
    assert!(first.header("authorization").unwrap().starts_with("Basic "));
}

/// Applying what is shipped once more leaves the administrator's rule alone.
async fn applied_again(scene: &Scene) {
    let folder = scratch::repository().join("manifests/agent/rbac.yaml");
    let file = folder.to_str().unwrap();
    let applied = scene
        .cluster
        .kubectl()
        .ok(["apply", "-f", file])
        .await
        .unwrap();
    assert!(applied.contains("node-agent-download"), "{applied}");
    assert!(may_read(scene, Some("images")).await);
}

/// No text that people or programs can read has the token.
async fn nothing_is_told(scene: &Scene) {
    let kubectl = scene.cluster.kubectl();
    let everything = "osupgradeprogresses,osnodes,events.events.k8s.io";
    let shown = wait::until("what the refusal's Event tells", LIMIT, || async {
        let shown = kubectl.ok(["get", everything, "-A", "-o", "yaml"]).await?;
        let told = shown.contains("Secret mono-system/images");
        Ok(told.then_some(shown))
    })
    .await
    .unwrap();
    let secrets = [
        TOKEN,
        &data_encoding::BASE64.encode(format!("u:{TOKEN}").as_bytes()),
    ];
    for secret in secrets {
        assert!(!shown.contains(secret));
        for node in scene.cluster.nodes() {
            assert!(!node.agent_log().contains(secret), "{}", node.name());
            files(&node.machine().data().join("monok8s"), &mut |path| {
                let text = match fs::read(path) {
                    // It was about to be renamed when the folder was read.
                    Err(e) if e.kind() == ErrorKind::NotFound => return,
                    text => text.unwrap(),
                };
                assert!(
                    !String::from_utf8_lossy(&text).contains(secret),
                    "{}",
                    path.display()
                );
            });
        }
    }
}

fn files(folder: &Path, look: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, look);
        } else {
            look(&path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_the_hosts_that_their_secret_lists() {
    let (listed, other) = (server().await, server().await);
    let folder = scratch::folder("authorities").unwrap();
    let authorities = folder.path().join("ca.pem");
    fs::write(&authorities, other.ca_pem().unwrap()).unwrap();
    let nodes = ["ruled", "refused", "elsewhere", "redirected"].map(|name| {
        let mut node = NodeOptions::new(name);
        node.agent_arguments = vec![format!("--ca-file={}", authorities.display())];
        node
    });
    let scene = Scene::start(nodes.into()).await;
    let image = scene.cluster.image(NEW).unwrap();
    for server in [&listed, &other] {
        server.set(IMAGE, Resource::new(Content::file(&image.file).unwrap()));
    }
    ruled(&scene, image, &listed).await;
    tokio::join!(refused(&scene, &listed), elsewhere(&scene, &listed, &other));
    applied_again(&scene).await;
    nothing_is_told(&scene).await;
}
