//! Programs built once from pinned Go modules, and kept in the user's cache folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// A program to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What the program's file is called.
    pub program: String,
    /// The package that is built.
    pub package: String,
    /// What the linker is told (`go build -ldflags`).
    pub linker: String,
    /// Build tags.
    pub tags: &'static [&'static str],
    /// Whether it holds C code, which takes a C compiler.
    pub c_code: bool,
}

/// A folder with a `go.mod`, and where what is built from it is kept.
#[derive(Clone, Debug)]
pub struct GoModules {
    modules: PathBuf,
    cache: PathBuf,
    version: String,
}

impl GoModules {
    /// `modules` is the folder with `go.mod`. Programs are kept by `kind` and `version` in the user's
    /// cache folder.
    pub fn new(
        modules: impl Into<PathBuf>,
        kind: &str,
        version: impl Into<String>,
    ) -> Result<Self> {
        let version = version.into();
        Ok(Self {
            modules: modules.into(),
            cache: user_cache()?.join("monok8s").join(kind).join(&version),
            version,
        })
    }

    /// Where a program is once it is built.
    pub fn path(&self, program: &str) -> PathBuf {
        self.cache.join(program)
    }

    /// Builds those programs that are not there yet, one after the other, telling `say` of each.
    pub async fn build(&self, recipes: &[Recipe], say: &mut impl FnMut(&str)) -> Result<()> {
        let there = |recipe: &&Recipe| self.path(&recipe.program).is_file();
        if recipes.iter().all(|recipe| there(&recipe)) {
            return Ok(());
        }
        fs::create_dir_all(&self.cache)
            .with_context(|| format!("cannot make {}", self.cache.display()))?;
        let lock = self.lock(say).await?;
        for recipe in recipes {
            if there(&recipe) {
                continue;
            }
            let program = &recipe.program;
            say(&format!(
                "building {program} from the Go modules of {}: once, it takes minutes and is kept in {}",
                self.version,
                self.cache.display()
            ));
            let start = Instant::now();
            self.build_one(recipe).await?;
            say(&format!(
                "built {program} in {} s",
                start.elapsed().as_secs()
            ));
        }
        drop(lock);
        Ok(())
    }

    /// Waits until no other process builds.
    async fn lock(&self, say: &mut impl FnMut(&str)) -> Result<File> {
        let path = self.cache.join(".lock");
        let file =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if file.try_lock().is_err() {
            say("another process is building the same programs, waiting for it");
            let waited = file.try_clone().context("cannot share the lock")?;
            tokio::task::spawn_blocking(move || waited.lock())
                .await
                .context("the wait for the lock ended")?
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }

    async fn build_one(&self, recipe: &Recipe) -> Result<()> {
        let Recipe {
            program, package, ..
        } = recipe;
        let path = self.path(program);
        let temporary = path.with_file_name(format!(".{program}.{}", std::process::id()));
        let output = Command::new("go")
            .args(["build", "-trimpath", "-ldflags", &recipe.linker])
            .args(["-tags", &recipe.tags.join(",")])
            .arg("-o")
            .args([temporary.as_path(), Path::new(package)])
            .current_dir(&self.modules)
            .env("CGO_ENABLED", if recipe.c_code { "1" } else { "0" })
            .env("GOFLAGS", "-buildvcs=false")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let output = match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{program} is not here, and go, which would build it, is not installed: install Go from https://go.dev/dl"
            ),
            other => other.context("cannot run go")?,
        };
        if !output.status.success() {
            let _ = fs::remove_file(&temporary);
            bail!(
                "go build {package} failed in {}:\n{}",
                self.modules.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        fs::rename(&temporary, &path).with_context(|| format!("cannot name {}", path.display()))
    }
}

/// The version of `module` that the text of a `go.mod` requires.
pub fn required<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let line = line.trim_start_matches("require ").trim();
        let rest = line.strip_prefix(module)?.strip_prefix(' ')?;
        rest.split_whitespace()
            .next()
            .filter(|version| version.starts_with('v'))
    })
}

/// The user's folder for what can be made again.
fn user_cache() -> Result<PathBuf> {
    match std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => Ok(std::env::home_dir()
            .context("neither XDG_CACHE_HOME nor HOME is set")?
            .join(".cache")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_required_version_is_found() {
        let text = "module m\n\nrequire k8s.io/kubernetes v1.36.3 // indirect\n\nrequire (\n\tk8s.io/kubernetes-not v0.1.0\n\tgithub.com/a/b/v2 v2.4.2 // indirect\n)\n";
        assert_eq!(required(text, "k8s.io/kubernetes"), Some("v1.36.3"));
        assert_eq!(required(text, "github.com/a/b/v2"), Some("v2.4.2"));
        assert_eq!(required(text, "github.com/a/b"), None);
    }
}
