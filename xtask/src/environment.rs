//! What a test process finds in its environment.
//!
//! Tests name their driver; they do not take whatever a loader finds first. `setup` fills a [`TestEnvironment`], and
//! [`TestEnvironment::variables`] turns it into variables for one [`Pass`] over the tests:
//!
//! | variable | meaning |
//! |---|---|
//! | `HMMAP_TEST_ICD_LAVAPIPE` | path of the ICD manifest of the newest lavapipe here |
//! | `HMMAP_TEST_ICD_LAVAPIPE_OLD` | the same of Mesa 22.3, which has no sparse binding |
//! | `HMMAP_TEST_LAYER_PATH` | folder with the manifest of the Khronos validation layer |
//! | `HMMAP_TEST_PASS` | `main` or `old`: which of the two drivers this process is to use |
//! | `VK_DRIVER_FILES`, `VK_ICD_FILENAMES` | the pass's driver, under the loader's new and old name for it |
//! | `VK_LAYER_PATH` | equal to `HMMAP_TEST_LAYER_PATH` |
//! | `LD_LIBRARY_PATH` | `old` pass alone, where libraries were unpacked beside that driver |
//!
//! A variable whose thing is absent is not set. A `HMMAP_TEST_ICD_LAVAPIPE...` or `HMMAP_TEST_LAYER_PATH` that the
//! caller has set already is taken as it is, so a driver built by hand can be tested.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::mesa::Driver;

/// The driver of the main pass.
pub(crate) const LAVAPIPE: &str = "HMMAP_TEST_ICD_LAVAPIPE";
/// The driver of the second pass.
pub(crate) const LAVAPIPE_OLD: &str = "HMMAP_TEST_ICD_LAVAPIPE_OLD";
/// The folder of the validation layer.
pub(crate) const LAYER_PATH: &str = "HMMAP_TEST_LAYER_PATH";
/// Which pass runs.
pub(crate) const PASS: &str = "HMMAP_TEST_PASS";

/// One run over tests, by the driver that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Every test, on the newest lavapipe.
    Main,
    /// The tests that depend on a driver, on Mesa 22.3.
    Old,
}

/// A driver and, if libraries that it needs were unpacked beside it, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OldDriver {
    pub(crate) driver: Driver,
    pub(crate) library_dir: Option<PathBuf>,
}

/// What there is on this machine to test with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TestEnvironment {
    pub(crate) lavapipe: Option<Driver>,
    pub(crate) old: Option<OldDriver>,
    pub(crate) layer_dir: Option<PathBuf>,
}

impl TestEnvironment {
    /// The variables for one pass. `library_path` is the caller's own `LD_LIBRARY_PATH`.
    pub(crate) fn variables(
        &self,
        pass: Pass,
        library_path: Option<OsString>,
    ) -> Vec<(&'static str, OsString)> {
        let mut found: Vec<(&'static str, OsString)> = Vec::new();
        let main = self.lavapipe.as_ref().map(|driver| driver.icd.clone().into_os_string());
        let old = self.old.as_ref().map(|old| old.driver.icd.clone().into_os_string());
        let chosen = match pass {
            Pass::Main => main.clone(),
            Pass::Old => old.clone(),
        };
        found.push((PASS, pass.name().into()));
        found.extend(main.map(|icd| (LAVAPIPE, icd)));
        found.extend(old.map(|icd| (LAVAPIPE_OLD, icd)));
        if let Some(icd) = chosen {
            found.push(("VK_DRIVER_FILES", icd.clone()));
            found.push(("VK_ICD_FILENAMES", icd));
        }
        if let Some(dir) = &self.layer_dir {
            found.push((LAYER_PATH, dir.clone().into()));
            found.push(("VK_LAYER_PATH", dir.clone().into()));
        }
        let beside = self.old.as_ref().and_then(|old| old.library_dir.as_ref());
        if let (Pass::Old, Some(dir)) = (pass, beside) {
            let mut value = dir.clone().into_os_string();
            if let Some(rest) = library_path.filter(|rest| !rest.is_empty()) {
                value.push(":");
                value.push(rest);
            }
            found.push(("LD_LIBRARY_PATH", value));
        }
        found
    }
}

impl Pass {
    /// The value of `HMMAP_TEST_PASS`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Old => "old",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesa::MesaVersion;

    fn driver(icd: &str) -> Driver {
        Driver { icd: icd.into(), version: MesaVersion { major: 25, minor: 0 } }
    }

    fn value(variables: &[(&str, OsString)], name: &str) -> Option<String> {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_string_lossy().into_owned())
    }

    #[test]
    fn each_pass_points_the_loader_at_its_own_driver() {
        let full = TestEnvironment {
            lavapipe: Some(driver("/new.json")),
            old: Some(OldDriver { driver: driver("/old.json"), library_dir: Some("/libs".into()) }),
            layer_dir: Some("/layer".into()),
        };
        let main = full.variables(Pass::Main, Some("/mine".into()));
        assert_eq!(value(&main, "VK_DRIVER_FILES").as_deref(), Some("/new.json"));
        assert_eq!(value(&main, "VK_LAYER_PATH").as_deref(), Some("/layer"));
        assert_eq!(value(&main, "LD_LIBRARY_PATH"), None);
        let old = full.variables(Pass::Old, Some("/mine".into()));
        assert_eq!(value(&old, "VK_ICD_FILENAMES").as_deref(), Some("/old.json"));
        assert_eq!(value(&old, LAVAPIPE).as_deref(), Some("/new.json"));
        assert_eq!(value(&old, "LD_LIBRARY_PATH").as_deref(), Some("/libs:/mine"));
        assert_eq!(value(&old, PASS).as_deref(), Some("old"));
    }

    #[test]
    fn what_is_absent_is_not_set() {
        let none = TestEnvironment::default().variables(Pass::Main, None);
        assert_eq!(none, [(PASS, OsString::from("main"))]);
    }
}
