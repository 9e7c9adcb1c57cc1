//! The checks beside the tests: cargo's own, one command each, and ours over the files.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use crate::summary::{Outcome, Record};
use crate::workspace::{Workspace, cargo};
use crate::{manifest, process, tidy};

/// The house rules ([`mod@tidy`]) and the compiled kernels ([`manifest`]).
pub(crate) fn of_files(workspace: &Workspace) -> Vec<Record> {
    vec![tidy(workspace), shaders(workspace)]
}

/// The house rules.
pub(crate) fn tidy(workspace: &Workspace) -> Record {
    listed("tidy", || tidy::findings(&workspace.root))
}

/// The compiled kernels against the manifest.
pub(crate) fn shaders(workspace: &Workspace) -> Record {
    listed("shader manifest", || manifest::all_differences(&workspace.root))
}

/// A check that finds lines: good when it finds none.
fn listed(name: &str, look: impl FnOnce() -> Result<Vec<String>>) -> Record {
    println!("\n== {name}");
    let start = Instant::now();
    let outcome = match look() {
        Ok(lines) if lines.is_empty() => Outcome::Passed,
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            Outcome::Failed { why: format!("{} findings, above", lines.len()) }
        }
        Err(error) => Outcome::Failed { why: format!("{error:#}") },
    };
    Record::new(format!("check: {name}"), outcome, start.elapsed())
}

/// One cargo command that has to succeed.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    dir: PathBuf,
    words: Vec<&'static str>,
    environment: Vec<(&'static str, OsString)>,
    remedy: &'static str,
}

/// The commands over the workspace. Most have every feature switched on, test doubles included; what users build is
/// checked beside them.
pub(crate) fn of_workspace(workspace: &Workspace) -> Vec<Check> {
    let check = |name, words: &[&'static str], remedy| Check {
        name,
        dir: workspace.root.clone(),
        words: words.to_vec(),
        environment: Vec::new(),
        remedy,
    };
    // A build of its own: the engine's locks are shuttle's in it and the kernels' loom's, so nothing else could use it.
    let orders = |name, words: &[&'static str]| Check {
        environment: vec![
            ("RUSTFLAGS", "--cfg shuttle --cfg loom".into()),
            ("RUST_BACKTRACE", "0".into()),
            ("CARGO_TARGET_DIR", workspace.target.join("orders").into_os_string()),
        ],
        ..check(name, words, "shuttle or loom found an order that fails, above")
    };
    let doc = ["doc", "--locked", "--workspace", "--all-features", "--no-deps"];
    let mut clippy = vec!["clippy", "--locked", "--workspace", "--all-targets", "--all-features"];
    clippy.extend(["--", "-D", "warnings"]);
    vec![
        check("format", &["fmt", "--all", "--check"], "run: cargo fmt --all"),
        check("clippy", &clippy, ABOVE),
        check(
            "no features",
            &["check", "--locked", "-p", "hmmap", "--no-default-features"],
            "the package has to build without its default features",
        ),
        check(
            "default features",
            &["check", "--locked", "-p", "hmmap"],
            "the package has to build with its default features, as users add it",
        ),
        Check {
            environment: vec![("RUSTDOCFLAGS", "-D warnings".into())],
            ..check("documentation", &doc, ABOVE)
        },
        orders("orders of threads", &ORDERS),
        orders("orders of threads in two processes", &ORDERS_OF_PROCESSES),
    ]
}

/// Shuttle over two processes that serve each other.
const ORDERS_OF_PROCESSES: [&str; 6] =
    ["test", "--locked", "-p", "hmmap-share", "--lib", "both_ways"];

/// Shuttle over the engine's locks, and loom over the accesses of the smallest kernels.
const ORDERS: [&str; 10] = [
    "test",
    "--locked",
    "-p",
    "hmmap-core",
    "--test",
    "engine_shuttle",
    "--test",
    "loom_progress",
    "--test",
    "loom_crew",
];

/// The commands over the example of a crate that brings its own kernel. It stands outside the workspace, as a user's
/// crate does, so no command over the workspace sees it; that it runs is a test of `hmmap`.
///
/// # Errors
///
/// The workspace's versions cannot be written beside it: it has none of its own, and those are on this machine.
pub(crate) fn of_own_kernel(workspace: &Workspace) -> Result<Vec<Check>> {
    let dir = workspace.root.join("examples/own-kernel");
    if !dir.join("Cargo.toml").is_file() {
        return Ok(Vec::new());
    }
    std::fs::copy(workspace.root.join("Cargo.lock"), dir.join("Cargo.lock"))?;
    let target = workspace.target.clone().into_os_string();
    let check = |name, words: &[&'static str], remedy| {
        let environment = vec![("CARGO_TARGET_DIR", target.clone())];
        Check { name, dir: dir.clone(), words: words.to_vec(), environment, remedy }
    };
    let clippy = ["clippy", "--offline", "--all-targets", "--", "-D", "warnings"];
    Ok(vec![
        check("own kernel, format", &["fmt", "--check"], "run: cd examples/own-kernel; cargo fmt"),
        check("own kernel, clippy", &clippy, ABOVE),
    ])
}

const ABOVE: &str = "the messages are above";

impl Check {
    /// Runs it, its output on ours.
    ///
    /// # Errors
    ///
    /// Cargo cannot be started.
    pub(crate) fn run(&self, deadline: Option<Instant>) -> Result<Record> {
        let mut command = cargo(&self.dir);
        command.args(&self.words).envs(self.environment.iter().cloned());
        println!("\n== {}: cargo {}", self.name, self.words.join(" "));
        let start = Instant::now();
        let end = process::run_visible(&mut command, deadline)?;
        let outcome = if end.success() {
            Outcome::Passed
        } else {
            Outcome::Failed { why: format!("{} ({})", end.describe(), self.remedy) }
        };
        Ok(Record::new(format!("check: {}", self.name), outcome, start.elapsed()))
    }
}
