//! Several cases at once: each worker takes the next case until none is left or the time is over.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::plan::Case;
use super::verdict::{of_harness, of_process, parse_skips};
use super::{Depth, Run};
use crate::environment::Pass;
use crate::process;
use crate::progress::Progress;
use crate::summary::{Outcome, Record};

/// What a failed test's report shows of its log.
const TAIL_BYTES: u64 = 6 << 10;

/// Runs `cases` and gives their records, in the order of the cases.
pub(super) fn run(run: &Run<'_>, cases: &[Case], progress: &Progress) -> Result<Vec<Record>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let worker = || -> Result<()> {
        loop {
            // Relaxed: the counter alone hands out the cases; nothing else is published by it.
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(index) else {
                return Ok(());
            };
            let records = one(run, case, index)?;
            progress.report(&records[0]);
            done.lock().unwrap_or_else(|error| error.into_inner()).push((index, records));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..run.limits.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect::<Result<()>>()
    })?;
    let mut done = done.into_inner().unwrap_or_else(|error| error.into_inner());
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().flat_map(|(_, records)| records).collect())
}

/// Runs one case. The first record is the case's own; one for each skipped part follows.
fn one(run: &Run<'_>, case: &Case, index: usize) -> Result<Vec<Record>> {
    let name = match run.pass {
        Pass::Main => case.name(),
        Pass::Old => format!("[Mesa 22.3] {}", case.name()),
    };
    let start = Instant::now();
    if run.limits.deadline.is_some_and(|deadline| start >= deadline) {
        let why = String::from("not run: the time for the whole run was over");
        return Ok(vec![Record::new(name, Outcome::Failed { why }, Duration::ZERO)]);
    }
    let case_deadline = start + run.limits.case_timeout;
    let deadline = run.limits.deadline.map_or(case_deadline, |whole| whole.min(case_deadline));
    let log = log_path(run, case, index);
    let end = process::run_logged(&mut command(run, case), Some(deadline), &log)?;
    let elapsed = start.elapsed();
    let output = process::tail(&log, process::OUTPUT_LIMIT_BYTES)?;
    let outcome = match case.test {
        Some(_) => of_harness(end, &output),
        None => of_process(end, &output),
    };
    let mut record = Record::new(name.clone(), outcome, elapsed);
    if record.failed() {
        record.tail = Some(process::tail(&log, TAIL_BYTES)?);
    }
    let part = |(part, reason): (String, String)| {
        Record::new(format!("{name} / {part}"), Outcome::Skipped { reason }, Duration::ZERO)
    };
    let parts = parse_skips(&output).cases.into_iter().map(part);
    Ok(std::iter::once(record).chain(parts).collect())
}

fn command(run: &Run<'_>, case: &Case) -> Command {
    let mut command = Command::new(&case.binary.path);
    if let Some(test) = &case.test {
        command.args(["--exact", test, "--nocapture", "--test-threads", "1"]);
        if run.depth == Depth::Deep {
            command.arg("--include-ignored");
        }
    }
    if run.depth == Depth::Deep {
        command.env("HMMAP_DEEP", "1");
    }
    let own_path = std::env::var_os("LD_LIBRARY_PATH");
    command
        .current_dir(&case.binary.package_dir)
        .env("CARGO_MANIFEST_DIR", &case.binary.package_dir)
        .envs(run.environment.variables(run.pass, own_path));
    command
}

/// A file of its own for each case, that a person can find by the case's name.
fn log_path(run: &Run<'_>, case: &Case, index: usize) -> PathBuf {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }
    };
    let name: String = case.name().chars().map(plain).take(120).collect();
    run.logs.join(format!("{}-{index:04}-{name}.log", run.pass.name()))
}
