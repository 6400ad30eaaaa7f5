//! From YAML nodes to a catalog.

use std::collections::BTreeMap;

use super::{
    Blocked, Catalog, CatalogError, Image, MAX_ALIAS_LEN, MAX_CATALOG_BYTES, MAX_IMAGES,
    MAX_MIRRORS, MAX_URL_LEN, Permission, Position, Problem,
    yaml::{self, Entry, Node, Value, refuse},
};
use crate::{Version, osupgrade::PREVIOUS};

const CATALOG_KEYS: &[&str] = &["images", "blocked", "minorSkip", "majorChange"];
const RESERVED_KEYS: &[&str] = &["expires", "serial", "signatures", "format"];
const IMAGE_KEYS: &[&str] = &[
    "version",
    "url",
    "checksum",
    "size",
    "mirrors",
    "platform",
    "upgradeFrom",
];
const BLOCKED_KEYS: &[&str] = &["version", "reason"];

/// Longest checksum kept, in bytes. A valid one has 71.
const MAX_CHECKSUM_LEN: usize = 256;
/// Longest reason of a blocked version, in bytes; it ends up in messages.
const MAX_REASON_LEN: usize = 512;
/// Longest platform, in bytes.
const MAX_PLATFORM_LEN: usize = 64;

pub(super) fn catalog(text: &str) -> Result<Catalog, CatalogError> {
    if text.len() > MAX_CATALOG_BYTES {
        return Err(CatalogError::TooLarge { bytes: text.len() });
    }
    let start = Position { line: 1, column: 1 };
    if text.trim_start().starts_with('<') {
        return Err(refuse(start, Problem::WebPage));
    }
    let root = yaml::read(text)?
        .filter(|root| !root.is_null())
        .ok_or_else(|| refuse(start, Problem::Empty))?;
    let at = root.at;
    let mut images = None;
    let mut blocked = Vec::new();
    let mut aliases = BTreeMap::new();
    let mut minor_skip = Permission::default();
    let mut major_change = Permission::default();
    for entry in mapping(root, "a catalog")? {
        match &*entry.key {
            "images" => images = Some(read_images(entry.value)?),
            "blocked" => blocked = read_blocked(entry.value)?,
            "minorSkip" => minor_skip = permission(&entry.value, "minorSkip")?,
            "majorChange" => major_change = permission(&entry.value, "majorChange")?,
            key if key.starts_with("x-") => {}
            key => {
                if let Some(reserved) = RESERVED_KEYS.iter().find(|r| **r == key) {
                    return Err(refuse(entry.at, Problem::ReservedKey(reserved)));
                }
                let (name, value) = alias(entry)?;
                aliases.insert(name, value);
            }
        }
    }
    Ok(Catalog {
        aliases,
        images: images.ok_or_else(|| refuse(at, Problem::MissingKey("images")))?,
        blocked,
        minor_skip,
        major_change,
    })
}

/// Every further key with a text for value is an alias. With any other value it is a key that
/// somebody meant and this format does not have.
fn alias(entry: Entry<'_>) -> Result<(String, String), CatalogError> {
    let at = entry.at;
    let Value::Scalar { text, .. } = &entry.value.value else {
        return Err(refuse(
            at,
            Problem::UnknownKey {
                known: CATALOG_KEYS,
            },
        ));
    };
    if entry.key == PREVIOUS || entry.key.parse::<Version>().is_ok() {
        return Err(refuse(at, Problem::AliasName));
    }
    if entry.key.len() > MAX_ALIAS_LEN || text.len() > MAX_ALIAS_LEN {
        return Err(refuse(at, Problem::AliasTooLong));
    }
    if !super::is_alias_shaped(&entry.key) {
        return Err(refuse(
            at,
            Problem::UnknownKey {
                known: CATALOG_KEYS,
            },
        ));
    }
    let meaning = if entry.value.is_null() {
        String::new()
    } else {
        text.to_string()
    };
    Ok((entry.key.into_owned(), meaning))
}

fn read_images(node: Node<'_>) -> Result<Vec<Image>, CatalogError> {
    let items = list(node, "images", "a list of images")?;
    if items.len() > MAX_IMAGES {
        let at = items[MAX_IMAGES].at;
        return Err(refuse(at, Problem::TooManyImages(items.len())));
    }
    let mut images = items
        .into_iter()
        .map(|item| Ok((item.at, image(item)?)))
        .collect::<Result<Vec<_>, CatalogError>>()?;
    // Entries are kept in an order of their own, so that nothing can depend on that of the text.
    images.sort_by(|(at, a), (bt, b)| {
        (&a.version, &a.platform, at).cmp(&(&b.version, &b.platform, bt))
    });
    for pair in images.windows(2) {
        if let [(first, a), (second, b)] = pair
            && a.version == b.version
            && a.platform == b.platform
        {
            return Err(refuse(*second, Problem::DuplicateImage(*first)));
        }
    }
    Ok(images.into_iter().map(|(_, image)| image).collect())
}

fn image(node: Node<'_>) -> Result<Image, CatalogError> {
    let at = node.at;
    let mut version = None;
    let mut url = None;
    let mut image = Image {
        version: Version::from(semver::Version::new(0, 0, 0)),
        url: String::new(),
        mirrors: Vec::new(),
        checksum: String::new(),
        size: None,
        platform: None,
        upgrade_from: None,
    };
    for entry in mapping(node, "an image")? {
        match &*entry.key {
            "version" => version = Some(read_version(&entry.value)?),
            "url" => url = Some(text(&entry.value, "url", MAX_URL_LEN)?),
            "mirrors" => image.mirrors = mirrors(entry.value)?,
            key if key.starts_with("x-") => {}
            // Absent and empty are one for everything that may be absent.
            "checksum" | "size" | "platform" | "upgradeFrom" if entry.value.is_null() => {}
            "checksum" => image.checksum = text(&entry.value, "checksum", MAX_CHECKSUM_LEN)?,
            "size" => image.size = Some(size(&entry.value)?),
            "platform" => image.platform = Some(platform(&entry.value)?),
            "upgradeFrom" => {
                let at = entry.value.at;
                let requirement = scalar(&entry.value, "upgradeFrom")?
                    .parse()
                    .map_err(|_| refuse(at, Problem::Requirement))?;
                image.upgrade_from = Some(requirement);
            }
            _ => return Err(refuse(entry.at, Problem::UnknownKey { known: IMAGE_KEYS })),
        }
    }
    image.version = version.ok_or_else(|| refuse(at, Problem::MissingKey("version")))?;
    image.url = url.ok_or_else(|| refuse(at, Problem::MissingKey("url")))?;
    Ok(image)
}

fn mirrors(node: Node<'_>) -> Result<Vec<String>, CatalogError> {
    let items = list(node, "mirrors", "a list of URLs")?;
    if let Some(first_too_many) = items.get(MAX_MIRRORS) {
        return Err(refuse(first_too_many.at, Problem::TooManyMirrors));
    }
    items
        .iter()
        .map(|item| text(item, "mirrors", MAX_URL_LEN))
        .collect()
}

fn read_blocked(node: Node<'_>) -> Result<Vec<Blocked>, CatalogError> {
    let mut blocked = list(node, "blocked", "a list of versions")?
        .into_iter()
        .map(|item| Ok((item.at, one_blocked(item)?)))
        .collect::<Result<Vec<_>, CatalogError>>()?;
    blocked.sort_by(|(at, a), (bt, b)| (&a.version, at).cmp(&(&b.version, bt)));
    for pair in blocked.windows(2) {
        if let [(first, a), (second, b)] = pair
            && a.version == b.version
        {
            return Err(refuse(*second, Problem::DuplicateBlocked(*first)));
        }
    }
    Ok(blocked.into_iter().map(|(_, entry)| entry).collect())
}

fn one_blocked(node: Node<'_>) -> Result<Blocked, CatalogError> {
    if matches!(node.value, Value::Scalar { .. }) {
        return Ok(Blocked {
            version: read_version(&node)?,
            reason: String::new(),
        });
    }
    let at = node.at;
    let mut version = None;
    let mut reason = String::new();
    for entry in mapping(node, "an entry of blocked")? {
        match &*entry.key {
            "version" => version = Some(read_version(&entry.value)?),
            "reason" if entry.value.is_null() => {}
            "reason" => reason = text(&entry.value, "reason", MAX_REASON_LEN)?,
            key if key.starts_with("x-") => {}
            _ => {
                let known = BLOCKED_KEYS;
                return Err(refuse(entry.at, Problem::UnknownKey { known }));
            }
        }
    }
    Ok(Blocked {
        version: version.ok_or_else(|| refuse(at, Problem::MissingKey("version")))?,
        reason: reason
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
    })
}

fn read_version(node: &Node<'_>) -> Result<Version, CatalogError> {
    scalar(node, "version")?
        .parse()
        .map_err(|_| refuse(node.at, Problem::Version))
}

fn size(node: &Node<'_>) -> Result<u64, CatalogError> {
    // An object carries it as a signed number.
    let max = i64::MAX.unsigned_abs();
    Some(scalar(node, "size")?)
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .filter(|size| (1..=max).contains(size))
        .ok_or_else(|| refuse(node.at, Problem::Size))
}

fn platform(node: &Node<'_>) -> Result<String, CatalogError> {
    let text = text(node, "platform", MAX_PLATFORM_LEN)?;
    let word = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    let parts = text.split('/').count();
    if (2..=3).contains(&parts) && text.split('/').all(word) {
        Ok(text)
    } else {
        Err(refuse(node.at, Problem::Platform))
    }
}

fn permission(node: &Node<'_>, key: &'static str) -> Result<Permission, CatalogError> {
    match scalar(node, key)? {
        "allow" => Ok(Permission::Allow),
        "forbid" => Ok(Permission::Forbid),
        _ => {
            let expected = "allow or forbid";
            Err(refuse(node.at, Problem::WrongKind { key, expected }))
        }
    }
}

fn mapping<'t>(node: Node<'t>, key: &'static str) -> Result<Vec<Entry<'t>>, CatalogError> {
    match node.value {
        Value::Mapping(entries) => Ok(entries),
        Value::List(_) | Value::Scalar { .. } => {
            let expected = "a mapping of keys to values";
            Err(refuse(node.at, Problem::WrongKind { key, expected }))
        }
    }
}

fn list<'t>(
    node: Node<'t>,
    key: &'static str,
    expected: &'static str,
) -> Result<Vec<Node<'t>>, CatalogError> {
    if node.is_null() {
        return Ok(Vec::new());
    }
    match node.value {
        Value::List(items) => Ok(items),
        Value::Mapping(_) | Value::Scalar { .. } => {
            Err(refuse(node.at, Problem::WrongKind { key, expected }))
        }
    }
}

fn scalar<'n>(node: &'n Node<'_>, key: &'static str) -> Result<&'n str, CatalogError> {
    match &node.value {
        Value::Scalar { text, .. } => Ok(text),
        Value::List(_) | Value::Mapping(_) => {
            let expected = "a single value";
            Err(refuse(node.at, Problem::WrongKind { key, expected }))
        }
    }
}

fn text(node: &Node<'_>, key: &'static str, limit: usize) -> Result<String, CatalogError> {
    let text = scalar(node, key)?;
    if node.is_null() || text.is_empty() {
        let expected = "a text that is not empty";
        return Err(refuse(node.at, Problem::WrongKind { key, expected }));
    }
    if text.len() > limit {
        return Err(refuse(node.at, Problem::TooLong { key, limit }));
    }
    Ok(text.to_owned())
}
