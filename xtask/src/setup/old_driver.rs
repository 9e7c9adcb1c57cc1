//! The second driver: lavapipe of Mesa 22.3, which has no sparse binding, unpacked beside the newer one.
//!
//! It is the driver that Debian 12 users have. It cannot be installed beside Mesa 25, so its package is downloaded and
//! taken apart; the loader is then pointed at it by name. Only archives that carry Mesa 22.3 (Debian 12) have it;
//! elsewhere the second pass is skipped and says so.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Machine, State, stage};
use crate::apt::{Apt, missing_libraries, unpack};
use crate::environment::{LAVAPIPE_OLD, OldDriver};
use crate::mesa::{MesaVersion, read_driver};

const OLD: MesaVersion = MesaVersion { major: 22, minor: 3 };
const LIBRARY: &str = "libvulkan_lvp.so";
const ICD: &str = "lvp_icd.json";
/// Libraries of packages that this machine lacks.
const BESIDE: &str = "lib";

/// Finds the old driver, or downloads and unpacks it.
///
/// # Errors
///
/// `.dev` cannot be written.
pub(super) fn ensure(machine: &Machine) -> Result<(Option<OldDriver>, State)> {
    let dir = machine.dev_dir.join("mesa-22.3");
    let icd = std::env::var_os(LAVAPIPE_OLD).map_or_else(|| dir.join(ICD), Into::into);
    let mut reason = String::from("the manifest does not lead to a driver");
    if !icd.is_file() {
        match machine.downloader() {
            Ok(apt) => {
                if let Err(error) = fetch(apt, &dir) {
                    reason = format!("{error:#}");
                }
            }
            Err(why) => reason = why,
        }
    }
    let Some(driver) = read_driver(&icd, &[]) else {
        return Ok((None, State::Missing { reason, remedy: None }));
    };
    let library_dir = Some(dir.join(BESIDE)).filter(|beside| beside.is_dir());
    let state = State::Ready(format!("{} ({})", driver.version, driver.icd.display()));
    Ok((Some(OldDriver { driver, library_dir }), state))
}

fn fetch(apt: Apt, dir: &Path) -> Result<()> {
    let candidates = apt.candidates("mesa-vulkan-drivers")?;
    let Some(wanted) = candidates.iter().find(|candidate| candidate.mesa() == Some(OLD)) else {
        anyhow::bail!("the package archive of this system has no {OLD}");
    };
    println!("    downloading mesa-vulkan-drivers {} into {}", wanted.version, dir.display());
    let package = format!("mesa-vulkan-drivers={}", wanted.version);
    stage(dir, |fresh| {
        let deb = apt.download(&package, fresh)?;
        unpack_flat(&deb, &format!("*/{LIBRARY}"), fresh, fresh)?;
        // Its scripts want an interpreter; its library does not.
        let interpreter = |name: &String| name.starts_with("python");
        for name in apt.missing_dependencies(&deb)?.into_iter().filter(|name| !interpreter(name)) {
            unpack_dependency(apt, &name, fresh)?;
        }
        std::fs::remove_file(&deb)?;
        let missing = missing_libraries(&fresh.join(LIBRARY), &fresh.join(BESIDE))?;
        ensure!(missing.is_empty(), "it needs {}", missing.join(", "));
        // A path with a slash is taken from the manifest's own folder, so a checkout can be moved.
        let manifest = json!({
            "file_format_version": "1.0.0",
            "ICD": { "library_path": format!("./{LIBRARY}"), "api_version": "1.3.230" }
        });
        Ok(std::fs::write(fresh.join(ICD), format!("{manifest:#}\n"))?)
    })
}

/// Puts the libraries of a package beside the driver. A package without libraries (an interpreter) has nothing to add.
fn unpack_dependency(apt: Apt, name: &str, fresh: &Path) -> Result<()> {
    let scratch = fresh.join(name);
    std::fs::create_dir_all(&scratch)?;
    std::fs::create_dir_all(fresh.join(BESIDE))?;
    let deb = apt.download(name, &scratch)?;
    // No match is tar's failure; what is truly missing shows in the check of the libraries afterwards.
    let _ = unpack_flat(&deb, "*/lib*.so*", &scratch, &fresh.join(BESIDE));
    Ok(std::fs::remove_dir_all(&scratch)?)
}

/// Unpacks what matches, and moves the files, whatever folder they lay in, into `to`.
pub(super) fn unpack_flat(deb: &Path, pattern: &str, scratch: &Path, to: &Path) -> Result<()> {
    let tree = scratch.join("tree");
    std::fs::create_dir_all(&tree)?;
    unpack(deb, pattern, &tree)?;
    for entry in walkdir::WalkDir::new(&tree) {
        let entry = entry?;
        if !entry.file_type().is_dir() {
            std::fs::rename(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(std::fs::remove_dir_all(&tree)?)
}
