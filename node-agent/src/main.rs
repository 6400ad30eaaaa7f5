//! The node agent.
#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;
use monok8s_node_agent::{args::Args, run::daemon};

/// How long blocking work may take to end after everything else has. Together with the executor's own limit this is
/// within the 10 s that the agent has after SIGTERM.
const LAST_WORK: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(e) = monok8s_telemetry::logs::init(args.log_format) {
        eprintln!("{e}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("no threads to run on: {e}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(daemon::run(args));
    runtime.shutdown_timeout(LAST_WORK);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    }
}
