//! The Khronos validation layer.
//!
//! Debian's `chromium-common` carries a much newer layer than the archive's own `vulkan-validationlayers`: it knows
//! Vulkan 1.4 and checks addresses on the device. It is taken out of the downloaded package; the manifest that a loader
//! wants beside it is written here. Where that package is not to be had (Ubuntu), a layer that is installed is used,
//! and else the archive's own is unpacked the same way. Nothing is installed, so no rights are needed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Machine, State, old_driver::unpack_flat, stage};
use crate::apt::Apt;
use crate::environment::LAYER_PATH;

const CHROMIUM: &str = "chromium-common";
const ARCHIVE: &str = "vulkan-validationlayers";
const LIBRARY: &str = "libVkLayer_khronos_validation.so";
const MANIFEST: &str = "VkLayer_khronos_validation.json";

/// Finds the layer's folder, or makes one.
///
/// # Errors
///
/// `.dev` cannot be written.
pub(super) fn ensure(machine: &Machine) -> Result<(Option<PathBuf>, State)> {
    let dir = machine.dev_dir.join("validation");
    let given = std::env::var_os(LAYER_PATH).map(PathBuf::from);
    let found = given.or_else(|| Some(dir.clone()).filter(|dir| dir.join(MANIFEST).is_file()));
    if let Some(found) = found {
        return Ok(ready(found));
    }
    let mut reasons = Vec::new();
    if attempt(machine, CHROMIUM, &dir, &mut reasons) {
        return Ok(ready(dir));
    }
    let installed = machine.layer_dirs.iter().find(|dir| dir.join(MANIFEST).is_file());
    if let Some(installed) = installed {
        return Ok(ready(installed.clone()));
    }
    if attempt(machine, ARCHIVE, &dir, &mut reasons) {
        return Ok(ready(dir));
    }
    reasons.dedup();
    let elsewhere = "with your package manager install the Vulkan validation layers";
    let remedy = machine.apt.is_err().then(|| String::from(elsewhere));
    Ok((None, State::Missing { reason: reasons.join("; "), remedy }))
}

fn ready(dir: PathBuf) -> (Option<PathBuf>, State) {
    let text = std::fs::read_to_string(dir.join(MANIFEST)).unwrap_or_default();
    let manifest: Value = serde_json::from_str(&text).unwrap_or_default();
    let text = |name: &str| manifest["layer"][name].as_str().unwrap_or("?").to_owned();
    let state =
        format!("{}, Vulkan {} ({})", text("description"), text("api_version"), dir.display());
    (Some(dir), State::Ready(state))
}

/// Tries one package; true if the folder is there afterwards.
fn attempt(machine: &Machine, package: &str, dir: &Path, reasons: &mut Vec<String>) -> bool {
    let done = machine
        .downloader()
        .and_then(|apt| fetch(apt, package, dir).map_err(|error| format!("{package}: {error:#}")));
    done.map_err(|reason| reasons.push(reason)).is_ok()
}

fn fetch(apt: Apt, package: &str, dir: &Path) -> Result<()> {
    let candidates = apt.candidates(package)?;
    let Some(newest) = candidates.first() else {
        anyhow::bail!("not in the package lists");
    };
    println!("    downloading {package} {} into {}", newest.version, dir.display());
    stage(dir, |fresh| {
        let deb = apt.download(&format!("{package}={}", newest.version), fresh)?;
        unpack_flat(&deb, &format!("*/{LIBRARY}"), fresh, fresh)?;
        std::fs::remove_file(&deb)?;
        let manifest = format!("{:#}\n", manifest(package, &newest.version));
        Ok(std::fs::write(fresh.join(MANIFEST), manifest)?)
    })
}

/// What a loader wants to know about the layer, taken out of `package` in `version`.
fn manifest(package: &str, version: &str) -> Value {
    // Chromium's package does not say which Vulkan its layer knows. 1.4 is the least, and loaders compare no more than
    // these two numbers. The archive's own package has the layer's version.
    let of_layer = || version.splitn(4, ['.', '-', '~']).take(3).collect::<Vec<_>>().join(".");
    let api_version = if package == CHROMIUM { "1.4.0".to_owned() } else { of_layer() };
    let extension = |name: &str, version: &str| json!({ "name": name, "spec_version": version });
    json!({
        "file_format_version": "1.2.0",
        "layer": {
            "name": "VK_LAYER_KHRONOS_validation",
            "type": "GLOBAL",
            "library_path": format!("./{LIBRARY}"),
            "api_version": api_version,
            "implementation_version": "1",
            "description": format!("Khronos validation layer, out of {package} {version}"),
            "instance_extensions": [
                extension("VK_EXT_debug_report", "9"),
                extension("VK_EXT_debug_utils", "1"),
                extension("VK_EXT_validation_features", "2"),
            ],
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_folder_reports_where_it_came_from() {
        let dir = tempfile::tempdir().unwrap();
        let text = manifest(CHROMIUM, "156.0").to_string();
        std::fs::write(dir.path().join(MANIFEST), text).unwrap();
        let (found, state) = ready(dir.path().to_path_buf());
        assert_eq!(found.as_deref(), Some(dir.path()));
        let State::Ready(text) = state else { panic!("not ready") };
        assert!(text.contains("out of chromium-common 156.0, Vulkan 1.4.0"), "{text}");
        let archive = manifest(ARCHIVE, "1.3.239.0-2");
        assert_eq!(archive["layer"]["api_version"], "1.3.239");
    }
}
