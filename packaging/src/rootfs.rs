//! What lies where in the image.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The user whom the image runs as unless a pod says otherwise: distroless images' `nonroot`.
pub const USER: u32 = 65532;

/// One thing in the tree. Everything belongs to root, nobody else may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A file with the bytes of one here.
    Copy {
        /// The file here, links followed.
        from: PathBuf,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A file with these bytes.
    Text(Vec<u8>),
}

/// A tree, by absolute path. Sorted, so that a folder comes before what is in it and always at the same place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootFs {
    entries: BTreeMap<PathBuf, Entry>,
}

impl RootFs {
    /// A tree with what programs and libraries look up: users, where names are resolved.
    pub fn new() -> Self {
        let mut root = Self::default();
        let nobody = format!("nonroot:x:{USER}:{USER}:nonroot:/nonexistent:/sbin/nologin\n");
        root.add_text(
            "/etc/passwd",
            format!("root:x:0:0:root:/nonexistent:/sbin/nologin\n{nobody}"),
        );
        root.add_text("/etc/group", format!("root:x:0:\nnonroot:x:{USER}:\n"));
        // Without it glibc asks DNS first and the pod's /etc/hosts last.
        root.add_text("/etc/nsswitch.conf", "hosts: files dns\n");
        root
    }

    /// A program or library.
    pub fn add_executable(&mut self, path: impl AsRef<Path>, from: impl Into<PathBuf>) {
        let from = from.into();
        let executable = true;
        self.add(path.as_ref(), Entry::Copy { from, executable });
    }

    /// A file that is only read.
    pub fn add_copy(&mut self, path: impl AsRef<Path>, from: impl Into<PathBuf>) {
        let from = from.into();
        let executable = false;
        self.add(path.as_ref(), Entry::Copy { from, executable });
    }

    /// A file with these bytes.
    pub fn add_text(&mut self, path: impl AsRef<Path>, text: impl Into<Vec<u8>>) {
        self.add(path.as_ref(), Entry::Text(text.into()));
    }

    fn add(&mut self, path: &Path, entry: Entry) {
        for folder in path.ancestors().skip(1) {
            if folder != Path::new("/") {
                self.entries.insert(folder.to_path_buf(), Entry::Folder);
            }
        }
        self.entries.insert(path.to_path_buf(), entry);
    }

    /// Everything, folders before what is in them.
    pub fn entries(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter().map(|(path, e)| (path.as_path(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_before_what_is_in_it_whatever_the_order_of_adding() {
        let mut one = RootFs::default();
        one.add_text("/b/c", "1");
        one.add_text("/a", "2");
        let mut other = RootFs::default();
        other.add_text("/a", "2");
        other.add_text("/b/c", "1");
        assert_eq!(one, other);
        let paths: Vec<_> = one.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["/a", "/b", "/b/c"].map(Path::new));
    }
}
