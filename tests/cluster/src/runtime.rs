//! The container runtime: containerd, its shim, runc and the network plugins, built once from the Go
//! modules of `tests/container-runtime`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use monok8s_sandbox::{
    go_modules::{self, GoModules, Recipe},
    scratch,
};

const GO_MOD: &str = include_str!("../../container-runtime/go.mod");
const CONTAINERD: &str = "github.com/containerd/containerd/v2";
const RUNC: &str = "github.com/opencontainers/runc";
const PLUGINS: &str = "github.com/containernetworking/plugins";

/// The runtime's programs.
#[derive(Clone, Debug)]
pub struct Runtime {
    folder: PathBuf,
}

impl Runtime {
    /// Builds what is not there yet, telling `say` what it does.
    pub async fn find(mut say: impl FnMut(&str)) -> Result<Self> {
        let version = |module: &str| {
            go_modules::required(GO_MOD, module)
                .with_context(|| format!("tests/container-runtime/go.mod does not pin {module}"))
        };
        let (containerd, runc, plugins) = (version(CONTAINERD)?, version(RUNC)?, version(PLUGINS)?);
        let modules = GoModules::new(
            scratch::repository().join("tests/container-runtime"),
            "container-runtime",
            format!("containerd-{containerd}_runc-{runc}_plugins-{plugins}"),
        )?;
        let mut recipes = Vec::new();
        for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
            recipes.push(Recipe {
                program: program.into(),
                package: format!("{CONTAINERD}/cmd/{program}"),
                linker: format!("-s -w -X {CONTAINERD}/version.Version={containerd}"),
                tags: &["no_btrfs", "no_devmapper", "no_zfs"],
                c_code: false,
            });
        }
        for plugin in ["main/bridge", "main/loopback", "ipam/host-local"] {
            let program = plugin.split('/').next_back().unwrap_or(plugin);
            recipes.push(Recipe {
                program: program.into(),
                package: format!("{PLUGINS}/plugins/{plugin}"),
                linker: "-s -w".into(),
                tags: &[],
                c_code: false,
            });
        }
        recipes.push(Recipe {
            program: "runc".into(),
            package: RUNC.into(),
            linker: format!("-s -w -linkmode external -extldflags -static -X main.version={runc}"),
            // Without seccomp every pod with a profile, which is every ordinary one, fails.
            tags: &["seccomp", "netgo", "osusergo"],
            c_code: true,
        });
        modules.build(&recipes, &mut say).await.context(
            "the container runtime cannot be built (runc takes gcc and the Debian packages \
             libseccomp-dev and pkg-config)",
        )?;
        let folder = modules.path("containerd");
        let folder = folder.parent().unwrap_or(Path::new("/")).to_path_buf();
        Ok(Self { folder })
    }

    /// The folder with all of them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
