//! The examples in the documentation. Cargo runs them itself; its report is read line by line.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::environment::{Pass, TestEnvironment};
use crate::process;
use crate::suite::EVERYTHING;
use crate::summary::{Outcome, Record};
use crate::workspace::{Workspace, cargo};

/// Runs them and gives a record for each, and one for cargo's own success.
///
/// # Errors
///
/// Cargo cannot be started.
pub(crate) fn run(
    workspace: &Workspace,
    environment: &TestEnvironment,
    deadline: Option<Instant>,
) -> Result<Vec<Record>> {
    println!("\n== documentation tests");
    let log = workspace.output_dir("logs")?.join("doctests.log");
    let mut command = cargo(&workspace.root);
    command
        .args(["test", "--doc", "--locked", "--no-fail-fast"])
        .args(EVERYTHING)
        .env("CARGO_TERM_COLOR", "never")
        .envs(environment.variables(Pass::Main, std::env::var_os("LD_LIBRARY_PATH")));
    let start = Instant::now();
    let end = process::run_logged(&mut command, deadline, &log)?;
    let output = process::tail(&log, process::OUTPUT_LIMIT_BYTES)?;
    let outcome = if end.success() {
        Outcome::Passed
    } else {
        println!("{output}");
        Outcome::Failed { why: end.describe() }
    };
    let mut records = parse(&output);
    println!("{} examples, log in {}", records.len(), log.display());
    records.push(Record::new("documentation tests as a whole", outcome, start.elapsed()));
    Ok(records)
}

/// The lines `test src/lib.rs - item (line 3) ... ok`. Their times are not known.
fn parse(output: &str) -> Vec<Record> {
    let record = |line: &str| {
        let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
        let outcome = match result.trim() {
            "ok" => Outcome::Passed,
            ignored if ignored.starts_with("ignored") => {
                Outcome::Skipped { reason: ignored.to_owned() }
            }
            other => Outcome::Failed { why: other.to_owned() },
        };
        Some(Record::new(format!("doc: {name}"), outcome, Duration::ZERO))
    };
    output.lines().filter_map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_the_report_is_a_record() {
        let text = "\
   Doc-tests hmmap
running 3 tests
test src/lib.rs - fill (line 3) ... ok
test src/lib.rs - run (line 30) - compile fail ... FAILED
test src/lib.rs - wait (line 9) ... ignored
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured
";
        let found = parse(text);
        let names: Vec<&str> = found.iter().map(|record| record.name.as_str()).collect();
        assert_eq!(names[0], "doc: src/lib.rs - fill (line 3)");
        assert_eq!(names.len(), 3);
        assert_eq!(found[0].outcome, Outcome::Passed);
        assert!(found[1].failed());
        assert!(matches!(found[2].outcome, Outcome::Skipped { .. }));
    }
}
