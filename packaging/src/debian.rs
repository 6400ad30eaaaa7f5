//! Which Debian packages files come from.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// A package as it is installed here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// `libc6`.
    pub name: String,
    /// `2.36-9+deb12u14`.
    pub version: String,
    /// `amd64`, `all`, …
    pub architecture: String,
}

impl Package {
    /// What `dpkg` calls it where it is installed for several architectures.
    fn qualified(&self) -> String {
        if self.architecture == "all" {
            self.name.clone()
        } else {
            format!("{}:{}", self.name, self.architecture)
        }
    }
}

/// Why the packages could not be told.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// There is no `dpkg-query`.
    #[error(
        "which packages the shared libraries come from is asked of dpkg-query, which does not run here ({0}): \
         build the image on Debian or in a Debian container"
    )]
    NoDpkg(io::Error),
    /// No package has the file.
    #[error("{} belongs to no Debian package: the list of what is in the image would not name it", .0.display())]
    NoPackage(PathBuf),
    /// A package is missing.
    #[error("the Debian package {0} is not installed: apt-get install {0}")]
    NotInstalled(String),
    /// `dpkg-query` printed something else than it was asked for.
    #[error("dpkg-query printed {0:?}")]
    Unexpected(String),
}

/// The package that `file` belongs to.
pub fn owner(file: &Path) -> Result<Package, DebianError> {
    for name in names(file) {
        let found = query(&["--search".as_ref(), name.as_os_str()])?;
        // `libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6`
        let package = found.as_deref().and_then(|text| {
            text.lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(_, path)| Path::new(path) == name)
                .map(|(package, _)| package.to_owned())
        });
        if let Some(package) = package {
            return installed(&package);
        }
    }
    Err(DebianError::NoPackage(file.to_path_buf()))
}

/// The package called `name`, as `libc6` or `libc6:amd64`.
pub fn installed(name: &str) -> Result<Package, DebianError> {
    let format = "--showformat=${db:Status-Status} ${Package} ${Version} ${Architecture}\n";
    let text = query(&["--show".as_ref(), format.as_ref(), name.as_ref()])?;
    let text = text.ok_or_else(|| DebianError::NotInstalled(name.to_owned()))?;
    let line = text.lines().next().unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["installed", package, version, architecture] => Ok(Package {
            name: (*package).to_owned(),
            version: (*version).to_owned(),
            architecture: (*architecture).to_owned(),
        }),
        [_, _, _, _] => Err(DebianError::NotInstalled(name.to_owned())),
        _ => Err(DebianError::Unexpected(line.to_owned())),
    }
}

/// Every path that belongs to `package`, in dpkg's order.
pub fn files(package: &Package) -> Result<Vec<PathBuf>, DebianError> {
    let name = package.qualified();
    let text = query(&["--listfiles".as_ref(), name.as_ref()])?;
    let text = text.ok_or(DebianError::NotInstalled(name))?;
    Ok(text.lines().map(PathBuf::from).collect())
}

/// The packages' terms: path in the image and file here. Packages that share a file give it once.
pub fn copyright_files(packages: &[Package]) -> BTreeMap<PathBuf, PathBuf> {
    packages
        .iter()
        .filter_map(|package| {
            let named = Path::new("/usr/share/doc")
                .join(&package.name)
                .join("copyright");
            // The folder may be a link to that of a package of the same source.
            let file = fs::canonicalize(&named).ok()?;
            Some((named, file))
        })
        .collect()
}

/// What a file may be called in dpkg's lists, which do not know that /lib became a link to /usr/lib: as it was found,
/// with links followed, and that without its /usr.
fn names(file: &Path) -> Vec<PathBuf> {
    let mut names = vec![file.to_path_buf()];
    if let Ok(real) = fs::canonicalize(file) {
        if let Ok(short) = real.strip_prefix("/usr") {
            names.push(Path::new("/").join(short));
        }
        names.push(real);
    }
    names
}

/// What `dpkg-query` prints; none when it found nothing.
fn query(args: &[&std::ffi::OsStr]) -> Result<Option<String>, DebianError> {
    let output = Command::new("dpkg-query")
        .args(args)
        .env("LC_ALL", "C")
        .output()
        .map_err(DebianError::NoDpkg)?;
    Ok(output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}
