//! What is shown while tests run: a bar on a terminal, a line for each test elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use crate::summary::{Outcome, Record};

/// Shows the progress of one run over tests.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts with `label` and the number of tests.
    pub(crate) fn start(label: &str, count: usize) -> Self {
        println!("\n== {label}: {count}");
        if !std::io::stdout().is_terminal() {
            return Self { bar: None };
        }
        let template = "{elapsed_precise} [{bar:40}] {pos}/{len} {wide_msg}";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX)).with_style(style);
        Self { bar: Some(bar) }
    }

    /// One test has ended.
    pub(crate) fn report(&self, record: &Record) {
        let Some(bar) = &self.bar else {
            println!("{}", describe(record));
            return;
        };
        bar.inc(1);
        match &record.outcome {
            Outcome::Passed => bar.set_message(record.name.clone()),
            Outcome::Failed { .. } | Outcome::Skipped { .. } => {
                bar.suspend(|| println!("{}", describe(record)));
            }
        }
    }

    /// The last test has ended.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn describe(record: &Record) -> String {
    let Record { name, outcome, seconds, tail } = record;
    match outcome {
        Outcome::Passed => format!("ok      {seconds:>7.2} s  {name}"),
        Outcome::Skipped { reason } => format!("skipped {seconds:>7.2} s  {name}: {reason}"),
        Outcome::Failed { why } => {
            let tail = tail.as_deref().unwrap_or_default();
            let indented: String = tail.lines().map(|line| format!("\n    | {line}")).collect();
            format!("FAILED  {seconds:>7.2} s  {name}: {why}{indented}")
        }
    }
}
