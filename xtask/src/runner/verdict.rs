//! From how a test's process ended and what it printed to how the test went. Pure.
//!
//! A test that must skip prints one line and returns:
//!
//! ```text
//! HMMAP-SKIP: no sparse binding in Mesa 22.3
//! ```
//!
//! A test that runs many cases and skips some stays passed, and names each of those with
//! `HMMAP-SKIP-CASE: name: reason`.
//!
//! Success is believed only with the harness's own closing line: a test that ended its process early, or a name that
//! matched nothing, would else count as passed.

use crate::process::End;
use crate::summary::Outcome;

const SKIP: &str = "HMMAP-SKIP: ";
const SKIP_CASE: &str = "HMMAP-SKIP-CASE: ";

/// What a test said that it skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Skips {
    /// The whole test.
    pub(crate) whole: Option<String>,
    /// Parts of it: name and reason.
    pub(crate) cases: Vec<(String, String)>,
}

/// Finds the skip lines. The harness may have printed the test's name on the same line before them.
pub(crate) fn parse_skips(output: &str) -> Skips {
    let mut skips = Skips::default();
    for line in output.lines() {
        if let Some((_, rest)) = line.split_once(SKIP_CASE) {
            let (name, reason) = rest.split_once(": ").unwrap_or((rest, "no reason given"));
            skips.cases.push((name.trim().to_owned(), reason.trim().to_owned()));
        } else if let Some((_, reason)) = line.split_once(SKIP) {
            skips.whole.get_or_insert_with(|| reason.trim().to_owned());
        }
    }
    skips
}

/// How a test of Rust's own harness went, run by its name in a process of its own.
pub(crate) fn of_harness(end: End, output: &str) -> Outcome {
    if !end.success() {
        return Outcome::Failed { why: end.describe() };
    }
    if let Some(reason) = ignored(output) {
        return Outcome::Skipped { reason };
    }
    if !output.contains("test result: ok. 1 passed; 0 failed") {
        let why = String::from("the process ended well, but before the test did");
        return Outcome::Failed { why };
    }
    skipped_or_passed(output)
}

/// How a binary with a harness of its own went.
pub(crate) fn of_process(end: End, output: &str) -> Outcome {
    if end.success() { skipped_or_passed(output) } else { Outcome::Failed { why: end.describe() } }
}

fn skipped_or_passed(output: &str) -> Outcome {
    match parse_skips(output).whole {
        Some(reason) => Outcome::Skipped { reason },
        None => Outcome::Passed,
    }
}

/// The reason of an ignored test: `test x ... ignored, takes an hour`.
fn ignored(output: &str) -> Option<String> {
    let said = output.lines().filter(|line| line.starts_with("test "));
    let rest =
        said.filter_map(|line| line.split_once(" ... ignored")).map(|(_, rest)| rest).next()?;
    let reason = rest.trim_start_matches([',', ' ']);
    Some(if reason.is_empty() { "ignored".to_owned() } else { format!("ignored: {reason}") })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    const OK: &str = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n";

    fn exited(code: i32) -> End {
        End::Exited(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_test_passes_by_its_status_and_its_closing_line() {
        assert_eq!(of_harness(exited(0), OK), Outcome::Passed);
        let failed = of_harness(exited(101), OK);
        assert_eq!(failed, Outcome::Failed { why: "exit code 101".into() });
        assert!(matches!(of_harness(End::TimedOut, OK), Outcome::Failed { .. }));
    }

    #[test]
    fn a_test_that_exits_early_or_does_not_exist_fails() {
        assert!(matches!(of_harness(exited(0), "test x ... "), Outcome::Failed { .. }));
        let none = "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored;\n";
        assert!(matches!(of_harness(exited(0), none), Outcome::Failed { .. }));
    }

    #[test]
    fn a_skip_line_counts_wherever_it_stands_in_its_line() {
        let text = format!("test a::b ... HMMAP-SKIP: no device \nok\n{OK}");
        assert_eq!(of_harness(exited(0), &text), Outcome::Skipped { reason: "no device".into() });
        // A failure is a failure, whatever was said before it.
        assert!(matches!(of_harness(exited(101), &text), Outcome::Failed { .. }));
        assert!(matches!(of_process(exited(0), &text), Outcome::Skipped { .. }));
    }

    #[test]
    fn skipped_parts_are_named_and_leave_the_test_passed() {
        let text =
            format!("HMMAP-SKIP-CASE: sparse/alias: no sparse: at all\nHMMAP-SKIP-CASE: x\n{OK}");
        assert_eq!(of_harness(exited(0), &text), Outcome::Passed);
        let cases = parse_skips(&text).cases;
        assert_eq!(cases[0], ("sparse/alias".into(), "no sparse: at all".into()));
        assert_eq!(cases[1], ("x".into(), "no reason given".into()));
    }

    #[test]
    fn ignored_tests_are_skipped_with_their_reason() {
        let result = "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured\n";
        let text = format!("test soak ... ignored, takes an hour\n{result}");
        let reason = String::from("ignored: takes an hour");
        assert_eq!(of_harness(exited(0), &text), Outcome::Skipped { reason });
        let text = format!("test soak ... ignored\n{result}");
        assert_eq!(of_harness(exited(0), &text), Outcome::Skipped { reason: "ignored".into() });
    }
}
