//! What is generated from the types, in `manifests/crds` and `docs/reference`, is up to date; and
//! every field says what it is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared functions of tests"
)]

use std::{collections::BTreeSet, fs, path::PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use monok8s_api::crd;

/// Compares a folder with what should be in it: no file missing, stale or too many.
fn same(folder: &str, example: &str, expected: impl Iterator<Item = (String, String)>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let again = format!("run: cargo run -p monok8s-api --example {example} -- {folder}");
    let mut names = BTreeSet::new();
    for (name, text) in expected {
        let found = fs::read_to_string(path.join(&name))
            .unwrap_or_else(|e| panic!("{folder}/{name}: {e}; {again}"));
        assert!(found == text, "{folder}/{name} is out of date; {again}");
        names.insert(name);
    }
    let found: BTreeSet<String> = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("README"))
        .collect();
    assert_eq!(found, names, "{folder} holds files that are not generated");
}

#[test]
fn the_crds_are_up_to_date() {
    let files = crd::all().into_iter().map(|crd| {
        let name = format!("{}.yaml", crd.spec.names.plural);
        (name, crd::manifest(&crd).unwrap())
    });
    same("manifests/crds", "crds", files);
}

#[test]
fn the_reference_is_up_to_date() {
    let files = crd::all().into_iter().map(|crd| {
        let name = format!("{}.md", crd.spec.names.singular.as_deref().unwrap());
        (name, crd::reference(&crd).unwrap())
    });
    same("docs/reference", "reference", files);
}

#[test]
fn the_manifests_read_back_as_the_same_crds() {
    for crd in crd::all() {
        let read: CustomResourceDefinition =
            serde_yaml::from_str(&crd::manifest(&crd).unwrap()).unwrap();
        assert_eq!(read, crd);
    }
}

/// Every schema below `schema` with its path.
fn walk<'s>(
    path: &str,
    schema: &'s JSONSchemaProps,
    visit: &mut impl FnMut(&str, &'s JSONSchemaProps),
) {
    visit(path, schema);
    for (name, child) in schema.properties.iter().flatten() {
        walk(&format!("{path}.{name}"), child, visit);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(&format!("{path}[]"), items, visit);
    }
}

fn root(crd: &CustomResourceDefinition) -> &JSONSchemaProps {
    let schema = crd.spec.versions[0].schema.as_ref().unwrap();
    schema.open_api_v3_schema.as_ref().unwrap()
}

/// A list of plain values is described by its field; everything else by itself.
#[test]
fn every_field_is_described() {
    let mut missing = Vec::new();
    for crd in crd::all() {
        walk(&crd.spec.names.kind, root(&crd), &mut |path, schema| {
            let plain_item = path.ends_with("[]") && schema.properties.is_none();
            let description = schema.description.as_deref().unwrap_or_default();
            if !plain_item && description.trim().len() < 8 {
                missing.push(path.to_owned());
            }
        });
    }
    assert!(missing.is_empty(), "without a description: {missing:#?}");
}

/// People write spec, so each field there says what happens without it.
#[test]
fn every_field_of_a_spec_says_what_happens_without_it() {
    let mut silent = Vec::new();
    for crd in crd::all() {
        let Some(spec) = root(&crd).properties.as_ref().and_then(|p| p.get("spec")) else {
            continue;
        };
        walk(&crd.spec.names.kind, spec, &mut |path, schema| {
            let says = ["Default", "Required", "Optional", "Absent"];
            let description = schema.description.as_deref().unwrap_or_default();
            let is_field = path.contains('.') && !path.ends_with("[]");
            if is_field && !says.iter().any(|word| description.contains(word)) {
                silent.push(path.to_owned());
            }
        });
    }
    assert!(silent.is_empty(), "no default, not required: {silent:#?}");
}

/// What the schema enforces and what the description promises are the same.
#[test]
fn a_default_in_the_schema_is_named_in_the_description() {
    let mut wrong = Vec::new();
    for crd in crd::all() {
        walk(&crd.spec.names.kind, root(&crd), &mut |path, schema| {
            let Some(default) = schema.default.as_ref().filter(|d| !d.0.is_object()) else {
                return;
            };
            let value = default
                .0
                .as_str()
                .map_or_else(|| default.0.to_string(), str::to_owned);
            let description = schema.description.as_deref().unwrap_or_default();
            let named = if value.is_empty() { "empty" } else { &value };
            if !description.contains(named) {
                wrong.push(format!("{path}: {value}"));
            }
        });
    }
    assert!(
        wrong.is_empty(),
        "defaults that are not described: {wrong:#?}"
    );
}

/// Null is for the three timestamps that people paste back with an object, and for nothing else.
#[test]
fn three_fields_may_be_null() {
    let mut nullable = Vec::new();
    for crd in crd::all() {
        walk(&crd.spec.names.kind, root(&crd), &mut |path, schema| {
            if schema.nullable == Some(true) {
                nullable.push(path.to_owned());
            }
        });
    }
    let status = "OSUpgradeProgress.status";
    let expected = ["completedAt", "lastUpdatedAt", "startedAt"];
    assert_eq!(nullable, expected.map(|field| format!("{status}.{field}")));
}
