//! What must hold of the parsers for any text. Shared by the fuzz targets and by the test that walks
//! their seeds.

use monok8s_api::{
    Version,
    catalog::{Catalog, MAX_IMAGES},
    resolve::{NodeFacts, path, single_hop, target},
    version::VersionRequirement,
};

/// No text makes the catalog's parser or resolution panic, and no path through whatever it read
/// breaks a rule. Tells whether the text is a catalog.
///
/// # Panics
///
/// When a promise is broken.
pub fn catalog(text: &str) -> bool {
    let catalog = match Catalog::parse(text) {
        Ok(catalog) => catalog,
        Err(error) => {
            assert!(error.to_string().len() < 1024);
            let _ = error.in_text(text);
            return false;
        }
    };
    assert!(catalog.images().len() <= MAX_IMAGES);
    for (alias, _) in catalog.aliases().take(8) {
        let _ = target(&catalog, alias);
    }
    let images = catalog.images();
    for from in images.iter().take(4) {
        for to in images.iter().rev().take(4) {
            let node = NodeFacts {
                version: from.version.clone(),
                platform: from.platform.clone().unwrap_or_default(),
            };
            if let Ok(hops) = path(&catalog, &to.version, &node, false) {
                assert!(hops.iter().all(|hop| !catalog.is_blocked(&hop.version)));
                assert!(hops.iter().all(|hop| hop.version > node.version));
                assert!(hops.iter().all(|hop| hop.image.checked().is_ok()));
                let end = hops.last().map_or(&node.version, |hop| &hop.version);
                assert!(*end == to.version);
            }
            let _ = path(&catalog, &to.version, &node, true);
            let _ = single_hop(&catalog, &to.version.to_string(), &node, true);
        }
    }
    true
}

/// No text makes the requirement's parser panic, and what was read means the same when written. The
/// input is a requirement, a line break, and a version. Tells whether it is a requirement.
///
/// # Panics
///
/// When a promise is broken.
pub fn requirement(text: &str) -> bool {
    let (requirement, version) = text.split_once('\n').unwrap_or((text, "v1.35.1"));
    let version = version.parse::<Version>();
    let Ok(requirement) = requirement.parse::<VersionRequirement>() else {
        return false;
    };
    let written = requirement.to_string();
    let again: VersionRequirement = written.parse().expect("what is written can be read");
    assert_eq!(again, requirement);
    if let Ok(version) = version {
        assert_eq!(requirement.is_met_by(&version), again.is_met_by(&version));
        let read: Version = version
            .to_string()
            .parse()
            .expect("what is written can be read");
        assert_eq!(read, version);
    }
    true
}
