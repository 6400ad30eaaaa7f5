//! The objects that a plan is made from: a cluster's, or saved ones.

use std::{fmt::Debug, fs, path::Path};

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::{Api, Client, api::ListParams};
use monok8s_api::{OSNode, OSUpgrade, OSUpgradeProgress};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::PlanError;
use crate::input::{self, Source};

/// Largest file of saved objects, in bytes: ten thousand nodes with their status.
const MAX_SAVED: usize = 1024 * 1024 * 1024;
/// Objects asked for in one answer.
const PAGE: u32 = 500;

/// What is there.
#[derive(Default)]
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pub(super) reports: Vec<OSNode>,
    pub(super) upgrades: Vec<OSUpgrade>,
    pub(super) progresses: Vec<OSUpgradeProgress>,
    pub(super) config_maps: Vec<ConfigMap>,
    /// For what is looked up when it is needed; none for saved objects.
    pub(super) client: Option<Client>,
}

impl World {
    /// Reads saved objects from a file, or from the files of a folder.
    pub(super) fn saved(path: &Path) -> Result<Self, PlanError> {
        let mut world = Self::default();
        for file in files(path)? {
            let text = input::read(&file, MAX_SAVED)?;
            let name = file.to_string();
            for (i, document) in documents(&text, &name)?.into_iter().enumerate() {
                world.add(document, &name, i + 1)?;
            }
        }
        if world.nodes.is_empty() {
            return Err(PlanError::NoNodes { path: path.into() });
        }
        Ok(world)
    }

    fn add(&mut self, document: Value, file: &str, number: usize) -> Result<(), PlanError> {
        let kind = document.get("kind").and_then(Value::as_str);
        let kind = kind.unwrap_or_default().to_owned();
        match kind.as_str() {
            "Node" => self.nodes.push(object(document, file, number, kind)?),
            "OSNode" => self.reports.push(object(document, file, number, kind)?),
            "OSUpgrade" => self.upgrades.push(object(document, file, number, kind)?),
            "OSUpgradeProgress" => self.progresses.push(object(document, file, number, kind)?),
            "ConfigMap" => self.config_maps.push(object(document, file, number, kind)?),
            // Whatever else was saved along with them.
            _ => {}
        }
        Ok(())
    }

    /// Asks the cluster of the current kubeconfig or, in a pod, of its service account.
    pub(super) async fn of_cluster() -> Result<Self, PlanError> {
        // Another provider installed before would be as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_default()
            .await
            .map_err(|e| PlanError::NoCluster {
                cause: e.to_string(),
            })?;
        Ok(Self {
            nodes: all(&client, "Nodes").await?,
            reports: all(&client, "OSNodes").await?,
            upgrades: all(&client, "OSUpgrades").await?,
            progresses: all(&client, "OSUpgradeProgresses").await?,
            config_maps: Vec::new(),
            client: Some(client),
        })
    }
}

async fn all<K>(client: &Client, what: &'static str) -> Result<Vec<K>, PlanError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await;
        let page = page.map_err(|cause| PlanError::Cluster { what, cause })?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

fn object<T: DeserializeOwned>(
    document: Value,
    file: &str,
    number: usize,
    kind: String,
) -> Result<T, PlanError> {
    serde_json::from_value(document).map_err(|cause| PlanError::NotAnObject {
        file: file.to_owned(),
        number,
        kind,
        cause,
    })
}

fn files(path: &Path) -> Result<Vec<Source>, PlanError> {
    if !path.is_dir() {
        return Ok(vec![Source::File(path.into())]);
    }
    let failed = |cause| PlanError::Folder {
        folder: path.into(),
        cause,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let extension = file.extension().and_then(|e| e.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(PlanError::EmptyFolder {
            folder: path.into(),
        });
    }
    files.sort();
    Ok(files.into_iter().map(Source::File).collect())
}

/// The objects in a text: YAML documents or JSON, lists taken apart.
pub(super) fn documents(text: &str, file: &str) -> Result<Vec<Value>, PlanError> {
    let not_yaml = |cause: String| PlanError::NotYaml {
        file: file.to_owned(),
        cause,
    };
    let documents: Vec<Value> = if text.trim_start().starts_with('{') {
        serde_json::Deserializer::from_str(text)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|e| not_yaml(e.to_string()))?
    } else {
        // The user's own file, bounded by its size; a fleet's objects exceed any smaller budget.
        let options = serde_yaml::options! { budget: None };
        serde_yaml::from_multiple_with_options(text, options)
            .map_err(|e| not_yaml(e.to_string()))?
    };
    Ok(documents.into_iter().flat_map(items).collect())
}

/// The items of a `List`, whose kind `kubectl` leaves out of none.
fn items(mut document: Value) -> Vec<Value> {
    let is_list = document
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    match document.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => items,
        _ if document.is_null() => Vec::new(),
        _ => vec![document],
    }
}
