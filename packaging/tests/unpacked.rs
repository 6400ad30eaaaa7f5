//! The image of the programs that stand beside the tests, built once for all of them.
use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use monok8s_packaging::{
    build::{self, Built, Order},
    image::About,
    layer::Layer,
    platform::Platform,
    programs,
};
use monok8s_sandbox::{binaries, scratch};
use tempfile::TempDir;

/// The name that the manifests use.
pub(crate) const NAME: &str = "localhost/monok8s/ota:local";

/// A time that no file of the build has.
pub(crate) const EPOCH: u64 = 1_720_000_000;

/// An image.
pub(crate) struct Image {
    /// The archive.
    pub(crate) archive: Vec<u8>,
    /// Its one layer, compressed.
    pub(crate) packed: Vec<u8>,
    /// What that is said to be.
    pub(crate) layer: Layer,
    /// The list of what is inside.
    pub(crate) list: Vec<u8>,
    /// What the name stands for.
    pub(crate) digest: String,
}

/// What to build of `programs`, quickly.
pub(crate) fn order(programs: Vec<PathBuf>, output: &Path) -> Order {
    let platform = Platform::own().expect("a machine that the image is made for");
    Order {
        root: scratch::repository(),
        about: About {
            name: NAME.to_owned(),
            version: "1.2.3".to_owned(),
            revision: Some("abc".to_owned()),
            epoch: EPOCH,
        },
        programs: BTreeMap::from([(platform, programs)]),
        level: 1,
        output: output.to_path_buf(),
    }
}

/// The three programs as they are tested everywhere else.
pub(crate) fn debug_programs() -> Vec<PathBuf> {
    let program = binaries::find("node-agent").expect("the programs beside the test");
    programs::ready_built(program.parent().unwrap()).expect("the programs beside the test")
}

/// The image, built when it is first asked for. Nothing of it stays on the disk.
pub(crate) fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = scratch::folder("image").expect("a scratch folder");
        let built = build::build(&order(debug_programs(), folder.path())).expect("an image");
        let (layer, list) = built.platforms.first_key_value().expect("one machine").1;
        let archive = fs::read(&built.archive).expect("the archive");
        let packed = packed_layer(&archive, &layer.blob.hex);
        let list = fs::read(list).expect("the list");
        Image {
            archive,
            packed,
            list,
            layer: layer.clone(),
            digest: built.image.clone(),
        }
    })
}

/// The compressed layer in `archive`.
fn packed_layer(archive: &[u8], hex: &str) -> Vec<u8> {
    let wanted = format!("blobs/sha256/{hex}");
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap() == Path::new(&wanted) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            return bytes;
        }
    }
    panic!("{wanted} is not in the archive");
}

/// Unpacks the one layer of an archive.
pub(crate) fn unpack(archive: &[u8], built: &Built, into: &Path) {
    let (layer, _) = built.platforms.first_key_value().unwrap().1;
    let packed = packed_layer(archive, &layer.blob.hex);
    let packed = zstd::Decoder::new(packed.as_slice()).unwrap();
    tar::Archive::new(packed).unpack(into).unwrap();
}

/// The image's tree, in a folder of its own.
pub(crate) fn root() -> TempDir {
    let folder = scratch::folder("root").expect("a scratch folder");
    let packed = zstd::Decoder::new(image().packed.as_slice()).unwrap();
    tar::Archive::new(packed).unpack(folder.path()).unwrap();
    folder
}
