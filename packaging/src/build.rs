//! From programs to an archive with its list of contents.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use tempfile::NamedTempFile;

use crate::{
    archive::{self, Blob},
    debian,
    digest::Digest,
    image::{self, About},
    layer,
    libraries::{self, Libraries},
    platform::Platform,
    programs::PROGRAMS,
    rootfs::RootFs,
    sbom,
};

/// Where rustls and everybody else looks for CA certificates.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where the Debian package has them. Elsewhere in it are files that are none, as an example for people.
const CERTIFICATE_FOLDER: &str = "/usr/share/ca-certificates";
/// The Debian package that they come from.
const CERTIFICATE_PACKAGE: &str = "ca-certificates";

/// What to build.
#[derive(Clone, Debug)]
pub struct Order {
    /// The workspace's folder: its `Cargo.lock` says which crates are in the programs.
    pub root: PathBuf,
    /// What the labels say.
    pub about: About,
    /// The programs, by machine.
    pub programs: BTreeMap<Platform, Vec<PathBuf>>,
    /// zstd's level, 1 to 22.
    pub level: i32,
    /// Where the archive and the lists go.
    pub output: PathBuf,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The archive.
    pub archive: PathBuf,
    /// Its size and its SHA-256.
    pub digest: Digest,
    /// What the image's name stands for: the digest by which registries and runtimes know it.
    pub image: String,
    /// By machine: the layer's compressed and expanded size, and the list of what is inside.
    pub platforms: BTreeMap<Platform, (layer::Layer, PathBuf)>,
}

/// The archive's name in the output folder.
pub const ARCHIVE: &str = "monok8s-ota.oci.tar";

/// Builds the archive, and beside it a list of what is inside for each machine.
pub fn build(order: &Order) -> Result<Built> {
    fs::create_dir_all(&order.output).with_context(|| order.output.display().to_string())?;
    let mut images = Vec::new();
    let mut blobs = Vec::new();
    let mut platforms = BTreeMap::new();
    // Deleted when they are in the archive.
    let mut layers = Vec::new();
    for (&platform, programs) in &order.programs {
        let needed = libraries::closure(programs, platform, &platform.library_folders())?;
        let packages = packages(&needed)?;
        let root = root_fs(programs, &needed, platform, &packages)?;
        let mut file = NamedTempFile::new_in(&order.output)?;
        let layer = layer::write(
            &root,
            order.about.epoch,
            order.level,
            BufWriter::new(&mut file),
        )?;
        blobs.push(Blob::file(file.path().to_path_buf(), layer.blob.clone()));
        layers.push(file);
        let image = image::describe(&order.about, platform, &layer)?;
        let bom = sbom::list(
            &order.root,
            &order.about,
            platform,
            image.manifest_digest(),
            &packages,
        )?;
        let list = order
            .output
            .join(format!("monok8s-ota.{}.cdx.json", platform.word()));
        replace(&list, |file| Ok(serde_json::to_writer_pretty(file, &bom)?))?;
        images.push(image);
        platforms.insert(platform, (layer, list));
    }
    let index = image::index(&order.about, images)?;
    blobs.extend(index.blobs);
    let archive = order.output.join(ARCHIVE);
    let digest = replace(&archive, |file| {
        archive::write(&index.document, &blobs, order.about.epoch, file)
    })?;
    Ok(Built {
        archive,
        digest,
        image: index.image,
        platforms,
    })
}

/// Writes a file whole or not at all.
fn replace<T>(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> Result<T>) -> Result<T> {
    let context = || path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = NamedTempFile::new_in(folder).with_context(context)?;
    let mut writer = BufWriter::new(file.as_file());
    let result = write(&mut writer).with_context(context)?;
    writer.flush().with_context(context)?;
    drop(writer);
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file()
        .set_permissions(readable)
        .with_context(context)?;
    file.persist(path).with_context(context)?;
    Ok(result)
}

/// The Debian packages that the image's files come from.
fn packages(needed: &Libraries) -> Result<Vec<debian::Package>> {
    let mut packages = needed
        .paths()
        .map(debian::owner)
        .collect::<Result<Vec<_>, _>>()?;
    packages.push(debian::installed(CERTIFICATE_PACKAGE)?);
    packages.sort();
    packages.dedup();
    Ok(packages)
}

/// What lies where in the image.
pub fn root_fs(
    programs: &[PathBuf],
    needed: &Libraries,
    platform: Platform,
    packages: &[debian::Package],
) -> Result<RootFs> {
    let mut root = RootFs::new();
    for ((name, _), file) in PROGRAMS.iter().zip(programs) {
        root.add_executable(Path::new("/usr/bin").join(name), file);
    }
    if let Some((asked, file)) = &needed.linker {
        root.add_executable(asked, file);
    }
    let folder = Path::new("/usr/lib").join(platform.gnu());
    for (name, file) in &needed.files {
        root.add_executable(folder.join(name), file);
    }
    root.add_text(CERTIFICATES, certificates()?);
    for (path, file) in debian::copyright_files(packages) {
        root.add_copy(path, file);
    }
    Ok(root)
}

/// The CA certificates that Debian ships. Not this machine's own bundle: it may hold authorities of whoever runs it.
fn certificates() -> Result<Vec<u8>> {
    let package = debian::installed(CERTIFICATE_PACKAGE)?;
    let mut files = debian::files(&package)?;
    files.retain(|file| {
        file.starts_with(CERTIFICATE_FOLDER) && file.extension().is_some_and(|e| e == "crt")
    });
    files.sort();
    let mut bundle = Vec::new();
    for file in files {
        let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
        bundle.extend(bytes);
        if bundle.last() != Some(&b'\n') {
            bundle.push(b'\n');
        }
    }
    Ok(bundle)
}

/// The commit that is checked out at `root`, with `-dirty` where files were changed since, and its time. None where
/// there is no repository.
pub fn commit(root: &Path) -> Option<(String, u64)> {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .current_dir(root)
            .args(args)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let time = git(&["log", "-1", "--format=%ct"])?.parse().ok()?;
    let id = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let dirty = if changed.is_empty() { "" } else { "-dirty" };
    Some((format!("{id}{dirty}"), time))
}
