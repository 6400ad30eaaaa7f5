//! The state folder: not where it should be, gone while a trial is armed, and wanted by two agents.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use monok8s_api::{OSNode, condition, reason::ProgressPhase};
use monok8s_node_agent::record::Step;
use monok8s_sandbox::{
    binaries,
    image_server::Fault,
    node::NodeOptions,
    process::{Process, Spawn, tail},
    wait,
};
use serde_json::json;

use crate::{
    http,
    scene::{LIMIT, NEW, OLD, Scene},
};

fn state_folder(scene: &Scene, name: &str) -> PathBuf {
    scene.node(name).machine().data().join("monok8s")
}

/// Puts the state folder back. An agent that finds none makes one, which goes again.
fn put_back(folder: &Path, aside: &Path) {
    fs::remove_file(folder).unwrap();
    while fs::rename(aside, folder).is_err() {
        fs::remove_dir_all(folder).unwrap();
    }
}

/// Waits until OSNode says so of the node's fitness.
async fn upgradable(scene: &Scene, name: &str, truth: &str, reason: &str) -> Condition {
    let api: Api<OSNode> = Api::all(scene.cluster.client());
    let what = format!("{name} to be Upgradable {truth} ({reason})");
    let found = wait::until(&what, LIMIT, || async {
        let status = api.get(name).await?.status.unwrap_or_default();
        let found = condition::find(&status.conditions, "Upgradable").cloned();
        Ok(found.filter(|c| c.status == truth && c.reason == reason))
    });
    found
        .await
        .unwrap_or_else(|e| panic!("{e:#}\n{}", scene.node(name).agent_log()))
}

/// A folder outside of what both slots share: OSNode says so, nothing is begun, and once it is mended the node takes
/// upgrades without a restart.
async fn misplaced(scene: &Scene) {
    let name = "misplaced";
    upgradable(scene, name, "True", "Ready").await;
    let folder = state_folder(scene, name);
    let aside = folder.with_file_name("aside");
    let elsewhere = scene.cluster.folder().join("elsewhere");
    scene.node(name).stop_agent().await;
    fs::rename(&folder, &aside).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &folder).unwrap();
    scene.node(name).start_agent();
    let condition = upgradable(scene, name, "False", "StateNotPersistent").await;
    assert!(
        condition.message.contains("both slots"),
        "{}",
        condition.message
    );

    let url = scene.serve(name, None);
    scene
        .progress(name, json!({"image": scene.image(&url)}))
        .await;
    let status = scene.fails(name, "StateNotPersistent").await;
    assert_eq!(status.message, condition.message);
    assert!(scene.slot_b_is_untouched(name));
    let pid = scene.node(name).agent_pid();

    put_back(&folder, &aside);
    upgradable(scene, name, "True", "Ready").await;
    assert_eq!(scene.node(name).agent_pid(), pid);
    scene.patch(name, json!({"retryNonce": "mended"})).await;
    scene.phase(name, ProgressPhase::Completed).await;
}

/// An agent that starts without its disk while a trial is armed says of the attempt neither Failed nor anything else.
async fn armed(scene: &Scene) {
    let name = "armed";
    let url = scene.serve(name, None);
    scene
        .progress(name, json!({"image": scene.image(&url)}))
        .await;
    scene.phase(name, ProgressPhase::Rebooting).await;
    let node = scene.node(name);
    node.kill_agent_and_hold().await;
    let folder = state_folder(scene, name);
    let aside = folder.with_file_name("aside");
    fs::rename(&folder, &aside).unwrap();
    fs::write(&folder, "not a folder").unwrap();
    let before = scene.status(name).await;
    node.start_agent();
    upgradable(scene, name, "False", "StateNotPersistent").await;
    scene
        .until(name, "the agent to wait for its disk", |_| {
            node.agent_log().contains("Wait(Disk)")
        })
        .await;
    assert_eq!(scene.status(name).await, before);

    put_back(&folder, &aside);
    upgradable(scene, name, "True", "Ready").await;
    assert_eq!(scene.status(name).await.phase, ProgressPhase::Rebooting);
    let boot = node.reset().await.unwrap();
    assert!(
        boot.trial && format!("v{}", boot.version) == NEW,
        "{boot:?}"
    );
    let done = scene.phase(name, ProgressPhase::Completed).await;
    assert_eq!(done.attempt, 1);
}

/// A second agent on the node waits, not ready, for the first one's end, and then carries on.
async fn second(scene: &Scene) {
    let name = "second";
    let node = scene.node(name);
    // The first is killed in the middle, however long it takes the second to be there.
    let slow = Fault::Drip {
        bytes: 16 << 10,
        every: Duration::from_millis(500),
    };
    let url = scene.serve(name, Some(slow));
    scene
        .progress(
            name,
            json!({"image": scene.image(&url), "release": "Stage"}),
        )
        .await;
    scene
        .until(name, "the first to write", |_| {
            let record = scene.record(name);
            record.is_some_and(|r| r.under_way().is_some_and(|a| a.step() == Step::Writing))
        })
        .await;
    let log = node.agent_kubeconfig().with_file_name("second.log");
    let spawn = Spawn::new(
        "a second agent",
        binaries::find("node-agent").unwrap(),
        &log,
    )
    .flag("node-name", name)
    .flag("sandbox", node.machine().dir())
    .flag("listen", "127.0.0.1:0")
    .env("KUBECONFIG", node.agent_kubeconfig());
    let other = Process::spawn(spawn).await.unwrap();
    let base = wait::until("the second's address", LIMIT, || async {
        let text = fs::read_to_string(&log).unwrap();
        let address = text.split_once(" address=").map(|(_, rest)| rest);
        let address = address.and_then(|rest| rest.split_once(char::is_whitespace));
        Ok(address.map(|(address, _)| format!("http://{address}")))
    })
    .await
    .unwrap_or_else(|e| panic!("{e:#}\n{}", tail(&log)));
    let said = format!("process {}", node.agent_pid().unwrap());
    scene
        .until(name, "the second to say who was first", |_| {
            fs::read_to_string(&log).unwrap().contains(&said)
        })
        .await;
    wait::until("the second to know its progresses", LIMIT, || async {
        let (code, body) = http::get(&base, "/readyz").await;
        Ok((code == 503 && body.contains("state") && !body.contains("watch")).then_some(()))
    })
    .await
    .unwrap_or_else(|e| panic!("{e:#}\n{}", tail(&log)));
    assert_eq!(http::get(&base, "/healthz").await.0, 200);
    assert_eq!(scene.status(name).await.current_version, OLD);

    scene
        .cluster
        .image_server()
        .cure(&format!("/{name}/rootfs.ext4.zst"));
    node.kill_agent_and_hold().await;
    let staged = scene.phase(name, ProgressPhase::Staged).await;
    assert_eq!(staged.attempt, 1);
    assert_eq!(http::get(&base, "/readyz").await.0, 200);
    other.stop(Duration::from_secs(12)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_kept_where_it_belongs_by_one_agent() {
    let nodes = ["misplaced", "armed", "second"].map(|name| {
        let mut node = NodeOptions::new(name);
        if name == "armed" {
            // The reboot comes when the test says so.
            node.agent_arguments = vec![
                "--reboot=command:/bin/true".into(),
                "--reboot-timeout=1h".into(),
            ];
        }
        node
    });
    let scene = Scene::start(nodes.into()).await;
    tokio::join!(misplaced(&scene), armed(&scene), second(&scene));
}
