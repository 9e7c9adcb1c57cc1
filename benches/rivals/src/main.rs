//! The same moves through hmmap and through the libraries that a user would otherwise take, in turns, on one device.
//!
//! ```text
//! Case --(every Library: an Array)--> rounds, each beginning with another library --> Report (table, JSON)
//! ```
//!
//! What a move is to each library is in its own file (`with_*.rs`); the README says why that is fair.
#![deny(unsafe_code)]

mod cases;
mod fill;
mod library;
mod report;
#[allow(unsafe_code, reason = "cubecl's launches are unsafe")]
mod with_cubecl;
mod with_hmmap;
#[cfg(feature = "starpu")]
#[allow(unsafe_code, reason = "StarPU is a library in C")]
mod with_starpu;
#[allow(unsafe_code, reason = "vulkano's launches, and loading their code, are unsafe")]
mod with_vulkano;
mod with_wgpu;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Parser;
use hmmap_bench::{
    Settings,
    machine::{DeviceReport, Machine},
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    cases::{CASES, Case},
    library::{Device, Library},
    report::{GUARD, LIMIT, LibraryReport, Report},
    with_cubecl::WithCubecl,
    with_hmmap::WithHmmap,
    with_vulkano::WithVulkano,
    with_wgpu::WithWgpu,
};

/// The name of the library that the goals are about.
const OURS: &str = "hmmap";

/// Measures the same moves through hmmap and its rivals, in turns, on one Vulkan device.
///
/// hmmap's default device is taken; choose another as usual, by the loader's VK_DRIVER_FILES. Exits with 0 when everything was
/// measured, whether or not the goals were met.
#[derive(Debug, Parser)]
#[command(name = "hmmap-rivals", version)]
struct Arguments {
    /// At least 3 rounds of each case instead of 15, and a fifth of the time.
    #[arg(long)]
    quick: bool,
    /// Only the cases whose name contains this; may be given again.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Writes the records there as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| name.contains(text))
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = if arguments.quick { Settings::QUICK } else { Settings::FULL };
    let cases: Vec<&Case> = CASES.iter().filter(|case| arguments.wants(case.name)).collect();
    let with_guard = arguments.wants(GUARD);
    ensure!(with_guard || !cases.is_empty(), "no case has a name with {:?} in it", arguments.only);

    let ours = WithHmmap::open().context("hmmap")?;
    let mut machine = Machine::look();
    machine.devices.push(DeviceReport::new(ours.id(), ours.facts()?));
    let guard = if with_guard { ours.idle_guard_s(settings.least_runs * 7)? } else { Vec::new() };
    let libraries = open_all(ours)?;
    let mut report = Report {
        machine,
        version: env!("CARGO_PKG_VERSION"),
        limit: LIMIT,
        libraries: libraries.iter().map(|library| LibraryReport::of(library.as_ref())).collect(),
        load: [load(), None],
        records: Vec::new(),
        skipped: Vec::new(),
    };
    if cfg!(not(feature = "starpu")) {
        report.skip("*", "starpu", "built without the feature `starpu`".to_owned());
    }
    if with_guard {
        report.add_guard(&guard);
    }
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}")?;
    let bar = ProgressBar::new(cases.len() as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    for case in cases {
        bar.set_message(case.name);
        let each = |round| bar.set_message(format!("{}: round {round}", case.name));
        let contenders = case.measure(&libraries, &settings, each).context(case.name)?;
        report.add(case, &contenders);
        bar.inc(1);
    }
    bar.finish_and_clear();
    report.load[1] = load();
    if let Some(file) = &arguments.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    print!("{}", report.table());
    Ok(())
}

/// Opens every library on hmmap's device, and sees to it that it is one device to all of them; then those that know no Vulkan.
fn open_all(ours: WithHmmap) -> anyhow::Result<Vec<Box<dyn Library>>> {
    let device = ours.device().clone();
    let kind = ours.facts()?.summary.kind;
    let with_wgpu = WithWgpu::open(&device.name).context("wgpu")?;
    let with_vulkano = WithVulkano::open(&device.name).context("vulkano")?;
    let with_cubecl = WithCubecl::open(kind).context("cubecl")?;
    let mut libraries: Vec<Box<dyn Library>> =
        vec![Box::new(ours), Box::new(with_wgpu), Box::new(with_vulkano), Box::new(with_cubecl)];
    for library in &libraries {
        same_device(library.name(), library.device(), &device)?;
    }
    libraries.extend(on_other_devices()?);
    Ok(libraries)
}

#[cfg(feature = "starpu")]
fn on_other_devices() -> anyhow::Result<Vec<Box<dyn Library>>> {
    Ok(vec![Box::new(with_starpu::WithStarpu::open().context("starpu")?)])
}

#[cfg(not(feature = "starpu"))]
fn on_other_devices() -> anyhow::Result<Vec<Box<dyn Library>>> {
    Ok(Vec::new())
}

fn same_device(library: &str, found: &Device, expected: &Device) -> anyhow::Result<()> {
    ensure!(
        found == expected,
        "{library} runs on another device or driver: {} ({}), not {} ({})",
        found.name,
        found.driver,
        expected.name,
        expected.driver
    );
    Ok(())
}

/// The load averages, where the system tells them.
fn load() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}
