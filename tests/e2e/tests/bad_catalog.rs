//! Catalogs that are none, and sources that do not hand one out: a clear reason in the upgrade's
//! status, no word of what was fetched, and no node touched.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use monok8s_api::{OSUpgradeStatus, condition, reason::UpgradePhase};
use monok8s_e2e::{
    cases::{self, case},
    install,
    objects::{self, entry, inline},
};
use monok8s_sandbox::{
    cluster::{Cluster, ClusterOptions},
    image_server::Fault,
};
use serde_json::{Value, json};

const OLD: &str = "v1.34.1";
const NEW: &str = "v1.34.2";

/// Stands in every document that is fetched, and must stand in no message.
const PRIVATE: &str = "PRIVATE-TO-THE-CONTROLLERS-NETWORK";

/// Texts, what is asked of them, and the reason for which the upgrade is `Rejected`.
fn texts() -> Vec<(&'static str, String, &'static str, &'static str)> {
    let url = "https://images.example/a.zst";
    let sum = "1".repeat(64);
    let one = |version: &str| entry(version, url, &sum, None);
    vec![
        (
            "not-yaml",
            format!("images: [}} {PRIVATE}"),
            NEW,
            "InvalidCatalog",
        ),
        (
            "no-mapping",
            format!("- {PRIVATE}\n"),
            NEW,
            "InvalidCatalog",
        ),
        (
            "duplicate-entry",
            format!("images:\n{}{}", one(NEW), one("1.34.2")),
            NEW,
            "InvalidCatalog",
        ),
        (
            "bad-semver",
            format!("images:\n{}", one("v1.34")),
            NEW,
            "InvalidCatalog",
        ),
        (
            "unknown-key",
            format!("images:\n{}  chekcsum: {PRIVATE}\n", one(NEW)),
            NEW,
            "InvalidCatalog",
        ),
        (
            "anchors",
            format!("x-a: &a {PRIVATE}\nx-b: *a\nimages:\n{}", one(NEW)),
            NEW,
            "InvalidCatalog",
        ),
        (
            "tags",
            format!("x-a: !!binary {PRIVATE}\nimages:\n{}", one(NEW)),
            NEW,
            "InvalidCatalog",
        ),
        (
            "alias-to-nothing",
            format!("stable: v1.34.9\nimages:\n{}", one(NEW)),
            "stable",
            "VersionNotInCatalog",
        ),
        (
            "alias-to-no-alias",
            format!("stable: nowhere\nimages:\n{}", one(NEW)),
            "stable",
            "AliasNotFound",
        ),
        (
            "alias-loop",
            format!("stable: edge\nedge: stable\nimages:\n{}", one(NEW)),
            "stable",
            "AliasNotFound",
        ),
        (
            "alias-unknown",
            format!("stable: {NEW}\nimages:\n{}", one(NEW)),
            "edge",
            "AliasNotFound",
        ),
        (
            "no-such-version",
            format!("images:\n{}", one(NEW)),
            "v1.34.7",
            "VersionNotInCatalog",
        ),
        (
            "blocked",
            format!("images:\n{}blocked: [{NEW}]\n", one(NEW)),
            NEW,
            "VersionBlocked",
        ),
        (
            "bad-checksum",
            format!("images:\n{}", entry(NEW, url, "abc", None)),
            NEW,
            "InvalidChecksum",
        ),
        ("too-many", many(2_001), NEW, "InvalidCatalog"),
        (
            "not-a-version",
            format!("images:\n{}", one(NEW)),
            "v1..2",
            "InvalidVersion",
        ),
    ]
}

fn many(count: u32) -> String {
    let mut text = String::from("images:\n");
    for patch in 0..count {
        let _ = writeln!(
            text,
            "- {{version: v1.34.{patch}, url: 'https://a.example/', checksum: 'sha256:1'}}"
        );
    }
    text
}

/// Applies an upgrade for the case's node and waits for phase and reason.
async fn judged(
    cluster: &Cluster,
    name: &str,
    node: &str,
    version: &str,
    catalog: &Value,
    (phase, reason): (UpgradePhase, &str),
) -> Result<OSUpgradeStatus> {
    objects::apply(
        &cluster.kubectl(),
        &objects::upgrade(name, version, node, catalog),
    )
    .await?;
    let what = format!("OSUpgrade {name} to be {phase} ({reason})");
    let judged = objects::wait_upgrade(&cluster.client(), name, &what, |status| {
        status.phase == phase
            && condition::find(&status.conditions, "Accepted").is_some_and(|c| c.reason == reason)
    })
    .await?;
    let status = judged.status.context("no status")?;
    let accepted = condition::find(&status.conditions, "Accepted").context("no condition")?;
    ensure!(
        !accepted.message.is_empty(),
        "{name}: {reason} without a message"
    );
    ensure!(
        status.message == accepted.message,
        "{name}: {:?} and {:?}",
        status.message,
        accepted.message
    );
    let shown = serde_json::to_string(&status)?;
    ensure!(
        !shown.contains(PRIVATE),
        "{name}: the status quotes what was fetched: {shown}"
    );
    Ok(status)
}

/// The same text by URL: same reason, and not a word of it in the status.
async fn by_url(
    cluster: &Cluster,
    name: &str,
    node: &str,
    path: &str,
    ending: (UpgradePhase, &str),
) -> Result<()> {
    let url = json!({"url": cluster.image_server().url(path)});
    judged(cluster, name, node, NEW, &url, ending)
        .await
        .map(|_| ())
}

async fn rejected_texts(cluster: &Cluster) -> Result<()> {
    for (name, text, version, reason) in texts() {
        if text.len() <= monok8s_api::osupgrade::MAX_INLINE_CATALOG {
            // Inline the author knows the text already; the message may help with it.
            let inlined = inline(text.replace(PRIVATE, "known"));
            judged(
                cluster,
                &format!("{name}-inline"),
                "texts",
                version,
                &inlined,
                (UpgradePhase::Rejected, reason),
            )
            .await?;
        }
        let path = format!("/{name}.yaml");
        cluster.image_server().publish(&path, text.into_bytes());
        let url = json!({"url": cluster.image_server().url(&path)});
        judged(
            cluster,
            name,
            "texts",
            version,
            &url,
            (UpgradePhase::Rejected, reason),
        )
        .await?;
    }
    Ok(())
}

async fn rejected_sources(cluster: &Cluster) -> Result<()> {
    let server = cluster.image_server();
    server.publish("/too-large.yaml", vec![b' '; (1 << 20) + 1]);
    by_url(
        cluster,
        "too-large",
        "sources",
        "/too-large.yaml",
        (UpgradePhase::Rejected, "CatalogTooLarge"),
    )
    .await?;
    let page = format!("<!DOCTYPE html><html><title>{PRIVATE}</title></html>");
    server.publish("/page.yaml", page.into_bytes());
    by_url(
        cluster,
        "page",
        "sources",
        "/page.yaml",
        (UpgradePhase::Rejected, "InvalidCatalog"),
    )
    .await?;
    server.publish("/binary.yaml", vec![0xff_u8, 0xfe, 0x00, 0x80]);
    by_url(
        cluster,
        "binary",
        "sources",
        "/binary.yaml",
        (UpgradePhase::Rejected, "InvalidCatalog"),
    )
    .await?;
    for (name, target) in [
        ("loop", server.url("/loop.yaml")),
        (
            "to-link-local",
            "http://169.254.169.254/latest/meta-data/".to_owned(),
        ),
        ("to-file", "file:///etc/passwd".to_owned()),
    ] {
        let path = format!("/{name}.yaml");
        server.publish(&path, Vec::new());
        server.fault(&path, Fault::Redirect(target));
        by_url(
            cluster,
            name,
            "sources",
            &path,
            (UpgradePhase::Rejected, "InvalidSource"),
        )
        .await?;
    }
    let direct = json!({"url": "http://169.254.169.254/latest/meta-data/"});
    judged(
        cluster,
        "link-local",
        "sources",
        NEW,
        &direct,
        (UpgradePhase::Rejected, "InvalidSource"),
    )
    .await?;
    Ok(())
}

/// What may get better by itself is `Pending`, and becomes `Completed` when it has.
async fn pending(cluster: &Cluster, name: &'static str, fault: Fault, reason: &str) -> Result<()> {
    let path = format!("/{name}.yaml");
    let server = cluster.image_server();
    server.publish(&path, cluster.catalog(&[NEW])?.into_bytes());
    server.fault(&path, fault);
    by_url(cluster, name, name, &path, (UpgradePhase::Pending, reason)).await?;
    server.cure(&path);
    objects::wait_upgrade_phase(&cluster.client(), name, UpgradePhase::Completed).await?;
    objects::boots(cluster.node(name)?, NEW).await
}

/// Without the role, without the ConfigMap, with another key, and at last with everything.
async fn config_map(cluster: &Cluster) -> Result<()> {
    let (name, kubectl) = ("config-map", cluster.kubectl());
    let source = json!({"configMap": "images-cm"});
    let status = judged(
        cluster,
        name,
        name,
        NEW,
        &source,
        (UpgradePhase::Pending, "CatalogForbidden"),
    )
    .await?;
    let line = "- {apiGroups: [\"\"], resources: [configmaps], verbs: [get]}";
    ensure!(
        status.message.contains("Role controller") || status.message.contains("role controller"),
        "{}",
        status.message
    );
    ensure!(
        status.message.contains(line),
        "the message lacks the line to add: {}",
        status.message
    );

    let manifest = std::fs::read_to_string(install::manifests().join("controller/rbac.yaml"))?;
    kubectl
        .apply(&manifest.replace(&format!("# {line}"), line))
        .await?;
    let reason = |wanted: &'static str| {
        move |status: &OSUpgradeStatus| {
            condition::find(&status.conditions, "Accepted").is_some_and(|c| c.reason == wanted)
        }
    };
    let client = cluster.client();
    objects::wait_upgrade(
        &client,
        name,
        "the ConfigMap to be missed",
        reason("ConfigMapNotFound"),
    )
    .await?;
    let map = |data: Value| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": "images-cm", "namespace": "mono-system"},
        })
    };
    let text = cluster.catalog(&[NEW])?;
    objects::apply(&kubectl, &map(json!({"any": text}))).await?;
    objects::wait_upgrade_phase(&client, name, UpgradePhase::Completed).await?;
    objects::boots(cluster.node(name)?, NEW).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_catalog_says_why_and_touches_no_node() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&[
            "texts",
            "sources",
            "not-found",
            "server-error",
            "never-answers",
            "forbidden",
            "config-map",
        ]),
        version: OLD.into(),
        images: vec![NEW.into()],
        controller_arguments: vec!["--allow-http-catalogs".into()],
        ..ClusterOptions::default()
    })
    .await?;
    cases::all(vec![
        case("texts", rejected_texts(&cluster)),
        case("sources", rejected_sources(&cluster)),
        case(
            "not-found",
            pending(
                &cluster,
                "not-found",
                Fault::status(404),
                "CatalogUnreachable",
            ),
        ),
        case(
            "server-error",
            pending(
                &cluster,
                "server-error",
                Fault::status(500),
                "CatalogUnreachable",
            ),
        ),
        case(
            "never-answers",
            pending(
                &cluster,
                "never-answers",
                Fault::NeverAnswer,
                "CatalogUnreachable",
            ),
        ),
        case(
            "forbidden",
            pending(
                &cluster,
                "forbidden",
                Fault::status(403),
                "CatalogForbidden",
            ),
        ),
        case("config-map", config_map(&cluster)),
    ])
    .await?;
    for name in ["texts", "sources"] {
        let node = cluster.node(name)?;
        ensure!(
            node.boot().is_some_and(|boot| boot.number == 1),
            "{name}: {:?}",
            node.boot()
        );
        objects::boots(node, OLD).await?;
    }
    let made = objects::get(&cluster.kubectl(), &["osupgradeprogresses", "-o", "wide"]).await?;
    let touched: Vec<_> = made
        .rows
        .iter()
        .filter(|row| row[1] == "texts" || row[1] == "sources")
        .collect();
    ensure!(
        touched.is_empty(),
        "a bad catalog made progresses: {touched:?}"
    );
    cluster.stop().await
}

/// Without the flag, plain http is refused for catalogs.
#[tokio::test(flavor = "multi_thread")]
async fn http_catalogs_need_the_flag() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: cases::nodes(&["plain"]),
        version: OLD.into(),
        ..ClusterOptions::default()
    })
    .await?;
    by_url(
        &cluster,
        "plain",
        "plain",
        "/none.yaml",
        (UpgradePhase::Rejected, "InvalidSource"),
    )
    .await?;
    ensure!(
        cluster.image_server().requests().is_empty(),
        "it was fetched all the same"
    );
    cluster.stop().await
}
