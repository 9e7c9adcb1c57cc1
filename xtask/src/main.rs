//! `cargo xtask`: the developer commands of hmmap.
//!
//! `cargo xtask test` on a machine with Rust and nothing else sets up what the tests need, runs every check and every
//! test, and ends with the counts on a line of their own. Each step can be run alone. `docs/testing.md` is the page for
//! people; `cargo xtask help` lists the options.
//!
//! What is parsed or decided is pure and tested; what touches the world is thin:
//!
//! | module | pure | touches the world |
//! |---|---|---|
//! | [`setup`], [`apt`] | sources, candidates, the next step | apt, dpkg, `.dev/` |
//! | [`runner`] | cargo's messages, lists, verdicts | test processes |
//! | [`lab`] | apt's plans, what tests said | a virtual machine |
//! | [`bundle`] | what a program needs of a machine, sizes | copies, reading programs |
//! | [`summary`] | counts, slowest | the JSON file |
//! | [`mesa`], [`environment`] | versions, variables | reading manifests |

mod apt;
mod bundle;
mod checks;
mod cli;
mod deep;
mod doctests;
mod environment;
mod huge_pages;
mod interrupt;
mod lab;
mod manifest;
mod mesa;
mod process;
mod progress;
mod runner;
mod setup;
mod shaders;
mod suite;
mod summary;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser as _};

use cli::{Cli, Task};
use environment::Pass;
use summary::{Outcome, Record};
use workspace::Workspace;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    interrupt::watch()?;
    if let Task::Completions { shell } = cli.task {
        clap_complete::generate(shell, &mut Cli::command(), "cargo-xtask", &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let workspace = Workspace::find()?;
    match cli.task {
        Task::Setup(options) => {
            print_setup(&setup::run(&workspace.root, options.install())?);
            Ok(ExitCode::SUCCESS)
        }
        Task::Env { old, setup: options } => {
            let found = setup::run(&workspace.root, options.install())?;
            print_environment(&found.environment, if old { Pass::Old } else { Pass::Main });
            Ok(ExitCode::SUCCESS)
        }
        Task::Test(options) => suite::run(&workspace, &options),
        Task::Deep(options) => deep::run(&workspace, &options),
        Task::Lab(options) => lab::run(&workspace, &options),
        Task::Bundle { out } => bundle::run(&workspace, out.as_deref()),
        Task::Shaders { check: true } => shaders::check(&workspace),
        Task::Shaders { check: false } => shaders::rebuild(&workspace),
        Task::Tidy => Ok(exit_code(&checks::tidy(&workspace))),
        Task::Completions { .. } => Ok(ExitCode::SUCCESS),
    }
}

/// Failure, with its reason, for a step that was run alone.
fn exit_code(record: &Record) -> ExitCode {
    match &record.outcome {
        Outcome::Failed { why } => {
            eprintln!("{}: {why}", record.name);
            ExitCode::FAILURE
        }
        Outcome::Passed | Outcome::Skipped { .. } => ExitCode::SUCCESS,
    }
}

fn print_setup(setup: &setup::Setup) {
    println!("== setup");
    for item in &setup.items {
        println!("{item}");
    }
}

/// Lines for a shell's `eval`, so that `cargo test -p CRATE` runs as under `cargo xtask test`.
fn print_environment(environment: &environment::TestEnvironment, pass: Pass) {
    for (name, value) in environment.variables(pass, std::env::var_os("LD_LIBRARY_PATH")) {
        let value = value.to_string_lossy().replace('\'', r"'\''");
        println!("export {name}='{value}'");
    }
}
