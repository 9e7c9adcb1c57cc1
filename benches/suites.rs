//! The suites under criterion: the same cases as `hmmap bench`, for comparing two states of the code.
//!
//! ```text
//! cargo bench -p hmmap-bench                         all cases up to 64 MiB
//! cargo bench -p hmmap-bench -- guard/no-op          those whose names match
//! HMMAP_BENCH_DEVICE=embedded cargo bench -p hmmap-bench
//! ```
//!
//! Criterion measures the library and its limit one after the other, not in turns, so the ratio is `hmmap bench`'s to say; what
//! criterion adds is the comparison with the run before.

use std::time::Duration;

use anyhow::Context as _;
use criterion::Criterion;
use hmmap_bench::{BenchError, Case, Session, SessionOptions, Suite, Trial};

/// Cases about more bytes take minutes under criterion.
const LARGEST_BYTES: u64 = 64 << 20;

fn main() -> anyhow::Result<()> {
    if hmmap_bench::play_other_process()? {
        return Ok(());
    }
    let mut criterion = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let device = std::env::var("HMMAP_BENCH_DEVICE").ok();
    let mut session = Session::new(SessionOptions { device, model: None })?;
    for suite in Suite::ALL {
        let takes_time = |case: &&Case| matches!(case.metric(), None | Some("seconds"));
        let small = suite.cases().iter().filter(|case| case.bytes <= LARGEST_BYTES);
        for case in small.filter(takes_time) {
            measure(&mut criterion, &mut session, case)
                .with_context(|| format!("{suite} {}", case.name))?;
        }
    }
    criterion.final_summary();
    Ok(())
}

/// Trials are made when criterion first runs them, so that a filter leaves out their making too.
fn measure(criterion: &mut Criterion, session: &mut Session, case: &Case) -> anyhow::Result<()> {
    let (mut trial, mut failed) = (None, None);
    let mut sides: [(&str, Timed); 2] =
        [("ours", &mut |trial| trial.ours().map(Some)), ("limit", &mut |trial| trial.limit())];
    let count = if case.metric().is_none() { 2 } else { 1 };
    for (side, timed) in &mut sides[..count] {
        let name = format!("{}/{}/{side}", case.suite, case.name);
        criterion.bench_function(&name, |bencher| {
            if trial.is_none() && failed.is_none() {
                match case.trial(session) {
                    Ok(made) => trial = made,
                    Err(error) => failed = Some(error),
                }
            }
            let Some(trial) = &mut trial else { return bencher.iter(|| ()) };
            bencher.iter_custom(|runs| {
                let mut sum = Duration::ZERO;
                for _ in 0..runs {
                    match timed(&mut **trial) {
                        Ok(time) => sum += time.unwrap_or_default(),
                        Err(error) => failed = Some(error),
                    }
                }
                sum
            });
        });
    }
    match failed {
        None => Ok(()),
        Some(BenchError::DoesNotApply(reason)) => {
            eprintln!("{} {}: does not apply here: {reason}", case.suite, case.name);
            Ok(())
        }
        Some(error) => Err(error.into()),
    }
}

/// One run of one side.
type Timed<'a> = &'a mut dyn FnMut(&mut dyn Trial) -> Result<Option<Duration>, BenchError>;
