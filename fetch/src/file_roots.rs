//! The folders of this machine that a `file` URL may name an image in. Pure.

use std::path::{Component, Path, PathBuf};

use crate::{refusal::PolicyRefusal, url::SourceUrl};

/// The folders that `file` URLs may name a file in. Default: none.
#[derive(Clone, Debug, Default)]
pub struct FileRoots {
    machine: PathBuf,
    roots: Vec<PathBuf>,
}

/// Where a URL's file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The folder, as this program sees it.
    pub(crate) folder: PathBuf,
    /// The file in it.
    pub(crate) file: PathBuf,
}

impl FileRoots {
    /// Absolute folders, as they are called on the machine whose `/` is at `machine` (`/` itself
    /// where the program runs in no container). Links that lead out of such a folder are not
    /// followed; other file systems that are mounted below it are part of it.
    pub fn new(machine: impl Into<PathBuf>, roots: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            machine: machine.into(),
            roots: roots.into_iter().collect(),
        }
    }

    /// The root that a URL's file is in, and the rest of its path.
    pub(crate) fn place(&self, url: &SourceUrl) -> Result<Place, PolicyRefusal> {
        let path = url
            .full()
            .to_file_path()
            .map_err(|()| PolicyRefusal::NotAUrl)?;
        if self.roots.is_empty() {
            return Err(PolicyRefusal::NoRoots);
        }
        // The URL's parser has resolved `..`, but not one that was escaped.
        let is_plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        self.roots
            .iter()
            .filter(|_| is_plain)
            .find_map(|root| {
                let file = path.strip_prefix(root).ok()?;
                (file != Path::new("")).then(|| Place {
                    folder: self.machine.join(root.strip_prefix("/").unwrap_or(root)),
                    file: file.to_owned(),
                })
            })
            .ok_or_else(|| PolicyRefusal::OutsideRoots {
                allowed: self
                    .roots
                    .iter()
                    .map(|root| root.display().to_string())
                    .collect(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_files_are_in_a_root() {
        let roots = FileRoots::new("/host", ["/run/media".into(), "/srv/images".into()]);
        for (url, expected) in [
            (
                "file:///run/media/stick/a.zst",
                Some(("/run/media", "stick/a.zst")),
            ),
            ("file:///srv/images/a%20b", Some(("/srv/images", "a b"))),
            ("file:///run/media/../media/a", Some(("/run/media", "a"))),
            ("file:///run/media", None),
            ("file:///run/media/", None),
            ("file:///run/mediaeval/a", None),
            ("file:///run/media/../../etc/shadow", None),
            ("file:///run/media/%2e%2e/shadow", None),
            ("file:///run/media/x/%2E%2E/%2E%2E/shadow", None),
            ("file:///run/media/..%2fshadow", None),
            ("file:///etc/shadow", None),
        ] {
            let place = roots.place(&url.parse().unwrap());
            match (place, expected) {
                (Ok(place), Some((folder, file))) => {
                    let (folder, file) = (format!("/host{folder}").into(), file.into());
                    assert_eq!(place, Place { folder, file }, "{url}");
                }
                (Err(PolicyRefusal::OutsideRoots { .. }), None) => {}
                (found, _) => panic!("{url}: {found:?}"),
            }
        }
        let none = FileRoots::default();
        assert_eq!(
            none.place(&"file:///a".parse().unwrap()),
            Err(PolicyRefusal::NoRoots)
        );
    }
}
