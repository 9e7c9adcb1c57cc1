//! `cargo xtask test`: setup, checks, tests on the newest driver, documentation tests, tests on the old driver.
//!
//! Every step runs, whatever the ones before it found, so that one run shows everything that is wrong; only a build
//! that fails leaves nothing to run. Steps and tests are records of one [`Summary`], so "0 failed" means all of it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cli::TestOptions;
use crate::environment::{Pass, TestEnvironment};
use crate::runner::plan::{self, Case};
use crate::runner::{Depth, Limits, Run};
use crate::setup::{self, Setup, State};
use crate::summary::{Outcome, Record, Summary};
use crate::workspace::Workspace;
use crate::{checks, doctests, print_setup};

/// Runs what the options ask for, prints the report, and gives the exit status.
///
/// # Errors
///
/// Something around the tests is broken: cargo does not start, a log cannot be written.
pub(crate) fn run(workspace: &Workspace, options: &TestOptions) -> Result<ExitCode> {
    let limits = options.limits.starting_now();
    let setup = setup::run(&workspace.root, options.setup.install())?;
    if options.list {
        return list(workspace, &setup.environment, options);
    }
    print_setup(&setup);
    let mut summary = Summary::default();
    let whole = options.filter.is_empty();
    if whole {
        summary.extend(missing(&setup));
        summary.extend(checks::of_files(workspace));
        for check in checks::all(workspace) {
            summary.push(check.run(limits.deadline)?);
        }
    }
    let environment = &setup.environment;
    match cases(workspace, environment, options, limits.deadline) {
        Ok(cases) => {
            summary.extend(pass(Pass::Main, workspace, environment, limits, &cases)?);
            if whole {
                summary.extend(doctests::run(workspace, environment, limits.deadline)?);
            }
            summary.extend(pass(Pass::Old, workspace, environment, limits, &cases)?);
        }
        Err(error) => {
            let why = format!("{error:#}");
            summary.push(Record::new(
                "build of the tests",
                Outcome::Failed { why },
                Duration::ZERO,
            ));
        }
    }
    finish(&summary, options)
}

/// Runs the cases of one pass; the second needs a driver of its own.
fn pass(
    pass: Pass,
    workspace: &Workspace,
    environment: &TestEnvironment,
    limits: Limits,
    cases: &[Case],
) -> Result<Vec<Record>> {
    if pass == Pass::Old && environment.old.is_none() {
        return Ok(Vec::new());
    }
    let cases: Vec<Case> = cases.iter().filter(|case| case.belongs_to(pass)).cloned().collect();
    let logs = workspace.output_dir("logs")?;
    Run { environment, pass, depth: Depth::Usual, limits, logs: &logs }.all(&cases)
}

/// Each thing that `setup` could not get is a skipped record: tests that need it could not show anything.
fn missing(setup: &Setup) -> Vec<Record> {
    let record = |item: &setup::Item| match &item.state {
        State::Ready(_) => None,
        State::Missing { reason, .. } => {
            let outcome = Outcome::Skipped { reason: reason.clone() };
            Some(Record::new(format!("setup: {}", item.what), outcome, Duration::ZERO))
        }
    };
    setup.items.iter().filter_map(record).collect()
}

fn finish(summary: &Summary, options: &TestOptions) -> Result<ExitCode> {
    if let Some(file) = &options.json {
        summary.write_json(file)?;
    }
    println!("{summary}");
    let totals = summary.totals();
    let good = totals.failed == 0 && !(options.no_skip && totals.skipped > 0);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(
    workspace: &Workspace,
    environment: &TestEnvironment,
    options: &TestOptions,
) -> Result<ExitCode> {
    for case in cases(workspace, environment, options, None)? {
        println!("{}", case.name());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the tests and asks each binary for its own.
fn cases(
    workspace: &Workspace,
    environment: &TestEnvironment,
    options: &TestOptions,
    deadline: Option<Instant>,
) -> Result<Vec<Case>> {
    eprintln!("\n== build of the tests");
    let binaries = plan::build(workspace, &workspace.root, &["--workspace"], deadline)?;
    let log = workspace.output_dir("build")?.join("list.log");
    let variables = environment.variables(Pass::Main, std::env::var_os("LD_LIBRARY_PATH"));
    let mut cases = Vec::new();
    for binary in &binaries {
        let listed = plan::list(binary, &variables, &log)?;
        cases.extend(listed.into_iter().filter(|case| plan::wanted(&case.name(), &options.filter)));
    }
    Ok(cases)
}
