//! The samples and the examples in the pages for users: every object is one that the API server takes,
//! every catalog one that `ctl` reads, every line of `ctl` one that runs.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use monok8s_e2e::{install, pages};
use monok8s_sandbox::{
    binaries,
    images::{self, RootFs},
    kubectl::Kubectl,
    scratch,
};
use tempfile::TempDir;

/// A file or a block of a page, and where it comes from.
struct Sample {
    place: String,
    text: String,
}

impl Sample {
    fn is_object(&self) -> bool {
        self.text
            .lines()
            .any(|line| line.starts_with("apiVersion:"))
    }
    fn is_catalog(&self) -> bool {
        !self.is_object() && self.text.lines().any(|line| line.starts_with("images:"))
    }
}

fn samples() -> Result<Vec<Sample>> {
    let root = scratch::repository();
    let mut samples = Vec::new();
    for folder in ["catalogs", "examples"] {
        for entry in
            std::fs::read_dir(root.join(folder)).with_context(|| format!("cannot list {folder}"))?
        {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "yaml") {
                let text = std::fs::read_to_string(&path)?;
                samples.push(Sample {
                    place: path.display().to_string(),
                    text,
                });
            }
        }
    }
    for block in pages::blocks()? {
        if block.language == "yaml" {
            // An entry of a catalog, shown alone.
            let entry = block.text.starts_with("- version:");
            let head = if entry { "images:\n" } else { "" };
            samples.push(Sample {
                place: block.place,
                text: format!("{head}{}", block.text),
            });
        }
    }
    ensure!(
        samples.iter().filter(|s| s.is_object()).count() >= 10,
        "too few samples were found"
    );
    Ok(samples)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_is_one_that_the_api_server_takes() -> Result<()> {
    let (_folder, plane) = install::plane("samples").await?;
    let kubectl = plane.kubectl();
    for sample in samples()? {
        if sample.is_object() {
            dry_run(&kubectl, &sample).await?;
        } else {
            ensure!(
                sample.is_catalog(),
                "{} is neither an object nor a catalog",
                sample.place
            );
        }
    }
    plane.stop().await;
    Ok(())
}

async fn dry_run(kubectl: &Kubectl, sample: &Sample) -> Result<()> {
    let applied = kubectl
        .run_with_input(
            ["apply", "--dry-run=server", "--validate=strict", "-f", "-"],
            &sample.text,
        )
        .await?;
    ensure!(
        applied.success() && applied.stderr.is_empty(),
        "{}: {}",
        sample.place,
        applied.stderr
    );
    Ok(())
}

#[test]
fn every_catalog_is_one_that_ctl_reads() -> Result<()> {
    let folder = scratch::folder("samples")?;
    let file = folder.path().join("catalog.yaml");
    let mut read = 0;
    for sample in samples()? {
        if sample.is_catalog() {
            std::fs::write(&file, &sample.text)?;
            let output = Command::new(binaries::find("ctl")?)
                .args(["catalog", "check"])
                .arg(&file)
                .output()?;
            ensure!(
                output.status.success(),
                "{}: {}",
                sample.place,
                String::from_utf8_lossy(&output.stderr)
            );
            read += 1;
        }
    }
    ensure!(read >= 2, "only {read} catalogs were found");
    Ok(())
}

/// A folder as the pages assume it: the repository's samples and an image that is not packed yet.
fn workplace() -> Result<TempDir> {
    let place = scratch::folder("samples")?;
    for name in ["catalogs", "examples", "manifests"] {
        std::os::unix::fs::symlink(scratch::repository().join(name), place.path().join(name))?;
    }
    let image = images::build(place.path(), &RootFs::new("v1.35.1"))?;
    let packed = std::fs::File::open(&image.file)?;
    let mut expanded = std::fs::File::create(place.path().join("rootfs.ext4"))?;
    zstd::stream::copy_decode(packed, &mut expanded)?;
    Ok(place)
}

/// The pages' own `ctl` lines, run against a cluster; but for those that write to a slot of the machine.
#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_ctl_runs() -> Result<()> {
    let (_folder, plane) = install::plane("samples").await?;
    let desk = workplace()?;
    let mut run = 0;
    for block in pages::blocks()? {
        for line in block
            .text
            .lines()
            .map(|line| line.split_once(" # ").map_or(line, |(command, _)| command))
            .filter(|line| block.language == "sh" && line.starts_with("ctl "))
            .filter(|line| !line.starts_with("ctl image write "))
        {
            let output = Command::new(binaries::find("ctl")?)
                .args(line.split_whitespace().skip(1))
                .current_dir(desk.path())
                .env("KUBECONFIG", plane.admin_kubeconfig())
                .output()?;
            let complaint = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "{}: `{line}`: {complaint}",
                block.place
            );
            ensure!(
                !output.stdout.is_empty(),
                "{}: `{line}` printed nothing",
                block.place
            );
            run += 1;
        }
    }
    ensure!(run >= 4, "only {run} lines were found");
    plane.stop().await;
    Ok(())
}

/// The pages' `kubectl` lines: each is parsed by the real `kubectl` and names what there is.
#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_kubectl_that_can_be_tried_is_right() -> Result<()> {
    let (_folder, plane) = install::plane("samples").await?;
    let kubectl = plane.kubectl();
    kubectl
        .apply(
            "apiVersion: v1\nkind: Node\nmetadata: {name: NODE}\n\
             ---\napiVersion: monok8s.io/v1alpha1\nkind: OSUpgrade\nmetadata: {name: my-upgrade}\n\
             spec: {version: v1.35.1, catalog: {url: 'https://images.example/'}}\n\
             ---\napiVersion: monok8s.io/v1alpha1\nkind: OSUpgradeProgress\n\
             metadata: {name: osupgrade-x7k2m9q4ab}\nspec: {sourceRef: {name: my-upgrade}, nodeName: NODE}\n"
                .replace("NODE", "node-0")
                .as_str(),
        )
        .await?;
    let mut tried = 0;
    for block in pages::blocks()? {
        for line in block
            .text
            .lines()
            .filter(|line| block.language == "sh" && line.starts_with("kubectl "))
        {
            let mut arguments = words(&line.replace("NODE", "node-0"));
            arguments.remove(0);
            match arguments.first().map(String::as_str) {
                Some("get" | "describe") => {}
                Some("patch" | "label" | "annotate" | "apply" | "create" | "delete") => {
                    arguments.push("--dry-run=server".into());
                }
                // They need nodes that run.
                Some("wait" | "drain" | "uncordon") => continue,
                other => bail!("{}: no way to try kubectl {other:?}", block.place),
            }
            let output = kubectl
                .command(&arguments)
                .current_dir(scratch::repository())
                .output()
                .await
                .context("cannot run kubectl")?;
            let complaint = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "{}: `{line}`: {complaint}",
                block.place
            );
            tried += 1;
        }
    }
    ensure!(tried >= 10, "only {tried} lines were found");
    plane.stop().await;
    Ok(())
}

/// Splits a line as a shell does, as far as the pages go: blanks outside single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}
