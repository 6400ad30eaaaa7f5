//! What makes a revision of an upgrade.

use monok8s_api::{
    OSUpgrade, OSUpgradeSpec, Sha256Digest,
    osupgrade::{CatalogSource, Operation},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// The fields whose change makes a new revision; the pace of a rollout is not among them.
#[derive(Serialize)]
struct Revised<'a> {
    version: &'a str,
    operation: Operation,
    catalog: Option<&'a CatalogSource>,
    allow_downgrade: bool,
}

/// Digest of the fields that make a revision.
pub fn digest(spec: &OSUpgradeSpec) -> String {
    let revised = Revised {
        version: &spec.version,
        operation: spec.operation,
        catalog: spec.catalog.as_ref(),
        allow_downgrade: spec.allow_downgrade,
    };
    // Strings, a bool and unit variants always serialise.
    let text = serde_json::to_vec(&revised).unwrap_or_default();
    Sha256Digest::new(Sha256::digest(text).into()).to_string()
}

/// The revision that an upgrade with this digest has, and whether its status knows it already.
pub fn current(upgrade: &OSUpgrade, digest: &str) -> (i64, bool) {
    let status = upgrade.status.as_ref();
    let known = status.and_then(|s| s.revision).unwrap_or(0);
    let recorded = known > 0 && status.and_then(|s| s.revision_digest.as_deref()) == Some(digest);
    (if recorded { known } else { known + 1 }, recorded)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_decides_the_target_makes_a_revision() {
        let base = json!({"version": "v1.35.1", "catalog": {"inline": "images: []"}});
        let digest_with = |change: serde_json::Value| {
            let mut spec = base.clone();
            for (key, value) in change.as_object().unwrap() {
                spec[key] = value.clone();
            }
            digest(&serde_json::from_value(spec).unwrap())
        };
        let first = digest_with(json!({}));
        for same in [
            json!({"paused": true}),
            json!({"rollout": {"maxUnavailable": "50%", "maxFailures": 3}}),
            json!({"download": {"retryFor": "1m"}}),
            json!({"nodeSelector": {"matchLabels": {"a": "b"}}}),
        ] {
            assert_eq!(digest_with(same.clone()), first, "{same}");
        }
        for other in [
            json!({"version": "v1.35.2"}),
            json!({"operation": "Rollback"}),
            json!({"catalog": {"inline": "images: [] "}}),
            json!({"catalog": {"url": "https://e.x/"}}),
            json!({"allowDowngrade": true}),
        ] {
            assert_ne!(digest_with(other.clone()), first, "{other}");
        }
    }
}
