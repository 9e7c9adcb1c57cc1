//! Which Mesa a lavapipe driver is, found without loading it.
//!
//! A loader reads a small JSON file (the *ICD manifest*) that names the driver's library. Loading the driver to ask for
//! its version would run it inside this program, so the version is read off the library's bytes: Mesa compiles
//! `Mesa 25.0.7...` into every driver. Where those bytes are not found, the manifest's `api_version` decides: Mesa 25.0
//! is the first with Vulkan 1.4.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A Mesa release. Ordered; equal parts compare as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MesaVersion {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// From here on lavapipe has what hmmap's full suite needs: Vulkan 1.4 and sparse binding.
pub(crate) const WANTED: MesaVersion = MesaVersion { major: 25, minor: 0 };

impl fmt::Display for MesaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mesa {}.{}", self.major, self.minor)
    }
}

/// A lavapipe that a loader can be pointed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Driver {
    /// The ICD manifest: what `VK_DRIVER_FILES` names.
    pub(crate) icd: PathBuf,
    pub(crate) version: MesaVersion,
}

/// The version at the start of a package version or of text such as `25.0.7-2~bpo12+1`. An epoch is passed over.
pub(crate) fn parse_version(text: &str) -> Option<MesaVersion> {
    let text = text.split_once(':').map_or(text, |(_, rest)| rest);
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let digits = parts.next()?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    Some(MesaVersion { major, minor: digits[..end].parse().ok()? })
}

/// The version that Mesa compiled into a driver: the first `Mesa N.N` among its bytes.
pub(crate) fn version_in_library(bytes: &[u8]) -> Option<MesaVersion> {
    const MARK: &[u8] = b"Mesa ";
    let mut rest = bytes;
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        rest = &rest[at + MARK.len()..];
        let candidate = &rest[..rest.len().min(12)];
        let found = candidate.utf8_chunks().next().and_then(|chunk| parse_version(chunk.valid()));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// What an ICD manifest says: the library and the Vulkan version as written.
pub(crate) fn parse_icd(json: &str) -> Option<(String, String)> {
    let value: Value = serde_json::from_str(json).ok()?;
    let icd = value.get("ICD")?;
    let field = |name| icd.get(name).and_then(Value::as_str).map(str::to_owned);
    Some((field("library_path")?, field("api_version").unwrap_or_default()))
}

/// The least Mesa that offers this Vulkan version; for drivers whose bytes do not tell.
pub(crate) fn version_from_api(api_version: &str) -> MesaVersion {
    if api_version.starts_with("1.4") { WANTED } else { MesaVersion { major: 22, minor: 0 } }
}

/// The newest lavapipe among the ICD manifests in `icd_dirs`, its library looked for in `library_dirs`.
pub(crate) fn newest_lavapipe(icd_dirs: &[PathBuf], library_dirs: &[PathBuf]) -> Option<Driver> {
    let manifests = icd_dirs.iter().filter_map(|dir| dir.read_dir().ok()).flatten().flatten();
    manifests
        .map(|entry| entry.path())
        .filter(|path| is_lavapipe_manifest(path))
        .filter_map(|path| read_driver(&path, library_dirs))
        .max_by_key(|driver| driver.version)
}

/// The driver behind one ICD manifest; `None` when the manifest or the library is not there.
pub(crate) fn read_driver(icd: &Path, library_dirs: &[PathBuf]) -> Option<Driver> {
    let (library, api_version) = parse_icd(&std::fs::read_to_string(icd).ok()?)?;
    let beside = icd.parent().map(Path::to_path_buf);
    let mut places = library_dirs.iter().cloned().chain(beside);
    // Joining an absolute path gives that path.
    let bytes = places.find_map(|dir| std::fs::read(dir.join(&library)).ok())?;
    let version = version_in_library(&bytes).unwrap_or_else(|| version_from_api(&api_version));
    Some(Driver { icd: icd.to_path_buf(), version })
}

fn is_lavapipe_manifest(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("lvp_icd") && name.ends_with(".json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32) -> MesaVersion {
        MesaVersion { major, minor }
    }

    #[test]
    fn package_versions_are_read_as_numbers() {
        assert_eq!(parse_version("25.0.7-2~bpo12+1"), Some(version(25, 0)));
        assert_eq!(parse_version("1:22.3.6-1+deb12u2"), Some(version(22, 3)));
        assert_eq!(parse_version("9.10"), Some(version(9, 10)));
        assert!(version(9, 10) < version(22, 3));
        assert_eq!(parse_version("GLSL"), None);
        assert_eq!(parse_version("25"), None);
    }

    #[test]
    fn the_library_tells_its_version_among_other_text() {
        let bytes = b"\0Mesa Project\0Mesa \xffx\0Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6)\0";
        assert_eq!(version_in_library(bytes), Some(version(25, 0)));
        assert_eq!(version_in_library(b"Mesa "), None);
        assert_eq!(version_in_library(b"Mesa 22.3.6 (LLV"), Some(version(22, 3)));
    }

    #[test]
    fn the_newest_of_several_is_taken_and_others_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let icd = |lib: &str| {
            format!(r#"{{"ICD": {{"library_path": "{lib}", "api_version": "1.4.305"}}}}"#)
        };
        write("liba.so", "...Mesa 22.3.6...");
        write("libb.so", "no version here");
        write("lvp_icd.x86_64.json", &icd("liba.so"));
        write("lvp_icd.json", &icd("libb.so"));
        write("lvp_icd.broken.json", "{");
        write("lvp_icd.absent.json", &icd("absent.so"));
        write("radeon_icd.json", &icd("liba.so"));
        let dirs = [dir.path().to_path_buf()];
        let found = newest_lavapipe(&dirs, &dirs).unwrap();
        assert_eq!(found.version, WANTED);
        assert!(found.icd.ends_with("lvp_icd.json"));
        assert_eq!(newest_lavapipe(&[dir.path().join("none")], &dirs), None);
    }
}
