//! `cargo xtask lab`: tests on devices that this machine does not have, in a virtual machine that it makes.
//!
//! QEMU, by plain emulation, has an IOMMU and PCI devices that do DMA; a stock Debian kernel drives them. The host's file system is the machine's, read-only, so the
//! very test binaries that cargo built here run there. `docs/lab.md` is the page for people.
//!
//! ```text
//! packages   QEMU, kernel, busybox: downloaded and unpacked into .dev/lab, nothing is installed
//! initramfs  busybox, kernel modules in order, a script that mounts the host's files and runs a job
//! machine    what QEMU is told; one boot; the job's output and status come back as files
//! verdict    of each test by its line, as for any other test
//! ```
//!
//! A machine that does not come to its end is started once more, since that is QEMU's fault more often than the tests'; a test that fails is not tried again.

mod initramfs;
mod machine;
mod modules;
mod packages;
mod report;
mod sessions;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::cli::LabOptions;
use crate::environment::{Pass, TestEnvironment};
use crate::runner::{Depth, plan};
use crate::setup::{self, Install};
use crate::suite::EVERYTHING;
use crate::summary::{Outcome, Record, Summary};
use crate::workspace::Workspace;
use machine::Boot;
use packages::{Kernel, Packages};
use sessions::{SESSIONS, Series, Session};

/// What is returned when the lab cannot be had here: neither success nor failure.
const SKIPPED: u8 = 77;

/// The test programs that show nothing anywhere else.
pub(crate) const ONLY_HERE: [&str; 2] = ["hmmap-vfio::lab", "hmmap::lab_vulkan"];

/// The lab as a part of something larger.
#[derive(Debug)]
pub(crate) struct Lab<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) environment: &'a TestEnvironment,
    pub(crate) install: Install,
    pub(crate) depth: Depth,
    /// Only tests with one of these words in their name.
    pub(crate) filter: &'a [String],
    /// The longest that one boot may take; `None`: what its session is given.
    pub(crate) boot_limit: Option<Duration>,
    /// When all has to be over.
    pub(crate) deadline: Option<Instant>,
}

/// `cargo xtask lab`.
///
/// # Errors
///
/// Something around the tests is broken: they do not build, a file cannot be written.
pub(crate) fn run(workspace: &Workspace, options: &LabOptions) -> Result<ExitCode> {
    let install = options.setup.install();
    let found = setup::run(&workspace.root, install)?;
    let lab = Lab {
        workspace,
        environment: &found.environment,
        install,
        depth: if options.deep { Depth::Deep } else { Depth::Usual },
        filter: &options.filter,
        boot_limit: options.limit_s.map(Duration::from_secs),
        deadline: None,
    };
    let packages = match lab.packages() {
        Ok(packages) => packages,
        Err(why) => {
            println!("lab: skipped: {why:#}");
            return Ok(ExitCode::from(SKIPPED));
        }
    };
    let mut summary = Summary::default();
    summary.extend(lab.sessions(&packages)?);
    println!("{summary}");
    Ok(if summary.totals().failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Lab<'_> {
    /// One record per test; a skipped one where the machine cannot be had here.
    pub(crate) fn records(&self) -> Vec<Record> {
        let whole = |outcome| vec![Record::new("lab", outcome, Duration::ZERO)];
        match self.packages() {
            Err(why) => whole(Outcome::Skipped { reason: format!("{why:#}") }),
            Ok(packages) => self
                .sessions(&packages)
                .unwrap_or_else(|error| whole(Outcome::Failed { why: format!("{error:#}") })),
        }
    }

    fn packages(&self) -> Result<Packages> {
        println!("\n== lab");
        let begun = Instant::now();
        let packages = packages::ensure(&self.workspace.root, self.install);
        println!("lab: packages: {:.0} s", begun.elapsed().as_secs_f64());
        packages
    }

    fn sessions(&self, packages: &Packages) -> Result<Vec<Record>> {
        let binaries = self.build()?;
        let (mut records, mut counted) = (Vec::new(), BTreeMap::new());
        for session in SESSIONS.iter().filter(|session| session.is_for(self.depth)) {
            let kernel = match session.series {
                Series::Newest => Some(&packages.kernel),
                Series::Stock => packages.stock.as_ref(),
            };
            let Some(kernel) = kernel else {
                let reason = "the release has no kernel of this series".to_owned();
                let outcome = Outcome::Skipped { reason };
                let name = format!("lab {}", session.name);
                records.push(Record::new(name, outcome, Duration::ZERO));
                continue;
            };
            let begun = Instant::now();
            let (of_session, counts) = self.session(packages, kernel, session, &binaries)?;
            for (what, count) in counts {
                *counted.entry(what).or_insert(0) += count;
            }
            let failed = of_session.iter().filter(|record| record.failed()).count();
            records.extend(of_session);
            let outcome = match failed {
                0 => Outcome::Passed,
                failed => Outcome::Failed { why: format!("{failed} of its tests") },
            };
            records.push(Record::new(format!("lab {}", session.name), outcome, begun.elapsed()));
        }
        println!("\nlab: counted:");
        counted.iter().for_each(|(what, count): (_, &u64)| println!("  {count:>12} {what}"));
        Ok(records)
    }

    /// Builds what any session runs, as the suite builds it.
    fn build(&self) -> Result<Vec<plan::Binary>> {
        let begun = Instant::now();
        let mut words = EVERYTHING.to_vec();
        let mut targets: Vec<_> = SESSIONS.iter().flat_map(|session| session.targets()).collect();
        targets.sort_unstable();
        targets.dedup();
        words.extend(targets.into_iter().flat_map(|target| ["--test", target]));
        let root = &self.workspace.root;
        let binaries = plan::build(self.workspace, root, &words, self.deadline)?;
        println!("lab: build: {:.0} s", begun.elapsed().as_secs_f64());
        Ok(binaries)
    }

    /// One machine, booted once more when it leaves no result.
    fn session(
        &self,
        packages: &Packages,
        kernel: &Kernel,
        session: &Session,
        binaries: &[plan::Binary],
    ) -> Result<(Vec<Record>, BTreeMap<String, u64>)> {
        let programs = session.programs(self.depth, binaries, self.filter)?;
        let mut variables = self.environment.variables(Pass::Main, None);
        if self.depth == Depth::Deep {
            variables.push(("HMMAP_DEEP", "1".into()));
        }
        let dir = self.workspace.output_dir("lab")?.join(session.name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let limit = self.boot_limit.unwrap_or(session.limit(self.depth));
        let iommu = session.iommu;
        let boot = Boot { packages, kernel, iommu, dir: &dir, limit, deadline: self.deadline };
        boot.prepare(&initramfs::job(&programs, &variables))?;
        let results = match boot.run()? {
            Some(results) => Some(results),
            None => {
                println!("lab {}: the machine gave no result; once more", session.name);
                boot.run()?
            }
        };
        let Some(results) = results else {
            let why = format!("no result, twice; see {}", boot.console().display());
            let name = format!("lab {}: machine", session.name);
            let record = Record::new(name, Outcome::Failed { why }, Duration::ZERO);
            return Ok((vec![record], BTreeMap::new()));
        };
        let tests = report::read(&results.output);
        print!("{}", report::show(&tests, &results));
        ensure!(!programs.is_empty(), "no program was built for {}", session.name);
        let mut records = report::records(session.name, &tests, &results);
        if !self.filter.is_empty() {
            // Words that choose may choose nothing here.
            records.retain(|record| !record.failed() || !tests.is_empty());
        }
        Ok((records, report::totals(&tests)))
    }
}
