//! `ctl`: what a person types at a prompt.
//!
//! It prints what the cluster is to be given, judges catalogs, shows what an upgrade would do, and
//! packs, examines and writes images. Only packing and writing change anything. The exit code is 0 when the answer is yes, 1 when it is no (a catalog that
//! is wrong, a version that is refused), and 2 when the question could not be asked.
#![forbid(unsafe_code)]
#![allow(
    clippy::doc_markdown,
    reason = "doc comments of arguments are what --help prints, where backticks are noise"
)]

mod answer;
mod catalog;
mod cli;
mod create;
mod image;
mod input;
mod plan;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::{
    answer::Answer,
    cli::{CatalogCommand, Cli, Command},
};

fn main() -> ExitCode {
    match answer(Cli::parse().command) {
        Ok(answer) => answer.print(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(answer::COULD_NOT_ASK)
        }
    }
}

fn answer(command: Command) -> Result<Answer, Error> {
    match command {
        Command::Create { what } => Ok(create::answer(&what)?),
        Command::Catalog { command } => match command {
            CatalogCommand::Check(args) => Ok(catalog::check(&args)?),
            CatalogCommand::Resolve(args) => Ok(catalog::resolve(&args)?),
        },
        Command::Plan(args) => Ok(plan::answer(&args)?),
        Command::Image { command } => Ok(image::answer(&command)?),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ctl", &mut script);
            Ok(Answer::yes(String::from_utf8_lossy(&script).into_owned()))
        }
    }
}

/// Why a question could not be asked.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Create(#[from] create::CreateError),
    #[error(transparent)]
    Image(#[from] image::ImageError),
    #[error(transparent)]
    Input(#[from] input::InputError),
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
}
