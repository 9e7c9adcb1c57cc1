//! What was found: the records, in the form of `hmmap bench`, and the table.

use std::time::Duration;

use comfy_table::{Table, presets};
use hmmap_bench::{Model, Value, machine::Machine, median, percentile};
use serde::Serialize;

use crate::{
    OURS,
    cases::{CASES, Case, Contender},
    library::{Device, Library},
};

/// One JSON object, as `hmmap bench` writes it, with the libraries and the load besides.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) version: &'static str,
    pub(crate) limit: &'static str,
    pub(crate) libraries: Vec<LibraryReport>,
    /// The load averages of the machine, over 1, 5 and 15 minutes, before the first case and after the last.
    pub(crate) load: [Option<String>; 2],
    pub(crate) records: Vec<Record>,
    /// Libraries that have no figure in a row, or in all of them (`*`), and why.
    pub(crate) skipped: Vec<Unmeasured>,
}

/// A library that took part.
#[derive(Debug, Serialize)]
pub(crate) struct LibraryReport {
    pub(crate) name: &'static str,
    pub(crate) version: Option<String>,
    #[serde(flatten)]
    pub(crate) device: Device,
}

impl LibraryReport {
    pub(crate) fn of(library: &dyn Library) -> Self {
        let (name, device) = (library.name(), library.device().clone());
        Self { name, version: library.version().or_else(|| locked_version(name)), device }
    }
}

/// One library in one row.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    suite: &'static str,
    case: &'static str,
    library: &'static str,
    device: String,
    /// The memory model; the rivals have none.
    model: Option<Model>,
    bytes: u64,
    runs: u32,
    #[serde(flatten)]
    value: Value,
    met: Option<bool>,
}

/// A library without a figure in a row, or in all of them.
#[derive(Debug, Serialize)]
pub(crate) struct Unmeasured {
    suite: &'static str,
    case: &'static str,
    library: &'static str,
    reason: String,
}

const SUITE: &str = "rivals";
pub(crate) const LIMIT: &str =
    "the fastest of the other libraries on the device of hmmap, in the same row";
pub(crate) const GUARD: &str = "no-op-guard/1MiB";
const GUARD_GOAL_S: f64 = 40e-9;

impl Report {
    /// Adds what the libraries did in a row. The limit of each is the fastest of the others; not of one on a device of its own.
    pub(crate) fn add(&mut self, case: &Case, contenders: &[Contender]) {
        for contender in contenders {
            if contender.took_s.is_empty() {
                self.skip(case.name, contender.library, "it has no such move".to_owned());
                continue;
            }
            let others = contenders.iter().filter(|other| other.library != contender.library);
            let same = others.filter(|other| self.device(other.library) == self.device(OURS));
            let timed = same.filter(|other| !other.took_s.is_empty());
            let limit_s = timed.map(|other| median(&other.took_s)).min_by(f64::total_cmp);
            let ours = contender.library == OURS;
            let goal = case.goal.filter(|_| ours);
            let median_s = median(&contender.took_s);
            let value = match limit_s {
                Some(limit_s) => {
                    let p10_s = percentile(&contender.took_s, 10.0);
                    Value::Time { median_s, p10_s, limit_s, ratio: limit_s / median_s, goal }
                }
                None => Value::Metric { metric: "seconds", value: median_s, goal: None },
            };
            let (bytes, runs) = (case.bytes as u64, contender.took_s.len() as u32);
            self.record(case.name, contender.library, bytes, runs, value);
        }
    }

    /// Adds the borrow with nothing to do.
    pub(crate) fn add_guard(&mut self, took_s: &[f64]) {
        let value = median(took_s);
        let value = Value::Metric { metric: "seconds", value, goal: Some(GUARD_GOAL_S) };
        self.record(GUARD, OURS, 1 << 20, took_s.len() as u32, value);
    }

    pub(crate) fn skip(&mut self, case: &'static str, library: &'static str, reason: String) {
        self.skipped.push(Unmeasured { suite: SUITE, case, library, reason });
    }

    fn record(
        &mut self,
        case: &'static str,
        library: &'static str,
        bytes: u64,
        runs: u32,
        value: Value,
    ) {
        let device = self.device(library).map_or_else(String::new, |device| device.name.clone());
        let model = (library == OURS).then_some(Model::Migrate);
        let met = value.met();
        self.records.push(Record {
            suite: SUITE,
            case,
            library,
            device,
            model,
            bytes,
            runs,
            value,
            met,
        });
    }

    fn device(&self, library: &str) -> Option<&Device> {
        let report = self.libraries.iter().find(|report| report.name == library)?;
        Some(&report.device)
    }

    fn found(&self, case: &str, library: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.case == case && record.library == library)
    }

    /// The rows that are there, one column a library: the median, and in brackets the tenth percentile.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        let names = self.libraries.iter().map(|library| library.name);
        let header = ["case"].into_iter().chain(names).chain(["best rival / hmmap", "goal", ""]);
        table.load_preset(presets::NOTHING).set_header(header);
        for case in CASES.iter().map(|case| case.name).chain([GUARD]) {
            if let Some(ours) = self.found(case, OURS) {
                table.add_row(self.row(case, ours));
            }
        }
        let mut text = format!("{table}\n");
        for library in &self.libraries {
            let version = library.version.as_deref().unwrap_or("");
            let Device { name, driver } = &library.device;
            text.push_str(&format!("{} {version}: {name}, {driver}\n", library.name));
        }
        for Unmeasured { case, library, reason, .. } in &self.skipped {
            text.push_str(&format!("not measured: {library} {case}: {reason}\n"));
        }
        let load = |at: usize| self.load[at].as_deref().unwrap_or("not known");
        text.push_str(&format!("load before: {}; after: {}\n", load(0), load(1)));
        text
    }

    fn row(&self, case: &str, ours: &Record) -> Vec<String> {
        let cell = |library: &LibraryReport| {
            let record = self.found(case, library.name);
            record.map_or_else(
                || "-".to_owned(),
                |record| match record.value {
                    Value::Time { median_s, p10_s, .. } => {
                        format!("{} ({})", seconds(median_s), seconds(p10_s))
                    }
                    Value::Metric { value, .. } => seconds(value),
                },
            )
        };
        let (ratio, goal) = match ours.value {
            Value::Time { ratio, goal, .. } => {
                (format!("{ratio:.2}"), goal.map(|goal| format!(">= {goal:.2}")))
            }
            Value::Metric { goal, .. } => {
                (String::new(), goal.map(|goal| format!("<= {}", seconds(goal))))
            }
        };
        let met = ours.met.map_or("", |met| if met { "met" } else { "MISSED" });
        let cells = self.libraries.iter().map(cell);
        let rest = [ratio, goal.unwrap_or_default(), met.to_owned()];
        [case.to_owned()].into_iter().chain(cells).chain(rest).collect()
    }
}

/// A time with the unit that fits it.
fn seconds(seconds: f64) -> String {
    if seconds < 1e-6 {
        return format!("{:.1}ns", seconds * 1e9);
    }
    format!("{:.1?}", Duration::from_secs_f64(seconds))
}

/// The version of a package that this program was built with.
fn locked_version(package: &str) -> Option<String> {
    let lock = include_str!("../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("\nname = \"{package}\"\nversion = \""))?;
    Some(rest.split('"').next()?.to_owned())
}
