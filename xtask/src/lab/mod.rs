//! `cargo xtask lab`: tests on devices that this machine does not have, in a virtual machine that it makes.
//!
//! QEMU, by plain emulation, has an IOMMU and PCI devices that do DMA; a stock Debian kernel drives them. The host's file system is the machine's, read-only, so the
//! very test binaries that cargo built here run there. `docs/lab.md` is the page for people.
//!
//! ```text
//! packages   QEMU, kernel, busybox: downloaded and unpacked into .dev/lab, nothing is installed
//! initramfs  busybox, nine kernel modules, a script that mounts the host's files and runs a job
//! machine    what QEMU is told; one boot; the job's output and status come back as files
//! verdict    of each test by its line, as for any other test
//! ```
//!
//! A machine that does not come to its end is started once more, since that is QEMU's fault more often than the tests'; a test that fails is not tried again.

mod initramfs;
mod machine;
mod packages;
mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::cli::LabOptions;
use crate::runner::plan;
use crate::workspace::Workspace;
use machine::Boot;

/// What is returned when the lab cannot be had here: neither success nor failure.
const SKIPPED: u8 = 77;

/// The tests that run in it: words after `cargo test --no-run`.
const TESTS: [&str; 4] = ["--package", "hmmap-vfio", "--test", "lab"];

/// Fetches what is missing, builds the tests, boots, and reports.
///
/// # Errors
///
/// The tests do not build, or the machine ends twice without a result.
pub(crate) fn run(workspace: &Workspace, options: &LabOptions) -> Result<ExitCode> {
    let begun = Instant::now();
    println!("== lab");
    let packages = match packages::ensure(&workspace.root, options.setup.install()) {
        Ok(packages) => packages,
        Err(why) => {
            println!("lab: skipped: {why:#}");
            return Ok(ExitCode::from(SKIPPED));
        }
    };
    let fetched = begun.elapsed();
    let binaries = plan::build(workspace, &workspace.root, &TESTS, None)?;
    ensure!(!binaries.is_empty(), "cargo built no test for the lab");
    let built = begun.elapsed();
    let dir = workspace.output_dir("lab")?;
    let boot = Boot { packages: &packages, dir: &dir, limit: Duration::from_secs(options.limit_s) };
    boot.prepare(&initramfs::job(&binaries, &options.filter))?;
    let mut attempts = 0;
    let results = loop {
        attempts += 1;
        match boot.run()? {
            Some(results) => break results,
            None if attempts < 2 => println!("lab: the machine gave no result; once more"),
            None => bail!("the machine gave no result, twice: {}", boot.console().display()),
        }
    };
    let tests = report::read(&results.output);
    print!("{}", report::show(&tests, &results));
    println!(
        "lab: {:.0} s: packages {:.0} s, build {:.0} s, machine {:.0} s in {attempts} boot(s)",
        begun.elapsed().as_secs_f64(),
        fetched.as_secs_f64(),
        (built - fetched).as_secs_f64(),
        (begun.elapsed() - built).as_secs_f64()
    );
    let passed = report::all_passed(&tests, &results);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
