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
    let mut criterion = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let device = std::env::var("HMMAP_BENCH_DEVICE").ok();
    let mut session = Session::new(SessionOptions { device, model: None })?;
    for suite in Suite::ALL {
        for case in suite.cases().iter().filter(|case| case.bytes <= LARGEST_BYTES) {
            measure(&mut criterion, &mut session, case)
                .with_context(|| format!("{suite} {}", case.name))?;
        }
    }
    criterion.final_summary();
    Ok(())
}

fn measure(criterion: &mut Criterion, session: &mut Session, case: &Case) -> anyhow::Result<()> {
    let mut trial = match case.trial(session) {
        Ok(Some(trial)) => trial,
        Ok(None) => return Ok(()),
        Err(BenchError::DoesNotApply(reason)) => {
            eprintln!("{} {}: left out: {reason}", case.suite, case.name);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let mut failed = None;
    let mut both: [(&str, Timed); 2] =
        [("ours", &mut |trial| trial.ours().map(Some)), ("limit", &mut |trial| trial.limit())];
    for (side, timed) in &mut both {
        if timed(&mut *trial)?.is_none() {
            continue;
        }
        criterion.bench_function(&format!("{}/{}/{side}", case.suite, case.name), |bencher| {
            bencher.iter_custom(|runs| {
                let mut sum = Duration::ZERO;
                for _ in 0..runs {
                    match timed(&mut *trial) {
                        Ok(time) => sum += time.unwrap_or_default(),
                        Err(error) => failed = Some(error),
                    }
                }
                sum
            });
        });
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// One run of one side.
type Timed<'a> = &'a mut dyn FnMut(&mut dyn Trial) -> Result<Option<Duration>, BenchError>;
