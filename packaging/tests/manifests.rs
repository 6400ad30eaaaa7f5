//! What the manifests promise of the pods' lives, beside their rights.

use std::fs;

use monok8s_sandbox::scratch;
use serde_json::{Value, json};

/// How long a daemon may take to end after SIGTERM, by the design.
const TO_END: i64 = 10;

fn objects(path: &str) -> Vec<Value> {
    let path = scratch::repository().join("manifests").join(path);
    serde_yaml::from_multiple(&fs::read_to_string(path).unwrap()).unwrap()
}

fn pod(path: &str) -> Value {
    let objects = objects(path);
    let workload = objects.iter().find(|o| o["spec"]["template"].is_object());
    workload.unwrap()["spec"]["template"]["spec"].clone()
}

/// Bytes of a quantity as the manifests write them.
fn mebibytes(quantity: &Value) -> u64 {
    quantity
        .as_str()
        .unwrap()
        .strip_suffix("Mi")
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_agent_outlives_pressure_and_ends_in_time() {
    let pod = pod("agent/daemonset.yaml");
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    let container = &pod["containers"][0];
    // The window, what is on its way to the disk, and the process itself.
    let limit = mebibytes(&container["resources"]["limits"]["memory"]);
    assert!(limit >= 128 + 64 + 64, "{limit}");
    assert!(container["resources"]["limits"]["cpu"].is_null());
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    // Nothing of the host but what docs/security.md gives a reason for.
    let paths: Vec<&str> = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume["hostPath"]["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/", "/var/lib/monok8s", "/boot"]);
    let page = fs::read_to_string(scratch::repository().join("docs/security.md")).unwrap();
    for path in paths {
        assert!(page.contains(&format!("| `{path}`")), "{path}");
    }
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert_eq!(mount["mountPropagation"], "HostToContainer", "{mount}");
    }
}

/// Each has its reason in a comment of the manifest and in a row of the page.
#[test]
fn nothing_is_asked_of_the_node_without_a_reason() {
    let repository = scratch::repository();
    let read = |path: &str| fs::read_to_string(repository.join(path)).unwrap();
    let manifest = read("manifests/agent/daemonset.yaml");
    let comments: String = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix('#'))
        .collect();
    let page = read("docs/security.md");
    let rows: Vec<&str> = page.lines().filter(|l| l.starts_with("| `")).collect();
    let has_row = |word: &str| {
        rows.iter()
            .any(|row| row.starts_with(&format!("| `{word}` |")))
    };
    for capability in ["SYS_ADMIN", "SYS_PTRACE", "SYS_BOOT"] {
        assert!(
            comments.contains(capability) && has_row(capability),
            "{capability}"
        );
    }
    let pod = pod("agent/daemonset.yaml");
    let privileges = &pod["containers"][0]["securityContext"];
    assert_eq!(
        *privileges,
        json!({"privileged": true, "runAsUser": 0, "runAsGroup": 0, "readOnlyRootFilesystem": true})
    );
    let shared = ["hostPID", "hostNetwork", "hostIPC", "hostUsers"];
    let shared: Vec<_> = shared.iter().filter(|key| !pod[**key].is_null()).collect();
    assert_eq!(shared, [&"hostPID"]);
    for word in ["privileged", "hostPID"] {
        assert!(has_row(word), "{word}");
        let at = manifest.find(&format!("{word}: true")).unwrap();
        let above = manifest[..at].trim_end().lines().next_back().unwrap();
        assert!(above.trim().starts_with('#'), "{word} without a comment");
    }
}

#[test]
fn both_have_the_time_to_end_that_they_take() {
    for path in ["agent/daemonset.yaml", "controller/deployment.yaml"] {
        let grace = pod(path)["terminationGracePeriodSeconds"].as_i64().unwrap();
        assert!(grace > TO_END && grace <= 30, "{path}: {grace}");
    }
}

#[test]
fn the_controllers_budget_lets_the_only_replica_go() {
    let objects = objects("controller/deployment.yaml");
    let budget = objects
        .iter()
        .find(|o| o["kind"] == "PodDisruptionBudget")
        .unwrap();
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert!(budget["spec"]["minAvailable"].is_null());
    let labels = &pod_labels(&objects);
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
}

fn pod_labels(objects: &[Value]) -> Value {
    let workload = objects.iter().find(|o| o["kind"] == "Deployment").unwrap();
    workload["spec"]["template"]["metadata"]["labels"].clone()
}
