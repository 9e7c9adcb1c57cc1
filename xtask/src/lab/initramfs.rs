//! What the machine boots into: busybox, modules, and a script; and the job that the script runs among the host's files.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::modules::{MODULES, Tree};
use super::packages::{Kernel, Packages};
use super::sessions::{Chosen, Size};
use crate::process;

/// Mounts the host's files, gives the devices to user space, runs the job, and leaves its status. What a program may write in the machine is below `/run`.
const INIT: &str = include_str!("init.sh");

/// Where in the machine the results' folder is.
const RESULTS: &str = "/run/lab";

/// Makes the archive in `dir`.
pub(super) fn make(packages: &Packages, kernel: &Kernel, dir: &Path) -> Result<()> {
    let tree = dir.join("initramfs");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    fs::create_dir_all(tree.join("bin"))?;
    fs::create_dir_all(tree.join("modules"))?;
    let busybox = packages.busybox().context("no busybox")?;
    fs::copy(&busybox, tree.join("bin/busybox"))?;
    let open = |packed: &Path, to: &Path| {
        if packed.extension().is_some_and(|end| end == "xz") {
            let [from, to] = [packed, to].map(|path| format!("'{}'", path.display()));
            return shell(&busybox, &format!("{} xzcat < {from} > {to}", quoted(&busybox)));
        }
        Ok(fs::copy(packed, to).map(drop)?)
    };
    let order = Tree::read(&kernel.modules)?.gather(&MODULES, &tree.join("modules"), open)?;
    fs::write(tree.join("modules/order"), order.join("\n") + "\n")?;
    fs::write(tree.join("init"), INIT)?;
    let pack = format!(
        "cd '{}' && chmod 755 init && {b} find . | {b} cpio -o -H newc > ../initramfs.cpio",
        tree.display(),
        b = quoted(&busybox)
    );
    shell(&busybox, &pack)
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

fn shell(busybox: &Path, script: &str) -> Result<()> {
    let answer = process::capture(Command::new(busybox).args(["sh", "-c", script]))?;
    ensure!(answer.success, "{script}: {}", answer.stderr.trim());
    Ok(())
}

/// Runs the tests one after the other in one process per binary: a device belongs to one process at a time. Each binary comes with the words that choose
/// among its tests.
pub(super) fn job(chosen: &[Chosen<'_>], variables: &[(&str, OsString)]) -> String {
    let mut job = format!(
        "export HMMAP_LAB=1 TMPDIR={RESULTS}.tmp HOME={RESULTS}.tmp PATH=/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=1\nmkdir {RESULTS}.tmp\nstatus=0\n"
    );
    for (name, value) in variables {
        job += &format!("export {name}='{}'\n", value.to_string_lossy());
    }
    for Chosen { binary, words, size } in chosen {
        let without = if *size == Size::Small { "env -u HMMAP_DEEP " } else { "" };
        let words: Vec<String> = words.iter().map(|word| format!(" '{word}'")).collect();
        // The suite's own harness takes one word at a time.
        let runs = match binary.name.starts_with("hmmap-conformance::") && words.len() > 1 {
            true => words,
            false => vec![words.concat()],
        };
        for words in runs {
            job += &format!(
                "cd '{}'; echo 'PROGRAM {}'\n{without}'{}' --nocapture --test-threads 1{words} < /dev/null || status=$?\n",
                binary.package_dir.display(),
                binary.name,
                binary.path.display(),
            );
        }
    }
    job + "exit $status\n"
}
