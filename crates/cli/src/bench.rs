//! `hmmap bench`.

use std::{fs, io::Write as _, path::Path, process::ExitCode};

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
    let settings = if args.quick { Settings::QUICK } else { Settings::FULL };
    let options = SessionOptions { device: args.device.clone(), model: args.model.map(Into::into) };
    let mut session = Session::new(options).context("cannot begin to measure")?;
    let mut machine = Machine::look();
    let facts = session.facts().context("cannot open the device")?;
    machine.devices.push(DeviceReport::from(&facts));
    let mut report = Report::new(machine, session.limit_name());
    let mut bars = Bars::new(args.suite.suites().iter().map(|suite| suite.cases().len()).sum());
    hmmap_bench::run(args.suite.suites(), &mut session, &settings, &mut bars, &mut report);
    bars.0.finish_and_clear();
    write(args, &report)?;
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(args: &BenchArgs, report: &Report) -> anyhow::Result<()> {
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if let Some(file) = &args.json {
        let mut json = serde_json::to_string_pretty(report)?;
        json.push('\n');
        if to_stdout {
            std::io::stdout().write_all(json.as_bytes())?;
        } else {
            fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    if let Some(file) = &args.plot {
        hmmap_bench::plot(report, file).with_context(|| format!("no {}", file.display()))?;
    }
    if !to_stdout {
        print!("{}", table::records(report));
    }
    Ok(())
}

/// One bar for all cases, with the case and its runs as the message.
struct Bars(ProgressBar);

impl Bars {
    fn new(cases: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(cases as u64).with_style(style))
    }
}

impl Watch for Bars {
    fn begin(&mut self, case: &Case) {
        self.0.set_message(format!("{} {}", case.suite, case.name));
        self.0.tick();
    }

    fn progress(&mut self, case: &Case, done: u32, runs: u32) {
        self.0.set_message(format!("{} {}: run {done} of {runs}", case.suite, case.name));
    }

    fn end(&mut self, case: &Case, outcome: &Outcome) {
        self.0.inc(1);
        let line = format!("{} {}: {}", case.suite, case.name, table::outcome(outcome));
        self.0.suspend(|| eprintln!("{line}"));
    }
}
