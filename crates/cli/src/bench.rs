//! `hmmap bench`.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use hmmap_bench::{
    Case, Outcome, Report, Session, SessionOptions, Settings, Watch,
    machine::{DeviceReport, Machine},
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    args::{BenchArgs, What},
    table,
};

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    if args.suite == What::List {
        print!("{}", table::suites());
        return Ok(ExitCode::SUCCESS);
    }
    let cases = args.cases();
    anyhow::ensure!(!cases.is_empty(), "no case is called so; `hmmap bench list` names them");
    let settings = if args.quick { Settings::QUICK } else { Settings::FULL };
    let total = args.seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let settings = match total {
        Some(total) => settings.within(total, args.suite.suites().len()),
        None => settings,
    };
    let options = SessionOptions { device: args.device.clone(), model: args.model.map(Into::into) };
    let mut session = Session::new(options).context("cannot begin to measure")?;
    let mut machine = Machine::look();
    let facts = session.facts().context("cannot open the device")?;
    machine.devices.push(DeviceReport::new(session.device(), &facts));
    let mut report = Report::new(machine, session.limit_name());
    let mut progress = Progress::new(args, cases.len());
    hmmap_bench::run(&cases, &mut session, &settings, &mut progress, &mut report);
    progress.bar.finish_and_clear();
    write(args, &report)?;
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(args: &BenchArgs, report: &Report) -> anyhow::Result<()> {
    let to_stdout = to_stdout(args);
    if to_stdout {
        std::io::stdout().write_all(json(report)?.as_bytes())?;
    } else if let Some(file) = &args.json {
        save(file, report)?;
    }
    if let Some(file) = &args.plot {
        hmmap_bench::plot(report, file).with_context(|| format!("no {}", file.display()))?;
    }
    if !to_stdout {
        print!("{}", table::records(report));
    }
    Ok(())
}

fn to_stdout(args: &BenchArgs) -> bool {
    args.json.as_deref() == Some(Path::new("-"))
}

fn json(report: &Report) -> anyhow::Result<String> {
    let mut json = serde_json::to_string_pretty(report)?;
    json.push('\n');
    Ok(json)
}

fn save(file: &Path, report: &Report) -> anyhow::Result<()> {
    fs::write(file, json(report)?).with_context(|| format!("cannot write {}", file.display()))
}

/// One bar for all cases, with the case and its runs as the message; and the JSON file, which has each case as soon as it
/// ended, so that a run that is stopped leaves what it found.
struct Progress {
    bar: ProgressBar,
    file: Option<PathBuf>,
}

impl Progress {
    fn new(args: &BenchArgs, cases: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        // A pipe has room for one report.
        let plain = |file: &PathBuf| !to_stdout(args) && (file.is_file() || !file.exists());
        Self {
            bar: ProgressBar::new(cases as u64).with_style(style),
            file: args.json.clone().filter(plain),
        }
    }
}

impl Watch for Progress {
    fn begin(&mut self, case: &Case) {
        self.bar.set_message(format!("{} {}", case.suite, case.name));
        self.bar.tick();
    }

    fn progress(&mut self, case: &Case, done: u32, runs: u32) {
        self.bar.set_message(format!("{} {}: run {done} of {runs}", case.suite, case.name));
    }

    fn end(&mut self, case: &Case, outcome: &Outcome) {
        self.bar.inc(1);
        let line = format!("{} {}: {}", case.suite, case.name, table::outcome(outcome));
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn reported(&mut self, so_far: &Report) {
        if let Some(file) = &self.file {
            // What keeps it from being written is told when the whole report is.
            let _ = save(file, so_far);
        }
    }
}
