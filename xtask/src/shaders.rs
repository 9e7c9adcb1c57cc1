//! `cargo xtask shaders`: the kernels' own build scripts, and the check that needs no compiler.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::apt::on_path;
use crate::manifest::{COMPILED, Compiled};
use crate::workspace::Workspace;
use crate::{checks, process};

/// Where `build.py` keeps its compilers, unless this variable names another folder.
const TOOLCHAIN: &str = "HMMAP_SHADER_TOOLCHAIN";

/// Compiles every kernel.
///
/// # Errors
///
/// There is no python3.
pub(crate) fn rebuild(workspace: &Workspace) -> Result<ExitCode> {
    ensure!(
        on_path("python3").is_some(),
        "the kernels are compiled by shaders/build.py: install python3 and pip (apt-get install python3 python3-pip)"
    );
    build(workspace, &[])
}

/// Compares the files with the manifest; and, where the compilers have been fetched, with a rebuild.
///
/// # Errors
///
/// The build script cannot be started.
pub(crate) fn check(workspace: &Workspace) -> Result<ExitCode> {
    let manifest = crate::exit_code(&checks::shaders(workspace));
    let folder = std::env::var_os(TOOLCHAIN).map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| workspace.root.join(".dev/shader-toolchain"));
    if manifest != ExitCode::SUCCESS {
        return Ok(manifest);
    }
    if !folder.is_dir() || on_path("python3").is_none() {
        println!(
            "the files are those of the manifest; not rebuilt: no compilers in {}",
            folder.display()
        );
        return Ok(manifest);
    }
    build(workspace, &["--check"])
}

fn build(workspace: &Workspace, words: &[&str]) -> Result<ExitCode> {
    for Compiled { script, .. } in COMPILED {
        let mut command = workspace.command("python3");
        let end = process::run_visible(command.arg(script).args(words), None)?;
        if !end.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
