//! The archive as container runtimes and registries take it apart.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::unpacked::{self, EPOCH, NAME, order};
use monok8s_packaging::{
    archive, build,
    digest::Digest,
    image::{self, About},
    layer::{self, Layer},
    platform::Platform,
    programs::{self, PROGRAMS},
    rootfs::RootFs,
};
use oci_spec::image::{
    Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, OciLayout,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::Value;

/// A small program that is on every machine, under the names of the three.
fn stand_ins(folder: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(folder).unwrap();
    for (name, _) in PROGRAMS {
        fs::copy("/usr/bin/true", folder.join(name)).unwrap();
    }
    programs::ready_built(folder).unwrap()
}

/// What is in a tar archive.
fn entries(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(bytes);
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (name, content)
        })
        .collect()
}

/// The blob that a descriptor names, when it is what it says.
fn blob<'a>(entries: &'a BTreeMap<String, Vec<u8>>, descriptor: &Descriptor) -> &'a [u8] {
    let hex = descriptor.as_digest_sha256().unwrap();
    let bytes = &entries[&format!("blobs/sha256/{hex}")];
    assert_eq!(bytes.len() as u64, descriptor.size());
    assert_eq!(Digest::of(bytes).hex, hex);
    bytes
}

#[test]
fn the_same_programs_give_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let built = ["one", "other"].map(|name| {
        let folder = scratch.path().join(name);
        let programs = stand_ins(&folder);
        if name == "other" {
            // What a file's own time and rights are does not matter.
            for program in &programs {
                let file = fs::File::open(program).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(7))
                    .unwrap();
                file.set_permissions(fs::Permissions::from_mode(0o700))
                    .unwrap();
            }
        }
        build::build(&order(programs, &folder.join("out"))).unwrap()
    });
    let [one, other] = &built;
    let bytes = fs::read(&one.archive).unwrap();
    assert_eq!(bytes, fs::read(&other.archive).unwrap());
    assert_eq!(one.digest, other.digest);
    assert_eq!(one.digest, Digest::of(&bytes));
    assert_eq!(one.image, other.image);
    for (platform, (_, list)) in &one.platforms {
        let other = &other.platforms[platform].1;
        assert_eq!(fs::read(list).unwrap(), fs::read(other).unwrap());
    }
    // Another time is another image.
    let folder = scratch.path().join("one");
    let mut later = order(stand_ins(&folder), &folder.join("later"));
    later.about.epoch += 1;
    assert_ne!(build::build(&later).unwrap().image, one.image);
}

#[test]
fn every_part_is_what_its_digest_says() {
    let image = unpacked::image();
    let entries = entries(&image.archive);
    let layout = OciLayout::from_reader(entries["oci-layout"].as_slice()).unwrap();
    assert_eq!(layout.image_layout_version(), "1.0.0");
    let index = ImageIndex::from_reader(entries["index.json"].as_slice()).unwrap();
    let [top] = index.manifests().as_slice() else {
        panic!("{index:?}");
    };
    let named = top.annotations().as_ref().unwrap();
    assert_eq!(named["io.containerd.image.name"], NAME);
    assert_eq!(named["org.opencontainers.image.ref.name"], NAME);
    assert_eq!(top.digest().to_string(), image.digest);
    assert_eq!(*top.media_type(), MediaType::ImageManifest);

    let manifest = ImageManifest::from_reader(blob(&entries, top)).unwrap();
    let config = ImageConfiguration::from_reader(blob(&entries, manifest.config())).unwrap();
    let [layer] = manifest.layers().as_slice() else {
        panic!("{manifest:?}");
    };
    assert_eq!(*layer.media_type(), MediaType::ImageLayerZstd);
    let content = zstd::decode_all(blob(&entries, layer)).unwrap();
    assert_eq!(
        config.rootfs().diff_ids(),
        &[Digest::of(&content).prefixed()]
    );
    // Two folders, the index, the layout, and nothing that is not named.
    assert_eq!(entries.len(), 4 + 3);

    let run = config.config().as_ref().unwrap();
    assert_eq!(run.user().as_deref(), Some("65532:65532"));
    assert_eq!(
        run.env().as_deref(),
        Some(&["PATH=/usr/bin".to_owned()][..])
    );
    let labels = run.labels().as_ref().unwrap();
    let label = |name: &str| labels[&format!("org.opencontainers.image.{name}")].as_str();
    assert_eq!(label("version"), "1.2.3");
    assert_eq!(label("revision"), "abc");
    assert_eq!(label("created"), "2024-07-03T09:46:40Z");
    assert_eq!(label("licenses"), "Apache-2.0");
    assert_eq!(label("title"), "MonoK8s OTA");
}

#[test]
fn nothing_is_inside_but_the_programs_and_what_they_need() {
    let image = unpacked::image();
    let platform = Platform::own().unwrap();
    let mut paths = BTreeSet::new();
    let mut archive = tar::Archive::new(zstd::Decoder::new(image.packed.as_slice()).unwrap());
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        assert_eq!(header.uid().unwrap(), 0, "{path}");
        assert_eq!(header.gid().unwrap(), 0, "{path}");
        assert_eq!(header.mtime().unwrap(), EPOCH, "{path}");
        // Nothing that gives rights, nothing that anybody but root may write.
        let mode = header.mode().unwrap();
        assert!(mode == 0o755 || mode == 0o644, "{path}: {mode:o}");
        assert!(
            header.entry_type().is_file() || header.entry_type().is_dir(),
            "{path}"
        );
        if header.entry_type().is_file() {
            paths.insert(path);
        }
    }
    let programs = PROGRAMS.map(|(name, _)| format!("usr/bin/{name}"));
    let needed = monok8s_packaging::libraries::closure(
        &unpacked::debug_programs(),
        platform,
        &platform.library_folders(),
    )
    .unwrap();
    let linker = needed.linker.as_ref().unwrap().0.to_str().unwrap();
    let libraries = needed
        .files
        .keys()
        .map(|name| format!("usr/lib/{}/{name}", platform.gnu()));
    let fixed = [
        "etc/passwd",
        "etc/group",
        "etc/nsswitch.conf",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/share/doc/ca-certificates/copyright",
        "usr/share/doc/libc6/copyright",
        "usr/share/doc/libgcc-s1/copyright",
    ];
    let expected: BTreeSet<String> = programs
        .into_iter()
        .chain(libraries)
        .chain([linker.trim_start_matches('/').to_owned()])
        .chain(fixed.map(str::to_owned))
        .collect();
    assert_eq!(paths, expected);
    assert_eq!(image.layer.blob, Digest::of(&image.packed));
}

/// Read as the programs read it: one entry that is no certificate, and rustls complains at every start.
#[test]
fn the_certificates_are_all_certificates() {
    let root = unpacked::root();
    let bundle = fs::read(root.path().join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&bundle)
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(certificates.len() > 100, "{}", certificates.len());
    let mut anchors = RootCertStore::empty();
    for certificate in certificates {
        anchors.add(certificate).unwrap();
    }
}

#[test]
fn several_machines_share_one_name() {
    let about = About {
        name: NAME.to_owned(),
        version: "1".to_owned(),
        revision: None,
        epoch: 0,
    };
    let mut written = Vec::new();
    let packed: Layer = layer::write(&RootFs::new(), 0, 1, &mut written).unwrap();
    let images = [Platform::Amd64, Platform::Arm64]
        .map(|platform| image::describe(&about, platform, &packed).unwrap());
    let index = image::index(&about, images.to_vec()).unwrap();
    let mut whole = Vec::new();
    archive::write(&index.document, &index.blobs, 0, &mut whole).unwrap();
    let entries = entries(&whole);
    let top = ImageIndex::from_reader(entries["index.json"].as_slice()).unwrap();
    let [named] = top.manifests().as_slice() else {
        panic!("{top:?}");
    };
    assert_eq!(*named.media_type(), MediaType::ImageIndex);
    assert_eq!(named.digest().to_string(), index.image);
    let both = ImageIndex::from_reader(blob(&entries, named)).unwrap();
    let machines: Vec<String> = both
        .manifests()
        .iter()
        .map(|manifest| {
            let described = ImageManifest::from_reader(blob(&entries, manifest)).unwrap();
            let config = blob(&entries, described.config());
            let config = ImageConfiguration::from_reader(config).unwrap();
            let platform = manifest.platform().as_ref().unwrap();
            assert_eq!(platform.architecture(), config.architecture());
            platform.architecture().to_string()
        })
        .collect();
    assert_eq!(machines, ["amd64", "arm64"]);
}

#[test]
fn the_list_names_what_is_inside_and_nothing_else() {
    let image = unpacked::image();
    let list: Value = serde_json::from_slice(&image.list).unwrap();
    assert_eq!(list["bomFormat"], "CycloneDX");
    assert_eq!(
        format!(
            "sha256:{}",
            list["metadata"]["component"]["hashes"][0]["content"]
                .as_str()
                .unwrap()
        ),
        image.digest
    );
    let components = list["components"].as_array().unwrap();
    let names: BTreeSet<&str> = components
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    for inside in [
        "monok8s-node-agent",
        "monok8s-controller",
        "monok8s-ctl",
        "monok8s-boot",
        "kube",
        "rustls",
        "zstd-sys",
        "liblzma-sys",
        "zlib-rs",
        "blake3",
        "rust",
        "libc6",
        "libgcc-s1",
        "ca-certificates",
    ] {
        assert!(names.contains(inside), "{inside}");
    }
    // What builds, tests and packs the programs is not in them.
    for outside in [
        "proptest",
        "rcgen",
        "cc",
        "serde_derive",
        "monok8s-sandbox",
        "monok8s-packaging",
        "goblin",
    ] {
        assert!(!names.contains(outside), "{outside}");
    }
    let references: BTreeSet<&str> = components
        .iter()
        .map(|c| c["bom-ref"].as_str().unwrap())
        .collect();
    assert_eq!(references.len(), components.len(), "each is listed once");
    for dependency in list["dependencies"].as_array().unwrap() {
        for needed in dependency["dependsOn"].as_array().unwrap() {
            assert!(references.contains(needed.as_str().unwrap()), "{needed}");
        }
    }
    for component in components {
        let url = component["purl"].as_str().unwrap_or_default();
        if url.starts_with("pkg:cargo/") {
            let hash = component["hashes"][0]["content"].as_str();
            assert_eq!(hash.map(str::len), Some(64), "{component}");
            assert!(component["licenses"][0]["expression"].is_string(), "{url}");
        }
        assert!(!component["version"].as_str().unwrap().is_empty());
    }
}
