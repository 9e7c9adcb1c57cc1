//! Tables on the terminal.

use comfy_table::{Table, presets};
use hmmap_bench::{Outcome, Record, Report, Suite, Value};

use crate::words;

/// A table without lines.
pub(crate) fn plain<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// What was measured, beside limits and goals.
pub(crate) fn records(report: &Report) -> String {
    let mut table = plain(["suite", "case", "found", "p10", "limit", "ratio", "goal", ""]);
    for record in &report.records {
        table.add_row(row(record));
    }
    let mut text = format!("{table}\n");
    for (what, cases) in [("skipped", &report.skipped), ("FAILED", &report.failed)] {
        for case in cases {
            text.push_str(&format!("{what}: {} {}: {}\n", case.suite, case.case, case.reason));
        }
    }
    let (met, missed) = verdicts(report);
    text.push_str(&format!("{met} goals met, {missed} missed; limit: {}\n", report.limit));
    text
}

fn row(record: &Record) -> [String; 8] {
    let (found, p10, limit, ratio, goal) = match record.value {
        Value::Time { median_s, p10_s, limit_s, ratio, goal } => (
            words::seconds(median_s),
            words::seconds(p10_s),
            words::seconds(limit_s),
            format!("{ratio:.2}"),
            self::goal(None, goal),
        ),
        Value::Metric { metric, value, goal } => {
            let nothing = String::new;
            (amount(metric, value), nothing(), nothing(), nothing(), self::goal(Some(metric), goal))
        }
    };
    let met = record.met.map_or("", |met| if met { "met" } else { "MISSED" });
    let (suite, case) = (record.suite.to_string(), record.case.to_owned());
    [suite, case, found, p10, limit, ratio, goal, met.to_owned()]
}

/// A number with what it is a number of.
fn amount(metric: &str, value: f64) -> String {
    match metric {
        "seconds" => words::seconds(value),
        metric => format!("{} {metric}", words::number(value)),
    }
}

/// A goal: at most so much of a metric, at least such a ratio to the limit.
fn goal(metric: Option<&str>, goal: Option<f64>) -> String {
    match (metric, goal) {
        (_, None) => String::new(),
        (None, Some(goal)) => format!(">= {goal:.2}"),
        (Some("seconds"), Some(goal)) => format!("<= {}", words::seconds(goal)),
        (Some(_), Some(goal)) => format!("<= {}", words::number(goal)),
    }
}

/// Goals met and missed.
fn verdicts(report: &Report) -> (usize, usize) {
    let verdicts = report.records.iter().filter_map(|record| record.met);
    verdicts.fold((0, 0), |(met, missed), goal| match goal {
        true => (met + 1, missed),
        false => (met, missed + 1),
    })
}

/// The suites with their cases.
pub(crate) fn suites() -> String {
    let mut text = String::new();
    for suite in Suite::ALL {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        for case in suite.cases() {
            let goal = goal(case.metric(), case.goal);
            let what = case.metric().unwrap_or("ratio to the limit");
            table.add_row([" ", case.name, &words::bytes(case.bytes), what, &goal]);
        }
        text.push_str(&format!("{suite}: {}\n{table}\n", suite.about()));
    }
    text
}

/// How one case ended, in a few words.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Measured(Record { value: Value::Time { median_s, ratio, .. }, .. }) => {
            format!("{}, ratio {ratio:.2}", words::seconds(*median_s))
        }
        Outcome::Measured(Record { value: Value::Metric { metric, value, .. }, .. }) => {
            amount(metric, *value)
        }
        Outcome::Skipped(reason) => format!("skipped: {reason}"),
        Outcome::Failed(error) => format!("FAILED: {error}"),
    }
}
