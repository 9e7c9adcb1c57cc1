//! `cargo xtask test`: setup, checks, tests on the newest driver, documentation tests, tests on the old driver, the lab.
//!
//! Every step runs, whatever the ones before it found, so that one run shows everything that is wrong; only a build
//! that fails leaves nothing to run. Steps and tests are records of one [`Summary`], so "0 failed" means all of it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::cli::TestOptions;
use crate::environment::{Pass, TestEnvironment};
use crate::huge_pages::HugePages;
use crate::lab::{Lab, ONLY_HERE};
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
    let setup = setup::run(&workspace.root, options.setup.install())?;
    let tests = Tests {
        workspace,
        environment: &setup.environment,
        depth: Depth::Usual,
        limits: options.limits.starting_now(),
        filter: &options.filter,
    };
    if options.list {
        tests.cases()?.iter().for_each(|case| println!("{}", case.name()));
        return Ok(ExitCode::SUCCESS);
    }
    print_setup(&setup);
    workspace.warn_of_little_space();
    let mut summary = Summary::default();
    if options.filter.is_empty() {
        summary.extend(missing(&setup));
        summary.extend(checks::of_files(workspace));
        let outside = checks::of_own_kernel(workspace)?;
        for check in checks::of_workspace(workspace).iter().chain(&outside) {
            summary.push(check.run(tests.limits.deadline)?);
        }
    }
    summary.extend(tests.run());
    if options.filter.is_empty() {
        summary.extend(tests.lab(options.setup.install()));
    }
    if options.no_skip {
        summary.forbid_skips();
    }
    report(&summary, options.json.as_deref())
}

/// Each thing that `setup` could not get is a skipped record: tests that need it could not show anything.
pub(crate) fn missing(setup: &Setup) -> Vec<Record> {
    let record = |item: &setup::Item| match &item.state {
        State::Ready(_) => None,
        State::Missing { reason, .. } => {
            let outcome = Outcome::Skipped { reason: reason.clone() };
            Some(Record::new(format!("setup: {}", item.what), outcome, Duration::ZERO))
        }
    };
    setup.items.iter().filter_map(record).collect()
}

/// Prints the closing report, writes it for programs too where a file is named, and gives the exit status.
///
/// # Errors
///
/// The file cannot be written.
pub(crate) fn report(summary: &Summary, json: Option<&Path>) -> Result<ExitCode> {
    if let Some(file) = json {
        summary.write_json(file)?;
    }
    println!("{summary}");
    Ok(if summary.totals().failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tests of the workspace, and how to run them.
#[derive(Debug)]
pub(crate) struct Tests<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) environment: &'a TestEnvironment,
    pub(crate) depth: Depth,
    pub(crate) limits: Limits,
    /// Only tests with one of these words in their name; documentation tests only when there is no filter.
    pub(crate) filter: &'a [String],
}

impl Tests<'_> {
    /// Builds and runs them, on the newest driver and then on the old one. What goes wrong around a part of them is a
    /// failed record of that part.
    pub(crate) fn run(&self) -> Vec<Record> {
        let cases = match self.cases() {
            Ok(cases) => cases,
            Err(error) => return vec![broken("build of the tests", &error)],
        };
        // Until the last test has ended.
        let _huge_pages = HugePages::fill();
        let mut records = self.pass(Pass::Main, &cases);
        if self.filter.is_empty() {
            let deadline = self.limits.deadline;
            records.extend(
                doctests::run(self.workspace, self.environment, deadline)
                    .unwrap_or_else(|error| vec![broken("documentation tests", &error)]),
            );
        }
        records.extend(self.pass(Pass::Old, &cases));
        records
    }

    /// The tests that need another machine, in it.
    pub(crate) fn lab(&self, install: setup::Install) -> Vec<Record> {
        let lab = Lab {
            workspace: self.workspace,
            environment: self.environment,
            install,
            depth: self.depth,
            filter: self.filter,
            boot_limit: None,
            deadline: self.limits.deadline,
        };
        lab.records()
    }

    /// Builds the tests and asks each binary for its own. What shows nothing outside of the lab is left to it, unless it is asked for.
    fn cases(&self) -> Result<Vec<Case>> {
        eprintln!("\n== build of the tests");
        let workspace = self.workspace;
        let deadline = self.limits.deadline;
        let binaries = plan::build(workspace, &workspace.root, &EVERYTHING, deadline)?;
        let log = workspace.output_dir("build")?.join("list.log");
        let own_path = std::env::var_os("LD_LIBRARY_PATH");
        let variables = self.environment.variables(Pass::Main, own_path);
        let mut cases = Vec::new();
        let here =
            |binary: &&plan::Binary| !ONLY_HERE.contains(&&*binary.name) || !self.filter.is_empty();
        for binary in binaries.iter().filter(here) {
            let listed = plan::list(binary, &variables, &log)?;
            cases.extend(listed.into_iter().filter(|case| plan::wanted(&case.name(), self.filter)));
        }
        Ok(cases)
    }

    /// Runs the cases of one pass; the second needs a driver of its own.
    fn pass(&self, pass: Pass, cases: &[Case]) -> Vec<Record> {
        if pass == Pass::Old && self.environment.old.is_none() {
            return Vec::new();
        }
        let cases: Vec<Case> = cases.iter().filter(|case| case.belongs_to(pass)).cloned().collect();
        let run = || {
            let logs = self.workspace.output_dir("logs")?;
            let (environment, depth, limits) = (self.environment, self.depth, self.limits);
            Run { environment, pass, depth, limits, logs: &logs }.all(&cases)
        };
        run().unwrap_or_else(|error| vec![broken(&format!("tests ({})", pass.name()), &error)])
    }
}

/// What is built and tested: test doubles are behind features.
pub(crate) const EVERYTHING: [&str; 2] = ["--workspace", "--all-features"];

fn broken(part: &str, error: &anyhow::Error) -> Record {
    Record::new(part, Outcome::Failed { why: format!("{error:#}") }, Duration::ZERO)
}
