//! Runs cases on a setup.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use crate::{
    case::{Case, CaseFailure, Context, Found},
    cases,
    coverage::Coverage,
    report::{CaseReport, Outcome, Report},
    setup::Setup,
};

/// Runs every case that concerns the setup.
pub fn run_all(setup: &Setup) -> Report {
    run_some(setup, |_| true)
}

/// Runs the cases that concern the setup and that `wanted` picks.
pub fn run_some(setup: &Setup, wanted: impl Fn(&Case) -> bool) -> Report {
    let mut report = Report {
        mode: setup.mode.clone(),
        device: None,
        profile: setup.profile,
        seed: setup.seed,
        cases: Vec::new(),
        coverage: Coverage::default(),
        revocation: Coverage::default(),
    };
    report.device = Some((setup.first)().summary().name.clone());
    let mut all = Found::default();
    for case in cases::all().filter(|case| setup.concerns(case) && wanted(case)) {
        let (one, found) = run(setup, case);
        report.cases.push(one);
        all.rows.extend(found.rows);
        all.revoked.extend(found.revoked);
        all.model = found.model.or(all.model);
        all.faults |= found.faults;
    }
    if let Some(model) = all.model {
        report.coverage = Coverage::of(&all.rows, model);
        report.revocation = Coverage::of_revocations(&all.revoked, model, all.faults);
    }
    report
}

/// Runs one case.
pub fn run_case(setup: &Setup, case: &'static Case) -> CaseReport {
    run(setup, case).0
}

fn run(setup: &Setup, case: &'static Case) -> (CaseReport, Found) {
    let context = Context::new(setup, case);
    let started = Instant::now();
    let mut outcome = match catch_unwind(AssertUnwindSafe(|| attempt(&context, case))) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(failure)) => Outcome::Failed(failure.to_string()),
        Err(panic) => Outcome::Failed(format!("panicked: {}", message(&*panic))),
    };
    let complaints = setup.complaints.as_ref().map(|ask| ask()).unwrap_or_default();
    if !complaints.is_empty() && !matches!(outcome, Outcome::Failed(_)) {
        outcome = Outcome::Failed(format!("the device complains: {}", complaints.join("; ")));
    }
    let seconds = started.elapsed().as_secs_f64();
    let found = context.into_found();
    let rows_seen = found.rows.len() + found.revoked.len();
    (CaseReport { case: case.path(), outcome, seconds, rows_seen }, found)
}

fn attempt(context: &Context<'_>, case: &Case) -> Result<Outcome, CaseFailure> {
    if let Some(lacks) =
        context.lacks_device().map_or_else(|| context.lacks(), |why| Ok(Some(why)))?
    {
        return Ok(Outcome::Skipped(lacks));
    }
    (case.run)(context)?;
    Ok(Outcome::Passed)
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
