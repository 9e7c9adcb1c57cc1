//! Runs suites: case by case, each ending in an outcome whatever happens in it.

use std::{
    error::Error as _,
    time::{Duration, Instant},
};

use crate::{
    BenchError, Report, Samples, Settings,
    case::{Case, Measure},
    machine,
    record::{Outcome, Record, Unmeasured, Value},
    session::Session,
};

/// Looks on while cases are measured. Every method does nothing unless it is written.
pub trait Watch {
    /// A case begins.
    fn begin(&mut self, _case: &Case) {}
    /// So many runs are done, of at most `_most`.
    fn progress(&mut self, _case: &Case, _done: u32, _most: u32) {}
    /// The case ended.
    fn end(&mut self, _case: &Case, _outcome: &Outcome) {}
    /// The report has one case more.
    fn reported(&mut self, _so_far: &Report) {}
}

impl Watch for () {}

/// Measures these cases, one after the other, and adds what was found to `report`.
pub fn run(
    cases: &[&Case],
    session: &mut Session,
    settings: &Settings,
    watch: &mut dyn Watch,
    report: &mut Report,
) {
    let started = Instant::now();
    for case in cases {
        watch.begin(case);
        let measured = in_time(started.elapsed(), settings)
            .and_then(|()| measure(case, session, settings, watch));
        let outcome = measured.map_or_else(
            |error| match error {
                BenchError::DoesNotApply(reason) => Outcome::Skipped(reason),
                error => Outcome::Failed(error),
            },
            Outcome::Measured,
        );
        watch.end(case, &outcome);
        match outcome {
            Outcome::Measured(record) => report.records.push(record),
            Outcome::Skipped(reason) => report.skipped.push(Unmeasured::new(case, reason)),
            Outcome::Failed(error) => {
                report.failed.push(Unmeasured::new(case, with_sources(&error)));
            }
        }
        watch.reported(report);
    }
}

fn measure(
    case: &Case,
    session: &mut Session,
    settings: &Settings,
    watch: &mut dyn Watch,
) -> Result<Record, BenchError> {
    fits(case, settings)?;
    let model = case.model(session.asked_model())?;
    let mut bytes = case.bytes;
    let (runs, value) = match case.measure {
        Measure::Number(metric, find) => {
            let value = find(session, case)?;
            (1, Value::Metric { metric, value, goal: case.goal })
        }
        Measure::Moved(metric, find) => {
            let (moved, value) = find(session, case)?;
            bytes = moved;
            (1, Value::Metric { metric, value, goal: case.goal })
        }
        Measure::Time(make) | Measure::Seconds(make) => {
            let mut trial = make(session, case)?;
            let time_limit = settings.case_limit(case.suite.cases().len());
            let each = |run| watch.progress(case, run, settings.most_runs);
            let samples = Samples::take(&mut *trial, settings, time_limit, each)?;
            (samples.ours_s.len() as u32, Value::of_samples(&samples, case.goal))
        }
    };
    let device = session.summary().name.clone();
    let met = value.met();
    Ok(Record { suite: case.suite, case: case.name, device, model, bytes, runs, value, met })
}

/// Leaves out what would begin too late.
fn in_time(elapsed: Duration, settings: &Settings) -> Result<(), BenchError> {
    match settings.total_limit {
        Some(limit) if elapsed >= limit => {
            let reason = format!("no time left of the {} s", limit.as_secs());
            Err(BenchError::DoesNotApply(reason))
        }
        _ => Ok(()),
    }
}

/// Leaves out what would take too long or what the machine has no memory for.
fn fits(case: &Case, settings: &Settings) -> Result<(), BenchError> {
    if case.bytes > settings.largest_bytes {
        let reason = format!("larger than {} MiB", settings.largest_bytes >> 20);
        return Err(BenchError::DoesNotApply(reason));
    }
    match machine::available_bytes() {
        Some(available) if available < case.memory_bytes => {
            let (asked, there) = (case.memory_bytes >> 20, available >> 20);
            let reason = format!("needs {asked} MiB of memory, {there} MiB are available");
            Err(BenchError::DoesNotApply(reason))
        }
        _ => Ok(()),
    }
}

/// An error and what it came from, on one line.
fn with_sources(error: &BenchError) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Suite, machine::Machine, session::SessionOptions};

    /// How many cases the report had, each time that it was told.
    #[derive(Default)]
    struct Told(Vec<usize>);

    impl Watch for Told {
        fn reported(&mut self, so_far: &Report) {
            self.0.push(so_far.records.len() + so_far.skipped.len() + so_far.failed.len());
        }
    }

    #[test]
    fn each_case_is_in_the_report_before_the_next_begins_and_without_time_all_are_left_out() {
        let options = SessionOptions { device: Some("embedded".into()), model: None };
        let mut session = Session::new(options).unwrap();
        let mut report = Report::new(Machine::look(), session.limit_name());
        let (mut told, settings) = (Told::default(), Settings::QUICK.within(Duration::ZERO, 1));
        let all: Vec<_> = Suite::Guard.cases().iter().collect();
        run(&all, &mut session, &settings, &mut told, &mut report);
        let cases = Suite::Guard.cases().len();
        assert_eq!(told.0, (1..=cases).collect::<Vec<_>>());
        assert_eq!(report.skipped.len(), cases);
        assert_eq!(report.skipped[0].reason, "no time left of the 0 s");
    }
}
