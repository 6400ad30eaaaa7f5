//! What is inside the image, as a `CycloneDX` 1.6 document: the Rust crates that are compiled into the programs, the
//! compiler's own library, and the Debian packages whose files are copied.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use cargo_lock::Lockfile;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId, TargetKind};
use serde::Serialize;

use crate::{debian, digest::Digest, image::About, platform::Platform, programs::PROGRAMS};

/// The document.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bom {
    #[serde(rename = "bomFormat")]
    format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Described,
    /// Everything inside, by name.
    pub components: Vec<Component>,
    /// What is built with what.
    pub dependencies: Vec<Dependency>,
}

#[derive(Clone, Debug, Serialize)]
struct Described {
    timestamp: String,
    component: Component,
}

/// One thing inside the image, or the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<License>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct License {
    expression: String,
}

/// What one component needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: Vec<String>,
}

/// Lists what is in the image with this manifest.
pub fn list(
    root: &Path,
    about: &About,
    platform: Platform,
    manifest: &Digest,
    packages: &[debian::Package],
) -> Result<Bom> {
    let crates = Crates::of(root, platform)?;
    let mut components = crates.components(root)?;
    components.push(rust_library(root)?);
    let distribution = distribution();
    components.extend(packages.iter().map(|p| debian_component(p, &distribution)));
    components.sort();
    let mut dependencies = crates.dependencies();
    dependencies.push(Dependency {
        reference: about.name.clone(),
        depends_on: components
            .iter()
            .filter(|c| c.kind == "application" || !c.reference.starts_with("pkg:cargo/"))
            .map(|c| c.reference.clone())
            .collect(),
    });
    dependencies.sort();
    let mut serial = [0; 16];
    for (byte, pair) in serial.iter_mut().zip(manifest.hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair)?, 16)?;
    }
    Ok(Bom {
        format: "CycloneDX",
        spec_version: "1.6",
        // The same image has the same list.
        serial_number: uuid::Builder::from_random_bytes(serial)
            .into_uuid()
            .urn()
            .to_string(),
        version: 1,
        metadata: Described {
            timestamp: about.created()?,
            component: Component {
                kind: "container",
                reference: about.name.clone(),
                name: about.name.clone(),
                version: about.version.clone(),
                purl: None,
                hashes: vec![sha256(&manifest.hex)],
                licenses: vec![],
            },
        },
        components,
        dependencies,
    })
}

fn sha256(hex: &str) -> Hash {
    Hash {
        alg: "SHA-256",
        content: hex.to_owned(),
    }
}

/// The crates in the programs.
struct Crates {
    metadata: Metadata,
    ids: BTreeSet<PackageId>,
}

impl Crates {
    /// The crates whose code is in the programs: neither what only builds them (build scripts, procedural macros) nor
    /// what only tests them.
    fn of(root: &Path, platform: Platform) -> Result<Self> {
        let metadata = MetadataCommand::new()
            .current_dir(root)
            .other_options(vec![
                "--locked".to_owned(),
                format!("--filter-platform={}", platform.target()),
            ])
            .exec()?;
        let built = built_crates(root, platform)?;
        let ids = metadata
            .packages
            .iter()
            .filter(|p| built.contains(&(p.name.to_string(), p.version.to_string())))
            .map(|p| p.id.clone())
            .collect();
        Ok(Self { metadata, ids })
    }

    fn components(&self, root: &Path) -> Result<Vec<Component>> {
        let lock = root.join("Cargo.lock");
        let lock = Lockfile::load(&lock).with_context(|| lock.display().to_string())?;
        let checksums: BTreeMap<(String, String), String> = lock
            .packages
            .iter()
            .filter_map(|p| {
                let checksum = p.checksum.as_ref()?.to_string();
                Some(((p.name.to_string(), p.version.to_string()), checksum))
            })
            .collect();
        let chosen = self.metadata.packages.iter();
        Ok(chosen
            .filter(|p| self.ids.contains(&p.id))
            .map(|p| {
                let (name, version) = (p.name.to_string(), p.version.to_string());
                let program = p.targets.iter().any(|t| t.kind.contains(&TargetKind::Bin))
                    && self.metadata.workspace_members.contains(&p.id);
                Component {
                    kind: if program { "application" } else { "library" },
                    reference: reference(&self.metadata, &p.id),
                    // Crates of this workspace are in no registry.
                    purl: p.source.is_some().then(|| crate_url(&name, &version)),
                    hashes: checksums
                        .get(&(name.clone(), version.clone()))
                        .map(|hex| sha256(hex))
                        .into_iter()
                        .collect(),
                    licenses: p
                        .license
                        .iter()
                        .map(|l| License {
                            // The old way to write OR.
                            expression: l
                                .split('/')
                                .map(str::trim)
                                .collect::<Vec<_>>()
                                .join(" OR "),
                        })
                        .collect(),
                    name,
                    version,
                }
            })
            .collect())
    }

    fn dependencies(&self) -> Vec<Dependency> {
        let nodes = self.metadata.resolve.iter().flat_map(|r| &r.nodes);
        nodes
            .filter(|node| self.ids.contains(&node.id))
            .map(|node| {
                let needed: BTreeSet<String> = node
                    .deps
                    .iter()
                    .filter(|dep| self.ids.contains(&dep.pkg))
                    .filter(|dep| {
                        dep.dep_kinds
                            .iter()
                            .any(|k| k.kind == DependencyKind::Normal)
                    })
                    .map(|dep| reference(&self.metadata, &dep.pkg))
                    .collect();
                Dependency {
                    reference: reference(&self.metadata, &node.id),
                    depends_on: needed.into_iter().collect(),
                }
            })
            .collect()
    }
}

/// How a crate is referred to inside the document.
fn reference(metadata: &Metadata, id: &PackageId) -> String {
    let package = &metadata[id];
    crate_url(&package.name, &package.version.to_string())
}

fn crate_url(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

/// Name and version of what cargo compiles into the programs: `cargo metadata` would add what only other members of
/// the workspace, their tests or features that are not asked for need.
fn built_crates(root: &Path, platform: Platform) -> Result<BTreeSet<(String, String)>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .args(["tree", "--locked", "--edges=normal,no-proc-macro"])
        .args(["--prefix=none", "--format={p}", "--target"])
        .arg(platform.target());
    for (_, package) in PROGRAMS {
        cargo.args(["--package", package]);
    }
    let output = cargo.output().context("cargo tree")?;
    ensure!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // `serde v1.0.229`, with a folder behind it for the workspace's own.
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?.to_owned();
            let version = words.next()?.strip_prefix('v')?.to_owned();
            Some((name, version))
        })
        .collect())
}

/// Rust's own standard library, which is compiled into every program.
fn rust_library(root: &Path) -> Result<Component> {
    let output = Command::new("rustc")
        .current_dir(root)
        .args(["--version", "--verbose"])
        .output()
        .context("rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("release: "))
        .context("rustc does not tell its release")?;
    Ok(Component {
        kind: "library",
        reference: format!("pkg:generic/rust@{version}"),
        purl: Some(format!("pkg:generic/rust@{version}")),
        name: "rust".to_owned(),
        version: version.to_owned(),
        hashes: vec![],
        licenses: vec![License {
            expression: "MIT OR Apache-2.0".to_owned(),
        }],
    })
}

fn debian_component(package: &debian::Package, distribution: &str) -> Component {
    let purl = format!(
        "pkg:deb/{}/{}@{}?arch={}&distro={distribution}",
        distribution.split('-').next().unwrap_or_default(),
        package.name,
        package.version.replace('+', "%2B").replace(':', "%3A"),
        package.architecture,
    );
    Component {
        kind: "library",
        reference: purl.clone(),
        purl: Some(purl),
        name: package.name.clone(),
        version: package.version.clone(),
        hashes: vec![],
        licenses: vec![],
    }
}

/// `debian-12`, of this machine's os-release.
fn distribution() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|v| v.trim_matches('"').to_owned())
    };
    let id = value("ID").unwrap_or_else(|| "debian".to_owned());
    match value("VERSION_ID") {
        Some(version) => format!("{id}-{version}"),
        None => id,
    }
}
