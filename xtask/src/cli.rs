//! The commands and their options.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use crate::runner::Limits;
use crate::setup::Install;

/// Developer commands of hmmap. Start with `cargo xtask test`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Set up, then run every check and every test (about 20 minutes on 2 cores)
    #[command(after_help = AFTER_TEST)]
    Test(TestOptions),
    /// The long things: tests with larger counts, kernels rebuilt, Miri, sanitizers, loom, fuzzers
    ///
    /// A step whose tool is not here is skipped, with the reason and the command that gets the tool.
    Deep(DeepOptions),
    /// Tests on PCI devices behind an IOMMU, in a virtual machine made of Debian's packages (no KVM, no hardware)
    ///
    /// The exit status is 0 when all passed, 77 when the machine cannot be had here (the reason is printed), else 1.
    Lab(LabOptions),
    /// Find or install what the tests need: Vulkan loader, software drivers, validation layer
    ///
    /// Installs system packages as root or with a sudo that asks for no password, where there is apt; else prints the
    /// command to type. Downloads the rest into .dev/, which git ignores. Run again, it changes nothing.
    Setup(SetupOptions),
    /// Make one folder that runs and measures everything on another machine, without Rust and without a network
    ///
    /// For x86-64 Linux with the C library that this machine has, or a newer one. docs/gpu.md says what to do with it.
    Bundle {
        /// The folder [default: hmmap-bundle where cargo builds]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Compile the kernels in shaders/ anew, or check that they are up to date
    Shaders {
        /// Change nothing: compare with the manifest, and with a rebuild if the compilers are here
        #[arg(long)]
        check: bool,
    },
    /// Check the house rules that no compiler checks, over every file
    Tidy,
    /// Print the environment of the tests, for: eval "$(cargo xtask env)"
    Env {
        /// The environment of the second pass, on Mesa 22.3
        #[arg(long)]
        old: bool,
        #[command(flatten)]
        setup: SetupOptions,
    },
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

const AFTER_TEST: &str = "\
Examples:
  cargo xtask test                           everything
  cargo xtask test --list --filter coherence the names of the tests with this word
  cargo xtask test --filter coherence        setup and these tests, no other check
  cargo xtask test --json results.json       the results for a program

A test that cannot run where it is prints `HMMAP-SKIP: reason` and returns; it is counted and named at the end.
The last line is `N passed, N failed, N skipped`; the exit status is 0 if nothing failed.";

#[derive(Args, Debug)]
pub(crate) struct SetupOptions {
    /// Install and download nothing; use what there is
    #[arg(long)]
    no_install: bool,
}

impl SetupOptions {
    pub(crate) fn install(&self) -> Install {
        if self.no_install { Install::Never } else { Install::Allowed }
    }
}

#[derive(Args, Debug)]
pub(crate) struct TestOptions {
    #[command(flatten)]
    pub(crate) setup: SetupOptions,
    /// Only tests whose name contains this; may be given again. Leaves out the other checks
    #[arg(long, value_name = "WORD")]
    pub(crate) filter: Vec<String>,
    /// Print the names of the tests and run none
    #[arg(long)]
    pub(crate) list: bool,
    /// Count a skipped test as a failure
    #[arg(long)]
    pub(crate) no_skip: bool,
    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) limits: LimitOptions,
}

#[derive(Args, Debug)]
pub(crate) struct DeepOptions {
    #[command(flatten)]
    pub(crate) setup: SetupOptions,
    /// Only steps whose name contains this: suite, kernels, miri, address sanitizer, thread sanitizer, loom, fuzz, lab
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,
    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Minutes for each step, and for each test
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    limit_min: u64,
}

impl DeepOptions {
    /// The limits of the tests: one on each, none on the whole.
    pub(crate) fn limits(&self) -> Limits {
        Limits { jobs: default_jobs(), case_timeout: self.limit(), deadline: None }
    }

    /// When a step that starts now has to be over.
    pub(crate) fn step_deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.limit())
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.limit_min * 60)
    }
}

#[derive(Args, Debug)]
pub(crate) struct LabOptions {
    #[command(flatten)]
    pub(crate) setup: SetupOptions,
    /// Only tests whose name contains this; may be given again
    #[arg(long, value_name = "WORD")]
    pub(crate) filter: Vec<String>,
    /// Larger counts, and the whole conformance suite
    #[arg(long)]
    pub(crate) deep: bool,
    /// Seconds for one boot with its tests; a machine that takes longer is started once more [default: 480; deep: two hours]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) limit_s: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct LimitOptions {
    /// Tests at once [default: the number of cores, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Seconds that one test may take before it is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout_s: u64,
    /// Minutes for the whole run, to end one that hangs; what is left then is killed and reported
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    limit_min: u64,
}

impl LimitOptions {
    /// The limits of a run that starts now.
    pub(crate) fn starting_now(&self) -> Limits {
        Limits {
            jobs: self.jobs.map_or_else(default_jobs, usize::from),
            case_timeout: Duration::from_secs(self.timeout_s),
            deadline: Instant::now().checked_add(Duration::from_secs(self.limit_min * 60)),
        }
    }
}

fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["cargo xtask", "test", "--filter", "a", "--filter", "b"]);
        let Task::Test(options) = cli.task else { panic!("not test") };
        assert_eq!(options.filter, ["a", "b"]);
        assert_eq!(options.limits.starting_now().case_timeout, Duration::from_secs(300));
        assert!(Cli::try_parse_from(["cargo xtask", "test", "--jobs", "0"]).is_err());
    }
}
