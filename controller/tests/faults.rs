//! A quiet cluster, writes that fail, and objects that cannot be read, on a real control plane.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

mod cluster;

use std::sync::atomic::Ordering;

use cluster::{ALONE, Cluster, IN_TURN, PATIENCE};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use monok8s_api::OSUpgradeProgress;
use monok8s_sandbox::wait;
use serde_json::json;

/// Refuses updates of a resource of ours where `unless` does not hold, until its binding is deleted.
async fn refuse(cluster: &Cluster, name: &str, resource: &str, unless: &str) {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client.clone());
    let policy = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["monok8s.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
                "resources": [resource],
            }]},
            "validations": [{"expression": unless}],
        },
    }))
    .unwrap();
    policies
        .create(&PostParams::default(), &policy)
        .await
        .unwrap();
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client.clone());
    let binding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }))
    .unwrap();
    bindings
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
}

/// Refuses every release, until it is deleted.
async fn refuse_releases(cluster: &Cluster) {
    let unless = "object.spec.release == 'Hold'";
    refuse(cluster, "no-release", "osupgradeprogresses", unless).await;
    // The API server heeds a policy a moment after it was made.
    let probe: OSUpgradeProgress = serde_json::from_value(json!({
        "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgradeProgress",
        "metadata": {"name": "probe"},
        "spec": {"sourceRef": {"name": "none"}, "nodeName": "none", "release": "Hold"},
    }))
    .unwrap();
    let progresses = cluster.progresses();
    progresses
        .create(&PostParams::default(), &probe)
        .await
        .unwrap();
    wait::until("the policy to be heeded", PATIENCE, || async {
        let release = Patch::Merge(json!({"spec": {"release": "Reboot"}}));
        let params = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let refused = progresses.patch("probe", &params, &release).await.is_err();
        Ok(refused.then_some(()))
    })
    .await
    .unwrap();
    progresses
        .delete("probe", &DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_failed_is_tried_again_though_nothing_changes() {
    let mut cluster = Cluster::start(1).await;
    refuse_releases(&cluster).await;
    let replica = cluster.controller("only", ALONE).await;
    cluster.begin_upgrade().await;
    wait::until("a release that is refused", PATIENCE, || async {
        let metrics = replica.get("/metrics").await;
        let refused = r#"monok8s_controller_writes_total{kind="release",result="refused"}"#;
        Ok(metrics.contains(refused).then_some(()))
    })
    .await
    .unwrap();
    // From here on nothing changes that the controller watches.
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client.clone());
    bindings
        .delete("no-release", &DeleteParams::default())
        .await
        .unwrap();
    cluster.until_phase_is("up", "Completed").await;
    cluster.assert_nothing_broken();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_whose_status_is_refused_does_not_stop_the_others() {
    let mut cluster = Cluster::start(1).await;
    let spec = json!({
        "version": "v1.35.1", "catalog": {"inline": "images: []"},
        "nodeSelector": {"matchLabels": {"there-is": "none"}},
    });
    cluster.apply("kept", spec).await;
    let unless = "object.metadata.name != 'kept'";
    refuse(&cluster, "no-status", "osupgrades/status", unless).await;
    wait::until("the policy to be heeded", PATIENCE, || async {
        let status = Patch::Merge(json!({"status": {"message": "probe"}}));
        let params = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let upgrades = cluster.upgrades();
        let refused = upgrades.patch_status("kept", &params, &status).await;
        Ok(refused.is_err().then_some(()))
    })
    .await
    .unwrap();
    let replica = cluster.controller("only", ALONE).await;
    cluster.begin_upgrade().await;
    cluster.until_phase_is("up", "Completed").await;
    let metrics = replica.get("/metrics").await;
    let refused = r#"monok8s_controller_writes_total{kind="status",result="refused"}"#;
    assert!(metrics.contains(refused), "{metrics}");
    cluster.assert_nothing_broken();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_goes_away_for_longer_than_the_lease() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.controller("first", IN_TURN).await;
    cluster.until_leads("first").await;
    cluster.begin_upgrade().await;
    cluster.until_done("up", 1).await;
    cluster.agents.running.store(false, Ordering::SeqCst);
    cluster.plane.stop_api_server().await;
    // A leader that cannot renew ends; its Deployment would start it again.
    let status = tokio::time::timeout(PATIENCE, first.process.wait())
        .await
        .expect("it does not end")
        .unwrap();
    assert!(!status.success());
    cluster.plane.start_api_server().await.unwrap();
    cluster.agents.running.store(true, Ordering::SeqCst);
    let _again = cluster.controller("again", IN_TURN).await;
    cluster.until_phase_is("up", "Completed").await;
    cluster.assert_nothing_broken();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_lives_before_it_is_ready_and_logs_json_when_asked() {
    let mut cluster = Cluster::start(0).await;
    cluster.credentials("only").await;
    cluster.plane.stop_api_server().await;
    let flags = [ALONE, &["--log-format=json"]].concat();
    let replica = cluster.start_controller("only", &flags).await;
    let healthy = replica.get("/healthz").await;
    assert!(healthy.starts_with("HTTP/1.1 200"), "{healthy}");
    let ready = replica.get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    for kind in ["osupgrades", "osupgradeprogresses", "osnodes", "nodes"] {
        assert!(ready.contains(kind), "{ready}");
    }
    cluster.plane.start_api_server().await.unwrap();
    replica.until_ready().await;
    cluster.until_leads("only").await;
    wait::until("the log to tell of it", PATIENCE, || async {
        Ok(replica.log().contains("\"leading\"").then_some(()))
    })
    .await
    .unwrap();
    for line in replica.log().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in ["timestamp", "level", "message", "target"] {
            assert!(entry[field].is_string(), "{field}: {line}");
        }
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_does_not_stop_the_rest() {
    let mut cluster = Cluster::start(1).await;
    // A stored object may be older than the rules of its kind: here the rules are taken away.
    let patch = json!([{
        "op": "replace",
        "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec",
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }])
    .to_string();
    cluster
        .plane
        .kubectl()
        .ok([
            "patch",
            "crd",
            "osupgrades.monok8s.io",
            "--type=json",
            "-p",
            &patch,
        ])
        .await
        .unwrap();
    let poison = "apiVersion: monok8s.io/v1alpha1\nkind: OSUpgrade\nmetadata: {name: poison}\nspec: {version: [not, text]}\n";
    wait::until("the laxer rules to be heeded", PATIENCE, || async {
        Ok(cluster.plane.kubectl().apply(poison).await.ok())
    })
    .await
    .unwrap();
    let replica = cluster.controller("only", ALONE).await;
    replica.until_ready().await;
    cluster.begin_upgrade().await;
    cluster.until_phase_is("up", "Completed").await;
    assert!(
        replica.log().contains("cannot be read"),
        "{}",
        replica.log()
    );
    cluster.end().await;
}
