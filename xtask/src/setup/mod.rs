//! What the tests need from the machine: found, and fetched when it may be.
//!
//! | needed | found | fetched |
//! |---|---|---|
//! | Vulkan loader, lavapipe of Mesa 25 or later | where distributions put them | `apt-get install`, with rights ([`driver`]) |
//! | lavapipe of Mesa 22.3 | `.dev/mesa-22.3` | downloaded and unpacked, no rights needed ([`old_driver`]) |
//! | Khronos validation layer | `.dev/validation`, or installed | downloaded and unpacked ([`validation`]) |
//!
//! Nothing here is demanded. What cannot be had is named with its reason and the command that would get it, and the
//! tests that need it skip. When everything is there, `setup` reads a few files and changes nothing.

mod driver;
mod old_driver;
mod validation;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::apt::sources::{OsRelease, Source, parse_deb822, parse_one_line, parse_os_release};
use crate::apt::{Apt, Privilege};
use crate::environment::TestEnvironment;

/// Whether `setup` may install and download, or only look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Install {
    Allowed,
    Never,
}

/// One needed thing and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) what: &'static str,
    pub(crate) state: State,
}

/// How a needed thing stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// There; what and where.
    Ready(String),
    /// Not there: why, and what a person can do about it.
    Missing { reason: String, remedy: Option<String> },
}

/// What `setup` found or fetched.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) items: Vec<Item>,
    pub(crate) environment: TestEnvironment,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::Ready(text) => write!(f, "{:<18} {text}", self.what),
            State::Missing { reason, remedy } => {
                write!(f, "{:<18} MISSING: {reason}", self.what)?;
                match remedy {
                    Some(remedy) => write!(f, "\n{:<18} to get it: {remedy}", ""),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What the steps need to know about this machine.
#[derive(Debug)]
struct Machine {
    /// The folder for what is fetched, `.dev` in the repository; git ignores it.
    dev_dir: PathBuf,
    library_dirs: Vec<PathBuf>,
    icd_dirs: Vec<PathBuf>,
    layer_dirs: Vec<PathBuf>,
    os: OsRelease,
    /// The package manager, or why there is none.
    apt: Result<Apt, String>,
    install: Install,
}

/// Finds, fetches, reports.
///
/// # Errors
///
/// Only what makes a folder of this repository unusable; a thing that cannot be had is an [`Item`].
pub(crate) fn run(root: &Path, install: Install) -> Result<Setup> {
    let machine = Machine::look(root, install);
    let mut items = Vec::new();
    let (loader, lavapipe, driver_state) = driver::ensure(&machine);
    items.push(Item { what: "Vulkan loader", state: loader });
    items.push(Item { what: "lavapipe", state: driver_state });
    let (old, old_state) = old_driver::ensure(&machine)?;
    items.push(Item { what: "lavapipe 22.3", state: old_state });
    let (layer_dir, layer_state) = validation::ensure(&machine)?;
    items.push(Item { what: "validation layer", state: layer_state });
    Ok(Setup { items, environment: TestEnvironment { lavapipe, old, layer_dir } })
}

impl Machine {
    fn look(root: &Path, install: Install) -> Self {
        let privilege = match install {
            Install::Never => Privilege::None,
            Install::Allowed => Privilege::detect(),
        };
        let apt = Apt::find(privilege)
            .ok_or_else(|| String::from("apt is not here: not a Debian or Ubuntu system"));
        let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self {
            dev_dir: root.join(".dev"),
            library_dirs: library_dirs(),
            icd_dirs: vulkan_dirs("icd.d"),
            layer_dirs: vulkan_dirs("explicit_layer.d"),
            os: parse_os_release(&os),
            apt,
            install,
        }
    }

    /// What downloads packages to take apart, or why nothing does. Fetches the package lists where there are none, as
    /// in a fresh container.
    fn downloader(&self) -> Result<Apt, String> {
        if self.install == Install::Never {
            return Err(String::from("not downloaded: --no-install; run cargo xtask setup"));
        }
        let apt = self.apt.clone()?;
        let known = apt.candidates("apt").map_err(|error| format!("{error:#}"))?;
        match (known.is_empty(), apt.may_install()) {
            (false, _) => Ok(apt),
            (true, true) => apt.update().map(|()| apt).map_err(|error| format!("{error:#}")),
            (true, false) => Err(String::from("there are no package lists; sudo apt-get update")),
        }
    }
}

/// The folders where the dynamic loader finds libraries here: the caller's, then the distributions' usual ones.
fn library_dirs() -> Vec<PathBuf> {
    let arch = std::env::consts::ARCH;
    let usual = [
        format!("/usr/lib/{arch}-linux-gnu"),
        "/usr/lib64".into(),
        "/usr/local/lib".into(),
        "/usr/lib".into(),
    ];
    let own = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&own).collect();
    own.into_iter().chain(usual.map(PathBuf::from)).collect()
}

/// The folders where a Vulkan loader looks for manifests of one kind.
fn vulkan_dirs(kind: &str) -> Vec<PathBuf> {
    let bases = ["/usr/local/etc", "/usr/local/share", "/etc", "/usr/share"];
    bases.iter().map(|base| Path::new(base).join("vulkan").join(kind)).collect()
}

/// Everything apt reads packages from.
fn read_sources() -> Vec<Source> {
    let dir = Path::new("/etc/apt");
    let parts = dir.join("sources.list.d").read_dir().into_iter().flatten().flatten();
    let files = parts.map(|entry| entry.path()).chain([dir.join("sources.list")]);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => parse_deb822(&text),
            Some("list") => parse_one_line(&text),
            _ => Vec::new(),
        }
    };
    files.flat_map(read).collect()
}

/// Builds a folder under a name of its own and renames it into place, so that a half-made one is never used.
pub(crate) fn stage(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let fresh = dir.with_extension(format!("new-{}", std::process::id()));
    std::fs::create_dir_all(&fresh)?;
    let done = fill(&fresh).and_then(|()| {
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        Ok(std::fs::rename(&fresh, dir)?)
    });
    if done.is_err() {
        std::fs::remove_dir_all(&fresh)?;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_whole_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("mesa-22.3");
        stage(&dir, |fresh| Ok(std::fs::write(fresh.join("a"), "1")?)).unwrap();
        assert!(dir.join("a").is_file());
        let failed = stage(&dir, |fresh| {
            std::fs::write(fresh.join("b"), "2")?;
            anyhow::bail!("no network")
        });
        assert!(failed.is_err());
        assert!(dir.join("a").is_file() && !dir.join("b").exists());
        stage(&dir, |fresh| Ok(std::fs::write(fresh.join("c"), "3")?)).unwrap();
        assert!(dir.join("c").is_file() && !dir.join("a").exists());
        assert_eq!(home.path().read_dir().unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_missing_thing_shows_its_reason_and_its_remedy() {
        let state = State::Missing { reason: "why".into(), remedy: Some("do this".into()) };
        let text = Item { what: "lavapipe", state }.to_string();
        assert!(text.contains("MISSING: why\n") && text.contains("to get it: do this"), "{text}");
    }
}
