//! Where things are, and cargo called from inside cargo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::process;

/// What a whole run builds, measured from nothing and rounded up.
const WHOLE_RUN_BYTES: u64 = 15_000_000_000;

/// The folders of this checkout.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Top of the repository.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Errors
    ///
    /// Not inside the workspace, or its manifests cannot be read.
    pub(crate) fn find() -> Result<Self> {
        let mut ask = cargo(Path::new("."));
        ask.args(["metadata", "--no-deps", "--format-version", "1"]);
        let answer = process::capture(&mut ask)?;
        ensure!(answer.success, "cargo metadata failed: {}", answer.stderr.trim());
        let found: Metadata =
            serde_json::from_str(&answer.stdout).context("cargo metadata answered no JSON")?;
        Ok(Self { root: found.workspace_root, target: found.target_directory })
    }

    /// A program in the top folder, without the variables for one package that cargo has set.
    pub(crate) fn command(&self, program: &str) -> Command {
        neutral(Command::new(program), &self.root)
    }

    /// Says so when the disk may become full: a linker that finds none dies of SIGBUS, which tells nobody anything.
    pub(crate) fn warn_of_little_space(&self) {
        let folders = self.target.ancestors();
        let Some(disk) = folders.filter_map(|folder| rustix::fs::statvfs(folder).ok()).next()
        else {
            return;
        };
        let free_bytes = disk.f_bavail * disk.f_frsize;
        if free_bytes < WHOLE_RUN_BYTES {
            eprintln!(
                "warning: {:.1} GB are free for {}; a whole run from nothing takes about {} GB, and five more unless \
                 CARGO_INCREMENTAL=0 is set",
                free_bytes as f64 / 1e9,
                self.target.display(),
                WHOLE_RUN_BYTES / 1_000_000_000,
            );
        }
    }

    /// A folder for this program's own outputs, made if it is not there.
    pub(crate) fn output_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.target.join("xtask").join(name);
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }
}

/// Cargo, in `dir`, without the variables that the cargo around us set for this program's own package.
pub(crate) fn cargo(dir: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    neutral(Command::new(program), dir)
}

fn neutral(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir);
    for (name, _) in std::env::vars_os() {
        if is_for_one_package(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

fn is_for_one_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || [
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "CARGO_CRATE_NAME",
            "CARGO_BIN_NAME",
            "OUT_DIR",
        ]
        .contains(&name)
}
