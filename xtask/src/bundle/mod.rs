//! `cargo xtask bundle`: one folder that runs on machines without Rust and without a network.
//!
//! Real GPUs are elsewhere. What goes there is small, needs no installation, and is checked here for what it will need
//! there, since a program that does not start is found out too late:
//!
//! ```text
//! run.sh                   runs everything within a given time, and writes six files (its head says which)
//! version.txt              which sources this is
//! bin/hmmap                the command; its `bench` has every benchmark suite
//! bin/hmmap-conformance    the conformance suite
//! examples/NN_...          with their data in data/
//! lib/libvulkan.so.1       this machine's loader, used where there is none
//! ```
//!
//! [`elf`] reads what a program needs. The checks: every program is for x86-64, needs no library but the C library's,
//! and no glibc newer than [`elf::OLDEST`]; nothing names a folder of this machine; all of it is at most
//! [`LIMIT_BYTES`]. The checks fail the command, and the folder stays for a look.

mod contents;
mod elf;
#[cfg(test)]
mod script_tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::process::{self, show};
use crate::workspace::{Workspace, cargo};
use contents::{Contents, mib};

/// The most that a bundle may have, in bytes.
const LIMIT_BYTES: u64 = 40 << 20;

/// The first word of `version.txt`: a folder with it is ours, and can be replaced.
const MARK: &str = "hmmap";

/// What an example reads when it is told to.
const DATA: [&str; 2] = ["examples/data/hills.png", "examples/data/plate.mtx"];

const LOADER: &str = "libvulkan.so.1";

/// Builds, copies, checks, and says what it made.
///
/// # Errors
///
/// The build fails; a file cannot be copied; `out` holds something else.
pub(crate) fn run(workspace: &Workspace, out: Option<&Path>) -> Result<ExitCode> {
    let default = workspace.target.join("hmmap-bundle");
    let out = std::path::absolute(out.unwrap_or(&default))?;
    make_room(&out)?;
    let programs = build(workspace)?;
    for (kind, program) in &programs {
        copy_into(&out.join(kind), program)?;
    }
    for file in DATA {
        copy_into(&out.join("data"), &workspace.root.join(file))?;
    }
    copy_into(&out, &workspace.root.join("xtask/bundle/run.sh"))?;
    std::fs::write(out.join("version.txt"), version(workspace))?;
    let loader = copy_loader(&out.join("lib"))?;
    let contents = Contents::read(&out)?;
    print!("{contents}");
    if !loader {
        println!("no {LOADER} on this machine: the bundle has none to fall back to");
    }
    let findings = contents.findings(LIMIT_BYTES, &local_paths(workspace));
    findings.iter().for_each(|finding| eprintln!("error: {finding}"));
    println!("{}: {} of at most {}", out.display(), mib(contents.bytes()), mib(LIMIT_BYTES));
    println!("there: sh run.sh --seconds 540 --out RESULTS");
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An empty folder at `out`. Takes away an older bundle, and nothing else.
fn make_room(out: &Path) -> Result<()> {
    let version = std::fs::read_to_string(out.join("version.txt")).unwrap_or_default();
    if version.starts_with(MARK) && out.join("run.sh").is_file() {
        std::fs::remove_dir_all(out)
            .with_context(|| format!("cannot remove the older {}", out.display()))?;
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let empty = out.read_dir()?.next().is_none();
    ensure!(empty, "{} has something in it that is no bundle: give another folder", out.display());
    Ok(())
}

/// Builds the programs; each with the folder of the bundle that it belongs to.
fn build(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
    let messages = workspace.output_dir("bundle")?.join("messages.json");
    let mut command = cargo(&workspace.root);
    command
        .args(["build", "--locked", "--profile", "bundle"])
        .args(["--message-format", "json-render-diagnostics"])
        .args(["-p", "hmmap-cli", "-p", "hmmap-conformance", "-p", "hmmap", "--bins", "--examples"])
        // The processor of this machine, say, is nothing that the other one must have.
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&local_paths(workspace)))
        .stdout(Stdio::from(std::fs::File::create(&messages)?));
    let end = process::run_visible(&mut command, None)?;
    ensure!(end.success(), "{}: {}", show(&command), end.describe());
    let text = std::fs::read_to_string(&messages)?;
    let programs: Vec<_> = text.lines().filter_map(program).collect();
    for kind in ["bin", "examples"] {
        ensure!(programs.iter().any(|(of, _)| *of == kind), "cargo built nothing for {kind}/");
    }
    Ok(programs)
}

/// The program that a message of cargo's is about. Examples are those with a number.
fn program(line: &str) -> Option<(&'static str, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = PathBuf::from(message.get("executable")?.as_str()?);
    let numbered = path.file_name()?.to_str()?.starts_with(|c: char| c.is_ascii_digit());
    match message["target"]["kind"][0].as_str()? {
        "bin" => Some(("bin", path)),
        "example" if numbered => Some(("examples", path)),
        _ => None,
    }
}

/// Folders of this machine that a compiler would write into programs.
fn local_paths(workspace: &Workspace) -> Vec<PathBuf> {
    let home = |name: &str, below: &str| {
        let own = std::env::var_os(name).map(PathBuf::from);
        own.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(below)))
    };
    let mut paths = vec![workspace.root.clone(), workspace.target.clone()];
    paths.extend(home("CARGO_HOME", ".cargo"));
    paths.extend(home("RUSTUP_HOME", ".rustup"));
    paths
}

/// Compiler flags, as cargo wants them in one variable, under which `paths` do not get into programs.
fn flags(paths: &[PathBuf]) -> OsString {
    let names = ["hmmap", "target", "cargo", "rust"];
    let mut flags = OsString::new();
    for (path, name) in paths.iter().zip(names) {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(path);
        flags.push(format!("={name}"));
    }
    flags
}

/// What `version.txt` says: the release, the commit, and whether files were changed since.
fn version(workspace: &Workspace) -> String {
    let ask = |program: &str, words: &[&str]| {
        let answer = process::capture(workspace.command(program).args(words)).ok()?;
        answer.success.then(|| answer.stdout.trim().to_owned())
    };
    let commit = ask("git", &["describe", "--always", "--dirty=, with changes", "--abbrev=12"]);
    let rustc = ask("rustc", &["--version"]);
    let (unknown, release) = (|| "unknown".to_owned(), env!("CARGO_PKG_VERSION"));
    let (commit, rustc) = (commit.unwrap_or_else(unknown), rustc.unwrap_or_else(unknown));
    format!("{MARK} {release}, commit {commit}, {rustc}\n")
}

/// Copies this machine's Vulkan loader with its licence; false where there is none.
fn copy_loader(lib: &Path) -> Result<bool> {
    let listed = ["ldconfig", "/sbin/ldconfig"]
        .iter()
        .find_map(|program| process::capture(Command::new(program).arg("-p")).ok());
    let Some(listed) = listed else { bail!("there is no ldconfig to find {LOADER} with") };
    let Some(loader) = loader_path(&listed.stdout) else { return Ok(false) };
    copy_into(lib, &loader)?;
    let licence = Path::new("/usr/share/doc/libvulkan1/copyright");
    if licence.is_file() {
        let copy = lib.join("libvulkan.licence.txt");
        std::fs::copy(licence, copy).context("cannot copy the loader's licence")?;
    }
    Ok(true)
}

/// Where `ldconfig -p` says the loader for x86-64 is.
fn loader_path(listed: &str) -> Option<PathBuf> {
    listed.lines().find_map(|line| {
        let (name, path) = line.split_once(" => ")?;
        let fits = name.trim_start().starts_with(&format!("{LOADER} ")) && name.contains("x86-64");
        fits.then(|| PathBuf::from(path.trim()))
    })
}

fn copy_into(dir: &Path, file: &Path) -> Result<()> {
    let name = file.file_name().with_context(|| format!("{} is no file", file.display()))?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    std::fs::copy(file, dir.join(name))
        .with_context(|| format!("cannot copy {} to {}", file.display(), dir.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_numbered_examples_are_taken_from_cargos_messages() {
        let message = |kind: &str, path: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"]}},"executable":"{path}"}}"#
            )
        };
        assert_eq!(program(&message("bin", "/t/hmmap")), Some(("bin", "/t/hmmap".into())));
        let example = program(&message("example", "/t/01_saxpy"));
        assert_eq!(example, Some(("examples", "/t/01_saxpy".into())));
        assert_eq!(program(&message("example", "/t/generate-data")), None);
        let library = r#"{"target":{"kind":["lib"]},"executable":null}"#;
        assert_eq!(program(library), None);
    }

    #[test]
    fn the_loader_is_the_one_of_this_architecture() {
        let listed = "2 libs found\n\
            \tlibvulkan.so.1 (libc6) => /lib/i386-linux-gnu/libvulkan.so.1\n\
            \tlibvulkan.so.1.3 (libc6,x86-64) => /lib/other\n\
            \tlibvulkan.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libvulkan.so.1\n";
        let found = loader_path(listed).unwrap();
        assert_eq!(found, Path::new("/lib/x86_64-linux-gnu/libvulkan.so.1"));
        assert_eq!(loader_path("\tlibvulkan_lvp.so (libc6,x86-64) => /lib/x.so\n"), None);
    }

    #[test]
    fn only_an_older_bundle_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("new/bundle");
        make_room(&out).unwrap();
        std::fs::write(out.join("run.sh"), "").unwrap();
        let error = make_room(&out).unwrap_err().to_string();
        assert!(error.contains("no bundle"), "{error}");
        std::fs::write(out.join("version.txt"), "hmmap 0.1.0").unwrap();
        make_room(&out).unwrap();
        assert!(out.read_dir().unwrap().next().is_none());
    }

    #[test]
    fn folders_of_this_machine_get_other_names() {
        let flags = flags(&["/a b".into(), "/c".into()]);
        assert_eq!(flags, "--remap-path-prefix=/a b=hmmap\x1f--remap-path-prefix=/c=target");
    }
}
