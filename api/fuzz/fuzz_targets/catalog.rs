//! No text makes the catalog's parser or resolution panic, and no path through whatever it read
//! breaks a rule.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monok8s_api::{
    catalog::{Catalog, MAX_IMAGES},
    resolve::{NodeFacts, path, single_hop, target},
};

fuzz_target!(|text: &str| {
    let catalog = match Catalog::parse(text) {
        Ok(catalog) => catalog,
        Err(error) => {
            assert!(error.to_string().len() < 1024);
            let _ = error.in_text(text);
            return;
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
});
