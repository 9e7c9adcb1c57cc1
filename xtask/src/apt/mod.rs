//! Debian's package manager: what its files and answers say (pure), and the calls that ask it.
//!
//! - [`sources`]: where packages come from, and the stanza that adds the backports suite beside an existing one.
//! - [`answers`]: what `apt-cache madison`, `dpkg-query`, `dpkg-deb` and `ldd` print.
//! - [`Apt`]: the calls. Reading needs no rights; installing goes through a [`Privilege`].
//!
//! No mirror's address stands in this repository: a suite is added at the address that the machine uses already.

pub(crate) mod answers;
pub(crate) mod sources;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{self, Captured};
use answers::Candidate;

/// Somebody else's apt may be at work: wait for its lock. A mirror that does not answer is given up.
const PATIENCE: [&str; 4] = ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::http::Timeout=30"];

/// Whether system packages may be installed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// This process is root.
    Root,
    /// `sudo -n` works: no password is asked for.
    Sudo,
    /// Neither; or the caller asked to install nothing.
    None,
}

impl Privilege {
    /// What this process may do.
    pub(crate) fn detect() -> Self {
        if rustix::process::geteuid().is_root() {
            return Self::Root;
        }
        let sudo = process::capture(Command::new("sudo").args(["-n", "true"]));
        if sudo.is_ok_and(|answer| answer.success) { Self::Sudo } else { Self::None }
    }

    /// A command that runs with the rights of root. `sudo` drops the environment, so it is set behind it.
    fn command(self, program: &str) -> Command {
        match self {
            Self::Root | Self::None => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", program]);
                command
            }
        }
    }
}

/// The package manager of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Apt {
    privilege: Privilege,
}

impl Apt {
    /// Finds apt. `None` where `apt-get`, `apt-cache` or `dpkg-deb` is not on the path: not a Debian or Ubuntu.
    pub(crate) fn find(privilege: Privilege) -> Option<Self> {
        let needed = ["apt-get", "apt-cache", "dpkg-deb", "dpkg-query", "tar"];
        needed.iter().all(|program| on_path(program).is_some()).then_some(Self { privilege })
    }

    /// True if this process may install system packages.
    pub(crate) fn may_install(self) -> bool {
        self.privilege != Privilege::None
    }

    /// Every version of `package` that the package lists hold; empty when they hold none.
    pub(crate) fn candidates(self, package: &str) -> Result<Vec<Candidate>> {
        let answer = process::capture(Command::new("apt-cache").args(["madison", package]))?;
        Ok(answers::parse_madison(&answer.stdout))
    }

    /// Fetches the package lists anew.
    pub(crate) fn update(self) -> Result<()> {
        self.run(&["update", "-q"])
    }

    /// Installs packages, from `release` where one is named (`apt-get -t`).
    pub(crate) fn install(self, packages: &[&str], release: Option<&str>) -> Result<()> {
        self.run(&install_words(packages, release))
    }

    /// Writes a file that only root may write, such as a source list.
    pub(crate) fn write_system_file(self, path: &Path, text: &str) -> Result<()> {
        let mut tee = self.privilege.command("tee");
        let mut child = tee
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot write {}", path.display()))?;
        if let Some(mut pipe) = child.stdin.take() {
            std::io::Write::write_all(&mut pipe, text.as_bytes())?;
        }
        ensure!(child.wait()?.success(), "cannot write {}", path.display());
        Ok(())
    }

    /// Removes a file that only root may remove.
    pub(crate) fn remove_system_file(self, path: &Path) -> Result<()> {
        checked(process::capture(self.privilege.command("rm").arg("-f").arg(path))?, "rm")
    }

    /// Downloads the `.deb` of `package` (`name` or `name=version`) into `dir` without installing it. Needs no rights.
    pub(crate) fn download(self, package: &str, dir: &Path) -> Result<PathBuf> {
        let mut command = Command::new("apt-get");
        command.current_dir(dir).args(PATIENCE).args(["-q", "-o", "APT::Sandbox::User=root"]);
        command.args(["download", package]);
        checked(process::capture(&mut command)?, &format!("apt-get download {package}"))?;
        let name = package.split('=').next().unwrap_or(package);
        let ours = |path: &PathBuf| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
        };
        let mut files = dir.read_dir()?.flatten().map(|entry| entry.path());
        files.find(ours).with_context(|| format!("apt-get download {package} left no file"))
    }

    /// The names of packages that a `.deb` depends on and that are not installed.
    pub(crate) fn missing_dependencies(self, deb: &Path) -> Result<Vec<String>> {
        let mut ask = Command::new("dpkg-deb");
        let depends = process::capture(ask.arg("-f").arg(deb).arg("Depends"))?.stdout;
        let wanted = answers::parse_depends(&depends);
        let mut ask = Command::new("dpkg-query");
        ask.args(["-W", "-f", "${Package} ${db:Status-Status}\\n"]);
        // It reports failure when one name is unknown, and still answers for the others.
        let installed = process::capture(ask.args(&wanted))?.stdout;
        Ok(answers::not_installed(&wanted, &installed))
    }

    fn run(self, words: &[&str]) -> Result<()> {
        let mut command = self.privilege.command("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(PATIENCE).args(words);
        println!("    {}", process::show(&command));
        let answer = process::capture(&mut command)?;
        checked(answer, &process::show(&command))
    }
}

/// The words after `apt-get` that install `packages`.
pub(crate) fn install_words<'a>(packages: &[&'a str], release: Option<&'a str>) -> Vec<&'a str> {
    let mut words = vec!["install", "-y", "-q", "--no-install-recommends"];
    words.extend(release.into_iter().flat_map(|release| ["-t", release]));
    words.extend(packages);
    words
}

/// Unpacks the files of `deb` that match `pattern` (as tar's wildcards) under `dir`.
pub(crate) fn unpack(deb: &Path, pattern: &str, dir: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let Some(pipe) = archive.stdout.take() else { bail!("dpkg-deb gave no output") };
    let mut tar = Command::new("tar");
    tar.args(["-x", "--wildcards", "--no-same-owner", "-C"]).arg(dir).arg(pattern).stdin(pipe);
    let answer = tar.output().context("cannot run tar")?;
    archive.wait()?;
    ensure!(
        answer.status.success(),
        "{} holds no {pattern}: {}",
        deb.display(),
        String::from_utf8_lossy(&answer.stderr).trim()
    );
    Ok(())
}

/// The libraries that `library` needs and the loader does not find, with `library_dir` searched as well.
pub(crate) fn missing_libraries(library: &Path, library_dir: &Path) -> Result<Vec<String>> {
    let mut ldd = Command::new("ldd");
    let answer = process::capture(ldd.env("LD_LIBRARY_PATH", library_dir).arg(library))?;
    Ok(answers::parse_ldd_missing(&answer.stdout))
}

/// Where `program` is, looking through `PATH` as a shell does.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn checked(answer: Captured, what: &str) -> Result<()> {
    if answer.success {
        return Ok(());
    }
    let lines: Vec<&str> = answer.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(3)..];
    bail!("{what} failed: {}", last.join("; "))
}
