//! The command as a user calls it.

use std::{fs, path::PathBuf};

use assert_cmd::{Command, cargo::cargo_bin_cmd};
use hmmap_bench::Suite;
use serde_json::Value;

/// The command with these arguments, its standard input closed.
fn hmmap(arguments: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("hmmap");
    command.args(arguments);
    command
}

fn stdout(arguments: &[&str]) -> String {
    let output = hmmap(arguments).assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

fn stderr_of_failure(arguments: &[&str], code: i32) -> String {
    let output = hmmap(arguments).assert().code(code).get_output().stderr.clone();
    String::from_utf8(output).unwrap()
}

fn has_keys(object: &Value, keys: &[&str]) {
    let object = object.as_object().unwrap();
    for key in keys {
        assert!(object.contains_key(*key), "no `{key}` in {object:?}");
    }
}

#[test]
fn help_names_every_command_and_suite() {
    let help = stdout(&["--help"]);
    for command in ["info", "topo", "bench", "trace", "top", "completions"] {
        assert!(help.contains(command), "{help}");
    }
    let help = stdout(&["bench", "--help"]);
    let options =
        ["--device", "--model", "--json", "--plot", "--quick", "--seconds", "list", "all"];
    for word in options.into_iter().chain(Suite::ALL.map(Suite::name)) {
        assert!(help.contains(word), "no {word} in {help}");
    }
}

#[test]
fn list_names_every_case() {
    let list = stdout(&["bench", "list"]);
    for suite in Suite::ALL {
        assert!(list.contains(suite.name()));
        for case in suite.cases() {
            assert!(list.contains(case.name), "no {} in {list}", case.name);
        }
    }
}

#[test]
fn what_is_not_there_is_an_error_that_says_what_is() {
    assert!(stderr_of_failure(&["bench", "migrat"], 2).contains("migrate"));
    let no_device = ["bench", "guard", "--device", "abacus"];
    assert!(stderr_of_failure(&no_device, 1).contains("embedded"));
    let no_folder = ["bench", "directory", "--quick", "--device", "embedded", "--json", "/no/x"];
    assert!(stderr_of_failure(&no_folder, 1).contains("/no/x"));
}

#[test]
fn info_is_text_or_one_json_object() {
    let text = stdout(&["info"]);
    for word in ["host window", "embedded CPU device"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    // Rows, which are words of others, too.
    for row in ["kernel", "userfaultfd"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(row)), "no {row} in {text}");
    }
    let info: Value = serde_json::from_str(&stdout(&["info", "--json"])).unwrap();
    has_keys(&info, &["machine", "version", "nodes", "unusable", "absent"]);
    has_keys(&info["machine"], &["cpus", "kernel", "userfaultfd", "limits", "devices"]);
    assert_eq!(info["nodes"][0]["node"], "host");
    let devices = info["machine"]["devices"].as_array().unwrap();
    for (number, device) in devices.iter().enumerate() {
        assert_eq!(device["number"], number);
    }
    assert!(devices.iter().any(|device| device["api"] == "embedded"));
}

#[test]
fn records_have_the_promised_fields() {
    let arguments = ["bench", "guard", "--quick", "--device", "embedded", "--json", "-"];
    let report: Value = serde_json::from_str(&stdout(&arguments)).unwrap();
    has_keys(&report, &["machine", "version", "records"]);
    let records = report["records"].as_array().unwrap();
    assert_eq!(records.len(), Suite::Guard.cases().len());
    for (record, case) in records.iter().zip(Suite::Guard.cases()) {
        has_keys(record, &["suite", "case", "device", "model", "bytes", "runs"]);
        assert_eq!((&record["suite"], &record["case"]), (&"guard".into(), &case.name.into()));
        assert_eq!(record["bytes"], case.bytes);
        assert!(record["runs"].as_u64().unwrap() >= 3);
        if record["metric"].is_null() {
            has_keys(record, &["median_s", "p10_s", "limit_s", "ratio"]);
            let number = |key: &str| record[key].as_f64().unwrap();
            let ratio = number("limit_s") / number("median_s");
            assert!((ratio / number("ratio") - 1.0).abs() < 1e-9);
        } else {
            has_keys(record, &["value", "goal"]);
            assert!(record["value"].as_f64().unwrap() > 0.0);
        }
    }
    assert!(records.iter().any(|record| record["metric"].is_null()), "a time among them");
}

#[test]
fn a_model_leaves_out_what_is_about_the_other() {
    let arguments = ["bench", "migrate", "--quick", "--device", "embedded", "--model", "unified"];
    let report = stdout(&[&arguments[..], &["--json", "-"]].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
    let records = report["records"].as_array().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["model"], "unified");
    assert_eq!((&records[0]["metric"], &records[0]["value"]), (&"moved_bytes".into(), &0.0.into()));
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), Suite::Migrate.cases().len() - 1);
}

#[test]
fn without_time_every_case_is_left_out_and_named() {
    let arguments = ["bench", "guard", "--quick", "--device", "embedded", "--seconds", "0"];
    let report = stdout(&[&arguments[..], &["--json", "-"]].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["records"], Value::Array(Vec::new()));
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), Suite::Guard.cases().len());
    assert_eq!(skipped[0]["reason"], "no time left of the 0 s");
}

#[test]
fn cases_are_chosen_by_words_and_one_that_is_in_none_is_an_error() {
    let chosen = |words: &[&str]| {
        let words = words.iter().flat_map(|word| ["--case", word]);
        let arguments = ["bench", "all", "--seconds", "0", "--json", "-"];
        let report: Value =
            serde_json::from_str(&stdout(&arguments.into_iter().chain(words).collect::<Vec<_>>()))
                .unwrap();
        let skipped = report["skipped"].as_array().unwrap();
        skipped.iter().map(|case| case["case"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let both = chosen(&["acquire", "time/triad/200%/reuse"]);
    assert!(both.iter().any(|case| case == "time/triad/200%/reuse"), "{both:?}");
    assert!(both.iter().all(|case| case.contains("acquire") || case.contains("time/triad/200%")));
    let error = stderr_of_failure(&["bench", "guard", "--case", "no such"], 1);
    assert!(error.contains("hmmap bench list"), "{error}");
}

#[test]
fn a_run_can_be_kept_as_json_and_as_a_picture() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (json, svg) = (folder.join("guard.json"), folder.join("guard.svg"));
    let files = [json.to_str().unwrap(), svg.to_str().unwrap()];
    let arguments = ["bench", "guard", "--quick", "--device", "embedded"];
    let table = stdout(&[&arguments[..], &["--json", files[0], "--plot", files[1]]].concat());
    assert!(table.contains("no-op-read/1MiB") && table.contains("limit: memcpy"), "{table}");
    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(fs::read_to_string(svg).unwrap().contains("guard one-element-of/64MiB"));
}

#[test]
fn completions_are_for_the_command() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&["completions", shell]).contains("hmmap"), "{shell}");
    }
}
