//! What holds for every path through every catalog.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::format_collect,
    reason = "shared functions of tests"
)]

use monok8s_api::{
    Version,
    catalog::Catalog,
    resolve::{NodeFacts, path, target},
};
use proptest::prelude::*;

const SUM: &str = "sha256:99af82a263deca44ad91d21d684f0fa944d5d0456a1da540f1c644f8aa59b14b";

/// A catalog before it is text, small enough for two entries to meet often.
#[derive(Clone, Debug)]
struct Draft {
    /// One entry each, as it stands in the text.
    entries: Vec<String>,
    /// The versions of the entries.
    versions: Vec<String>,
    blocked: Vec<String>,
    minor_skip: bool,
    major_change: bool,
}

impl Draft {
    fn text(&self) -> String {
        let say = |allowed| if allowed { "allow" } else { "forbid" };
        let entries: String = self.entries.iter().map(|e| format!("- {e}\n")).collect();
        let blocked: String = self.blocked.iter().map(|b| format!("- {b}\n")).collect();
        format!(
            "minorSkip: {}\nmajorChange: {}\nimages:\n{entries}blocked:\n{blocked}",
            say(self.minor_skip),
            say(self.major_change)
        )
    }

    fn catalog(&self) -> Catalog {
        let text = self.text();
        Catalog::parse(&text).unwrap_or_else(|e| panic!("{}", e.in_text(&text)))
    }
}

fn version() -> impl Strategy<Value = String> {
    (1..3_u8, 0..5_u8, 0..4_u8, prop::bool::weighted(0.15)).prop_map(
        |(major, minor, patch, pre)| {
            let pre = if pre { "-rc.1" } else { "" };
            format!("v{major}.{minor}.{patch}{pre}")
        },
    )
}

fn entry() -> impl Strategy<Value = (String, &'static str, Option<String>)> {
    let platform = prop_oneof![3 => Just(""), 2 => Just("linux/amd64"), 1 => Just("linux/arm64")];
    let upgrade_from = prop::option::weighted(0.2, (prop_oneof![Just(">="), Just("<")], version()))
        .prop_map(|r| r.map(|(op, version)| format!("{op}{version}")));
    (version(), platform, upgrade_from)
}

fn draft() -> impl Strategy<Value = Draft> {
    (
        prop::collection::vec(entry(), 1..40),
        prop::collection::btree_set(version(), 0..6),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(mut entries, blocked, minor_skip, major_change)| {
            entries.sort();
            entries.dedup_by(|a, b| (&a.0, a.1) == (&b.0, b.1));
            let versions = entries.iter().map(|(version, ..)| version.clone()).collect();
            let entries = entries
                .into_iter()
                .map(|(version, platform, upgrade_from)| {
                    let platform = match platform {
                        "" => String::new(),
                        platform => format!(", platform: {platform}"),
                    };
                    let upgrade_from = upgrade_from
                        .map(|r| format!(", upgradeFrom: '{r}'"))
                        .unwrap_or_default();
                    format!(
                        "{{version: {version}, url: 'https://i.example/{version}', checksum: '{SUM}'{platform}{upgrade_from}}}"
                    )
                })
                .collect();
            Draft {
                entries,
                versions,
                blocked: blocked.into_iter().collect(),
                minor_skip,
                major_change,
            }
        })
}

fn node() -> impl Strategy<Value = NodeFacts> {
    let platform = prop_oneof![Just(""), Just("linux/amd64"), Just("linux/arm64")];
    (version(), platform).prop_map(|(version, platform)| NodeFacts {
        version: version.parse().unwrap(),
        platform: platform.to_owned(),
    })
}

/// A catalog, a node, one of the catalog's versions as target, and whether to go down.
fn journey() -> impl Strategy<Value = (Draft, NodeFacts, Version, bool)> {
    (draft(), node(), any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(draft, node, index, down)| {
            let target = index.get(&draft.versions).parse().unwrap();
            (draft, node, target, down)
        },
    )
}

/// Whether a single hop keeps to the rules, judged without the code under test.
fn hop_is_lawful(draft: &Draft, from: &Version, to: &Version) -> Result<(), String> {
    let (low, high) = (from.min(to), from.max(to));
    if from.major() == to.major() {
        let lawful = draft.minor_skip || high.minor() - low.minor() <= 1;
        return lawful
            .then_some(())
            .ok_or(format!("{from} -> {to} skips a minor"));
    }
    if !draft.major_change {
        return Err(format!("{from} -> {to} crosses a major"));
    }
    let lawful = draft.minor_skip || (high.major() - low.major() == 1 && high.minor() == 0);
    lawful
        .then_some(())
        .ok_or(format!("{from} -> {to} enters a major in its middle"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_path_keeps_to_every_rule((draft, node, target, down) in journey()) {
        let catalog = draft.catalog();
        let Ok(hops) = path(&catalog, &target, &node, down) else {
            return Ok(());
        };
        let mut from = &node.version;
        for (i, hop) in hops.iter().enumerate() {
            let to = &hop.version;
            let is_last = i + 1 == hops.len();
            prop_assert!(!catalog.is_blocked(to), "{to} is blocked");
            prop_assert!(down || to > from, "{from} -> {to} goes down");
            prop_assert!(to != from, "{to} twice");
            prop_assert_eq!(to > from, target > node.version, "{} -> {} turns round", from, to);
            prop_assert!(is_last || !to.is_prerelease(), "{to} is a pre-release");
            prop_assert!(hop_is_lawful(&draft, from, to).is_ok(), "{:?}", hop_is_lawful(&draft, from, to));
            let entry = catalog.image_for(to, &node.platform).unwrap();
            if let Some(requirement) = &entry.upgrade_from {
                prop_assert!(requirement.is_met_by(from), "{to} wants {requirement}, not {from}");
            }
            prop_assert_eq!(hop.image.url.as_ref(), Some(&entry.url));
            from = to;
        }
        prop_assert!(from == &target, "ends at {from}");
    }

    /// With minors to be taken in order, each hop before the last goes to the newest patch that its
    /// minor offers, unless a requirement stands in the way.
    #[test]
    fn hops_go_through_the_newest_patch((mut draft, node, target, down) in journey()) {
        draft.minor_skip = false;
        for entry in &mut draft.entries {
            if let Some(start) = entry.find(", upgradeFrom") {
                entry.truncate(start);
                entry.push('}');
            }
        }
        let catalog = draft.catalog();
        let Ok(hops) = path(&catalog, &target, &node, down) else {
            return Ok(());
        };
        for hop in hops.iter().rev().skip(1) {
            let newer = catalog.images().iter().find(|image| {
                let v = &image.version;
                (v.major(), v.minor()) == (hop.version.major(), hop.version.minor())
                    && v > &hop.version
                    && !v.is_prerelease()
                    && !catalog.is_blocked(v)
                    && catalog.image_for(v, &node.platform).is_some()
            });
            prop_assert!(newer.is_none(), "{} rather than {}", hop.version, newer.unwrap().version);
        }
    }

    #[test]
    fn the_order_of_entries_does_not_matter(
        ((draft, node, target_version, down), shuffled) in journey().prop_flat_map(|journey| {
            let entries = Just(journey.0.entries.clone()).prop_shuffle();
            let blocked = Just(journey.0.blocked.clone()).prop_shuffle();
            (Just(journey), (entries, blocked))
        })
    ) {
        let (entries, blocked) = shuffled;
        let other = Draft { entries, blocked, ..draft.clone() };
        let (a, b) = (draft.catalog(), other.catalog());
        prop_assert_eq!(&a, &b);
        prop_assert_eq!(path(&a, &target_version, &node, down), path(&b, &target_version, &node, down));
        let wish = target_version.to_string();
        prop_assert_eq!(target(&a, &wish), target(&b, &wish));
    }

    /// Going on from where a hop ends leads through the rest of the same path, as the controller
    /// does after each hop.
    #[test]
    fn the_rest_of_a_path_is_a_path((draft, node, target, down) in journey()) {
        let catalog = draft.catalog();
        let Ok(hops) = path(&catalog, &target, &node, down) else {
            return Ok(());
        };
        if let Some((first, rest)) = hops.split_first() {
            let there = NodeFacts { version: first.version.clone(), ..node };
            prop_assert_eq!(path(&catalog, &target, &there, down), Ok(rest.to_vec()));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[-a-z0-9: \\n\\[\\]{}&*!'\"|>%@#,.~<]{0,200}") {
        if let Err(error) = Catalog::parse(&text) {
            let _ = error.in_text(&text);
        }
    }

    #[test]
    fn no_requirement_makes_the_parser_panic(text in "[<>=~^v0-9.,* x-]{0,60}", version in version()) {
        if let Ok(requirement) = text.parse::<monok8s_api::version::VersionRequirement>() {
            let _ = requirement.is_met_by(&version.parse().unwrap());
        }
    }
}
