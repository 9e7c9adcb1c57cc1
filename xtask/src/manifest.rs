//! The compiled kernels belong to their sources: `shaders/manifest.json` holds the SHA-256 of every source and every
//! output, and each must be that of the file. No compiler is needed for it. The example of a crate with a kernel of its
//! own has such a manifest, too.
//!
//! Both directions are looked at: what is listed is there and unchanged, and what is there is listed. Otherwise a new
//! source that nobody compiled would go unnoticed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The part of the manifest that this check reads.
#[derive(Debug, Deserialize)]
struct Manifest {
    format: u32,
    /// File name in `shaders/` to SHA-256 in hexadecimal.
    sources: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
}

/// A folder of compiled kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compiled {
    /// The folder, from the repository's top.
    pub(crate) folder: &'static str,
    /// What compiles it, from the repository's top.
    pub(crate) script: &'static str,
}

/// Every folder of compiled kernels.
pub(crate) const COMPILED: [Compiled; 2] = [
    Compiled { folder: "shaders", script: "shaders/build.py" },
    Compiled {
        folder: "examples/own-kernel/kernel",
        script: "examples/own-kernel/kernel/compile.py",
    },
];

/// The manifests that this program can read.
const FORMAT: u32 = 1;

/// Compares each manifest with the files beside it; one line for each difference.
///
/// # Errors
///
/// As [`differences`].
pub(crate) fn all_differences(root: &Path) -> Result<Vec<String>> {
    let found: Result<Vec<_>> =
        COMPILED.iter().map(|compiled| differences(root, *compiled)).collect();
    Ok(found?.concat())
}

/// Compares a manifest with the files beside it; one line for each difference.
///
/// # Errors
///
/// The manifest cannot be read, or is of another format.
fn differences(root: &Path, compiled: Compiled) -> Result<Vec<String>> {
    let path = root.join(compiled.folder).join("manifest.json");
    let rebuild = format!("run {} and commit the result", compiled.script);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; {rebuild}", path.display()))?;
    let manifest: Manifest =
        serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    ensure!(
        manifest.format == FORMAT,
        "{} has format {}, this program reads {FORMAT}: teach xtask/src/manifest.rs the new one",
        path.display(),
        manifest.format
    );
    let mut found = Vec::new();
    let changed_source = format!("is not the source that was compiled; {rebuild}");
    let changed_output = format!("is not what the compiler wrote; {rebuild}");
    found.extend(compare(root, compiled, &manifest.sources, &changed_source));
    found.extend(compare(root, compiled, &manifest.outputs, &changed_output));
    let unlisted = unlisted(&root.join(compiled.folder), &manifest)?;
    found.extend(unlisted.into_iter().map(|name| {
        format!("{}/{name} is not in the manifest; {rebuild}, or remove it", compiled.folder)
    }));
    Ok(found)
}

fn compare(
    root: &Path,
    Compiled { folder, .. }: Compiled,
    listed: &BTreeMap<String, String>,
    changed: &str,
) -> Vec<String> {
    let read = |name: &String| std::fs::read(root.join(folder).join(name));
    let difference = |(name, expected): (&String, &String)| match read(name) {
        Err(error) => Some(format!("{folder}/{name}: {error}")),
        Ok(bytes) if sha256(&bytes) == *expected => None,
        Ok(_) => Some(format!("{folder}/{name} {changed}")),
    };
    listed.iter().filter_map(difference).collect()
}

/// Files that should be in the manifest and are not.
fn unlisted(folder: &Path, manifest: &Manifest) -> Result<Vec<String>> {
    let listed: BTreeSet<&String> =
        manifest.sources.keys().chain(manifest.outputs.keys()).collect();
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        let name = entry.path().strip_prefix(folder)?.to_string_lossy().into_owned();
        let kinds = [".slang", ".slangh", ".spv"];
        let belongs = name.starts_with("out/") || kinds.iter().any(|kind| name.ends_with(kind));
        if entry.file_type().is_file() && belongs && !listed.contains(&name) {
            found.push(name);
        }
    }
    Ok(found)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc`, from the standard's own example.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("shaders/out")).unwrap();
        std::fs::write(dir.path().join("shaders/fill.slang"), "abc").unwrap();
        std::fs::write(dir.path().join("shaders/out/fill.spv"), "abc").unwrap();
        let manifest = serde_json::json!({
            "format": 1,
            "sources": { "fill.slang": ABC },
            "outputs": { "out/fill.spv": ABC },
            "kernels": {},
        });
        std::fs::write(dir.path().join("shaders/manifest.json"), manifest.to_string()).unwrap();
        dir
    }

    #[test]
    fn an_untouched_folder_has_no_differences() {
        assert_eq!(differences(folder().path(), COMPILED[0]).unwrap(), [""; 0]);
    }

    #[test]
    fn a_changed_source_a_changed_output_and_a_lost_one_are_told_apart() {
        let dir = folder();
        std::fs::write(dir.path().join("shaders/fill.slang"), "abd").unwrap();
        std::fs::write(dir.path().join("shaders/out/fill.spv"), "ab").unwrap();
        let found = differences(dir.path(), COMPILED[0]).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("shaders/fill.slang is not the source"), "{found:?}");
        assert!(found[1].starts_with("shaders/out/fill.spv is not what the compiler"), "{found:?}");
        std::fs::remove_file(dir.path().join("shaders/out/fill.spv")).unwrap();
        assert!(differences(dir.path(), COMPILED[0]).unwrap()[1].contains("No such file"));
    }

    #[test]
    fn files_that_the_manifest_does_not_know_are_found() {
        let dir = folder();
        for name in ["new.slang", "bounds.slangh", "out/new.spv", "README.md"] {
            std::fs::write(dir.path().join("shaders").join(name), "x").unwrap();
        }
        let found = differences(dir.path(), COMPILED[0]).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn another_format_is_refused_with_what_to_do() {
        let dir = folder();
        let text = r#"{"format": 2, "sources": {}, "outputs": {}}"#;
        std::fs::write(dir.path().join("shaders/manifest.json"), text).unwrap();
        let error = differences(dir.path(), COMPILED[0]).unwrap_err().to_string();
        assert!(error.contains("has format 2") && error.contains("manifest.rs"), "{error}");
    }
}
