//! The checks beside the tests: cargo's own, one command each, and ours over the files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;

use crate::summary::{Outcome, Record};
use crate::workspace::{Workspace, cargo};
use crate::{manifest, process, tidy};

/// The house rules ([`tidy`]) and the compiled kernels ([`manifest`]).
pub(crate) fn of_files(workspace: &Workspace) -> Vec<Record> {
    vec![tidy(workspace), shaders(workspace)]
}

/// The house rules.
pub(crate) fn tidy(workspace: &Workspace) -> Record {
    listed("tidy", || tidy::findings(&workspace.root))
}

/// The compiled kernels against the manifest.
pub(crate) fn shaders(workspace: &Workspace) -> Record {
    listed("shader manifest", || manifest::differences(&workspace.root.join("shaders")))
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

/// The commands, cheapest first.
pub(crate) fn all(workspace: &Workspace) -> Vec<Check> {
    let root = &workspace.root;
    let no_warning = || OsString::from("-D warnings");
    vec![
        check(root, "format", &["fmt", "--all", "--check"], "run: cargo fmt --all"),
        check(
            root,
            "clippy",
            &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
            "the messages are above",
        ),
        check(
            root,
            "features",
            &["check", "--locked", "-p", "hmmap", "--no-default-features"],
            "the package has to build without its default features",
        ),
        check(
            root,
            "cuda feature",
            &["check", "--locked", "-p", "hmmap", "--features", "cuda"],
            "the package has to build with the feature cuda, also where there is none",
        ),
        Check {
            environment: vec![("RUSTDOCFLAGS", no_warning())],
            ..check(
                root,
                "documentation",
                &["doc", "--locked", "--workspace", "--no-deps"],
                "the messages are above",
            )
        },
    ]
}

fn check(dir: &Path, name: &'static str, words: &[&'static str], remedy: &'static str) -> Check {
    Check { name, dir: dir.to_path_buf(), words: words.to_vec(), environment: Vec::new(), remedy }
}

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
