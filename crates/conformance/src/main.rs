//! `hmmap-conformance`: runs the suite on the devices of this machine.

use std::{fs::File, io::BufWriter, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use hmmap_conformance::{Coverage, Profile, Report, Setup, cases, modes, run_some};
use hmmap_cuda::Options as CudaOptions;
use hmmap_vulkan::Options as VulkanOptions;

/// Runs the conformance suite of hmmap: what every device must do, in every mode of it.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Only modes whose name contains this.
    #[arg(long)]
    mode: Option<String>,
    /// Only modes of this device: `embedded`, `simulated`, `vulkan`, `cuda`.
    #[arg(long)]
    device: Option<String>,
    /// Only modes in which pages move, or in which they do not.
    #[arg(long)]
    model: Option<Model>,
    /// Only cases whose name (`group::name`) contains this.
    #[arg(long)]
    filter: Option<String>,
    /// How long it may take: seconds, or minutes.
    #[arg(long, default_value = "small")]
    profile: Depth,
    /// What random choices begin with, instead of the mode's own.
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the reports into this file, as one JSON array.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Names the modes and the cases, and runs nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Model {
    Unified,
    Migrate,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Depth {
    Small,
    Full,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let setups = setups(&arguments);
    if arguments.list {
        list(&setups);
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(!setups.is_empty(), "no mode is left of those that `--list` names");
    let wanted = arguments.filter.unwrap_or_default();
    let mut reports = Vec::new();
    for setup in &setups {
        let report = run_some(setup, |case| case.path().contains(&wanted));
        println!("{report}\n");
        reports.push(report);
    }
    if let Some(path) = &arguments.json {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        serde_json::to_writer_pretty(BufWriter::new(file), &reports)?;
    }
    let failed: usize = reports.iter().map(|report| report.counts()[1]).sum();
    println!("{failed} cases failed in {} modes", reports.len());
    let missed = missed_rows(&reports, &wanted);
    Ok(if failed == 0 && missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many rows of the tables were not seen, after the summary says so for each mode; a run of some cases misses none.
fn missed_rows(reports: &[Report], wanted: &str) -> usize {
    if !wanted.is_empty() {
        return 0;
    }
    let ran = reports.iter().filter(|report| report.absent().is_none());
    ran.map(|report| {
        let (Coverage { hit, total, .. }, missed) = (&report.coverage, report.missed_rows());
        let verdict = if missed == 0 { "ok" } else { "FAILED" };
        println!("{verdict}: coherence table {hit}/{total} rows seen in {}", report.mode);
        let Coverage { hit, total, .. } = &report.revocation;
        let untaken = report.missed_revocations();
        let verdict = if untaken == 0 { "ok" } else { "FAILED" };
        println!("{verdict}: revocation table {hit}/{total} rows seen in {}", report.mode);
        missed + untaken
    })
    .sum()
}

/// The modes that the arguments leave.
fn setups(arguments: &Arguments) -> Vec<Setup> {
    let profile = match arguments.profile {
        Depth::Small => Profile::Small,
        Depth::Full => Profile::Full,
    };
    let of_model = |setup: &Setup| match arguments.model {
        None => true,
        Some(model) => setup.is_unified() == (model == Model::Unified),
    };
    let contains = |setup: &Setup, part: &Option<String>| {
        part.as_ref().is_none_or(|part| setup.mode().contains(part.as_str()))
    };
    let mut setups = modes::embedded();
    setups.extend(modes::simulated());
    match modes::vulkan(&VulkanOptions::default()) {
        Ok(vulkan) => setups.extend(vulkan),
        Err(reason) => eprintln!("no Vulkan modes: {reason}"),
    }
    match modes::cuda("cuda", &CudaOptions::default()) {
        Ok(cuda) => setups.extend(cuda),
        Err(reason) => eprintln!("no CUDA modes: {reason}"),
    }
    setups.retain(|setup| of_model(setup) && contains(setup, &arguments.mode));
    setups.retain(|setup| contains(setup, &arguments.device));
    let seeded = |setup: Setup| match arguments.seed {
        Some(seed) => setup.seed(seed),
        None => setup,
    };
    setups.into_iter().map(|setup| seeded(setup.profile(profile))).collect()
}

fn list(setups: &[Setup]) {
    println!("modes");
    setups.iter().for_each(|setup| println!("  {}", setup.mode()));
    println!("cases");
    cases().for_each(|case| println!("  {:<44} {}", case.path(), case.shows));
}
