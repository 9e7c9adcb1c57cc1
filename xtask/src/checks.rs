//! The checks that are one command each.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;

use crate::process;
use crate::summary::{Outcome, Record};
use crate::workspace::{Workspace, cargo};

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
