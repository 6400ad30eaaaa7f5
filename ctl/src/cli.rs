//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use monok8s_api::{NAMESPACE, Version};

use crate::{answer::Format, image::ImageCommand, input::Source};

const EXIT_CODES: &str = "Exit code: 0 yes, 1 no, 2 the question could not be asked.";

/// Manifests, catalogs, plans and images of the MonoK8s OTA system. Only `image pack` and `image write`
/// change anything.
#[derive(Debug, Parser)]
#[command(name = "ctl", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print what the cluster needs; pipe it into `kubectl apply -f -`.
    Create {
        #[command(subcommand)]
        what: CreateCommand,
    },
    /// Judge an image catalog.
    Catalog {
        #[command(subcommand)]
        command: CatalogCommand,
    },
    /// Show what an OSUpgrade would do: who would go, in which hops, who refuses and why.
    #[command(after_help = EXIT_CODES)]
    Plan(PlanArgs),
    /// Pack an image, look into one, write one to a slot.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Print a completion script, for example `source <(ctl completions bash)`.
    Completions {
        /// The shell that it is for.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CreateCommand {
    /// Namespace, CRDs, the role for people who upgrade, and the controller.
    Controller(CreateArgs),
    /// Namespace, and the agent on every managed node with its fence.
    Agent(CreateArgs),
    /// The CustomResourceDefinitions alone.
    Crds {
        /// How to print them.
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: Format,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Container image to run, pulled when it is not there. Default: localhost/monok8s/ota:local,
    /// which every OS image carries and which is never pulled.
    #[arg(long, value_name = "REPO/IMAGE:TAG")]
    pub(crate) image: Option<String>,
    /// How to print it; text is YAML.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogCommand {
    /// Say whether a file is a catalog, and what in it will be refused later.
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Print the hops that take a node to a version, or why there are none.
    #[command(after_help = EXIT_CODES)]
    Resolve(ResolveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The catalog; - reads standard input.
    pub(crate) file: Source,
    /// Answer no to warnings as well, for a catalog that is about to be published.
    #[arg(long)]
    pub(crate) strict: bool,
    /// How to print the answer.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ResolveArgs {
    /// The catalog; - reads standard input.
    pub(crate) file: Source,
    /// What to ask for, as in spec.version: a version or an alias of the catalog.
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: String,
    /// What the node runs.
    #[arg(long, value_name = "VERSION")]
    pub(crate) current: Version,
    /// The node's platform, as in OSNode.
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    pub(crate) platform: String,
    /// As allowDowngrade in the spec: the node may go to a lower version.
    #[arg(long)]
    pub(crate) allow_downgrade: bool,
    /// How to print the answer.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The OSUpgrade, as for `kubectl apply -f`; - reads standard input. May hold several, and the
    /// ConfigMaps with their catalogs.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) filename: Source,
    /// Judge by saved objects instead of the cluster: what `kubectl get
    /// nodes,osnodes,osupgrades,osupgradeprogresses -o yaml` prints, in a file or in the .yaml,
    /// .yml and .json files of a folder.
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) objects: Option<PathBuf>,
    /// Use this catalog instead of the one that the upgrade names.
    #[arg(long, value_name = "FILE")]
    pub(crate) catalog: Option<PathBuf>,
    /// The controller's namespace, where ConfigMaps with catalogs are.
    #[arg(long, default_value = NAMESPACE)]
    pub(crate) namespace: String,
    /// Fetch catalogs by plain http as well, as the controller does with the same flag.
    #[arg(long)]
    pub(crate) allow_http_catalogs: bool,
    /// How to print the answer.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
}
