//! Every file in catalogs/ and examples/ is what it says it is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared functions of tests"
)]

use std::{fs, path::Path};

use k8s_openapi::{DeepMerge, api::core::v1::ConfigMap};
use monok8s_api::{
    OSUpgrade, OSUpgradeProgress,
    catalog::Catalog,
    reason::AcceptedReason,
    resolve::{self, NodeFacts},
};
use serde::Deserialize;
use serde_json::Value;

fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn node(version: &str) -> NodeFacts {
    NodeFacts {
        version: version.parse().unwrap(),
        platform: "linux/amd64".to_owned(),
    }
}

#[test]
fn every_sample_catalog_is_one() {
    let files = files("catalogs");
    assert!(files.len() >= 2);
    for (name, text) in files {
        let catalog =
            Catalog::parse(&text).unwrap_or_else(|e| panic!("{name}: {}", e.in_text(&text)));
        for image in catalog.images() {
            let hop = resolve::path(&catalog, &image.version, &node("v1.34.6"), true);
            if !catalog.is_blocked(&image.version)
                && image.platform.as_deref() != Some("linux/arm64")
            {
                hop.unwrap_or_else(|e| panic!("{name}: {}: {e}", image.version));
            }
        }
        for (alias, _) in catalog.aliases() {
            resolve::target(&catalog, alias).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// Reads a document as `T` and requires that nothing in it is unknown to `T`.
fn exactly<T: for<'a> Deserialize<'a> + serde::Serialize>(name: &str, document: &Value) -> T {
    let object: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut merged = serde_json::to_value(&object).unwrap();
    let written = merged.clone();
    merged.merge_from(document.clone());
    assert_eq!(merged, written, "{name} says something that is not read");
    object
}

#[test]
fn every_example_is_an_object() {
    let files = files("examples");
    assert!(files.len() >= 8);
    for (name, text) in files {
        for document in serde_yaml::from_multiple::<Value>(&text).unwrap() {
            match document["kind"].as_str().unwrap() {
                "OSUpgrade" => {
                    let upgrade: OSUpgrade = exactly(&name, &document);
                    if let Some(inline) = upgrade.spec.catalog.and_then(|c| c.inline) {
                        Catalog::parse(&inline)
                            .unwrap_or_else(|e| panic!("{name}: {}", e.in_text(&inline)));
                    }
                }
                "OSUpgradeProgress" => {
                    let progress: OSUpgradeProgress = exactly(&name, &document);
                    assert!(progress.spec.image.is_none(), "{name}");
                }
                "ConfigMap" => {
                    let map: ConfigMap = exactly(&name, &document);
                    let text = &map.data.unwrap()["catalog.yaml"];
                    Catalog::parse(text).unwrap_or_else(|e| panic!("{name}: {}", e.in_text(text)));
                }
                other => panic!("{name}: {other}"),
            }
        }
    }
}

/// The contract's example, and both of its endings as far as resolution decides them.
#[test]
fn the_contracts_example_ends_as_promised() {
    let text = include_str!("../../examples/my-upgrade-2.yaml");
    let upgrade: OSUpgrade = serde_yaml::from_str(text).unwrap();
    let inline = upgrade.spec.catalog.unwrap().inline.unwrap();

    let catalog = Catalog::parse(&inline).unwrap();
    let refusal = resolve::target(&catalog, &upgrade.spec.version).unwrap_err();
    assert_eq!(refusal.reason(), AcceptedReason::VersionNotInCatalog);
    assert_eq!(refusal.resolved_version().unwrap().to_string(), "v1.35.3");
    let message = refusal.message();
    assert!(
        message.contains("v1.35.4, v1.35.1, v1.35.0, v1.34.6, v1.34.1"),
        "{message}"
    );

    let added = "images:\n- version: v1.35.3\n  url: http://localhost:8000/v1.35.3.ext4.zst\n  \
                 checksum: sha256:99af82a263deca44ad91d21d684f0fa944d5d0456a1da540f1c644f8aa59b14b\n";
    let catalog = Catalog::parse(&inline.replacen("images:\n", added, 1)).unwrap();
    let target = resolve::target(&catalog, &upgrade.spec.version).unwrap();
    let hops = resolve::path(&catalog, &target, &node("v1.35.1"), false).unwrap();
    assert_eq!(hops.len(), 1);
    assert_eq!(hops[0].version, target);
    // From v1.33 the way would lead through v1.34.6, whose checksum is none.
    let refusal = resolve::path(&catalog, &target, &node("v1.33.0"), false).unwrap_err();
    assert_eq!(refusal.reason(), AcceptedReason::InvalidChecksum);
}
