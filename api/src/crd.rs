//! The CustomResourceDefinitions, as installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::CustomResourceExt;
use serde_json::json;

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

/// Every optional Rust field comes out nullable; the contract lets only the timestamps be null.
fn only_timestamps_are_nullable(schema: &mut JSONSchemaProps, name: &str) {
    schema.nullable = matches!(name, "startedAt" | "completedAt" | "lastUpdatedAt").then_some(true);
    if let Some(properties) = schema.properties.as_mut() {
        for (name, child) in properties {
            only_timestamps_are_nullable(child, name);
        }
    }
    if let Some(items) = items(schema) {
        only_timestamps_are_nullable(items, "");
    }
}

fn children(schema: &mut JSONSchemaProps) -> Vec<&mut JSONSchemaProps> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray as Items;
    let mut all: Vec<_> = schema
        .properties
        .iter_mut()
        .flat_map(|p| p.values_mut())
        .collect();
    if let Some(Items::Schema(items)) = schema.items.as_mut() {
        all.push(items);
    }
    all
}

fn items(schema: &mut JSONSchemaProps) -> Option<&mut JSONSchemaProps> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray as Items;
    match schema.items.as_mut() {
        Some(Items::Schema(items)) => Some(items),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_described() {
        fn walk(schema: &mut JSONSchemaProps, path: &str, missing: &mut Vec<String>) {
            let described = schema
                .description
                .as_deref()
                .is_some_and(|d| !d.trim().is_empty());
            if !described {
                missing.push(path.to_owned());
            }
            for (name, child) in schema.properties.iter_mut().flatten() {
                walk(child, &format!("{path}.{name}"), missing);
            }
            if let Some(items) = items(schema) {
                for (name, child) in items.properties.iter_mut().flatten() {
                    walk(child, &format!("{path}[].{name}"), missing);
                }
            }
        }
        let mut missing = Vec::new();
        for mut crd in all() {
            let kind = crd.spec.names.kind.clone();
            let root = crd.spec.versions[0].schema.as_mut().unwrap();
            walk(
                root.open_api_v3_schema.as_mut().unwrap(),
                &kind,
                &mut missing,
            );
        }
        assert!(
            missing.is_empty(),
            "fields without a description: {missing:#?}"
        );
    }
}
