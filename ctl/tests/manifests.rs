//! What `ctl create` prints is what lies in `manifests/`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared functions of tests"
)]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Objects by kind, namespace and name.
type Objects = BTreeMap<(String, String, String), Value>;

fn objects(text: &str) -> Objects {
    let documents: Vec<Value> = serde_yaml::from_multiple(text).unwrap();
    let mut objects = Objects::new();
    for object in documents.into_iter().filter(|d| !d.is_null()) {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let meta = &object["metadata"];
        let key = (
            word(&object["kind"]),
            word(&meta["namespace"]),
            word(&meta["name"]),
        );
        let double = objects.insert(key.clone(), object);
        assert!(double.is_none(), "{key:?} is printed twice");
    }
    objects
}

fn ctl(args: &[&str]) -> Objects {
    objects(&printed(args))
}

fn printed(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ctl"))
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// The text of every file that a kustomization names, folders followed.
fn kustomized(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
    let kustomization: Value = serde_yaml::from_str(&text).unwrap();
    let mut all = String::new();
    for resource in kustomization["resources"].as_array().unwrap() {
        let path = folder.join(resource.as_str().unwrap());
        let text = if path.is_dir() {
            kustomized(&path)
        } else {
            fs::read_to_string(&path).unwrap()
        };
        all.push_str("---\n");
        all.push_str(&text);
    }
    all
}

/// Both halves together; the namespace is in each, so that their order does not matter.
fn both(image: &[&str]) -> Objects {
    let mut all = ctl(&[&["create", "controller"], image].concat());
    for (key, object) in ctl(&[&["create", "agent"], image].concat()) {
        let before = all.insert(key.clone(), object);
        assert_eq!(before.is_some(), key.0 == "Namespace", "{key:?}");
    }
    all
}

#[test]
fn the_two_halves_are_the_whole() {
    let expected = objects(&kustomized(&manifests()));
    assert_eq!(both(&[]), expected);
}

#[test]
fn kubectl_builds_the_same_from_the_folder() {
    let kubectl = kubectl().expect(
        "no kubectl in KUBEBUILDER_ASSETS, PATH or ~/.cache/monok8s/control-plane; `make test` sets \
         one up, and so does `cargo run -p monok8s-sandbox -- assets`",
    );
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(manifests())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        both(&[]),
        objects(&String::from_utf8(output.stdout).unwrap())
    );
}

/// Where the tests' own control plane is looked for too.
fn kubectl() -> Option<PathBuf> {
    let built = env::home_dir().map(|home| home.join(".cache/monok8s/control-plane"));
    let built = built.and_then(|folder| fs::read_dir(folder).ok());
    let built = built
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()));
    let path = env::var_os("PATH").unwrap_or_default();
    env::var_os("KUBEBUILDER_ASSETS")
        .map(PathBuf::from)
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(built)
        .map(|folder| folder.join("kubectl"))
        .find(|file| file.is_file())
}

/// Every rule of the two daemons, as `role: verbs resources[names]`: whoever widens one changes this
/// too, and the table in docs/security.md.
#[test]
fn the_daemons_may_do_this_and_no_more() {
    let mut rules = Vec::new();
    for ((kind, _, name), object) in both(&[]) {
        if !matches!(kind.as_str(), "Role" | "ClusterRole") || name.starts_with("monok8s-upgrader")
        {
            continue;
        }
        // One that is shipped without any is for the administrator to fill.
        for rule in object["rules"].as_array().into_iter().flatten() {
            let words = |key: &str, between: &str| {
                let words = rule[key].as_array().into_iter().flatten();
                let words: Vec<_> = words.filter_map(Value::as_str).collect();
                words.join(between)
            };
            rules.push(format!(
                "{name}: {} {} of {:?} {}",
                words("verbs", " "),
                words("resources", " "),
                words("apiGroups", " "),
                words("resourceNames", " "),
            ));
        }
    }
    let expected = [
        "monok8s-controller: get list watch osupgrades of \"monok8s.io\" ",
        "monok8s-controller: patch osupgrades/status of \"monok8s.io\" ",
        "monok8s-controller: get list watch create patch delete osupgradeprogresses of \"monok8s.io\" ",
        "monok8s-controller: get list watch osnodes of \"monok8s.io\" ",
        "monok8s-controller: get list watch patch nodes of \"\" ",
        "monok8s-controller: get list watch delete pods of \"\" ",
        "monok8s-controller: create pods/eviction of \"\" ",
        "monok8s-controller: get list watch poddisruptionbudgets of \"policy\" ",
        "monok8s-node-agent: get list watch osupgradeprogresses of \"monok8s.io\" ",
        "monok8s-node-agent: patch osupgradeprogresses/status of \"monok8s.io\" ",
        "monok8s-node-agent: get create osnodes of \"monok8s.io\" ",
        "monok8s-node-agent: patch osnodes/status of \"monok8s.io\" ",
        "monok8s-node-agent: get osupgrades of \"monok8s.io\" ",
        "monok8s-node-agent: get nodes of \"\" ",
        "monok8s-viewer: get list watch osupgrades osupgradeprogresses osnodes of \"monok8s.io\" ",
        "monok8s-controller-events: create events of \"events.k8s.io\" ",
        "monok8s-node-agent-events: create patch events of \"events.k8s.io\" ",
        "controller: create leases of \"coordination.k8s.io\" ",
        "controller: get update leases of \"coordination.k8s.io\" monok8s-controller",
    ];
    assert_eq!(rules, expected, "{rules:#?}");
}

#[test]
fn the_crds_alone_are_three() {
    let crds = ctl(&["create", "crds"]);
    let all = both(&[]);
    assert_eq!(crds.len(), 3);
    for (key, crd) in &crds {
        assert_eq!(key.0, "CustomResourceDefinition");
        assert_eq!(all.get(key), Some(crd));
    }
}

/// The pod template of a workload.
fn pod(objects: &Objects, kind: &str, name: &str) -> Value {
    let key = (kind.to_owned(), "mono-system".to_owned(), name.to_owned());
    objects[&key]["spec"]["template"]["spec"].clone()
}

#[test]
fn without_an_image_the_operating_systems_own_is_run_and_never_pulled() {
    let all = both(&[]);
    for (kind, name) in [("Deployment", "controller"), ("DaemonSet", "node-agent")] {
        let container = &pod(&all, kind, name)["containers"][0];
        assert_eq!(container["image"], "localhost/monok8s/ota:local");
        assert_eq!(container["imagePullPolicy"], "Never");
    }
    let key = (
        "Deployment".into(),
        "mono-system".into(),
        "controller".into(),
    );
    assert_eq!(all[&key]["spec"]["replicas"], 2);
    let affinity = &pod(&all, "Deployment", "controller")["affinity"];
    let terms = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let expression = &terms[0]["matchExpressions"][0];
    assert_eq!(expression["key"], "monok8s.io/managed");
    assert_eq!(expression["values"], serde_json::json!(["true"]));
    let preferred = &affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(
        preferred[0]["podAffinityTerm"]["topologyKey"],
        "kubernetes.io/hostname"
    );
}

#[test]
fn with_an_image_that_one_is_run_and_nothing_else_changes() {
    let image = "registry.example:5000/monok8s/ota:0.1.0";
    let mut named = both(&["--image", image]);
    let plain = both(&[]);
    for (kind, name) in [("Deployment", "controller"), ("DaemonSet", "node-agent")] {
        let container = &pod(&named, kind, name)["containers"][0];
        assert_eq!(container["image"], image);
        assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        let key = (kind.to_owned(), "mono-system".to_owned(), name.to_owned());
        let container =
            &mut named.get_mut(&key).unwrap()["spec"]["template"]["spec"]["containers"][0];
        container["image"] = "localhost/monok8s/ota:local".into();
        container["imagePullPolicy"] = "Never".into();
    }
    assert_eq!(named, plain);
}

#[test]
fn json_is_a_list_of_the_same_objects() {
    for what in ["controller", "agent", "crds"] {
        let list: Value = serde_json::from_str(&printed(&["create", what, "-o", "json"])).unwrap();
        assert_eq!(list["kind"], "List");
        let documents: Vec<Value> = ctl(&["create", what]).into_values().collect();
        assert_eq!(list["items"].as_array().unwrap().len(), documents.len());
        for object in list["items"].as_array().unwrap() {
            assert!(documents.contains(object), "{object}");
        }
    }
}
