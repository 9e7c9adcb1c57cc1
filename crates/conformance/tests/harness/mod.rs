//! Each case of the suite in each mode as a test of its own, and one more per mode that looks at all of them together.

use hmmap_conformance::{CaseReport, Outcome, Profile, Setup, cases, run_case, run_some};
use libtest_mimic::{Arguments, Failed, Trial};

/// Runs the tests of these modes and ends the process.
pub(crate) fn main(setups: Vec<Setup>) -> ! {
    let deep = std::env::var_os("HMMAP_DEEP").is_some();
    let setups = setups.into_iter().map(|setup| {
        let profile = if deep { Profile::Full } else { Profile::Small };
        setup.profile(profile)
    });
    let tests = setups.flat_map(|setup| {
        let whole = setup.clone();
        let name = format!("{}::every_row_is_seen", setup.mode());
        let whole = Trial::test(name, move || every_row_is_seen(&whole));
        let concerned = setup.clone();
        cases()
            .filter(move |case| concerned.concerns(case))
            .map(move |case| {
                let setup = setup.clone();
                let name = format!("{}::{}", setup.mode(), case.path());
                Trial::test(name, move || outcome(&run_case(&setup, case)))
            })
            .chain([whole])
    });
    let mut arguments = Arguments::from_args();
    // A case counts what its runtime does and times nothing; several at once would only blur who used which memory.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, tests.collect()).exit()
}

fn outcome(report: &CaseReport) -> Result<(), Failed> {
    match &report.outcome {
        Outcome::Passed => Ok(()),
        Outcome::Failed(reason) => Err(reason.into()),
        Outcome::Skipped(reason) => {
            println!("HMMAP-SKIP: {reason}");
            Ok(())
        }
    }
}

/// The table is covered when the cases about it have run; those that need something that the mode lacks are named.
fn every_row_is_seen(setup: &Setup) -> Result<(), Failed> {
    let report = run_some(setup, |case| case.group == "coherence");
    println!("{report}");
    let coverage = &report.coverage;
    if !report.is_ok() {
        return Err("cases failed, see above".into());
    }
    if !coverage.is_full() {
        return Err(format!("{} of {} rows seen", coverage.hit, coverage.total).into());
    }
    Ok(())
}
