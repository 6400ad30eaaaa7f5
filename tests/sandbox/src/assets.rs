//! The control plane's programs: found where the envtest convention puts them, on `PATH`, or built
//! once from Go modules.

use std::{
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{
    go_modules::{self, GoModules, Recipe},
    scratch,
};

/// Variable that names a folder with the programs, as in controller-runtime's envtest.
pub const VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// The oldest Kubernetes the project supports: tokens bound to a Node and selectable fields of
/// custom resources are final in it.
const OLDEST: Release = Release {
    major: 1,
    minor: 34,
};
/// The oldest etcd a supported API server works with.
const OLDEST_ETCD: Release = Release { major: 3, minor: 5 };

/// How long a program may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(60);

const GO_MOD: &str = include_str!("../../control-plane/go.mod");
/// The build's package that holds Kubernetes' version.
const VERSION_PACKAGE: &str = "k8s.io/component-base/version";

/// The four programs.
#[derive(Clone, Debug)]
pub struct Assets {
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// Its database.
    pub etcd: PathBuf,
    /// The controllers: garbage collector, node lifecycle, service accounts.
    pub kube_controller_manager: PathBuf,
    /// The command line client.
    pub kubectl: PathBuf,
}

/// Major and minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release {
    major: u32,
    minor: u32,
}

impl Release {
    /// The first `N.N` in what a program prints for its version.
    fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let mut parts = word.trim_start_matches('v').split('.');
            let major = parts.next()?.parse().ok()?;
            let minor = parts.next()?.parse().ok()?;
            Some(Self { major, minor })
        })
    }
}

/// A component, and how it tells its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Component {
    ApiServer,
    Etcd,
    ControllerManager,
    Kubectl,
    Scheduler,
    Kubelet,
}

impl Component {
    fn program(self) -> &'static str {
        match self {
            Self::ApiServer => "kube-apiserver",
            Self::Etcd => "etcd",
            Self::ControllerManager => "kube-controller-manager",
            Self::Kubectl => "kubectl",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
        }
    }

    fn version_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kubectl => &["version", "--client"],
            _ => &["--version"],
        }
    }

    /// Whether a `release` of it can be used, beside an API server of release `server` if that is
    /// chosen already.
    fn fits(self, release: Release, server: Option<Release>) -> bool {
        let near = |server: Release| {
            server.major == release.major
                && match self {
                    // Kubernetes' version skew policy: these are never newer.
                    Self::ControllerManager | Self::Scheduler | Self::Kubelet => {
                        release.minor == server.minor || release.minor + 1 == server.minor
                    }
                    Self::Kubectl => release.minor.abs_diff(server.minor) <= 1,
                    Self::ApiServer | Self::Etcd => true,
                }
        };
        match self {
            Self::Etcd => release >= OLDEST_ETCD,
            Self::ApiServer => release >= OLDEST,
            Self::ControllerManager | Self::Kubectl | Self::Scheduler | Self::Kubelet => {
                release >= OLDEST && server.is_none_or(near)
            }
        }
    }
}

impl Assets {
    /// Finds the programs, or builds those that are missing, telling `say` what it does, line by
    /// line.
    pub async fn find(mut say: impl FnMut(&str)) -> Result<Self> {
        let folders = search_folders(std::env::var_os(VARIABLE), std::env::var_os("PATH"));
        let found = Found::in_folders(&folders, pinned_release()?).await;
        let modules = modules()?;
        build(&modules, &found.missing(), &mut say).await?;
        let built = |found: Option<PathBuf>, component: Component| {
            found.unwrap_or_else(|| modules.path(component.program()))
        };
        Ok(Self {
            kube_apiserver: built(found.api_server, Component::ApiServer),
            etcd: built(found.etcd, Component::Etcd),
            kube_controller_manager: built(found.manager, Component::ControllerManager),
            kubectl: built(found.kubectl, Component::Kubectl),
        })
    }
}

/// What a cluster needs besides when pods run in it.
#[derive(Clone, Debug)]
pub struct PodAssets {
    /// Places pods on nodes.
    pub kube_scheduler: PathBuf,
    /// Runs a node's pods.
    pub kubelet: PathBuf,
}

impl PodAssets {
    /// Finds the programs that fit the control plane's, or builds them.
    pub async fn find(assets: &Assets, mut say: impl FnMut(&str)) -> Result<Self> {
        let folders = search_folders(std::env::var_os(VARIABLE), std::env::var_os("PATH"));
        let server = release_of(&assets.kube_apiserver, Component::ApiServer)
            .await
            .with_context(|| assets.kube_apiserver.display().to_string())?;
        let modules = modules()?;
        let mut paths = Vec::new();
        for component in [Component::Scheduler, Component::Kubelet] {
            let found = find_in(&folders, component, Some(server)).await;
            if found.is_none() {
                if !component.fits(pinned_release()?, Some(server)) {
                    bail!(
                        "no {} here fits the API server {}.{}, and the one that would be built, {}, does not either",
                        component.program(),
                        server.major,
                        server.minor,
                        pinned()?
                    );
                }
                build(&modules, &[component], &mut say).await?;
            }
            paths.push(found.map_or_else(|| modules.path(component.program()), |(path, _)| path));
        }
        let mut paths = paths.into_iter();
        let mut next = || paths.next().context("a program is missing");
        Ok(Self {
            kube_scheduler: next()?,
            kubelet: next()?,
        })
    }
}

/// What is to be had without building.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    etcd: Option<PathBuf>,
    api_server: Option<PathBuf>,
    manager: Option<PathBuf>,
    kubectl: Option<PathBuf>,
}

impl Found {
    /// Looks for a set that fits together, where what is missing will be of the release `built`.
    async fn in_folders(folders: &[PathBuf], built: Release) -> Self {
        let path = |found: Option<(PathBuf, Release)>| found.map(|(path, _)| path);
        let etcd = path(find_in(folders, Component::Etcd, None).await);
        let server = find_in(folders, Component::ApiServer, None).await;
        // With the API server that was found, unless what must be built would not fit it.
        for server in [server, None] {
            let release = server.as_ref().map_or(built, |(_, release)| *release);
            let manager = path(find_in(folders, Component::ControllerManager, Some(release)).await);
            let kubectl = path(find_in(folders, Component::Kubectl, Some(release)).await);
            let fits = |found: &Option<PathBuf>, component: Component| {
                found.is_some() || component.fits(built, Some(release))
            };
            if fits(&manager, Component::ControllerManager) && fits(&kubectl, Component::Kubectl) {
                return Self {
                    etcd,
                    api_server: path(server),
                    manager,
                    kubectl,
                };
            }
        }
        Self {
            etcd,
            ..Self::default()
        }
    }

    fn missing(&self) -> Vec<Component> {
        [
            (&self.etcd, Component::Etcd),
            (&self.api_server, Component::ApiServer),
            (&self.manager, Component::ControllerManager),
            (&self.kubectl, Component::Kubectl),
        ]
        .into_iter()
        .filter_map(|(found, component)| found.is_none().then_some(component))
        .collect()
    }
}

fn search_folders(assets: Option<OsString>, path: Option<OsString>) -> Vec<PathBuf> {
    let path = path.unwrap_or_default();
    assets
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&path))
        .collect()
}

/// The first program in `folders` that tells a version that fits.
async fn find_in(
    folders: &[PathBuf],
    component: Component,
    server: Option<Release>,
) -> Option<(PathBuf, Release)> {
    for folder in folders {
        let path = folder.join(component.program());
        if !path.is_file() {
            continue;
        }
        match release_of(&path, component).await {
            Ok(release) if component.fits(release, server) => return Some((path, release)),
            Ok(release) => tracing::info!(
                path = %path.display(),
                "not used: {}.{} does not fit (Kubernetes 1.34 or newer, kubectl within one minor)",
                release.major, release.minor
            ),
            Err(error) => tracing::info!(path = %path.display(), "not used: {error:#}"),
        }
    }
    None
}

async fn release_of(path: &Path, component: Component) -> Result<Release> {
    let run = Command::new(path)
        .args(component.version_arguments())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_LIMIT, run)
        .await
        .with_context(|| {
            format!(
                "did not tell its version within {} s",
                VERSION_LIMIT.as_secs()
            )
        })?
        .context("cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Release::find(&text).context("does not tell its version")
}

/// The Kubernetes version that go.mod pins, such as `v1.36.3`.
fn pinned() -> Result<&'static str> {
    go_modules::required(GO_MOD, "k8s.io/kubernetes")
        .context("tests/control-plane/go.mod does not pin k8s.io/kubernetes")
}

fn pinned_release() -> Result<Release> {
    Release::find(pinned()?).context("the pinned version is none")
}

/// What is built, and where it is kept.
fn modules() -> Result<GoModules> {
    let folder = scratch::repository().join("tests").join("control-plane");
    GoModules::new(folder, "control-plane", pinned()?)
}

fn recipe(component: Component) -> Result<Recipe> {
    let program = component.program();
    let mut linker = String::from("-s -w");
    let package = if component == Component::Etcd {
        String::from("go.etcd.io/etcd/server/v3")
    } else {
        let release = pinned_release()?;
        for (variable, value) in [
            ("gitVersion", pinned()?.to_owned()),
            ("gitMajor", release.major.to_string()),
            ("gitMinor", release.minor.to_string()),
        ] {
            let _ = write!(linker, " -X {VERSION_PACKAGE}.{variable}={value}");
        }
        format!("k8s.io/kubernetes/cmd/{program}")
    };
    Ok(Recipe {
        program: program.into(),
        package,
        linker,
        tags: &[],
        c_code: false,
    })
}

/// Builds what is not there yet.
async fn build(
    modules: &GoModules,
    components: &[Component],
    say: &mut impl FnMut(&str),
) -> Result<()> {
    let recipes = components.iter().map(|component| recipe(*component));
    let recipes: Vec<Recipe> = recipes.collect::<Result<_>>()?;
    modules.build(&recipes, say).await.with_context(|| {
        format!(
            "{VARIABLE} may name a folder with the programs of Kubernetes 1.34 or newer instead"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn program(folder: &Path, name: &str, prints: &str) {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        // Copied by another process: this one may be forked by another test while the file is open
        // for writing, and a program that anybody has open for writing cannot be run.
        let text = folder.join("text");
        fs::write(&text, format!("#!/bin/sh\n{prints}\n")).unwrap();
        let copied = std::process::Command::new("cp")
            .args([&text, &path])
            .status();
        assert!(copied.unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let release = |major, minor| Some(Release { major, minor });
        assert_eq!(Release::find("Kubernetes v1.36.3\n"), release(1, 36));
        assert_eq!(
            Release::find("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0"),
            release(1, 32)
        );
        assert_eq!(
            Release::find("etcd Version: 3.6.8\nGit SHA: x"),
            release(3, 6)
        );
        assert_eq!(Release::find("no idea"), None);
        assert!(pinned().unwrap().starts_with("v1."));
    }

    const BUILT: Release = Release {
        major: 1,
        minor: 36,
    };

    /// Programs of these versions in a folder each, what is found of them, and how much is built.
    async fn found(folders: &[&[(&str, &str)]]) -> (Vec<Option<usize>>, Vec<Component>) {
        let top = tempfile::tempdir().unwrap();
        let places: Vec<PathBuf> = (0..folders.len())
            .map(|number| top.path().join(number.to_string()))
            .collect();
        for (place, programs) in places.iter().zip(folders) {
            for (name, version) in *programs {
                program(place, name, &format!("echo Version: {version}"));
            }
        }
        let found = Found::in_folders(&places, BUILT).await;
        let missing = found.missing();
        let place = |path: Option<PathBuf>| {
            places
                .iter()
                .position(|place| path.as_ref().is_some_and(|path| path.starts_with(place)))
        };
        let all = [found.etcd, found.api_server, found.manager, found.kubectl];
        (all.into_iter().map(place).collect(), missing)
    }

    #[tokio::test]
    async fn the_first_program_that_fits_is_taken_and_the_rest_is_built() {
        const SERVER: &str = "kube-apiserver";
        const MANAGER: &str = "kube-controller-manager";
        let old = [
            ("etcd", "3.4.0"),
            (SERVER, "v1.33.9"),
            (MANAGER, "v1.33.9"),
            ("kubectl", "v1.33.9"),
        ];
        let new = [
            ("etcd", "3.6.8"),
            (SERVER, "v1.35.0"),
            (MANAGER, "v1.35.0"),
            ("kubectl", "v1.35.0"),
        ];
        let (places, missing) = found(&[&old, &new]).await;
        assert_eq!((places, missing), (vec![Some(1); 4], vec![]));
        let (places, missing) = found(&[&old]).await;
        assert_eq!((places, missing.len()), (vec![None; 4], 4));

        // What an ordinary machine has: an old kubectl, or one that fits.
        assert_eq!(found(&[&[("kubectl", "v1.32.4")]]).await.1.len(), 4);
        assert_eq!(found(&[&[("kubectl", "v1.37.0")]]).await.1.len(), 3);

        // The built ones are of 1.36, which is too new for an API server of 1.34.
        let lonely = [(SERVER, "v1.34.1"), ("kubectl", "v1.34.1")];
        assert_eq!(found(&[&lonely]).await.1.len(), 4);
        let lonely = [
            (SERVER, "v1.34.1"),
            (MANAGER, "v1.34.1"),
            ("kubectl", "v1.32.4"),
        ];
        assert_eq!(found(&[&lonely]).await.1.len(), 4);
    }

    #[test]
    fn kubectl_is_within_one_minor_and_the_controller_manager_never_newer() {
        for (component, version, fits) in [
            (Component::ControllerManager, "v1.36.1", true),
            (Component::ControllerManager, "v1.35.1", true),
            (Component::ControllerManager, "v1.37.0", false),
            (Component::ControllerManager, "v1.34.0", false),
            (Component::Kubectl, "v1.37.0", true),
            (Component::Kubectl, "v1.35.0", true),
            (Component::Kubectl, "v1.38.0", false),
            (Component::Kubectl, "v1.34.0", false),
            (Component::Kubectl, "v2.36.0", false),
        ] {
            let release = Release::find(version).unwrap();
            assert_eq!(
                component.fits(release, Some(BUILT)),
                fits,
                "{component:?} {version}"
            );
        }
    }

    #[tokio::test]
    async fn a_program_that_says_nothing_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        program(folder.path(), "etcd", "exit 1");
        assert!(
            find_in(&[folder.path().to_path_buf()], Component::Etcd, None)
                .await
                .is_none()
        );
    }
}
