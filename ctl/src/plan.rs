//! `ctl plan`: what an upgrade would do, judged by the same pure code that the controller and the
//! agents act on.

mod decide;
mod say;
mod source;
mod world;

use std::{io, path::PathBuf};

use monok8s_api::OSUpgrade;
use serde_json::Value;

use crate::{
    answer::Answer,
    cli::PlanArgs,
    input::{self, InputError, Source},
};
use decide::Plan;
use source::Sources;
use world::World;

/// Largest file with an upgrade and the ConfigMaps that go with it, in bytes.
const MAX_FILE: usize = 16 * 1024 * 1024;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("{file} is not YAML or JSON: {cause}")]
    NotYaml { file: String, cause: String },
    #[error("{file}: document {number} is no valid {kind}: {cause}")]
    NotAnObject {
        file: String,
        number: usize,
        kind: String,
        cause: serde_json::Error,
    },
    #[error(
        "there is no OSUpgrade in {file}; name the file that you would give to kubectl apply -f"
    )]
    NoUpgrade { file: String },
    #[error("cannot read the folder {}: {cause}", .folder.display())]
    Folder { folder: PathBuf, cause: io::Error },
    #[error("there is no .yaml, .yml or .json file in {}", .folder.display())]
    EmptyFolder { folder: PathBuf },
    #[error(
        "there is no Node in {}; save the objects with: kubectl get nodes,osnodes,osupgrades,osupgradeprogresses -o yaml",
        .path.display()
    )]
    NoNodes { path: PathBuf },
    #[error("no cluster to ask: {cause}; set KUBECONFIG, or judge by saved objects with --objects")]
    NoCluster { cause: String },
    #[error(
        "the cluster does not say which {what} there are: {cause}; judge by saved objects with --objects, or see that you may list them"
    )]
    Cluster {
        what: &'static str,
        cause: kube::Error,
    },
    #[error("cannot begin: {0}")]
    Runtime(io::Error),
}

pub(crate) fn answer(args: &PlanArgs) -> Result<Answer, PlanError> {
    let (upgrades, brought) = what_to_judge(&args.filename)?;
    let override_text = match &args.catalog {
        Some(path) => Some(input::read(&Source::File(path.clone()), MAX_FILE)?),
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(PlanError::Runtime)?;
    let plans = runtime.block_on(async {
        let world = match &args.objects {
            Some(path) => World::saved(path)?,
            None => World::of_cluster().await?,
        };
        let sources = Sources {
            override_text,
            brought,
            world: &world,
            namespace: &args.namespace,
            allow_http: args.allow_http_catalogs,
        };
        let now = jiff::Timestamp::now();
        let mut plans = Vec::new();
        for upgrade in &upgrades {
            let catalog = sources.catalog(upgrade).await;
            plans.push(decide::plan(upgrade, catalog.as_ref(), &world, now));
        }
        Ok::<_, PlanError>(plans)
    })?;
    let is_yes = plans.iter().all(Plan::is_sound);
    Ok(Answer::new(args.output, is_yes, &plans, |plans| {
        plans.iter().map(say::plan).collect::<Vec<_>>().join("\n")
    }))
}

/// The upgrades in a file, and everything else that lies beside them.
fn what_to_judge(file: &Source) -> Result<(Vec<OSUpgrade>, Vec<Value>), PlanError> {
    let text = input::read(file, MAX_FILE)?;
    let name = file.to_string();
    let mut upgrades = Vec::new();
    let mut others = Vec::new();
    for (i, document) in world::documents(&text, &name)?.into_iter().enumerate() {
        if document.get("kind").and_then(Value::as_str) == Some("OSUpgrade") {
            let upgrade: OSUpgrade =
                serde_json::from_value(document).map_err(|cause| PlanError::NotAnObject {
                    file: name.clone(),
                    number: i + 1,
                    kind: "OSUpgrade".to_owned(),
                    cause,
                })?;
            upgrades.push(upgrade);
        } else {
            others.push(document);
        }
    }
    if upgrades.is_empty() {
        return Err(PlanError::NoUpgrade { file: name });
    }
    Ok((upgrades, others))
}
