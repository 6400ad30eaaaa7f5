//! The controller's process: flags, logs, and an exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use monok8s_controller::runtime::{Options, run};
use monok8s_telemetry::logs;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = logs::init(options.log_format) {
        eprintln!("controller: {error}");
        return ExitCode::FAILURE;
    }
    // Of the cryptography compiled in, this is the one that both TLS users are to take. An error
    // means that there is one already.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    match Box::pin(run(options)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
