//! What the tests said. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::summary::{Outcome, Record};

/// What came back from the machine.
#[derive(Debug)]
pub(super) struct Results {
    /// What the job printed.
    pub(super) output: String,
    /// Its exit status.
    pub(super) status: i32,
}

/// One line of a test program's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) passed: bool,
    /// What it counted, or why it skipped.
    pub(super) notes: Vec<String>,
}

/// The tests in the output of programs that ran with `--nocapture --test-threads 1`: a test prints between `test NAME ... ` and its verdict.
pub(super) fn read(output: &str) -> Vec<Test> {
    let mut tests: Vec<Test> = Vec::new();
    let mut open = None;
    for line in output.lines() {
        let mut rest = line;
        if let Some((name, tail)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) {
            // One that was open did not come to its end.
            tests.extend(open.take());
            open = Some(Test { name: name.trim().to_owned(), passed: false, notes: Vec::new() });
            rest = tail;
        }
        let Some(test) = &mut open else { continue };
        if let Some(at) = rest.find("HMMAP-") {
            test.notes.push(rest[at..].to_owned());
        }
        // Ignored ones are for another machine.
        let ignored = rest.starts_with("ignored");
        if ignored || ["ok", "FAILED"].contains(&rest.trim()) {
            test.passed = rest.trim() == "ok";
            tests.extend(open.take().filter(|_| !ignored));
        }
    }
    tests.extend(open);
    tests
}

const SKIP: &str = "HMMAP-SKIP: ";
const SKIP_CASE: &str = "HMMAP-SKIP-CASE: ";
const COUNT: &str = "HMMAP-COUNT: ";

impl Test {
    fn skip(&self) -> Option<&str> {
        self.notes.iter().find_map(|note| note.strip_prefix(SKIP))
    }
}

/// A record for each test, for each part that one left out, and for the machine where it says less than it should.
pub(super) fn records(label: &str, tests: &[Test], results: &Results) -> Vec<Record> {
    let record =
        |name: &str, outcome| Record::new(format!("lab {label}: {name}"), outcome, Duration::ZERO);
    let mut records = Vec::new();
    for test in tests {
        let outcome = match (test.passed, test.skip()) {
            (false, _) => Outcome::Failed { why: "its output is above".into() },
            (true, Some(reason)) => Outcome::Skipped { reason: reason.to_owned() },
            (true, None) => Outcome::Passed,
        };
        records.push(record(&test.name, outcome));
        for part in test.notes.iter().filter_map(|note| note.strip_prefix(SKIP_CASE)) {
            let (case, reason) = part.split_once(": ").unwrap_or((part, "no reason given"));
            let reason = reason.to_owned();
            records.push(record(&format!("{} {case}", test.name), Outcome::Skipped { reason }));
        }
    }
    if results.status != 0 && tests.iter().all(|test| test.passed) {
        let why = format!("exit status {}, its output is above", results.status);
        records.push(record("machine", Outcome::Failed { why }));
    }
    if !tests.iter().any(|test| test.passed && test.skip().is_none()) {
        records.push(record("machine", Outcome::Failed { why: "no test passed".into() }));
    }
    records
}

/// For people: a line per test, and the whole output when one failed.
pub(super) fn show(tests: &[Test], results: &Results) -> String {
    let mut text = String::new();
    if results.status != 0 || tests.iter().any(|test| !test.passed) {
        let _ = writeln!(text, "{}\nexit status {}", results.output.trim_end(), results.status);
    }
    for test in tests {
        let verdict = match (test.passed, test.skip()) {
            (true, None) => "ok",
            (true, Some(_)) => "skipped",
            (false, _) => "FAILED",
        };
        let _ = writeln!(text, "{verdict:<7} {}", test.name);
        for note in &test.notes {
            let _ = writeln!(text, "        {note}");
        }
    }
    text
}

/// What the tests counted (`HMMAP-COUNT: 8 transfers, 2 faults`), added up by what was counted.
pub(super) fn totals(tests: &[Test]) -> BTreeMap<String, u64> {
    let mut totals = BTreeMap::new();
    let notes = tests.iter().flat_map(|test| &test.notes);
    for count in notes.filter_map(|note| note.strip_prefix(COUNT)).flat_map(|note| note.split(", "))
    {
        if let Some((number, what)) = count.trim().split_once(' ')
            && let Ok(number) = number.parse::<u64>()
        {
            *totals.entry(what.to_owned()).or_default() += number;
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a::reads ... HMMAP-COUNT: 8 transfers
noise
ok
test b ... ok
test c ... thread 'c' panicked
FAILED
";

    fn results(output: &str, status: i32) -> Results {
        Results { output: output.to_owned(), status }
    }

    #[test]
    fn each_test_has_its_verdict_and_what_it_counted() {
        let tests = read(OUTPUT);
        let names: Vec<_> = tests.iter().map(|test| (test.name.as_str(), test.passed)).collect();
        assert_eq!(names, [("a::reads", true), ("b", true), ("c", false)]);
        assert_eq!(tests[0].notes, ["HMMAP-COUNT: 8 transfers"]);
    }

    fn verdicts(output: &str, status: i32) -> Vec<String> {
        let records = records("6.12", &read(output), &results(output, status));
        let word = |record: &Record| match &record.outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed { .. } => "failed".to_owned(),
            Outcome::Skipped { reason } => reason.clone(),
        };
        records.iter().map(|record| format!("{}: {}", record.name, word(record))).collect()
    }

    #[test]
    fn a_run_passes_by_status_and_by_every_test() {
        let good = "test a     ... ok\n";
        assert_eq!(verdicts(good, 0), ["lab 6.12: a: passed"]);
        assert_eq!(verdicts(good, 101)[1], "lab 6.12: machine: failed", "the status tells");
        assert!(show(&read(good), &results("loud", 1)).contains("loud"));
        assert_eq!(verdicts("", 0), ["lab 6.12: machine: failed"]);
        let stopped = verdicts("test a ... stopped here\ntest b ... ok\n", 0);
        assert_eq!(stopped, ["lab 6.12: a: failed", "lab 6.12: b: passed"]);
        assert_eq!(verdicts("test a ... ignored, long\ntest b ... ok\n", 0).len(), 1);
    }

    #[test]
    fn what_is_skipped_is_named_with_its_reason() {
        let output =
            "test a ... HMMAP-SKIP: no huge: page\nok\ntest b ... HMMAP-SKIP-CASE: x: y\nok\n";
        let expected = ["lab 6.12: a: no huge: page", "lab 6.12: b: passed", "lab 6.12: b x: y"];
        assert_eq!(verdicts(output, 0), expected);
        let nothing = verdicts("test a ... HMMAP-SKIP: no\nok\n", 0);
        assert_eq!(nothing[1], "lab 6.12: machine: failed", "nothing was shown");
    }

    #[test]
    fn what_was_counted_is_added_up() {
        let output = "test a ... HMMAP-COUNT: 8 transfers, 2 faults\nok\n\
                      test b ... HMMAP-COUNT: 3 transfers, none of it\nok\n";
        let totals = totals(&read(output));
        assert_eq!(
            totals.into_iter().collect::<Vec<_>>(),
            [("faults".to_owned(), 2), ("transfers".to_owned(), 11)]
        );
    }
}
