//! `run.sh`, run in a bundle whose programs are stubs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bundle/run.sh");

const FILES: [&str; 6] =
    ["bench.jsonl", "conformance.jsonl", "examples.txt", "facts.txt", "info.json", "summary.txt"];

/// Answers as `hmmap` does. Without the loader of a bundle it finds none when the file `no-loader` lies beside it.
const HMMAP: &str = r#"#!/bin/sh
here=$(dirname "$0")
case "$1 $2" in
'info --json')
    loader='"1.3.239"'
    [ -f "$here/no-loader" ] && case ${LD_LIBRARY_PATH-} in */lib) ;; *) loader=null ;; esac
    cat <<END
{
  "machine": {
    "vulkan_loader": $loader,
    "devices": [
      {
        "number": 0,
        "name": "a GPU",
        "api": "vulkan",
        "kind": "discrete GPU"
      },
      {
        "number": 2,
        "name": "a \"software\" driver",
        "api": "vulkan",
        "kind": "CPU"
      },
      {
        "number": 3,
        "name": "embedded",
        "api": "embedded",
        "kind": "CPU"
      }
    ]
  }
}
END
    ;;
'bench list') printf 'migrate: pages\n    h2d/2MiB  2 MiB\nguard: borrows\n    no-op  1 MiB\n' ;;
bench*)
    echo "table of $2"
    [ "${5-}" = --seconds ] && [ "${7-}" = --json ] || exit 9
    printf '{\n  "suite": "%s",\n  "text": "a  b"\n}\n' "$2" >"$8"
    if [ -f "$here/slow-bench" ]; then sleep 600; fi
    ;;
esac
"#;

/// Answers as `hmmap-conformance` does; the mode `slow` does not end, the mode `wrong` fails.
const CONFORMANCE: &str = r#"#!/bin/sh
[ "$1" = --list ] && { cat "$(dirname "$0")/modes"; exit; }
[ "$1 $3" = '--mode --json' ] || exit 9
[ "$2" = slow ] && sleep 600
printf '[\n  {\n    "mode": "%s"\n  }\n]' "$2" >"$4"
echo "  1 passed, 0 failed, 0 skipped"
[ "$2" = wrong ] && { echo "what went wrong" >&2; exit 1; }
exit 0
"#;

/// A bundle of stubs with these modes.
struct Stubs(tempfile::TempDir);

impl Stubs {
    fn new(modes: &[&str]) -> Self {
        let stubs = Self(tempfile::tempdir().unwrap());
        let list: String = modes.iter().map(|mode| format!("  {mode}\n")).collect();
        stubs.write("run.sh", &fs::read_to_string(SCRIPT).unwrap());
        stubs.write("version.txt", "hmmap 0.0.0\n");
        stubs.write("bin/hmmap", HMMAP);
        stubs.write("bin/hmmap-conformance", CONFORMANCE);
        stubs.write("bin/modes", &format!("modes\n{list}cases\n  a::case  shows\n"));
        stubs.write("examples/01_one", "#!/bin/sh\necho one; : >left-behind; cat\n");
        stubs.write("lib/libvulkan.so.1", "");
        stubs
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs it with `words`, after `--out` and a folder that is given back.
    fn run(&self, words: &[&str]) -> (Output, PathBuf) {
        let out = self.0.path().join("out");
        let mut command = Command::new("sh");
        command.arg(self.0.path().join("run.sh")).arg("--out").arg(&out).args(words);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TMPDIR", self.0.path());
        command.env("VK_DRIVER_FILES", "/none").current_dir(self.0.path());
        (command.stdin(Stdio::null()).output().unwrap(), out)
    }
}

fn text(out: &Path, name: &str) -> String {
    fs::read_to_string(out.join(name)).unwrap()
}

fn lines(out: &Path, name: &str) -> Vec<Value> {
    text(out, name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_script_is_well_formed() {
    let output = Command::new("sh").args(["-n", SCRIPT]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn everything_runs_and_six_files_say_what_came_of_it() {
    let stubs = Stubs::new(&["one", "two"]);
    let before = names(stubs.0.path());
    let (output, out) = stubs.run(&["--seconds", "60"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(names(&out), FILES);
    let after: Vec<_> = names(stubs.0.path()).into_iter().filter(|name| name != "out").collect();
    assert_eq!(after, before, "something is left behind");

    let modes = lines(&out, "conformance.jsonl");
    assert_eq!(modes.len(), 2);
    assert_eq!(
        (&modes[1]["step"], &modes[1]["outcome"]),
        (&"conformance two".into(), &"passed".into())
    );
    assert_eq!(modes[1]["report"][0]["mode"], "two");
    let suites = lines(&out, "bench.jsonl");
    let devices: Vec<_> = suites.iter().map(|suite| suite["device"].as_u64().unwrap()).collect();
    assert_eq!(devices, [0, 0, 2, 2], "each suite on each Vulkan device");
    assert_eq!(suites[1]["report"]["suite"], "guard");
    assert_eq!(suites[1]["report"]["text"], "a  b", "strings stay as they are");
    assert!(text(&out, "examples.txt").contains("== 01_one: passed\none\n"));
    assert!(text(&out, "facts.txt").contains("== userfaultfd\n"));
    let info: Value = serde_json::from_str(&text(&out, "info.json")).unwrap();
    assert_eq!(info["machine"]["devices"][1]["number"], 2);
    let summary = text(&out, "summary.txt");
    assert!(summary.contains("\n  table of guard\n"), "{summary}");
    assert!(summary.contains("total: 8 passed, 0 failed, 0 cut off, 0 left out;"), "{summary}");
}

#[test]
fn a_step_that_does_not_end_takes_its_share_and_what_has_no_time_is_named() {
    let stubs = Stubs::new(&["slow", "slow", "slow"]);
    let (output, out) = stubs.run(&["--seconds", "14", "--only", "conformance"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let modes = lines(&out, "conformance.jsonl");
    let outcomes: Vec<_> = modes.iter().map(|mode| mode["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes.len(), 3);
    assert_eq!((outcomes[0], outcomes[2]), ("cut off", "left out"), "{outcomes:?}");
    let share = |mode: &Value| mode["share_s"].as_u64().unwrap();
    assert_eq!(share(&modes[0]), 5, "the least share, where a third of the time is less");
    assert!(modes.iter().all(|mode| mode["report"].is_null()));
    let summary = text(&out, "summary.txt");
    assert!(summary.contains("left out: conformance slow, ") && summary.contains("0 failed, "));
}

#[test]
fn a_benchmark_that_is_cut_off_leaves_what_it_had() {
    let stubs = Stubs::new(&["one"]);
    stubs.write("bin/slow-bench", "");
    let (output, out) = stubs.run(&["--seconds", "10", "--only", "guard"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let suites = lines(&out, "bench.jsonl");
    assert_eq!(suites[0]["outcome"], "cut off");
    assert_eq!(suites[0]["report"]["suite"], "guard");
}

#[test]
fn time_is_shared_by_weight_and_what_is_not_used_goes_on() {
    let stubs = Stubs::new(&["one"]);
    let (_, out) = stubs.run(&["--seconds", "1004"]);
    let share = |file, line: usize| lines(&out, file)[line]["share_s"].as_u64().unwrap();
    // One mode of weight 4, two suites of 8 on the GPU, two of 4 on the CPU, one example of 1: 29 together.
    let (mode, first) = (share("conformance.jsonl", 0), share("bench.jsonl", 0));
    assert!((130..=137).contains(&mode), "4/29 of 1000 s less the facts: {mode}");
    assert!((300..=320).contains(&first), "8/25 of what is left, which is nearly all: {first}");
}

#[test]
fn a_failure_is_told_with_its_last_words_and_the_rest_runs() {
    let stubs = Stubs::new(&["wrong", "one"]);
    let (output, out) = stubs.run(&["--seconds", "60"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let modes = lines(&out, "conformance.jsonl");
    assert_eq!((&modes[0]["outcome"], &modes[0]["exit"]), (&"failed".into(), &1.into()));
    assert_eq!(modes[0]["report"][0]["mode"], "wrong", "its report is kept");
    assert_eq!(modes[1]["outcome"], "passed");
    let summary = text(&out, "summary.txt");
    assert!(summary.contains("FAILED: conformance wrong, exit status 1"), "{summary}");
    assert!(summary.contains("  | what went wrong\n"), "{summary}");
    assert!(text(&out, "examples.txt").contains("one"));
}

#[test]
fn the_bundles_loader_is_used_where_there_is_none_and_only_there() {
    let stubs = Stubs::new(&["one"]);
    let (_, out) = stubs.run(&["--seconds", "60", "--only", "info"]);
    assert!(text(&out, "facts.txt").contains("the system's\n"));
    fs::remove_dir_all(out).unwrap();
    stubs.write("bin/no-loader", "");
    let (output, out) = stubs.run(&["--seconds", "60", "--only", "info"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&out, "facts.txt").contains("this bundle's, since the system has none\n"));
    assert!(text(&out, "info.json").contains("1.3.239"));
    assert_eq!(text(&out, "conformance.jsonl"), "", "only info");
}

#[test]
fn one_suite_can_be_asked_for_and_what_is_not_there_fails() {
    let stubs = Stubs::new(&["one"]);
    let (output, out) = stubs.run(&["--seconds", "60", "--only", "guard"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(lines(&out, "bench.jsonl").len(), 2);
    assert_eq!((text(&out, "conformance.jsonl"), text(&out, "examples.txt")), <_>::default());
    fs::remove_dir_all(&out).unwrap();
    let (output, _) = stubs.run(&["--seconds", "60", "--only", "abacus"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn wrong_use_runs_nothing_and_results_are_not_overwritten() {
    let stubs = Stubs::new(&["one"]);
    for words in [&["--seconds", "9"][..], &["--seconds", "1 + 1"], &["--seconds"], &["--fast"]] {
        let (output, out) = stubs.run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert!(!out.exists(), "{words:?}");
    }
    let (_, out) = stubs.run(&["--seconds", "60", "--only", "info"]);
    let summary = text(&out, "summary.txt");
    let (output, out) = stubs.run(&["--seconds", "60"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(text(&out, "summary.txt"), summary);
}
