//! The catalog format: what is read, what is refused, and what a message may say.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::format_collect,
    reason = "shared functions of tests"
)]

use monok8s_api::{
    Version,
    catalog::{
        Catalog, CatalogError, MAX_CATALOG_BYTES, MAX_IMAGES, Permission, Position, Problem,
    },
    reason::AcceptedReason,
};

fn v(text: &str) -> Version {
    text.parse().unwrap()
}

const FULL: &str = r#"
# Everything that the format has.
stable: v1.35.1
latest: stable
"1.35": v1.35.1
x-comment: {anything: [goes, {here: ~}]}
minorSkip: allow
majorChange: forbid
images:
- version: v1.35.1
  url: http://localhost:8000/rootfs.ext4.zst
  checksum: sha256:99af82a263deca44ad91d21d684f0fa944d5d0456a1da540f1c644f8aa59b14b
  size: 1858076672 # expanded
  mirrors: [https://a.example/1, "https://b.example/1"]
  platform: linux/amd64
  upgradeFrom: ">=1.34.3"
  x-built-by: us
- {version: 1.34.9, url: https://a.example/2, checksum: sha256:abc}
- {version: v1.34.9, url: https://a.example/3, platform: linux/arm64}
blocked:
- v1.34.0
- {version: v1.33.1, reason: "loses network\nafter a day", x-ticket: 7}
"#;

#[test]
fn the_whole_format_is_read() {
    let catalog = Catalog::parse(FULL).unwrap();
    assert_eq!(
        catalog.aliases().collect::<Vec<_>>(),
        [
            ("1.35", "v1.35.1"),
            ("latest", "stable"),
            ("stable", "v1.35.1")
        ]
    );
    assert_eq!(catalog.minor_skip(), Permission::Allow);
    assert_eq!(catalog.major_change(), Permission::Forbid);
    let [plain, arm, full] = catalog.images() else {
        panic!("{catalog:?}")
    };
    assert_eq!(plain.version, v("v1.34.9"));
    assert_eq!(plain.checksum, "sha256:abc");
    assert_eq!((plain.size, plain.platform.as_deref()), (None, None));
    assert_eq!(arm.platform.as_deref(), Some("linux/arm64"));
    assert_eq!(arm.checksum, "");
    assert_eq!(full.version, v("v1.35.1"));
    assert_eq!(full.url, "http://localhost:8000/rootfs.ext4.zst");
    assert_eq!(full.size, Some(1_858_076_672));
    assert_eq!(full.mirrors, ["https://a.example/1", "https://b.example/1"]);
    assert!(full.upgrade_from.as_ref().unwrap().is_met_by(&v("1.34.3")));

    assert!(catalog.is_blocked(&v("1.34.0")));
    assert!(catalog.is_blocked(&v("1.34.0+rebuilt")));
    assert!(!catalog.is_blocked(&v("1.34.1")));
    let reason = &catalog.blocked(&v("1.33.1")).unwrap().reason;
    assert_eq!(reason, "loses network after a day");
}

#[test]
fn a_nodes_own_platform_comes_before_none() {
    let catalog = Catalog::parse(FULL).unwrap();
    let url = |version, platform| {
        catalog
            .image_for(&v(version), platform)
            .map(|image| image.url.as_str())
    };
    assert_eq!(url("1.34.9", "linux/arm64"), Some("https://a.example/3"));
    assert_eq!(url("1.34.9", "linux/amd64"), Some("https://a.example/2"));
    assert_eq!(url("1.34.9", ""), Some("https://a.example/2"));
    assert_eq!(url("1.35.1", "linux/arm64"), None);
    assert_eq!(url("1.35.1", ""), None);
}

/// The problem, and the line and column it is reported at.
fn refused(text: &str) -> (Problem, usize, usize) {
    match Catalog::parse(text) {
        Err(CatalogError::Invalid { at, problem }) => {
            let error = CatalogError::Invalid {
                at,
                problem: problem.clone(),
            };
            assert_eq!(error.reason(), AcceptedReason::InvalidCatalog);
            (problem, at.line, at.column)
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

fn wrong_kind(text: &str) -> (&'static str, usize, usize) {
    match refused(text) {
        (Problem::WrongKind { key, .. }, line, column) => (key, line, column),
        other => panic!("{text:?}: {other:?}"),
    }
}

/// A catalog with these lines in its one image.
fn with_image(lines: &str) -> String {
    format!("images:\n- version: v1.35.1\n  url: https://a.example/1\n  {lines}\n")
}

#[test]
fn what_is_no_catalog_is_refused_with_its_place() {
    use Problem as P;
    let at = |line, column| Position { line, column };
    for (text, problem, line, column) in [
        ("", P::Empty, 1, 1),
        ("# nothing\n", P::Empty, 1, 1),
        ("---\n~\n", P::Empty, 1, 1),
        ("\n <!DOCTYPE html>\n<html>", P::WebPage, 1, 1),
        ("images: []\n---\nimages: []\n", P::SeveralDocuments, 2, 1),
        ("images: &all []\n", P::Anchor, 1, 14),
        ("stable: &v v1.35.1\nimages: []\n", P::Anchor, 1, 12),
        ("stable: *v\nimages: []\n", P::Anchor, 1, 9),
        ("&k stable: v1.35.1\nimages: []\n", P::Anchor, 1, 4),
        ("images: !!seq []\n", P::Tag, 1, 15),
        ("stable: !!str v1.35.1\nimages: []\n", P::Tag, 1, 15),
        ("stable: !mine v1.35.1\nimages: []\n", P::Tag, 1, 15),
        ("stable: !nobody!mine v1.35.1\nimages: []\n", P::Tag, 1, 9),
        ("[a, b]: c\nimages: []\n", P::KeyIsNoText, 1, 1),
        (
            "stable: v1.35.1\nstable: v1.35.2\nimages: []\n",
            P::DuplicateKey,
            2,
            1,
        ),
        ("stable: v1.35.1\n", P::MissingKey("images"), 1, 1),
        (
            "images:\n- url: https://a.example/1\n",
            P::MissingKey("version"),
            2,
            3,
        ),
        ("images:\n- version: v1.35.1\n", P::MissingKey("url"), 2, 3),
        (
            "images: []\nblocked:\n- reason: because\n",
            P::MissingKey("version"),
            3,
            3,
        ),
        ("v1.35.2: v1.35.1\nimages: []\n", P::AliasName, 1, 1),
        ("1.35.2: v1.35.1\nimages: []\n", P::AliasName, 1, 1),
        ("previous: v1.35.1\nimages: []\n", P::AliasName, 1, 1),
        (
            "images: []\nexpires: tomorrow\n",
            P::ReservedKey("expires"),
            2,
            1,
        ),
        ("images: []\nserial: 7\n", P::ReservedKey("serial"), 2, 1),
        (
            "images: []\nsignatures: [{key: a}]\n",
            P::ReservedKey("signatures"),
            2,
            1,
        ),
        ("images: []\nformat: 2\n", P::ReservedKey("format"), 2, 1),
        (
            "images:\n- version: 1.35\n  url: https://a.example/1\n",
            P::Version,
            2,
            12,
        ),
        ("images: []\nblocked:\n- v1.35\n", P::Version, 3, 3),
        (&with_image("upgradeFrom: newer"), P::Requirement, 4, 16),
        (&with_image("size: 0"), P::Size, 4, 9),
        (&with_image("size: -1"), P::Size, 4, 9),
        (&with_image("size: 1.5e9"), P::Size, 4, 9),
        (&with_image("size: 9223372036854775808"), P::Size, 4, 9),
        (&with_image("platform: linux"), P::Platform, 4, 13),
        (&with_image("platform: Linux/amd64"), P::Platform, 4, 13),
        (&with_image("platform: linux/arm/v7/x"), P::Platform, 4, 13),
        (&with_image("platform: linux//v7"), P::Platform, 4, 13),
        (
            &with_image("mirrors: [a, b, c, d, e, f, g, h, i]"),
            P::TooManyMirrors,
            4,
            37,
        ),
        (
            "images:\n- {version: v1.35.1, url: u}\n- {version: 1.35.1+again, url: u}\n",
            P::DuplicateImage(at(2, 3)),
            3,
            3,
        ),
        (
            "images: []\nblocked:\n- v1.34.0\n- {version: 1.34.0}\n",
            P::DuplicateBlocked(at(3, 3)),
            4,
            3,
        ),
    ] {
        assert_eq!(refused(text), (problem, line, column), "{text}");
    }
}

#[test]
fn a_value_of_another_kind_is_refused() {
    for (text, key, line, column) in [
        ("just words\n", "a catalog", 1, 1),
        ("[a, b]\n", "a catalog", 1, 1),
        ("images: {a: b}\n", "images", 1, 9),
        ("images: v1.35.1\n", "images", 1, 9),
        ("images:\n- v1.35.1\n", "an image", 2, 3),
        ("images: []\nblocked: v1.34.0\n", "blocked", 2, 10),
        (
            "images: []\nblocked:\n- [v1.34.0]\n",
            "an entry of blocked",
            3,
            3,
        ),
        ("images: []\nminorSkip: yes\n", "minorSkip", 2, 12),
        ("images: []\nmajorChange: [allow]\n", "majorChange", 2, 14),
        (&with_image("checksum: [a]"), "checksum", 4, 13),
        (&with_image("checksum: \"\""), "checksum", 4, 13),
        (&with_image("mirrors: https://a.example/"), "mirrors", 4, 12),
        (&with_image("mirrors: [{a: b}]"), "mirrors", 4, 13),
        (&with_image("size: {}"), "size", 4, 9),
        ("images:\n- version: v1.35.1\n  url:\n", "url", 3, 6),
    ] {
        assert_eq!(wrong_kind(text), (key, line, column), "{text}");
    }
}

#[test]
fn unknown_keys_are_refused_with_the_known_ones() {
    for (text, known, line, column) in [
        ("images: []\nblockd: [v1.34.0]\n", "blocked", 2, 1),
        ("images: []\n<<: {a: b}\n", "blocked", 2, 1),
        ("images: []\n<<: v1.35.1\n", "blocked", 2, 1),
        ("images: []\nno alias: v1.35.1\n", "blocked", 2, 1),
        (&with_image("chekcsum: sha256:abc"), "checksum", 4, 3),
        (
            "images: []\nblocked:\n- {version: v1.34.0, why: x}\n",
            "reason",
            3,
            22,
        ),
    ] {
        let (problem, at_line, at_column) = refused(text);
        assert_eq!((at_line, at_column), (line, column), "{text}");
        let message = problem.to_string();
        assert!(message.contains(known), "{message}");
    }
}

#[test]
fn broken_yaml_says_what_and_where() {
    for (text, what, line) in [
        ("images: [\n", "brackets", 1),
        ("stable: \"v1.35.1\nimages: []\n", "quote", 2),
        ("images:\n\t- version: v1.35.1\n", "tab", 2),
        ("images:\n- version: v1.35.1\n url: x\n", "", 3),
        ("{", "brackets", 1),
        ("images: ]", "brackets", 1),
    ] {
        match refused(text) {
            (Problem::NotYaml(words), at_line, _) => {
                assert!(words.contains(what), "{text:?}: {words}");
                assert_eq!(at_line, line, "{text:?}: {words}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn nothing_beyond_its_bounds_is_read() {
    let too_large = format!("images: []\n# {}\n", "x".repeat(MAX_CATALOG_BYTES));
    let error = Catalog::parse(&too_large).unwrap_err();
    assert_eq!(
        error,
        CatalogError::TooLarge {
            bytes: too_large.len()
        }
    );
    assert_eq!(error.reason(), AcceptedReason::CatalogTooLarge);

    let images = |n: usize| {
        let entries: String = (0..n)
            .map(|i| format!("- {{version: v1.35.{i}, url: u}}\n"))
            .collect();
        format!("images:\n{entries}")
    };
    assert_eq!(
        Catalog::parse(&images(MAX_IMAGES)).unwrap().images().len(),
        MAX_IMAGES
    );
    assert_eq!(
        refused(&images(MAX_IMAGES + 1)),
        (Problem::TooManyImages(MAX_IMAGES + 1), MAX_IMAGES + 2, 3)
    );

    let deep = format!("x-a: {}1{}\nimages: []\n", "[".repeat(40), "]".repeat(40));
    assert_eq!(refused(&deep).0, Problem::TooDeep);
    let deep = (0..40)
        .map(|i| format!("{}x-a:\n", " ".repeat(i)))
        .collect::<String>();
    assert_eq!(refused(&deep).0, Problem::TooDeep);
    let many = format!("x-a: [{}]\nimages: []\n", "1,".repeat(200_000));
    assert_eq!(refused(&many).0, Problem::TooManyValues);

    let name = "a".repeat(65);
    assert_eq!(
        refused(&format!("{name}: v1.35.1\nimages: []\n")).0,
        Problem::AliasTooLong
    );
    assert_eq!(
        refused(&format!("stable: {name}\nimages: []\n")).0,
        Problem::AliasTooLong
    );
    let long = "u".repeat(2049);
    assert_eq!(
        refused(&format!("images:\n- version: v1.35.1\n  url: {long}\n")).0,
        Problem::TooLong {
            key: "url",
            limit: 2048
        }
    );
}

#[test]
fn what_matters_only_on_a_path_is_kept_as_written() {
    let catalog = Catalog::parse(
        "nothing:\nnowhere: nobody\na: b\nb: a\nimages:\n- {version: v1.35.1, url: 'ftp://x', checksum: nonsense}\n",
    )
    .unwrap();
    assert_eq!(catalog.alias("nothing"), Some(""));
    assert_eq!(catalog.alias("nowhere"), Some("nobody"));
    assert_eq!(catalog.images()[0].checksum, "nonsense");
    assert_eq!(catalog.images()[0].url, "ftp://x");
}

/// Whoever may write an OSUpgrade chooses what the controller fetches, and reads the message.
#[test]
fn no_message_repeats_a_word_of_the_text() {
    const SECRET: &str = "s3cretw0rd";
    let texts = [
        format!("{SECRET}\n"),
        format!("{SECRET}: {{a: b}}\nimages: []\n"),
        format!("images: [{SECRET}]\n"),
        format!("images: {SECRET}\n"),
        format!("{SECRET}: v1.35.1\n{SECRET}: v1.35.1\n"),
        format!("a: &{SECRET} b\n"),
        format!("a: *{SECRET}\n"),
        format!("a: !{SECRET} b\n"),
        format!("a: !{SECRET}!x b\n"),
        format!("%{SECRET} x\n---\na: b\n"),
        format!("\"{SECRET}"),
        format!("\"\\{SECRET}\""),
        format!("{SECRET}: [\n"),
        format!("images: []\nminorSkip: {SECRET}\n"),
        format!("images: []\nblocked: [{SECRET}]\n"),
        format!("<{SECRET}>\n"),
        with_image(&format!("{SECRET}: 1")),
        with_image(&format!("size: {SECRET}")),
        with_image(&format!("platform: {SECRET}")),
        with_image(&format!("upgradeFrom: {SECRET}")),
        with_image(&format!("mirrors: {SECRET}")),
        format!("images:\n- version: {SECRET}\n  url: x\n"),
        format!("{{\"{SECRET}\": {{\"{SECRET}\": 1}}}}"),
    ];
    for text in &texts {
        let error = Catalog::parse(text).unwrap_err();
        assert!(!error.to_string().contains(SECRET), "{text}: {error}");
        assert!(!format!("{error:?}").contains(SECRET), "{text}: {error:?}");
        // Whoever holds the text is shown the line.
        let shown = error.in_text(text);
        assert!(shown.starts_with(&error.to_string()), "{shown}");
        assert!(shown.contains(" | "), "{shown}");
    }
}

#[test]
fn the_line_is_shown_to_those_who_hold_the_text() {
    let text = with_image("chekcsum: sha256:abc");
    let error = Catalog::parse(&text).unwrap_err();
    assert_eq!(
        error.in_text(&text),
        "the catalog is wrong at line 4, column 3: this key is not known here; known are version, url, \
         checksum, size, mirrors, platform, upgradeFrom, and x-… keys are left alone\n\
         \x20 |\n4 |   chekcsum: sha256:abc\n  |   ^"
    );
}
