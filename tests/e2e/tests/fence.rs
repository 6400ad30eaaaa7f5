//! The fence and the roles, proven with real tokens against the shipped manifests.
#![allow(
    clippy::expect_used,
    reason = "a test's own steps end it when they fail"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Client;
use monok8s_e2e::{
    install,
    request::{self, Verdict},
};
use monok8s_sandbox::{
    assets::Assets,
    control_plane::{BoundNode, ControlPlane, Options},
    kubectl::Kubectl,
    scratch, wait,
};
use serde_json::{Value, json};

const LIFETIME: Duration = Duration::from_secs(3600);
const SETTLED: Duration = Duration::from_secs(60);

const OBJECTS: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: mine}}
---
{apiVersion: v1, kind: Node, metadata: {name: other}}
---
apiVersion: monok8s.io/v1alpha1
kind: OSUpgrade
metadata: {name: upgrade}
spec: {version: v1.35.3, catalog: {url: "https://images.example/catalog.yaml"}}
---
apiVersion: monok8s.io/v1alpha1
kind: OSUpgradeProgress
metadata: {name: mine}
spec: {sourceRef: {name: upgrade}, nodeName: mine}
---
apiVersion: monok8s.io/v1alpha1
kind: OSUpgradeProgress
metadata: {name: other}
spec: {sourceRef: {name: upgrade}, nodeName: other}
---
{apiVersion: monok8s.io/v1alpha1, kind: OSNode, metadata: {name: other}, spec: {}}
"#;

fn object(kind: &str, rest: &Value) -> Value {
    let mut object = json!({"apiVersion": "monok8s.io/v1alpha1", "kind": kind});
    for (key, value) in rest.as_object().expect("an object") {
        object[key] = value.clone();
    }
    object
}

/// One thing tried: its name, method, path, body, and who decides about it.
type Attempt = (
    &'static str,
    &'static str,
    &'static str,
    Option<Value>,
    Verdict,
    Verdict,
);

/// What the agent of the node `mine` tries: name, method, path, body, and who decides about it with
/// the shipped roles and with every right that RBAC can give.
#[allow(clippy::too_many_lines, reason = "it is a table")]
fn attempts() -> Vec<Attempt> {
    use Verdict::{Allowed, Policy, Rbac};
    let progress = |rest| Some(object("OSUpgradeProgress", &rest));
    let node = |rest| Some(object("OSNode", &rest));
    let status = json!({"status": {"message": "tried"}});
    let version = json!({"status": {"version": "v9.9.9"}});
    vec![
        (
            "own status",
            "PATCH",
            "osupgradeprogresses/mine/status",
            progress(status.clone()),
            Allowed,
            Allowed,
        ),
        (
            "another node's status",
            "PATCH",
            "osupgradeprogresses/other/status",
            progress(status),
            Policy,
            Policy,
        ),
        (
            "another node's status, claiming it as its own",
            "PATCH",
            "osupgradeprogresses/other/status",
            progress(json!({"spec": {"nodeName": "mine"}, "status": {"message": "tried"}})),
            Policy,
            Policy,
        ),
        (
            "own spec",
            "PATCH",
            "osupgradeprogresses/mine",
            progress(json!({"spec": {"cancel": true}})),
            Rbac,
            Allowed,
        ),
        (
            "another's spec",
            "PATCH",
            "osupgradeprogresses/other",
            progress(json!({"spec": {"cancel": true}})),
            Rbac,
            Policy,
        ),
        (
            "own labels",
            "PATCH",
            "osupgradeprogresses/mine",
            progress(json!({"metadata": {"labels": {"tried": "yes"}}})),
            Rbac,
            Allowed,
        ),
        (
            "a progress for itself",
            "POST",
            "osupgradeprogresses",
            progress(
                json!({"metadata": {"name": "new"}, "spec": {"sourceRef": {"name": "upgrade"}, "nodeName": "mine"}}),
            ),
            Rbac,
            Allowed,
        ),
        (
            "a progress for another",
            "POST",
            "osupgradeprogresses",
            progress(
                json!({"metadata": {"name": "new2"}, "spec": {"sourceRef": {"name": "upgrade"}, "nodeName": "other"}}),
            ),
            Rbac,
            Policy,
        ),
        (
            "another's OSNode",
            "POST",
            "osnodes",
            node(json!({"metadata": {"name": "third"}, "spec": {}})),
            Policy,
            Policy,
        ),
        (
            "own OSNode with labels",
            "POST",
            "osnodes",
            node(json!({"metadata": {"name": "mine", "labels": {"pool": "x"}}, "spec": {}})),
            Policy,
            Policy,
        ),
        (
            "own OSNode with a finalizer",
            "POST",
            "osnodes",
            node(
                json!({"metadata": {"name": "mine", "finalizers": ["monok8s.io/stay"]}, "spec": {}}),
            ),
            Policy,
            Policy,
        ),
        (
            "own OSNode, bare",
            "POST",
            "osnodes",
            node(json!({"metadata": {"name": "mine"}, "spec": {}})),
            Allowed,
            Allowed,
        ),
        (
            "own OSNode's status",
            "PATCH",
            "osnodes/mine/status",
            node(version.clone()),
            Allowed,
            Allowed,
        ),
        (
            "another OSNode's status",
            "PATCH",
            "osnodes/other/status",
            node(version),
            Policy,
            Policy,
        ),
        (
            "own OSNode's labels",
            "PATCH",
            "osnodes/mine",
            node(json!({"metadata": {"labels": {"pool": "x"}}, "spec": {}})),
            Rbac,
            Allowed,
        ),
        (
            "an OSUpgrade's spec",
            "PATCH",
            "osupgrades/upgrade",
            Some(object("OSUpgrade", &json!({"spec": {"version": "v9.9.9"}}))),
            Rbac,
            Policy,
        ),
        (
            "an OSUpgrade's status",
            "PATCH",
            "osupgrades/upgrade/status",
            Some(object(
                "OSUpgrade",
                &json!({"status": {"message": "tried"}}),
            )),
            Rbac,
            Policy,
        ),
        (
            "DELETE of another's progress",
            "DELETE",
            "osupgradeprogresses/other",
            None,
            Rbac,
            Policy,
        ),
        (
            "DELETE of another OSNode",
            "DELETE",
            "osnodes/other",
            None,
            Rbac,
            Policy,
        ),
        (
            "DELETE of an OSUpgrade",
            "DELETE",
            "osupgrades/upgrade",
            None,
            Rbac,
            Policy,
        ),
        (
            "DELETE of its own progress",
            "DELETE",
            "osupgradeprogresses/mine",
            None,
            Rbac,
            Allowed,
        ),
        (
            "DELETE of its own OSNode",
            "DELETE",
            "osnodes/mine",
            None,
            Rbac,
            Allowed,
        ),
    ]
}

struct Cluster {
    plane: ControlPlane,
    kubectl: Kubectl,
    folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Result<Self> {
        let folder = scratch::folder("fence")?;
        let plane = ControlPlane::start(
            &Assets::find(|line| eprintln!("{line}")).await?,
            &folder.path().join("control-plane"),
            Options::default(),
        )
        .await?;
        let kubectl = plane.kubectl();
        install::apply(&kubectl).await?;
        kubectl.apply(OBJECTS).await?;
        Ok(Self {
            plane,
            kubectl,
            folder,
        })
    }

    async fn uid(&self, node: &str) -> Result<String> {
        self.kubectl
            .ok(["get", "node", node, "-o", "jsonpath={.metadata.uid}"])
            .await
    }

    async fn client(&self, name: &str, token: &str) -> Result<Client> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        request::client_with_token(&self.plane, &folder, token).await
    }

    async fn node_agent(&self, node: Option<&str>) -> Result<Client> {
        let bound = match node {
            Some(name) => Some(BoundNode {
                name: name.into(),
                uid: self.uid(name).await?,
            }),
            None => None,
        };
        let token = self
            .plane
            .mint_token("mono-system", "node-agent", bound.as_ref(), LIFETIME)
            .await?;
        self.client(node.unwrap_or("unbound"), &token.token).await
    }

    /// A token as the kubelet obtains it for a pod on `node`.
    async fn agent_in_a_pod(&self, node: &str) -> Result<Client> {
        self.kubectl
            .apply(&format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: agent, namespace: mono-system}}, spec: \
                 {{serviceAccountName: node-agent, nodeName: {node}, containers: [{{name: c, image: none}}]}}}}"
            ))
            .await?;
        let token = self
            .kubectl
            .ok([
                "create",
                "token",
                "node-agent",
                "-n",
                "mono-system",
                "--bound-object-kind=Pod",
                "--bound-object-name=agent",
            ])
            .await?;
        self.client("pod", token.trim()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_about_its_own_node_only() -> Result<()> {
    let cluster = Cluster::start().await?;

    let mine = cluster.node_agent(Some("mine")).await?;
    for (name, method, path, body, shipped, _) in attempts() {
        let verdict = request::send(&mine, method, path, body.as_ref()).await?;
        assert_eq!(verdict, shipped, "with the node's token: {name}");
    }
    // Now that its OSNode is there, so that nothing is merely not found.
    let unbound = cluster.node_agent(None).await?;
    for (name, method, path, body, shipped, _) in attempts() {
        let verdict = request::send(&unbound, method, path, body.as_ref()).await?;
        let expected = if shipped == Verdict::Allowed {
            Verdict::Policy
        } else {
            shipped
        };
        assert_eq!(verdict, expected, "with an unbound token: {name}");
    }

    untouched(&cluster).await?;

    // What a status patch says about anything but the status is dropped.
    let smuggled = object(
        "OSUpgradeProgress",
        &json!({"metadata": {"labels": {"tried": "yes"}}, "spec": {"cancel": true}, "status": {"message": "tried"}}),
    );
    let verdict = request::send(
        &mine,
        "PATCH",
        "osupgradeprogresses/mine/status",
        Some(&smuggled),
    )
    .await?;
    assert_eq!(verdict, Verdict::Allowed);
    untouched(&cluster).await?;

    let pod = cluster.agent_in_a_pod("mine").await?;
    let status = object(
        "OSUpgradeProgress",
        &json!({"status": {"message": "from a pod"}}),
    );
    for (path, expected) in [
        ("osupgradeprogresses/mine/status", Verdict::Allowed),
        ("osupgradeprogresses/other/status", Verdict::Policy),
    ] {
        assert_eq!(
            request::send(&pod, "PATCH", path, Some(&status)).await?,
            expected,
            "from a pod: {path}"
        );
    }

    // The policy holds by itself, whatever RBAC would let the agent do.
    cluster.kubectl.ok(["delete", "osnode", "mine"]).await?;
    cluster
        .kubectl
        .ok([
            "create",
            "clusterrolebinding",
            "wide",
            "--clusterrole=cluster-admin",
            "--serviceaccount=mono-system:node-agent",
        ])
        .await?;
    let status = object("OSUpgrade", &json!({"status": {"message": "tried"}}));
    wait::until("the wide role to take effect", SETTLED, || async {
        let verdict =
            request::send(&mine, "PATCH", "osupgrades/upgrade/status", Some(&status)).await?;
        Ok((verdict != Verdict::Rbac).then_some(()))
    })
    .await?;
    for (name, method, path, body, _, wide) in attempts() {
        let verdict = request::send(&mine, method, path, body.as_ref()).await?;
        // Immutable fields are the API server's own affair, whoever asks.
        let claimed = matches!(&verdict, Verdict::Other(text) if text.contains("immutable"));
        assert!(
            verdict == wide || claimed,
            "with every right: {name}: {verdict:?}"
        );
    }

    // The token dies with its Node, also when another of that name comes.
    cluster.kubectl.ok(["delete", "node", "mine"]).await?;
    cluster
        .kubectl
        .apply("{apiVersion: v1, kind: Node, metadata: {name: mine}}")
        .await?;
    wait::until("the old Node's token to be refused", SETTLED, || async {
        let probe = object("OSNode", &json!({"metadata": {"name": "mine"}, "spec": {}}));
        let verdict = request::send(&mine, "POST", "osnodes?dryRun=All", Some(&probe)).await?;
        Ok((verdict == Verdict::Unauthorized).then_some(()))
    })
    .await?;
    cluster.plane.stop().await;
    Ok(())
}

/// No attempt so far changed what an agent must not change.
async fn untouched(cluster: &Cluster) -> Result<()> {
    let text = cluster
        .kubectl
        .ok([
            "get",
            "osupgradeprogresses,osupgrades,osnodes",
            "-o",
            "json",
        ])
        .await?;
    let list: Value = serde_json::from_str(&text).context("kubectl printed no JSON")?;
    for item in list["items"].as_array().context("no list")? {
        let name = format!("{} {}", item["kind"], item["metadata"]["name"]);
        ensure!(item["metadata"]["labels"].is_null(), "{name} has labels");
        ensure!(item["spec"]["cancel"] != true, "{name} is cancelled");
        ensure!(
            item["metadata"]["name"] == "mine" || item["status"]["message"] != "tried",
            "{name} was written to"
        );
    }
    Ok(())
}

/// Who may do what by the shipped roles alone: (who, verb, resource, allowed).
const RIGHTS: &[(&str, &str, &str, bool)] = &[
    ("viewer", "list", "osupgrades.monok8s.io", true),
    ("viewer", "patch", "osupgrades.monok8s.io", false),
    ("editor", "list", "osnodes.monok8s.io", true),
    ("editor", "create", "osupgrades.monok8s.io", false),
    ("editor", "patch", "osupgradeprogresses.monok8s.io", false),
    ("administrator", "create", "osupgrades.monok8s.io", false),
    (
        "administrator",
        "patch",
        "osupgradeprogresses.monok8s.io",
        false,
    ),
    ("upgrader", "create", "osupgrades.monok8s.io", true),
    ("upgrader", "patch", "osupgradeprogresses.monok8s.io", true),
    ("upgrader", "patch", "osnodes.monok8s.io", false),
    (
        "upgrader",
        "patch",
        "osupgradeprogresses.monok8s.io/status",
        false,
    ),
    (CONTROLLER, "patch", "osupgrades.monok8s.io/status", true),
    (CONTROLLER, "patch", "osupgrades.monok8s.io", false),
    (CONTROLLER, "create", "osupgradeprogresses.monok8s.io", true),
    (CONTROLLER, "delete", "osupgradeprogresses.monok8s.io", true),
    (
        CONTROLLER,
        "patch",
        "osupgradeprogresses.monok8s.io/status",
        false,
    ),
    (CONTROLLER, "patch", "osnodes.monok8s.io", false),
    (CONTROLLER, "patch", "osnodes.monok8s.io/status", false),
    (CONTROLLER, "patch", "nodes", true),
    (CONTROLLER, "delete", "nodes", false),
    (CONTROLLER, "delete", "pods", true),
    (CONTROLLER, "create", "pods", false),
    (CONTROLLER, "create", "pods/eviction", true),
    (CONTROLLER, "list", "poddisruptionbudgets.policy", true),
    (CONTROLLER, "patch", "poddisruptionbudgets.policy", false),
    (AGENT, "create", "pods/eviction", false),
    (CONTROLLER, "get", "configmaps", false),
    (CONTROLLER, "get", "secrets", false),
    (CONTROLLER, "create", "leases.coordination.k8s.io", true),
    (AGENT, "get", "osupgrades.monok8s.io", true),
    (AGENT, "list", "osupgrades.monok8s.io", false),
    (AGENT, "get", "nodes", true),
    (AGENT, "list", "nodes", false),
    (AGENT, "get", "configmaps", false),
    (AGENT, "get", "secrets", false),
    (AGENT, "create", "pods", false),
];
const CONTROLLER: &str = "system:serviceaccount:mono-system:controller";
const AGENT: &str = "system:serviceaccount:mono-system:node-agent";

#[tokio::test(flavor = "multi_thread")]
async fn each_role_grants_what_the_page_says_and_no_more() -> Result<()> {
    let cluster = Cluster::start().await?;
    let kubectl = &cluster.kubectl;
    for (user, role) in [
        ("viewer", "view"),
        ("editor", "edit"),
        ("administrator", "admin"),
        ("upgrader", "monok8s-upgrader"),
    ] {
        kubectl
            .ok([
                "create",
                "clusterrolebinding",
                user,
                &format!("--clusterrole={role}"),
                &format!("--user={user}"),
            ])
            .await?;
    }
    let may = async |who: &str, verb: &str, resource: &str| -> Result<bool> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let answer = kubectl
            .run([
                "auth",
                "can-i",
                verb,
                resource,
                &format!("--subresource={subresource}"),
                "-n",
                "mono-system",
                &format!("--as={who}"),
            ])
            .await?;
        Ok(answer.stdout.trim() == "yes")
    };
    // The API server hears of roles a moment later, and of what is aggregated into them one after the other.
    for &(who, verb, resource, _) in RIGHTS.iter().filter(|right| right.3) {
        wait::until(&format!("{who} {verb} {resource}"), SETTLED, || async {
            Ok(may(who, verb, resource).await?.then_some(()))
        })
        .await?;
    }
    for &(who, verb, resource, allowed) in RIGHTS {
        assert_eq!(
            may(who, verb, resource).await?,
            allowed,
            "{who} {verb} {resource}"
        );
    }

    // The line for ConfigMaps does what the page says once its comment sign is off.
    let path = install::manifests().join("controller/rbac.yaml");
    let manifest = std::fs::read_to_string(&path)?;
    let line = "# - {apiGroups: [\"\"], resources: [configmaps], verbs: [get]}";
    ensure!(
        manifest.contains(line),
        "{} no longer has the line {line}",
        path.display()
    );
    kubectl
        .apply(&manifest.replace(line, line.trim_start_matches("# ")))
        .await?;
    wait::until("the ConfigMap rule to take effect", SETTLED, || async {
        Ok(may(CONTROLLER, "get", "configmaps").await?.then_some(()))
    })
    .await?;
    cluster.plane.stop().await;
    Ok(())
}
