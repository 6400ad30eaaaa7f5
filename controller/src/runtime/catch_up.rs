//! What a new leader reads before it decides anything.

use std::{collections::BTreeSet, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectList},
    core::DeserializeGuard,
};
use monok8s_api::{OSNode, OSUpgrade, OSUpgradeProgress};
use tokio::time::timeout;

use super::watches::{self, Kept, Shared};
use crate::index::NodeObject;

/// Objects per page.
const PAGE: u32 = 500;
/// How long one page may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Why a new leader does not know the cluster yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum CatchUpError {
    #[error("cannot list {resource}: {error}")]
    Api {
        resource: &'static str,
        error: kube::Error,
    },
    #[error("cannot list {resource}: no answer within {} s", LIMIT.as_secs())]
    Slow { resource: &'static str },
}

/// Reads everything from the API server itself. Watches show what is there a moment later, how long
/// a moment is not known, and the leader before may have written in it: after this, the process
/// knows every place that was given out and every node that could not take one.
pub(super) async fn catch_up(client: &Client, shared: &Shared) -> Result<(), CatchUpError> {
    list::<OSUpgrade>(client, shared).await?;
    list::<NodeObject>(client, shared).await?;
    list::<OSNode>(client, shared).await?;
    // Last, so that it is the newest: places are counted by it.
    list::<OSUpgradeProgress>(client, shared).await
}

async fn list<K: Kept>(client: &Client, shared: &Shared) -> Result<(), CatchUpError> {
    let resource = K::RESOURCE;
    let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
    read(shared, async |params| {
        timeout(LIMIT, api.list(params))
            .await
            .map_err(|_| CatchUpError::Slow { resource })?
            .map_err(|error| CatchUpError::Api { resource, error })
    })
    .await
}

/// Reads a whole kind into the index, page by page, all of them of one moment. `page` asks for one.
pub(super) async fn read<K: Kept, E>(
    shared: &Shared,
    page: impl AsyncFn(&ListParams) -> Result<ObjectList<DeserializeGuard<K>>, E>,
) -> Result<(), E> {
    let mut params = ListParams::default().limit(PAGE);
    let mut uids = BTreeSet::new();
    loop {
        let page = page(&params).await?;
        uids.extend(page.items.iter().filter_map(ResourceExt::uid));
        for object in page.items {
            shared.amend(|index, clock| watches::apply(object, index, clock));
        }
        if let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) {
            params = params.continue_token(&token);
        } else {
            let at = page.metadata.resource_version.unwrap_or_default();
            shared.amend(|index, _| K::keep_listed(&uids, &at, index));
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::api::{Patch, PatchParams};
    use monok8s_sandbox::{
        assets::Assets,
        control_plane::{ControlPlane, Options},
        manifests, scratch,
    };
    use serde_json::json;

    use super::*;
    use crate::{index::Index, runtime::clock::Clock};

    /// One object of each kind, in one of two states.
    fn objects(name: &str, late: bool) -> String {
        let (zone, release) = if late { ("b", "Reboot") } else { ("a", "Hold") };
        let checksum = "ab".repeat(32);
        let image = format!(
            "{{version: v1.35.1, url: 'https://a.example', checksum: 'sha256:{checksum}'}}"
        );
        format!(
            "apiVersion: v1\nkind: Node\n\
             metadata: {{name: {name}, labels: {{monok8s.io/managed: 'true', zone: {zone}}}}}\n---\n\
             apiVersion: monok8s.io/v1alpha1\nkind: OSNode\nmetadata: {{name: {name}}}\nspec: {{}}\n---\n\
             apiVersion: monok8s.io/v1alpha1\nkind: OSUpgrade\nmetadata: {{name: {name}}}\n\
             spec: {{version: v1.35.1, paused: {late}, catalog: {{inline: 'images: []'}}}}\n---\n\
             apiVersion: monok8s.io/v1alpha1\nkind: OSUpgradeProgress\nmetadata: {{name: {name}}}\n\
             spec: {{sourceRef: {{name: {name}}}, nodeName: {name}, release: {release}, image: {image}}}\n"
        )
    }

    async fn report(client: &Client, name: &str, version: &str) {
        let reports: Api<OSNode> = Api::all(client.clone());
        let status = Patch::Merge(json!({"status": {"version": version}}));
        reports
            .patch_status(name, &PatchParams::default(), &status)
            .await
            .unwrap();
    }

    /// What is known of each kind, as lines.
    fn known(index: &Index) -> Vec<String> {
        let nodes = index
            .nodes()
            .map(|n| format!("Node {} in {:?}", n.name, n.labels.get("zone")));
        let versions = index.nodes().map(|n| {
            let version = index
                .report(&n.name)
                .and_then(|r| Some(r.status.as_ref()?.version.clone()));
            format!("OSNode {} on {version:?}", n.name)
        });
        let upgrades = index
            .upgrades()
            .map(|u| format!("OSUpgrade {} paused {}", u.name(), u.object.spec.paused));
        let progresses = index.progresses().map(|p| {
            let of_its_node = index.progresses_of(p.node_name()).count();
            let release = p.object.spec.release;
            format!("{} {release:?}, {of_its_node} on its node", p.name())
        });
        nodes
            .chain(versions)
            .chain(upgrades)
            .chain(progresses)
            .collect()
    }

    /// No watch runs here: what the index knows is as old as it can be.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_stale_index_becomes_what_the_api_server_has() {
        let assets = Assets::find(|line| eprintln!("{line}")).await.unwrap();
        let folder = scratch::folder("catch-up").unwrap();
        let plane = folder.path().join("plane");
        let plane = ControlPlane::start(&assets, &plane, Options::default())
            .await
            .unwrap();
        let kubectl = plane.kubectl();
        manifests::install(&kubectl).await.unwrap();
        let client = plane.client().await.unwrap();

        for name in ["changes", "goes"] {
            kubectl.apply(&objects(name, false)).await.unwrap();
            report(&client, name, "v1.34.1").await;
        }
        let shared = Shared::new(Clock::start());
        catch_up(&client, &shared).await.unwrap();
        assert_eq!(
            shared.read(known),
            [
                "Node changes in Some(\"a\")",
                "Node goes in Some(\"a\")",
                "OSNode changes on Some(\"v1.34.1\")",
                "OSNode goes on Some(\"v1.34.1\")",
                "OSUpgrade changes paused false",
                "OSUpgrade goes paused false",
                "changes Hold, 1 on its node",
                "goes Hold, 1 on its node",
            ]
        );

        for name in ["changes", "comes"] {
            kubectl.apply(&objects(name, true)).await.unwrap();
            report(&client, name, "v1.35.1").await;
        }
        for kind in ["osupgradeprogress", "osupgrade", "osnode", "node"] {
            kubectl.ok(["delete", kind, "goes"]).await.unwrap();
        }
        catch_up(&client, &shared).await.unwrap();
        assert_eq!(
            shared.read(known),
            [
                "Node changes in Some(\"b\")",
                "Node comes in Some(\"b\")",
                "OSNode changes on Some(\"v1.35.1\")",
                "OSNode comes on Some(\"v1.35.1\")",
                "OSUpgrade changes paused true",
                "OSUpgrade comes paused true",
                "changes Reboot, 1 on its node",
                "comes Reboot, 1 on its node",
            ]
        );
        plane.stop().await;
    }
}
