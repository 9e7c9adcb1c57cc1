//! Each group of cases in each mode as a test of its own. The test of the group about the coherence table fails unless every row of the
//! table was seen, and so does the group about peers with the revocation table.

use hmmap_conformance::{Outcome, PEERS, Profile, Report, Setup, TABLE, cases, run_some};
use libtest_mimic::{Arguments, Failed, Trial};

/// The tests of these modes.
pub(crate) fn tests(setups: Vec<Setup>) -> Vec<Trial> {
    let deep = std::env::var_os("HMMAP_DEEP").is_some();
    let profile = if deep { Profile::Full } else { Profile::Small };
    setups.into_iter().flat_map(|setup| of_mode(setup.profile(profile))).collect()
}

fn of_mode(setup: Setup) -> Vec<Trial> {
    let concerned = cases().filter(|case| setup.concerns(case));
    let mut groups: Vec<_> = concerned.map(|case| case.group).collect();
    groups.dedup();
    let test = |group: &'static str| {
        let (name, setup) = (format!("{}::{group}", setup.mode()), setup.clone());
        Trial::test(name, move || {
            verdict(group, &setup, &run_some(&setup, |case| case.group == group))
        })
    };
    groups.into_iter().map(test).collect()
}

/// Runs tests and ends the process.
pub(crate) fn run(tests: Vec<Trial>) -> ! {
    let mut arguments = Arguments::from_args();
    // A case counts what its runtime does and times nothing; several at once would only blur who used which memory.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, tests).exit()
}

fn verdict(group: &str, setup: &Setup, report: &Report) -> Result<(), Failed> {
    println!("{report}");
    if let Some(reason) = report.absent() {
        println!("HMMAP-SKIP: {reason}");
        return Ok(());
    }
    for case in &report.cases {
        if let Outcome::Skipped(reason) = &case.outcome {
            println!("HMMAP-SKIP-CASE: {}: {reason}", case.case);
        }
    }
    if !report.is_ok() {
        return Err("cases failed, see above".into());
    }
    if group == TABLE && setup.goes_through_the_table() && report.missed_rows() > 0 {
        let coverage = &report.coverage;
        return Err(format!("{} of {} rows seen", coverage.hit, coverage.total).into());
    }
    if group == PEERS && report.missed_revocations() > 0 {
        let revocation = &report.revocation;
        return Err(format!("{} of {} rows seen", revocation.hit, revocation.total).into());
    }
    Ok(())
}
