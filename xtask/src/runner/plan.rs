//! Which tests there are: what cargo built, and what each binary lists.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::environment::Pass;
use crate::process::{self, show};
use crate::workspace::{Workspace, cargo};

/// The longest that a binary may take to list its tests.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// A test binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    /// `hmmap-core`, `hmmap-core::directory` (an integration test), `hmmap-cli::bin/hmmap`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The package's folder: where cargo runs its tests.
    pub(crate) package_dir: PathBuf,
    /// It has to pass on every driver: an integration test called `driver_...`.
    pub(crate) driver_dependent: bool,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) binary: Binary,
    /// The test's path in its binary; `None` for a binary with a harness of its own, which runs as one test.
    pub(crate) test: Option<String>,
}

impl Case {
    /// `hmmap-core::directory::runs::split`.
    pub(crate) fn name(&self) -> String {
        match &self.test {
            Some(test) => format!("{}::{test}", self.binary.name),
            None => self.binary.name.clone(),
        }
    }

    /// True if this case belongs to the pass.
    pub(crate) fn belongs_to(&self, pass: Pass) -> bool {
        match pass {
            Pass::Main => true,
            Pass::Old => self.binary.driver_dependent,
        }
    }
}

/// True if the name contains one of the filters, or there are none.
pub(crate) fn wanted(name: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
}

/// Builds the tests that `selection` (words after `cargo test --no-run`) selects, and gives the binaries.
///
/// # Errors
///
/// The build fails (its messages are on our standard error), or does not end before `deadline`.
pub(crate) fn build(
    workspace: &Workspace,
    dir: &Path,
    selection: &[&str],
    deadline: Option<Instant>,
) -> Result<Vec<Binary>> {
    let messages = workspace.output_dir("build")?.join("messages.json");
    let output = std::fs::File::create(&messages)?;
    let mut command = cargo(dir);
    command
        .args(["test", "--no-run", "--locked", "--message-format", "json-render-diagnostics"])
        .args(selection)
        .stdout(Stdio::from(output));
    let end = process::run_visible(&mut command, deadline)?;
    ensure!(end.success(), "{}: {}", show(&command), end.describe());
    let text = std::fs::read_to_string(&messages)?;
    Ok(parse_artifacts(&text))
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
    package_id: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The test binaries in cargo's messages, one JSON object a line.
pub(crate) fn parse_artifacts(text: &str) -> Vec<Binary> {
    text.lines().filter_map(parse_artifact).collect()
}

fn parse_artifact(line: &str) -> Option<Binary> {
    let message: Message = serde_json::from_str(line).ok()?;
    if message.reason != "compiler-artifact" || !message.profile?.test {
        return None;
    }
    let target = message.target?;
    let package = package_name(&message.package_id?);
    let kind = target.kind.first()?.as_str();
    let name = match kind {
        "test" => format!("{package}::{}", target.name),
        "bin" | "example" | "bench" if target.name != package => {
            format!("{package}::{kind}/{}", target.name)
        }
        _ => package,
    };
    Some(Binary {
        name,
        path: message.executable?,
        package_dir: message.manifest_path?.parent()?.to_path_buf(),
        driver_dependent: kind == "test" && target.name.starts_with("driver_"),
    })
}

/// The name in a package id: `path+file:///x/crates/core#hmmap-core@0.1.0`, or `...xtask#0.1.0` when the folder is
/// called as the package.
fn package_name(id: &str) -> String {
    let (path, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    let name = match fragment.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    };
    name.to_owned()
}

/// Asks a binary for its tests.
///
/// # Errors
///
/// It cannot be started.
pub(crate) fn list(
    binary: &Binary,
    variables: &[(&'static str, OsString)],
    log: &Path,
) -> Result<Vec<Case>> {
    let mut command = Command::new(&binary.path);
    command.args(["--list", "--format", "terse"]);
    command.current_dir(&binary.package_dir).envs(variables.iter().cloned());
    let end = process::run_logged(&mut command, Some(Instant::now() + LIST_TIMEOUT), log)
        .with_context(|| format!("cannot list the tests of {}", binary.name))?;
    let text = std::fs::read_to_string(log)?;
    let case = |test: Option<String>| Case { binary: binary.clone(), test };
    Ok(match parse_list(&text).filter(|_| end.success()) {
        Some(tests) => tests.into_iter().map(|test| case(Some(test))).collect(),
        None => vec![case(None)],
    })
}

/// The tests in a terse list; `None` if this is no such list: the binary has a harness of its own.
pub(crate) fn parse_list(text: &str) -> Option<Vec<String>> {
    let mut tests = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(test) = line.strip_suffix(": test") {
            tests.push(test.to_owned());
        } else if !line.ends_with(": benchmark") {
            return None;
        }
    }
    Some(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(kind: &str, name: &str, id: &str, test: bool) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"{id}","manifest_path":"/w/crates/core/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":"/t/{name}-1"}}"#
        )
    }

    #[test]
    fn test_binaries_are_picked_out_of_the_messages_and_named() {
        let id = "path+file:///w/crates/core#hmmap-core@0.1.0";
        let text = [
            artifact("lib", "hmmap_core", id, true),
            artifact("test", "directory", id, true),
            artifact("test", "driver_copy", id, true),
            artifact("bin", "xtask", "path+file:///w/xtask#0.1.0", true),
            artifact("bin", "hmmap", id, false),
            String::from(r#"{"reason":"build-finished","success":true}"#),
            String::from("not json"),
        ]
        .join("\n");
        let found = parse_artifacts(&text);
        let names: Vec<&str> = found.iter().map(|binary| binary.name.as_str()).collect();
        let expected = ["hmmap-core", "hmmap-core::directory", "hmmap-core::driver_copy", "xtask"];
        assert_eq!(names, expected);
        let driver: Vec<bool> = found.iter().map(|binary| binary.driver_dependent).collect();
        assert_eq!(driver, [false, false, true, false]);
        assert_eq!(found[0].package_dir, Path::new("/w/crates/core"));
    }

    #[test]
    fn a_list_is_told_from_the_output_of_another_harness() {
        let list = "runs::split: test\nbench_it: benchmark\n";
        assert_eq!(parse_list(list).unwrap(), ["runs::split"]);
        assert_eq!(parse_list("").unwrap(), [""; 0]);
        assert_eq!(parse_list("running my own things\n"), None);
    }

    #[test]
    fn filters_are_alternatives() {
        let filters = ["runs", "cli"].map(String::from);
        assert!(wanted("hmmap-core::runs::split", &filters));
        assert!(!wanted("hmmap-core::units", &filters));
        assert!(wanted("anything", &[]));
    }
}
