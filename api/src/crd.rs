//! The CustomResourceDefinitions, as installed, and what is generated from them.

mod manifest;
mod reference;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use serde_json::json;

pub use manifest::manifest;
pub use reference::reference;

use crate::{OSNode, OSUpgrade, OSUpgradeProgress};

/// Longest name of an [`OSUpgrade`]: it is also a label value.
const MAX_UPGRADE_NAME: usize = 63;

/// All CRDs, in the order of the contract.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        finish(OSUpgrade::crd(), Some(MAX_UPGRADE_NAME)),
        finish(OSUpgradeProgress::crd(), None),
        finish(OSNode::crd(), None),
    ]
}

/// Brings a derived CRD to the form of the contract where derive macros cannot.
fn finish(mut crd: CustomResourceDefinition, max_name: Option<usize>) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(root) = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        only_timestamps_are_nullable(root, "");
        one_paragraph(root);
        let rules = max_name.map(|max| {
            json!([{
                "rule": format!("self.metadata.name.size() <= {max}"),
                "message": format!("the name may have at most {max} characters: it is also a label value"),
            }])
        });
        root.x_kubernetes_validations = rules.and_then(|r| serde_json::from_value(r).ok());
        if let Some(status) = root.properties.as_mut().and_then(|p| p.get_mut("status")) {
            status.description.get_or_insert_with(|| {
                "What was observed; written by the daemons, not by people.".to_owned()
            });
            status_defaults(status);
        }
    }
    crd
}

/// The API server fills in nothing of a status but the phase, so that an object shows one from the
/// moment it exists; every other field is absent until its writer has written it.
fn status_defaults(status: &mut JSONSchemaProps) {
    clear_defaults(status);
    if let Some(phase) = status.properties.as_mut().and_then(|p| p.get_mut("phase")) {
        phase.default = serde_json::from_value(json!("Pending")).ok();
        status.default = serde_json::from_value(json!({})).ok();
    }
}

fn clear_defaults(schema: &mut JSONSchemaProps) {
    schema.default = None;
    for child in children(schema) {
        clear_defaults(child);
    }
}

/// Doc comments are wrapped for the source; whoever prints a description wraps it for himself. A
/// title would only repeat the kind.
fn one_paragraph(schema: &mut JSONSchemaProps) {
    schema.title = None;
    if let Some(description) = schema.description.as_mut() {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    for child in children(schema) {
        one_paragraph(child);
    }
}

/// Every optional Rust field comes out nullable; the contract lets only the timestamps be null.
fn only_timestamps_are_nullable(schema: &mut JSONSchemaProps, name: &str) {
    schema.nullable = matches!(name, "startedAt" | "completedAt" | "lastUpdatedAt").then_some(true);
    for (name, child) in schema.properties.iter_mut().flatten() {
        only_timestamps_are_nullable(child, name);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        only_timestamps_are_nullable(items, "");
    }
}

/// The schemas directly below this one.
fn children(schema: &mut JSONSchemaProps) -> impl Iterator<Item = &mut JSONSchemaProps> {
    let properties = schema.properties.iter_mut().flat_map(|p| p.values_mut());
    let items = match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(&mut **items),
        _ => None,
    };
    properties.chain(items)
}
