//! The command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum, builder::PossibleValue};
use hmmap_bench::{Case, Model, Suite};

/// Heterogeneous memory management for applications: what this machine has, and how fast it is.
#[derive(Debug, Parser)]
#[command(name = "hmmap", version, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the nodes and devices, what was tried on each, what is missing and what would help
    Info(InfoArgs),
    /// Draws the PCI tree, and says for each pair of devices whether one can reach the other's memory and whether it pays
    Topo(TopoArgs),
    /// Measures a suite beside the machine's own limits (`list` names the suites and their cases)
    Bench(BenchArgs),
    /// Writes down what a program moves and why, as a trace that Perfetto opens, and where its pages were over time
    Trace(TraceArgs),
    /// Shows nodes, budgets, rates each way by cause and the hottest vectors of a running program
    Top(TopArgs),
    /// Writes completions for a shell to the standard output
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TopoArgs {
    /// A recorded machine: the `bus` and `devices` of its sysfs, with its `cpuinfo` and `osrelease` beside them
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Measures copies between this machine's devices too, beside what was predicted; takes some seconds
    #[arg(long, conflicts_with = "root")]
    pub(crate) probe: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    pub(crate) suite: What,
    /// Only cases whose name contains this; may be given again (`list` names them)
    #[arg(long, value_name = "WORD")]
    pub(crate) case: Vec<String>,
    /// The device: its number in `hmmap info`, or part of its name; without it, the default device
    #[arg(long, value_name = "D")]
    pub(crate) device: Option<String>,
    /// The memory model; without it, each case runs under the one that it is about
    #[arg(long)]
    pub(crate) model: Option<ModelArg>,
    /// Writes the records as one JSON object (`-`: to the standard output, instead of the table)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draws the timed cases
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Fewer runs and smaller sizes: under 30 seconds a suite
    #[arg(long)]
    pub(crate) quick: bool,
    /// How long all of it may take, about: cases make fewer runs, and those that would begin later are left out
    #[arg(long, value_name = "S")]
    pub(crate) seconds: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    /// Where the trace goes: https://ui.perfetto.dev opens it
    #[arg(long, value_name = "FILE.json", default_value = "hmmap-trace.json")]
    pub(crate) out: PathBuf,
    /// Draws where each page was, over time
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) heatmap: Option<PathBuf>,
    /// Draws what each device was given, over time: the trace as a picture
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) timeline: Option<PathBuf>,
    /// The demonstration's device: its number in `hmmap info`, or part of its name; without it, the default device
    #[arg(long, value_name = "D")]
    pub(crate) device: Option<String>,
    /// Rounds of the demonstration
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) rounds: u32,
    /// A program that calls `hmmap::watch::from_environment`, with its arguments; without one, a demonstration on data more than twice its device
    #[arg(last = true, value_name = "PROGRAM", conflicts_with_all = ["device", "rounds"])]
    pub(crate) program: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// The process to look at; without it, the newest program of yours that lets others look (`HMMAP_PUBLISH=1`, `hmmap::watch::Published`)
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Runs a demonstration in this process, on data more than twice its device, and looks at that
    #[arg(long, conflicts_with = "pid")]
    pub(crate) demo: bool,
    /// The demonstration's device: its number in `hmmap info`, or part of its name
    #[arg(long, value_name = "D", requires = "demo")]
    pub(crate) device: Option<String>,
    /// One reading as text, and no more
    #[arg(long)]
    pub(crate) once: bool,
    /// One reading as a JSON object, and no more
    #[arg(long, conflicts_with = "once")]
    pub(crate) json: bool,
    /// Milliseconds between two readings
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub(crate) every_ms: u64,
    /// Draws the view as it is after some readings, in a terminal of 100 by 34, and no more
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["once", "json"])]
    pub(crate) picture: Option<PathBuf>,
}

/// What `hmmap bench` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    List,
    All,
    One(Suite),
}

impl What {
    pub(crate) fn suites(&self) -> &[Suite] {
        match self {
            Self::List => &[],
            Self::All => &Suite::ALL,
            Self::One(suite) => std::slice::from_ref(suite),
        }
    }
}

impl BenchArgs {
    /// The cases that are asked for.
    pub(crate) fn cases(&self) -> Vec<&'static Case> {
        let all = self.suite.suites().iter().flat_map(|suite| suite.cases());
        let is_wanted = |case: &&Case| {
            self.case.is_empty() || self.case.iter().any(|word| case.name.contains(word.as_str()))
        };
        all.filter(is_wanted).collect()
    }
}

impl ValueEnum for What {
    fn value_variants<'a>() -> &'a [Self] {
        const VARIANTS: [What; Suite::ALL.len() + 2] = {
            let mut variants = [What::List; Suite::ALL.len() + 2];
            variants[1] = What::All;
            let mut at = 0;
            while at < Suite::ALL.len() {
                variants[at + 2] = What::One(Suite::ALL[at]);
                at += 1;
            }
            variants
        };
        &VARIANTS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::List => PossibleValue::new("list").help("names the suites and their cases"),
            Self::All => PossibleValue::new("all").help("every suite"),
            Self::One(suite) => PossibleValue::new(suite.name()).help(suite.about()),
        })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ModelArg {
    /// Kernels work on host memory in place
    Unified,
    /// Pages move to the device
    Migrate,
}

impl From<ModelArg> for Model {
    fn from(model: ModelArg) -> Self {
        match model {
            ModelArg::Unified => Self::Unified,
            ModelArg::Migrate => Self::Migrate,
        }
    }
}
