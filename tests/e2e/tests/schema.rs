//! What the CRDs let through and what they refuse, asked of the real API server.

use anyhow::{Result, ensure};
use monok8s_e2e::install;
use monok8s_sandbox::kubectl::{Kubectl, Output};

const URL: &str = "url: 'https://images.example/catalog.yaml'";

async fn try_to_create(kubectl: &Kubectl, manifest: &str) -> Result<Output> {
    let arguments = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
    kubectl.run_with_input(arguments, manifest).await
}

fn upgrade(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: monok8s.io/v1alpha1\nkind: OSUpgrade\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a row a rule")]
async fn an_upgrade_is_taken_or_refused_as_the_contract_says() -> Result<()> {
    let (_folder, plane) = install::plane("schema").await?;
    let kubectl = plane.kubectl();
    let with = |more: &str| format!("version: v1.35.1, catalog: {{{URL}}}, {more}");
    for (spec, refusal) in [
        (with(""), ""),
        (with("nodeSelector: {}"), ""),
        ("version: previous, operation: Rollback".into(), ""),
        (with("rollout: {maxUnavailable: 3, maxFailures: 2}"), ""),
        (with("rollout: {maxUnavailable: '100%'}"), ""),
        (
            with("health: {deadline: 1h30m, soak: 90s, checks: [{name: k, exec: [/bin/true]}]}"),
            "",
        ),
        (
            with("download: {maxBytesPerSecond: 10485760, retryFor: 10m, credentials: s}"),
            "",
        ),
        (
            with("nodeSelector: {matchExpressions: [{key: a, operator: Exists}]}"),
            "",
        ),
        (format!("catalog: {{{URL}}}"), "version: Required"),
        ("version: v1.35.1".into(), "catalog is required"),
        ("version: v1.35.1, catalog: {}".into(), "exactly one of"),
        (
            format!("version: v1.35.1, catalog: {{{URL}, configMap: m}}"),
            "exactly one of",
        ),
        (
            format!("version: previous, catalog: {{{URL}}}"),
            "goes only with operation: Rollback",
        ),
        (
            format!("version: '', catalog: {{{URL}}}"),
            "at least 1 chars",
        ),
        (
            format!("version: {}, catalog: {{{URL}}}", "a".repeat(65)),
            "may not be more than 64",
        ),
        (
            "version: v1.35.1, catalog: {url: 'https://u:p@a.example/'}".into(),
            "must not carry user info",
        ),
        (
            "version: v1.35.1, catalog: {url: 'ftp://a.example/'}".into(),
            "^https?://",
        ),
        (with("operation: Sidegrade"), "Unsupported value"),
        (with("rollout: {maxUnavailable: 0}"), "from 1 to 100000"),
        (
            with("rollout: {maxUnavailable: 3000000000}"),
            "from 1 to 100000",
        ),
        (with("rollout: {maxUnavailable: '0%'}"), "from 1 to 100000"),
        (
            with("rollout: {maxUnavailable: '101%'}"),
            "from 1 to 100000",
        ),
        (with("rollout: {maxUnavailable: '3'}"), "from 1 to 100000"),
        (
            with("rollout: {maxFailures: -1}"),
            "greater than or equal to 0",
        ),
        (with("download: {retryFor: 10d}"), "should match"),
        (with("download: {retryFor: 9999h}"), "at most 8784h"),
        (
            with("nodeSelector: {matchExpressions: [{key: a, operator: Near}]}"),
            "operator must be",
        ),
        (
            with("nodeSelector: {matchExpressions: [{key: a, operator: In}]}"),
            "values must be given",
        ),
        (
            with("nodeSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}"),
            "values must not be given",
        ),
        (
            with("health: {checks: [{name: k, cel: a, systemdUnit: b}]}"),
            "exactly one of exec",
        ),
        (
            with("health: {checks: [{name: k, cel: a}, {name: k, cel: b}]}"),
            "Duplicate value",
        ),
        (with("chanel: stable"), "unknown field"),
    ] {
        let output = try_to_create(&kubectl, &upgrade("probe", &spec)).await?;
        ensure!(
            output.success() == refusal.is_empty() && output.stderr.contains(refusal),
            "{spec}: expected {refusal:?}, got {}",
            output.stderr
        );
    }
    for (length, taken) in [(63, true), (64, false)] {
        let output = try_to_create(&kubectl, &upgrade(&"a".repeat(length), &with(""))).await?;
        ensure!(output.success() == taken, "{length}: {}", output.stderr);
    }
    plane.stop().await;
    Ok(())
}

/// Text of a catalog, as long as wished.
fn long_catalog(length: usize) -> String {
    let head = "images: [] #";
    head.to_owned() + &"x".repeat(length - head.len())
}

fn long_url(length: usize) -> String {
    let head = "https://images.example/";
    head.to_owned() + &"x".repeat(length - head.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_texts_are_taken_and_longer_ones_are_refused() -> Result<()> {
    const INLINE: usize = 128 * 1024;
    const URL: usize = 2048;
    let (_folder, plane) = install::plane("schema").await?;
    let kubectl = plane.kubectl();
    let catalog =
        |source: String| upgrade("probe", &format!("version: v1.35.1, catalog: {source}"));
    let image = |image: String| {
        format!(
            "apiVersion: monok8s.io/v1alpha1\nkind: OSUpgradeProgress\nmetadata: {{name: probe}}\n\
             spec: {{sourceRef: {{name: u}}, nodeName: node-1, image: {{version: v1.35.1, {image}}}}}\n"
        )
    };
    let inline = |length| catalog(format!("{{inline: '{}'}}", long_catalog(length)));
    let url = |length| catalog(format!("{{url: '{}'}}", long_url(length)));
    let image_url = |length| image(format!("url: '{}'", long_url(length)));
    let mirror = |length| image(format!("mirrors: ['{}']", long_url(length)));
    for (what, longest, at, manifest) in [
        (
            "inline",
            INLINE,
            "spec.catalog.inline",
            &inline as &dyn Fn(usize) -> String,
        ),
        ("url", URL, "spec.catalog.url", &url),
        ("an image's url", URL, "spec.image.url", &image_url),
        ("a mirror", URL, "spec.image.mirrors[0]", &mirror),
    ] {
        let output = try_to_create(&kubectl, &manifest(longest)).await?;
        ensure!(output.success(), "{what} of {longest}: {}", output.stderr);
        let output = try_to_create(&kubectl, &manifest(longest + 1)).await?;
        let refusal = format!("{at}: Too long: may not be more than {longest}");
        ensure!(
            !output.success() && output.stderr.contains(&refusal),
            "{what} of one more than {longest}: {}",
            output.stderr
        );
    }
    plane.stop().await;
    Ok(())
}

/// Changes of a progress's spec, and what each is refused with; nothing when it is allowed.
async fn try_changes(kubectl: &Kubectl, progress: &str, changes: &[(&str, &str)]) -> Result<()> {
    for (change, refusal) in changes {
        let patch = format!(r#"{{"spec":{change}}}"#);
        let output = kubectl
            .run(["patch", "osup", progress, "--type", "merge", "-p", &patch])
            .await?;
        ensure!(
            output.success() == refusal.is_empty() && output.stderr.contains(refusal),
            "{progress}, {change}: expected {refusal:?}, got {}",
            output.stderr
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_progress_is_made_for_cannot_be_changed() -> Result<()> {
    let (_folder, plane) = install::plane("schema").await?;
    let kubectl = plane.kubectl();
    // As users write it, nulls included.
    kubectl
        .apply(
            "apiVersion: monok8s.io/v1alpha1\nkind: OSUpgradeProgress\nmetadata: {name: p}\n\
             spec: {sourceRef: {name: u}, nodeName: node-1}\n\
             status: {phase: Pending, startedAt: null, completedAt: null, lastUpdatedAt: null}\n",
        )
        .await?;
    let by_hand = [
        (r#"{"nodeName":"node-2"}"#, "nodeName is immutable"),
        (r#"{"sourceRef":{"name":"v"}}"#, "sourceRef is immutable"),
        (r#"{"nodeUID":"x"}"#, "nodeUID is immutable"),
        (
            r#"{"image":{"version":"v1.35.1"}}"#,
            "cannot be added or removed",
        ),
        (r#"{"release":"Soon"}"#, "Unsupported value"),
        (r#"{"retryNonce":"retry-1"}"#, ""),
        (r#"{"cancel":true}"#, ""),
        (r#"{"release":"Hold"}"#, ""),
        (r#"{"download":{"maxBytesPerSecond":2048}}"#, ""),
    ];
    try_changes(&kubectl, "p", &by_hand).await?;

    // As the controller writes it. Here there is something to change and to take away.
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    kubectl
        .apply(&format!(
            "apiVersion: monok8s.io/v1alpha1\nkind: OSUpgradeProgress\nmetadata: {{name: made}}\n\
             spec: {{sourceRef: {{name: u}}, nodeName: node-3, nodeUID: uid-3, release: Hold, image: \
             {{version: v1.35.1, url: 'https://a.example/i', mirrors: ['https://b.example/i'], \
             checksum: '{}', size: 4096}}}}\n",
            digest("a")
        ))
        .await?;
    let other_checksum = format!(r#"{{"image":{{"checksum":"{}"}}}}"#, digest("b"));
    let image = "image is immutable";
    let made = [
        (r#"{"image":{"version":"v1.35.2"}}"#, image),
        (r#"{"image":{"url":"https://c.example/i"}}"#, image),
        (r#"{"image":{"url":null}}"#, image),
        (r#"{"image":{"mirrors":["https://c.example/i"]}}"#, image),
        (r#"{"image":{"mirrors":null}}"#, image),
        (other_checksum.as_str(), image),
        (r#"{"image":{"checksum":null}}"#, image),
        (r#"{"image":{"size":8192}}"#, image),
        (r#"{"image":{"size":null}}"#, image),
        (r#"{"image":null}"#, "cannot be added or removed"),
        (r#"{"nodeUID":"uid-4"}"#, "nodeUID is immutable"),
        (r#"{"nodeUID":null}"#, "nodeUID is immutable"),
        (r#"{"nodeName":"node-4"}"#, "nodeName is immutable"),
        (r#"{"nodeName":null}"#, "spec.nodeName: Required value"),
        (r#"{"sourceRef":{"name":"v"}}"#, "sourceRef is immutable"),
        (
            r#"{"sourceRef":{"name":null}}"#,
            "spec.sourceRef.name: Required value",
        ),
        (r#"{"sourceRef":null}"#, "spec.sourceRef: Required value"),
        (
            r#"{"release":"Reboot","cancel":true,"retryNonce":"retry-1"}"#,
            "",
        ),
    ];
    try_changes(&kubectl, "made", &made).await?;
    let phase = ["get", "osup", "p", "-o", "jsonpath={.status.phase}"];
    ensure!(
        kubectl.ok(phase).await? == "Pending",
        "no phase from the start"
    );
    for (node, found) in [("node-1", 1), ("node-2", 0)] {
        let selector = format!("spec.nodeName={node}");
        let listed = kubectl
            .ok(["get", "osup", "-o", "name", "--field-selector", &selector])
            .await?;
        ensure!(listed.lines().count() == found, "{selector}: {listed}");
    }
    plane.stop().await;
    Ok(())
}
