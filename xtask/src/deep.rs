//! `cargo xtask deep`: what takes long, before a piece of work is called done.
//!
//! Each step is looked for first. One whose tool is not on this machine is a skipped record with the reason and the
//! command that gets the tool, so the closing report says what ran, what failed, and what was missing.
//!
//! [`plan`] is pure: from what was found to what runs. Builds with other flags go to folders of their own below
//! `target/xtask/`, so that they do not undo the usual build.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::apt::on_path;
use crate::cli::DeepOptions;
use crate::manifest::COMPILED;
use crate::process;
use crate::runner::Depth;
use crate::setup;
use crate::suite::{self, Tests};
use crate::summary::{Outcome, Record, Summary};
use crate::workspace::{Workspace, cargo};

/// The parts of the core that are rules over plain data: no system call in them, so Miri can follow.
const RULES: [&str; 7] =
    ["access::", "coherence::", "directory::", "engine::plan::", "fence::", "kernel::", "units::"];

/// What is on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tools {
    python: bool,
    /// A nightly toolchain.
    nightly: bool,
    /// Its components, as rustup names them.
    components: Vec<String>,
    cargo_fuzz: bool,
    /// Targets in `fuzz/`; `None` without such a folder.
    fuzz_targets: Option<Vec<String>>,
    /// Tests of the core that are to be built for loom.
    loom_tests: Vec<String>,
}

/// One step and what is known about it before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    name: String,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// A command in the repository's top folder.
    Run { words: Vec<String>, environment: Vec<(&'static str, String)> },
    /// The tool is not there; how to get it.
    Missing(String),
}

/// Runs all of it and reports.
///
/// # Errors
///
/// Something around the steps is broken: a program does not start, a log cannot be written.
pub(crate) fn run(workspace: &Workspace, options: &DeepOptions) -> Result<ExitCode> {
    let setup = setup::run(&workspace.root, options.setup.install())?;
    crate::print_setup(&setup);
    let mut summary = Summary::default();
    let steps = plan(&Tools::look(workspace));
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|o| name.contains(o));
    let tests = Tests {
        workspace,
        environment: &setup.environment,
        depth: Depth::Deep,
        limits: options.limits(),
        filter: &[],
    };
    if wanted(SUITE) {
        summary.extend(suite::missing(&setup));
        summary.extend(tests.run());
    }
    if wanted("lab") {
        summary.extend(tests.lab(options.setup.install()));
    }
    for step in steps.iter().filter(|step| wanted(&step.name)) {
        summary.push(step.run(workspace, options.step_deadline())?);
    }
    suite::report(&summary, options.json.as_deref())
}

/// The name that `--only` knows the tests by.
const SUITE: &str = "suite";

/// The steps beside the tests, each with its command or with what it lacks.
fn plan(tools: &Tools) -> Vec<Step> {
    let mut steps = vec![
        Step { name: "kernels".into(), what: kernels(tools, COMPILED[0].script) },
        Step { name: "own kernel".into(), what: kernels(tools, COMPILED[1].script) },
        Step { name: "miri".into(), what: miri(tools) },
        Step { name: "address sanitizer".into(), what: address_sanitizer(tools) },
        Step { name: "thread sanitizer".into(), what: thread_sanitizer(tools) },
        Step { name: "loom".into(), what: loom(tools) },
    ];
    match tools.fuzz_targets.as_deref() {
        None => {
            let what = What::Missing("no folder fuzz/ in this repository".into());
            steps.push(Step { name: "fuzz".into(), what });
        }
        Some(targets) => steps.extend(
            targets
                .iter()
                .map(|target| Step { name: format!("fuzz {target}"), what: fuzz(tools, target) }),
        ),
    }
    steps
}

fn kernels(tools: &Tools, script: &str) -> What {
    if !tools.python {
        return What::Missing("no python3; apt-get install python3 python3-pip".into());
    }
    command(&["python3", script, "--check"], &[])
}

fn miri(tools: &Tools) -> What {
    if let Some(missing) = tools.lacks("miri") {
        return missing;
    }
    let mut words = vec!["rustup", "run", "nightly", "cargo", "miri", "test", "--locked"];
    words.extend(["-p", "hmmap-core", "--lib", "--"]);
    words.extend(RULES);
    command(&words, &[("MIRIFLAGS", "-Zmiri-disable-isolation")])
}

fn address_sanitizer(tools: &Tools) -> What {
    if let Some(missing) = tools.lacks("rust-std") {
        return missing;
    }
    // The standard library was not built for it, and a caught panic looks like a leak then.
    let environment = [("RUSTFLAGS", "-Zsanitizer=address"), ("ASAN_OPTIONS", "detect_leaks=0")];
    command(&sanitized(&[]), &environment)
}

fn thread_sanitizer(tools: &Tools) -> What {
    if let Some(missing) = tools.lacks("rust-src") {
        return missing;
    }
    // Without a standard library built for it, it reports races that are none.
    command(&sanitized(&["-Zbuild-std"]), &[("RUSTFLAGS", "-Zsanitizer=thread")])
}

/// The ordinary cases: a sanitizer looks at each access, and twenty times as many under one take hours.
fn sanitized<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["rustup", "run", "nightly", "cargo", "test", "--locked"];
    words.extend(["-p", "hmmap-core", "--lib", "--tests", "--target", HOST]);
    words.extend(more);
    words
}

#[cfg(target_arch = "x86_64")]
const HOST: &str = "x86_64-unknown-linux-gnu";
#[cfg(target_arch = "aarch64")]
const HOST: &str = "aarch64-unknown-linux-gnu";

fn loom(tools: &Tools) -> What {
    if tools.loom_tests.is_empty() {
        return What::Missing("no crates/core/tests/loom_*.rs in this repository".into());
    }
    let mut words = vec!["cargo", "test", "--locked", "--release", "-p", "hmmap-core"];
    words.extend(tools.loom_tests.iter().flat_map(|test| ["--test", test]));
    command(&words, &[("RUSTFLAGS", "--cfg loom"), ("HMMAP_DEEP", "1")])
}

fn fuzz(tools: &Tools, target: &str) -> What {
    if let Some(missing) = tools.lacks("rust-std") {
        return missing;
    }
    if !tools.cargo_fuzz {
        return What::Missing("no cargo-fuzz; cargo install cargo-fuzz".into());
    }
    let words = ["rustup", "run", "nightly", "cargo", "fuzz", "run", target, "--"];
    command(&[&words[..], &["-max_total_time=300"]].concat(), &[])
}

fn command(words: &[&str], environment: &[(&'static str, &str)]) -> What {
    What::Run {
        words: words.iter().map(ToString::to_string).collect(),
        environment: environment.iter().map(|&(name, value)| (name, value.to_owned())).collect(),
    }
}

impl Tools {
    fn look(workspace: &Workspace) -> Self {
        let mut ask = Command::new("rustup");
        ask.args(["component", "list", "--installed", "--toolchain", "nightly"]);
        let components = process::capture(&mut ask).ok().filter(|answer| answer.success);
        let fuzz = workspace.root.join("fuzz/fuzz_targets");
        Self {
            python: on_path("python3").is_some(),
            nightly: components.is_some(),
            components: components
                .map(|answer| answer.stdout.lines().map(str::to_owned).collect())
                .unwrap_or_default(),
            cargo_fuzz: on_path("cargo-fuzz").is_some(),
            fuzz_targets: fuzz.is_dir().then(|| stems(&fuzz, "")),
            loom_tests: stems(&workspace.root.join("crates/core/tests"), "loom_"),
        }
    }

    /// What is missing for a step that needs `component` of a nightly toolchain.
    fn lacks(&self, component: &str) -> Option<What> {
        let have = |name: &String| name == component || name.starts_with(&format!("{component}-"));
        let reason = match (self.nightly, self.components.iter().any(have)) {
            (true, true) => return None,
            (false, _) => "no nightly toolchain; rustup toolchain install nightly".to_owned(),
            (true, false) => {
                format!(
                    "nightly has no {component}; rustup component add {component} --toolchain nightly"
                )
            }
        };
        Some(What::Missing(reason))
    }
}

/// The names, without `.rs`, of the Rust files in `dir` that start with `prefix`; in order.
fn stems(dir: &Path, prefix: &str) -> Vec<String> {
    let entries = dir.read_dir().into_iter().flatten().flatten();
    let name = |path: std::path::PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".rs")?.to_owned();
        name.starts_with(prefix).then_some(name)
    };
    let mut names: Vec<String> = entries.filter_map(|entry| name(entry.path())).collect();
    names.sort();
    names
}

impl Step {
    fn run(&self, workspace: &Workspace, deadline: Option<Instant>) -> Result<Record> {
        let name = format!("deep: {}", self.name);
        let (words, environment) = match &self.what {
            What::Run { words, environment } => (words, environment),
            What::Missing(reason) => {
                let outcome = Outcome::Skipped { reason: reason.clone() };
                return Ok(Record::new(name, outcome, Duration::ZERO));
            }
        };
        println!("\n== {name}: {}", words.join(" "));
        // Steps that begin alike, as fuzzers do, build alike.
        let kind = self.name.split(' ').next().unwrap_or_default();
        let target: OsString = workspace.output_dir(kind)?.into();
        let mut command = match words[0].as_str() {
            "cargo" => cargo(&workspace.root),
            program => workspace.command(program),
        };
        command
            .args(&words[1..])
            .env("CARGO_TARGET_DIR", target)
            .envs(environment.iter().map(|(name, value)| (name, value)));
        let start = Instant::now();
        let end = process::run_visible(&mut command, deadline)?;
        let outcome = if end.success() {
            Outcome::Passed
        } else {
            Outcome::Failed { why: format!("{}, its output is above", end.describe()) }
        };
        Ok(Record::new(name, outcome, start.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(steps: &[Step]) -> Vec<&str> {
        let missing = steps.iter().filter(|step| matches!(step.what, What::Missing(_)));
        missing.map(|step| step.name.as_str()).collect()
    }

    #[test]
    fn a_bare_machine_misses_every_step_and_says_what_to_install() {
        let steps = plan(&Tools::default());
        assert_eq!(missing(&steps).len(), steps.len());
        let miri = steps.iter().find(|step| step.name == "miri").unwrap();
        assert!(
            matches!(&miri.what, What::Missing(how) if how.contains("toolchain install nightly"))
        );
    }

    #[test]
    fn each_tool_makes_its_step_run() {
        let mut tools = Tools {
            python: true,
            nightly: true,
            components: vec!["rust-std-x86_64-unknown-linux-gnu".into()],
            cargo_fuzz: true,
            fuzz_targets: Some(vec!["wire".into()]),
            loom_tests: vec!["loom_fence".into()],
        };
        assert_eq!(missing(&plan(&tools)), ["miri", "thread sanitizer"]);
        tools.components.extend(["miri-x86_64".into(), "rust-src".into()]);
        let steps = plan(&tools);
        assert_eq!(missing(&steps), [""; 0]);
        let What::Run { words, .. } = &steps.last().unwrap().what else { panic!("missing") };
        assert_eq!(words[4..7], ["fuzz", "run", "wire"]);
    }

    #[test]
    fn the_files_of_a_kind_are_found_by_their_prefix() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["loom_b.rs", "loom_a.rs", "other.rs", "loom_c.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(stems(dir.path(), "loom_"), ["loom_a", "loom_b"]);
        assert_eq!(stems(&dir.path().join("none"), ""), [""; 0]);
    }
}
