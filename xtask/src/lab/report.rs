//! What the tests said. Pure.

use std::fmt::Write as _;

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
            open = Some(Test { name: name.to_owned(), passed: false, notes: Vec::new() });
            rest = tail;
        }
        let Some(test) = &mut open else { continue };
        if let Some(at) = rest.find("HMMAP-") {
            test.notes.push(rest[at..].to_owned());
        }
        let verdict = ["ok", "FAILED"].into_iter().find(|word| rest.trim() == *word);
        if let Some(verdict) = verdict {
            test.passed = verdict == "ok";
            tests.extend(open.take());
        }
    }
    tests.extend(open);
    tests
}

/// Nothing failed, nothing skipped, something ran.
pub(super) fn all_passed(tests: &[Test], results: &Results) -> bool {
    let ran =
        |test: &Test| test.passed && !test.notes.iter().any(|note| note.starts_with("HMMAP-SKIP"));
    results.status == 0 && !tests.is_empty() && tests.iter().all(ran)
}

/// For people: a line per test, and the whole output when one failed.
pub(super) fn show(tests: &[Test], results: &Results) -> String {
    let mut text = String::new();
    if !all_passed(tests, results) {
        let _ = writeln!(text, "{}\nexit status {}", results.output.trim_end(), results.status);
    }
    for test in tests {
        let verdict = if test.passed { "ok" } else { "FAILED" };
        let _ = writeln!(text, "{verdict:<7} {}", test.name);
        for note in &test.notes {
            let _ = writeln!(text, "        {note}");
        }
    }
    let passed = tests.iter().filter(|test| test.passed).count();
    let _ = writeln!(text, "lab: {passed} passed, {} failed", tests.len() - passed);
    text
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

    #[test]
    fn a_run_passes_by_status_and_by_every_test() {
        let good = "test a ... ok\n";
        assert!(all_passed(&read(good), &results(good, 0)));
        assert!(!all_passed(&read(good), &results(good, 101)), "the status tells");
        for bad in [
            "",
            "test a ... FAILED\n",
            "test a ... stopped here",
            "test a ... HMMAP-SKIP: no\nok\n",
        ] {
            assert!(!all_passed(&read(bad), &results(bad, 0)), "{bad}");
        }
        assert!(show(&read(good), &results("loud", 1)).contains("loud"));
    }
}
