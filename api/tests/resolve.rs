//! Every reason that resolution gives, produced by a catalog; and the paths it finds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::format_collect,
    reason = "shared functions of tests"
)]

use monok8s_api::{
    Version,
    catalog::Catalog,
    reason::{AcceptedReason as Reason, FailureReason},
    resolve::{HandMadeRefusal, NodeFacts, path, single_hop, target},
};

const SUM: &str = "sha256:99af82a263deca44ad91d21d684f0fa944d5d0456a1da540f1c644f8aa59b14b";

fn v(text: &str) -> Version {
    text.parse().unwrap()
}

fn node(version: &str) -> NodeFacts {
    NodeFacts {
        version: v(version),
        platform: "linux/amd64".to_owned(),
    }
}

/// A catalog with these lines on top and an image for each of these entries: a version, and after
/// it what else the entry says.
fn catalog(top: &str, images: &[&str]) -> Catalog {
    let entries: String = images
        .iter()
        .map(|image| {
            let (version, rest) = image.split_once(' ').unwrap_or((image, ""));
            let checksum = if rest.contains("checksum:") {
                String::new()
            } else {
                format!(", checksum: '{SUM}'")
            };
            let url = if rest.contains("url:") {
                String::new()
            } else {
                format!(", url: 'https://images.example/{version}'")
            };
            let rest = if rest.is_empty() {
                String::new()
            } else {
                format!(", {rest}")
            };
            format!("- {{version: {version}{url}{checksum}{rest}}}\n")
        })
        .collect();
    let text = format!("{top}\nimages:\n{entries}");
    Catalog::parse(&text).unwrap_or_else(|e| panic!("{}", e.in_text(&text)))
}

/// The versions of the path, or the reason for refusing.
fn walk(catalog: &Catalog, to: &str, from: &NodeFacts, down: bool) -> Result<Vec<String>, Reason> {
    path(catalog, &v(to), from, down)
        .map(|hops| hops.iter().map(|hop| hop.version.to_string()).collect())
        .map_err(|refusal| refusal.reason())
}

#[test]
fn a_wish_becomes_a_version() {
    let c = catalog(
        "stable: v1.35.1\nlatest: stable\nedge: 1.36.0-rc.1\n'1.35': v1.35.1\nblocked: [v1.34.0]",
        &["v1.34.1", "v1.35.1", "v1.36.0-rc.1"],
    );
    for (requested, version) in [
        ("v1.35.1", "v1.35.1"),
        ("1.35.1", "v1.35.1"),
        ("stable", "v1.35.1"),
        ("latest", "v1.35.1"),
        ("edge", "v1.36.0-rc.1"),
        ("v1.36.0-rc.1", "v1.36.0-rc.1"),
        ("1.35", "v1.35.1"),
    ] {
        assert_eq!(
            target(&c, requested).unwrap().to_string(),
            version,
            "{requested}"
        );
    }
}

/// What is asked for, the reason for refusing, the version it names, and a part of the message.
type TargetRow = (&'static str, Reason, Option<&'static str>, &'static str);

const TARGET_ROWS: &[TargetRow] = &[
    ("v1.35", Reason::InvalidVersion, None, "semantic version"),
    ("1.35.x", Reason::InvalidVersion, None, "1.35.x"),
    ("vv1.35.1", Reason::AliasNotFound, None, "vv1.35.1"),
    ("not a word", Reason::InvalidVersion, None, "alias"),
    ("", Reason::InvalidVersion, None, "version"),
    ("previous", Reason::InvalidVersion, None, "Rollback"),
    ("stable", Reason::AliasNotFound, None, "no alias \"stable\""),
    ("nothing", Reason::AliasNotFound, None, "leads neither"),
    ("nowhere", Reason::AliasNotFound, None, "leads neither"),
    ("indirect", Reason::AliasNotFound, None, "leads neither"),
    ("a", Reason::AliasNotFound, None, "circle"),
    ("self", Reason::AliasNotFound, None, "circle"),
    (
        "v1.35.3",
        Reason::VersionNotInCatalog,
        Some("v1.35.3"),
        "v1.35.1, v1.34.1",
    ),
    (
        "gone",
        Reason::VersionNotInCatalog,
        Some("v1.33.0"),
        "v1.35.1",
    ),
    (
        "v1.34.0",
        Reason::VersionBlocked,
        Some("v1.34.0"),
        "loses network",
    ),
    (
        "v1.34.0+rebuilt",
        Reason::VersionBlocked,
        Some("v1.34.0+rebuilt"),
        "blocks",
    ),
    (
        "old",
        Reason::VersionBlocked,
        Some("v1.34.0"),
        "loses network",
    ),
    ("v1.32.0", Reason::VersionBlocked, Some("v1.32.0"), "blocks"),
];

#[test]
fn every_reason_against_a_target_has_a_row() {
    let c = catalog(
        "a: b\nb: c\nc: a\nself: self\nnothing:\nnowhere: nobody\nindirect: nowhere\nold: v1.34.0\ngone: v1.33.0\n\
         blocked: [{version: v1.34.0, reason: loses network}, v1.32.0]",
        &["v1.34.0", "v1.34.1", "v1.35.1"],
    );
    for (requested, reason, resolved, in_message) in TARGET_ROWS {
        let refusal = target(&c, requested).unwrap_err();
        assert_eq!(&refusal.reason(), reason, "{requested}");
        assert_eq!(
            refusal
                .resolved_version()
                .map(Version::to_string)
                .as_deref(),
            *resolved,
            "{requested}"
        );
        assert!(refusal.message().contains(in_message), "{refusal}");
        assert!(refusal.reason().on_own_account());
    }
}

#[test]
fn what_an_alias_stands_for_is_not_repeated_when_it_is_no_version() {
    let c = catalog("stable: s3cretw0rd", &["v1.35.1"]);
    let refusal = target(&c, "stable").unwrap_err();
    assert!(!refusal.to_string().contains("s3cret"), "{refusal}");
}

#[test]
fn a_long_catalog_is_not_listed_in_full() {
    let versions: Vec<String> = (0..30).map(|i| format!("v1.35.{i}")).collect();
    let c = catalog("", &versions.iter().map(String::as_str).collect::<Vec<_>>());
    let message = target(&c, "v1.36.0").unwrap_err().message();
    assert!(message.contains("v1.35.29, v1.35.28"), "{message}");
    assert!(message.contains("and 20 older"), "{message}");
    assert!(!message.contains("v1.35.19"), "{message}");
}

/// The catalog of a cluster that is three minors behind.
fn ladder() -> Catalog {
    catalog(
        "blocked: [v1.34.7]",
        &[
            "v1.33.4",
            "v1.34.1",
            "v1.34.6",
            "v1.34.7",
            "v1.34.8-rc.1",
            "v1.35.0",
            "v1.35.1",
            "v1.36.0-rc.1",
            "v1.36.0",
        ],
    )
}

#[test]
fn minors_are_taken_one_at_a_time_through_their_newest_allowed_image() {
    let c = ladder();
    for (from, to, hops) in [
        ("1.35.1", "1.35.1", &[][..]),
        ("1.35.1+local", "1.35.1", &[]),
        ("1.35.0", "1.35.1", &["v1.35.1"]),
        ("1.34.0", "1.35.1", &["v1.35.1"]),
        ("1.33.2", "1.33.4", &["v1.33.4"]),
        // The newest of v1.34 that is neither blocked nor a pre-release.
        ("1.33.2", "1.35.1", &["v1.34.6", "v1.35.1"]),
        ("1.33.2", "1.36.0", &["v1.34.6", "v1.35.1", "v1.36.0"]),
        ("1.32.9", "1.35.0", &["v1.33.4", "v1.34.6", "v1.35.0"]),
        // A pre-release because it was asked for.
        ("1.35.1", "1.36.0-rc.1", &["v1.36.0-rc.1"]),
        ("1.34.6", "1.36.0-rc.1", &["v1.35.1", "v1.36.0-rc.1"]),
        ("1.36.0-rc.1", "1.36.0", &["v1.36.0"]),
        ("1.35.0-rc.1", "1.35.0", &["v1.35.0"]),
        ("1.33.9-rc.1", "1.35.0", &["v1.34.6", "v1.35.0"]),
    ] {
        assert_eq!(
            walk(&c, to, &node(from), false),
            Ok(hops.iter().map(|s| (*s).to_owned()).collect()),
            "{from} -> {to}"
        );
    }
}

#[test]
fn down_only_with_permission_and_one_minor_at_a_time_as_well() {
    let c = ladder();
    for (from, to, hops) in [
        ("1.35.1", "1.35.0", &["v1.35.0"][..]),
        ("1.36.0", "1.36.0-rc.1", &["v1.36.0-rc.1"]),
        ("1.36.0", "1.33.4", &["v1.35.1", "v1.34.6", "v1.33.4"]),
        ("1.36.1", "1.35.0", &["v1.35.0"]),
    ] {
        assert_eq!(walk(&c, to, &node(from), false), Err(Reason::Downgrade));
        assert_eq!(
            walk(&c, to, &node(from), true),
            Ok(hops.iter().map(|s| (*s).to_owned()).collect()),
            "{from} -> {to}"
        );
    }
}

#[test]
fn a_catalog_may_let_minors_be_skipped() {
    let images = [
        "v1.33.4",
        "v1.34.6",
        "v1.36.0",
        "v1.36.1 upgradeFrom: '>=1.34.3'",
    ];
    let c = catalog("minorSkip: allow", &images);
    assert_eq!(
        walk(&c, "1.36.0", &node("1.32.0"), false),
        Ok(vec!["v1.36.0".into()])
    );
    // A stop in between only where the image demands it; v1.35 has nothing to stop at.
    assert_eq!(
        walk(&c, "1.36.1", &node("1.33.0"), false),
        Ok(vec!["v1.34.6".into(), "v1.36.1".into()])
    );
    let c = catalog("minorSkip: forbid", &images);
    assert_eq!(
        walk(&c, "1.36.0", &node("1.34.6"), false),
        Err(Reason::IntermediateVersionMissing)
    );
}

#[test]
fn a_catalog_may_let_the_major_be_changed() {
    let images = [
        "v1.35.1",
        "v1.36.2",
        "v1.37.0-rc.1",
        "v2.0.1",
        "v2.1.0",
        "v3.0.0",
    ];
    let c = catalog("", &images);
    assert_eq!(
        walk(&c, "2.0.1", &node("1.36.2"), false),
        Err(Reason::MajorVersionChange)
    );
    let c = catalog("majorChange: allow", &images);
    for (from, to, hops) in [
        ("1.36.2", "2.0.1", &["v2.0.1"][..]),
        ("1.36.2", "2.1.0", &["v2.0.1", "v2.1.0"]),
        // First to the last minor of the old major.
        ("1.34.0", "2.0.1", &["v1.35.1", "v1.36.2", "v2.0.1"]),
        ("1.36.0", "3.0.0", &["v2.0.1", "v2.1.0", "v3.0.0"]),
        ("1.40.0", "2.0.1", &["v2.0.1"]),
    ] {
        assert_eq!(
            walk(&c, to, &node(from), false),
            Ok(hops.iter().map(|s| (*s).to_owned()).collect()),
            "{from} -> {to}"
        );
    }
    assert_eq!(
        walk(&c, "1.35.1", &node("2.1.0"), true),
        Ok(vec!["v2.0.1".into(), "v1.36.2".into(), "v1.35.1".into()])
    );
    let c = catalog("majorChange: allow\nminorSkip: allow", &images);
    assert_eq!(
        walk(&c, "3.0.0", &node("1.2.0"), false),
        Ok(vec!["v3.0.0".into()])
    );
}

#[test]
fn numbers_at_the_end_of_their_range_do_no_harm() {
    const MAX: u64 = u64::MAX;
    let top = format!("v{MAX}.{MAX}.{MAX}");
    let c = catalog("majorChange: allow", &[&top, "v0.0.1", "v1.0.0"]);
    assert_eq!(
        walk(&c, &top, &node("0.0.0"), false),
        Err(Reason::IntermediateVersionMissing)
    );
    assert_eq!(
        walk(&c, "v0.0.1", &node(&top), true),
        Err(Reason::IntermediateVersionMissing)
    );
    assert_eq!(
        walk(&c, "v1.0.0", &node(&format!("0.{MAX}.0")), false),
        Ok(vec!["v1.0.0".into()])
    );
}

#[test]
fn a_nodes_own_platform_wins_and_every_hop_fits_it() {
    let c = catalog(
        "",
        &[
            "v1.34.5",
            "v1.34.6 platform: linux/arm64",
            "v1.35.1",
            "v1.35.1 platform: linux/amd64, url: 'https://amd64.example/'",
            "v1.35.2 platform: linux/arm64",
        ],
    );
    let hops = path(&c, &v("1.35.1"), &node("1.33.0"), false).unwrap();
    let urls: Vec<_> = hops
        .iter()
        .filter_map(|hop| hop.image.url.clone())
        .collect();
    assert_eq!(
        urls,
        ["https://images.example/v1.34.5", "https://amd64.example/"]
    );

    let arm = NodeFacts {
        platform: "linux/arm64".to_owned(),
        ..node("1.33.0")
    };
    assert_eq!(
        walk(&c, "1.35.2", &arm, false),
        Ok(vec!["v1.34.6".into(), "v1.35.2".into()])
    );
    let unknown = NodeFacts {
        platform: String::new(),
        ..node("1.34.5")
    };
    assert_eq!(
        walk(&c, "1.35.1", &unknown, false),
        Ok(vec!["v1.35.1".into()])
    );
    assert_eq!(
        walk(&c, "1.35.2", &unknown, false),
        Err(Reason::NoImageForPlatform)
    );
}

#[test]
fn upgrade_from_holds_for_what_the_node_runs_by_then() {
    let images = [
        "v1.34.2",
        "v1.34.6",
        "v1.34.9 upgradeFrom: '>=1.34.0'",
        "v1.35.1 upgradeFrom: '>=1.34.3, <1.34.8'",
    ];
    let c = catalog("", &images);
    // Directly from 1.34.3 on; from 1.33 through 1.34.6, because 1.34.9 does not take it and
    // 1.34.2 does not lead on.
    assert_eq!(
        walk(&c, "1.35.1", &node("1.34.3"), false),
        Ok(vec!["v1.35.1".into()])
    );
    assert_eq!(
        walk(&c, "1.35.1", &node("1.33.0"), false),
        Ok(vec!["v1.34.6".into(), "v1.35.1".into()])
    );
    assert_eq!(
        walk(&c, "1.35.1", &node("1.34.2"), false),
        Err(Reason::UpgradeFromRefused)
    );
    let refusal = path(&c, &v("1.35.1"), &node("1.34.2"), false).unwrap_err();
    let message = refusal.to_string();
    for part in ["v1.35.1", ">=1.34.3, <1.34.8", "v1.34.2"] {
        assert!(message.contains(part), "{message}");
    }
}

/// The catalog's first lines, its images, what the node runs, the target, the reason for refusing,
/// and a part of the message.
type NodeRow = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
    Reason,
    &'static str,
);

const NODE_ROWS: &[NodeRow] = &[
    (
        "",
        &["v1.35.1"],
        "1.35.2",
        "1.35.1",
        Reason::Downgrade,
        "allowDowngrade: true",
    ),
    (
        "",
        &["v2.0.0"],
        "1.35.2",
        "2.0.0",
        Reason::MajorVersionChange,
        "majorChange: allow",
    ),
    (
        "",
        &["v1.35.1"],
        "1.33.0",
        "1.35.1",
        Reason::IntermediateVersionMissing,
        "through v1.34,",
    ),
    (
        "blocked: [v1.34.1]",
        &[
            "v1.34.1",
            "v1.34.2-rc.1",
            "v1.34.3 platform: linux/arm64",
            "v1.35.1",
        ],
        "1.33.0",
        "1.35.1",
        Reason::IntermediateVersionMissing,
        "(there are: 1 blocked, 1 pre-release, 1 for other platforms)",
    ),
    (
        "",
        &["v1.34.6 upgradeFrom: '>=1.33.9'", "v1.35.1"],
        "1.33.0",
        "1.35.1",
        Reason::UpgradeFromRefused,
        "v1.34.6 can be installed only over >=1.33.9",
    ),
    (
        "",
        &["v1.35.1 upgradeFrom: '>=1.34.3'"],
        "1.34.2",
        "1.35.1",
        Reason::UpgradeFromRefused,
        "from v1.34.2",
    ),
    (
        "",
        &[
            "v1.35.1 platform: linux/arm64",
            "v1.35.1 platform: linux/riscv64",
        ],
        "1.35.0",
        "1.35.1",
        Reason::NoImageForPlatform,
        "no image for linux/amd64; its images are for linux/arm64, linux/riscv64",
    ),
    (
        "",
        &["v1.35.1 checksum: 'sha256:abc'"],
        "1.35.0",
        "1.35.1",
        Reason::InvalidChecksum,
        "checksum of v1.35.1",
    ),
    (
        "",
        &["v1.35.1 checksum:"],
        "1.35.0",
        "1.35.1",
        Reason::InvalidChecksum,
        "checksum of v1.35.1",
    ),
    (
        "",
        &["v1.34.6 checksum: 'sha256:abc'", "v1.35.1"],
        "1.33.0",
        "1.35.1",
        Reason::InvalidChecksum,
        "checksum of v1.34.6",
    ),
    (
        "",
        &["v1.35.1 url: 'ftp://a.example/'"],
        "1.35.0",
        "1.35.1",
        Reason::InvalidCatalog,
        "scheme",
    ),
    (
        "",
        &["v1.35.1 mirrors: ['https://u:p@a.example/']"],
        "1.35.0",
        "1.35.1",
        Reason::InvalidCatalog,
        "mirror of v1.35.1",
    ),
    (
        "blocked: [v1.35.1]",
        &["v1.35.1"],
        "1.35.0",
        "1.35.1",
        Reason::VersionBlocked,
        "blocks",
    ),
    (
        "",
        &["v1.35.1"],
        "1.35.0",
        "1.35.2",
        Reason::VersionNotInCatalog,
        "no image of v1.35.2",
    ),
];

#[test]
fn every_reason_against_a_node_has_a_row() {
    for (top, images, from, to, reason, in_message) in NODE_ROWS {
        let c = catalog(top, images);
        let refusal = path(&c, &v(to), &node(from), false).unwrap_err();
        assert_eq!(&refusal.reason(), reason, "{top} {images:?}: {refusal}");
        assert!(refusal.to_string().contains(in_message), "{refusal}");
    }
}

#[test]
fn a_fault_of_the_catalog_condemns_the_upgrade_and_a_nodes_state_does_not() {
    let condemns = |images: &[&str], from: &str, to: &str| {
        path(&catalog("", images), &v(to), &node(from), false)
            .unwrap_err()
            .condemns_upgrade()
    };
    assert!(condemns(&["v1.35.1 checksum: abc"], "1.35.0", "1.35.1"));
    assert!(condemns(&["v1.35.1 url: 'ftp://a/'"], "1.35.0", "1.35.1"));
    assert!(!condemns(&["v1.35.1"], "1.35.2", "1.35.1"));
    assert!(!condemns(&["v1.35.1"], "1.33.2", "1.35.1"));
    assert!(!condemns(&["v1.35.1 platform: a/b"], "1.35.0", "1.35.1"));
}

#[test]
fn a_bad_checksum_matters_only_on_the_chosen_path() {
    let c = catalog(
        "",
        &[
            "v1.34.1 checksum: 'sha256:abc'",
            "v1.34.6",
            "v1.35.0 checksum: 'sha256:ghi'",
            "v1.35.1",
        ],
    );
    assert_eq!(
        walk(&c, "1.35.1", &node("1.33.0"), false),
        Ok(vec!["v1.34.6".into(), "v1.35.1".into()])
    );
}

#[test]
fn a_hop_carries_what_the_agent_needs_in_canonical_form() {
    let upper = SUM.to_uppercase().replace("SHA256", "sha256");
    let entry = format!(
        "v1.35.1 url: 'HTTP://Images.example:80/a/../b.zst?t=1', size: 42, mirrors: ['https://m.example'], checksum: '{upper}'"
    );
    let hops = path(
        &catalog("", &[&entry]),
        &v("1.35.1"),
        &node("1.35.0"),
        false,
    )
    .unwrap();
    let image = &hops[0].image;
    assert_eq!(image.version, "v1.35.1");
    assert_eq!(
        image.url.as_deref(),
        Some("http://images.example/b.zst?t=1")
    );
    assert_eq!(image.mirrors, ["https://m.example/"]);
    assert_eq!(image.checksum.as_deref(), Some(SUM));
    assert_eq!(image.size, Some(42));
}

#[test]
fn one_made_by_hand_takes_one_hop() {
    let c = catalog("stable: v1.35.1", &["v1.34.6", "v1.35.1"]);
    let hop = single_hop(&c, "stable", &node("1.34.0"), false).unwrap();
    assert_eq!(hop.unwrap().version, v("1.35.1"));
    assert_eq!(single_hop(&c, "stable", &node("1.35.1"), false), Ok(None));

    let refusal = single_hop(&c, "stable", &node("1.33.0"), false).unwrap_err();
    assert_eq!(
        refusal,
        HandMadeRefusal::IntermediateVersionNeeded {
            current: v("1.33.0"),
            target: v("1.35.1"),
            next: v("1.34.6"),
        }
    );
    assert_eq!(
        refusal.failure_reason(),
        FailureReason::IntermediateVersionNeeded
    );
    assert!(refusal.to_string().contains("ask for v1.34.6 first"));

    for (wish, from) in [("v1.36.0", "1.35.1"), ("stable", "1.36.0")] {
        let refusal = single_hop(&c, wish, &node(from), false).unwrap_err();
        assert_eq!(refusal.failure_reason(), FailureReason::PolicyRefused);
    }
}

/// Reasons of the Accepted condition that resolution cannot produce: they come from the source of
/// the catalog or from the set of nodes.
#[test]
fn the_rows_above_leave_out_no_reason_of_resolution() {
    let elsewhere = [
        Reason::Resolved,
        Reason::CatalogTooLarge,
        Reason::InvalidSource,
        Reason::Superseded,
        Reason::NodesRefused,
        Reason::CatalogUnreachable,
        Reason::CatalogForbidden,
        Reason::ConfigMapNotFound,
        Reason::NoMatchingNodes,
        Reason::NodeVersionUnknown,
    ];
    let produced: Vec<&Reason> = TARGET_ROWS
        .iter()
        .map(|row| &row.1)
        .chain(NODE_ROWS.iter().map(|row| &row.4))
        .collect();
    for reason in Reason::ALL {
        assert_ne!(
            elsewhere.contains(reason),
            produced.contains(&reason),
            "{reason}"
        );
    }
}
