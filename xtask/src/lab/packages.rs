//! What the machine is made of, from the distribution's packages, unpacked below `.dev/lab`. Nothing is installed, and no rights are needed.
//!
//! What QEMU needs beyond what is installed is what apt *would* install (`--simulate`). Where the release's own QEMU does not fit what is installed, backports
//! are asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::apt::{Apt, Privilege, unpack};
use crate::process;
use crate::setup::{Install, stage};

/// Packages that hold a kernel of the 6.12 series or a newer one, first choice first.
const KERNELS: [&str; 2] = ["linux-image-6.12-amd64", "linux-image-amd64"];
const MACHINE: [&str; 2] = ["qemu-system-x86", "busybox-static"];

/// The package whose kernel is of the series 6.1 where the release is Debian 12.
const STOCK: &str = "linux-image-amd64";
/// How the image of that series is called.
const STOCK_IMAGE: &str = "linux-image-6.1.";

/// Unpacked packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packages {
    /// The top of QEMU's, its libraries', firmware's and busybox's files.
    pub(super) qemu: PathBuf,
    /// Of the series 6.12, or newer.
    pub(super) kernel: Kernel,
    /// Of the series 6.1; `None` where the release has none.
    pub(super) stock: Option<Kernel>,
}

/// An unpacked kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// `lib/modules/VERSION/kernel`.
    pub(super) modules: PathBuf,
}

/// Finds them, or downloads them.
pub(super) fn ensure(root: &Path, install: Install) -> Result<Packages> {
    ensure!(cfg!(target_arch = "x86_64"), "its machine is x86-64, as the tests are that run in it");
    let dir = root.join(".dev").join("lab");
    if let Some(packages) = find(&dir).filter(|found| found.stock.is_some()) {
        return packages.starts();
    }
    if install == Install::Allowed
        && let Err(error) = fetch(&dir)
    {
        // What is there may do.
        println!("    {error:#}");
        ensure!(find(&dir).is_some(), "{error:#}");
    }
    let why = if install == Install::Allowed { "it is not complete" } else { "--no-install" };
    find(&dir).with_context(|| format!("no machine in {}: {why}", dir.display()))?.starts()
}

/// Downloads what is not there yet. The stock kernel is not asked for where the release has another.
fn fetch(dir: &Path) -> Result<()> {
    let apt = Apt::find(Privilege::detect()).context("apt is not here: not a Debian system")?;
    if apt.candidates(MACHINE[0])?.is_empty() && apt.may_install() {
        apt.update()?;
    }
    fs::create_dir_all(dir)?;
    if find(dir).is_none() {
        println!("    downloading QEMU and a kernel into {}", dir.display());
        stage(&dir.join("qemu"), |fresh| fetch_machine(apt, fresh))?;
        stage(&dir.join("linux"), |fresh| fetch_kernel(apt, fresh))?;
    }
    let stock = would_install(&[STOCK], None).unwrap_or_default();
    match stock.into_iter().find(|name| name.starts_with(STOCK_IMAGE)) {
        Some(image) => stage(&dir.join("linux-6.1"), |fresh| unpack_whole(apt, &image, fresh)),
        None => Ok(()),
    }
}

fn find(dir: &Path) -> Option<Packages> {
    let qemu = dir.join("qemu");
    let stock = find_kernel(&dir.join("linux-6.1"));
    let packages = Packages { qemu, kernel: find_kernel(&dir.join("linux"))?, stock };
    (packages.program().is_file() && packages.busybox().is_some()).then_some(packages)
}

fn find_kernel(linux: &Path) -> Option<Kernel> {
    let only = |dir: PathBuf, prefix: &str| {
        let entries = dir.read_dir().ok()?.flatten();
        entries.map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
    };
    let image = only(linux.join("boot"), "vmlinuz-")?;
    let mut modules = ["usr/lib/modules", "lib/modules"].iter();
    let modules = modules.find_map(|below| only(linux.join(below), ""))?.join("kernel");
    Some(Kernel { image, modules })
}

impl Packages {
    pub(super) fn program(&self) -> PathBuf {
        self.qemu.join("usr/bin/qemu-system-x86_64")
    }

    pub(super) fn busybox(&self) -> Option<PathBuf> {
        ["bin/busybox", "usr/bin/busybox"]
            .iter()
            .map(|file| self.qemu.join(file))
            .find(|file| file.is_file())
    }

    /// Its libraries, which are not where the system's are.
    pub(super) fn library_path(&self) -> String {
        let dirs = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        dirs.map(|dir| self.qemu.join(dir).display().to_string()).join(":")
    }

    /// Itself, if its QEMU starts here.
    fn starts(self) -> Result<Self> {
        let mut command = Command::new(self.program());
        let answer =
            process::capture(command.arg("--version").env("LD_LIBRARY_PATH", self.library_path()))?;
        ensure!(answer.success, "QEMU does not start here: {}", answer.stderr.trim());
        Ok(self)
    }
}

fn fetch_machine(apt: Apt, fresh: &Path) -> Result<()> {
    let mut releases = vec![None];
    let candidates = apt.candidates(MACHINE[0])?;
    releases.extend(candidates.iter().filter_map(|found| found.release()).map(Some));
    let plans = releases.into_iter().map(|release| would_install(&MACHINE, release));
    let Some(plan) =
        plans.flatten().find(|plan| plan.iter().any(|p| p.starts_with("qemu-system-x86=")))
    else {
        // What is installed is not downloaded; then its files are where the system has them, and not for us to move.
        bail!("apt would not install {} here", MACHINE.join(" and "));
    };
    for package in plan {
        unpack_whole(apt, &package, fresh)?;
    }
    Ok(())
}

fn fetch_kernel(apt: Apt, fresh: &Path) -> Result<()> {
    let image = |package: &&str| {
        let plan = would_install(&[package], None).ok()?;
        plan.into_iter().find(|name| {
            name.starts_with("linux-image-")
                && name.matches('.').count() >= 2
                && !name.starts_with(&format!("{package}="))
        })
    };
    let image = KERNELS.iter().find_map(image);
    let image = image.with_context(|| format!("the package archive has none of {KERNELS:?}"))?;
    unpack_whole(apt, &image, fresh)
}

fn unpack_whole(apt: Apt, package: &str, fresh: &Path) -> Result<()> {
    let scratch = fresh.join("download");
    fs::create_dir_all(&scratch)?;
    unpack(&apt.download(package, &scratch)?, "*", fresh)?;
    Ok(fs::remove_dir_all(&scratch)?)
}

/// What apt would install with these packages, as `name=version`.
fn would_install(packages: &[&str], release: Option<&str>) -> Result<Vec<String>> {
    let mut command = Command::new("apt-get");
    command.args(["install", "--simulate", "--no-install-recommends"]);
    command.args(release.into_iter().flat_map(|release| ["-t", release])).args(packages);
    let answer = process::capture(command.env("LC_ALL", "C"))?;
    ensure!(
        answer.success,
        "apt-get would not install {}: {}",
        packages.join(" "),
        answer.stderr.trim()
    );
    Ok(answer.stdout.lines().filter_map(parse_plan_line).collect())
}

/// `Inst NAME [OLD] (NEW SUITE...)`; what is installed already in an older version (`[OLD]`) is good as it is.
fn parse_plan_line(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let version = rest.strip_prefix('(')?.split(' ').next()?;
    Some(format!("{name}={version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_install_is_read_from_its_plan() {
        let plan = "\
Inst libfdt1 (1.6.1-4+b1 Debian:12.15/oldstable [amd64])
Inst systemd [252.38-1] (252.39-1 Debian:12.15/oldstable [amd64]) []
Conf libfdt1 (1.6.1-4+b1 Debian:12.15/oldstable [amd64])
";
        let found: Vec<_> = plan.lines().filter_map(parse_plan_line).collect();
        assert_eq!(found, ["libfdt1=1.6.1-4+b1"]);
    }

    #[test]
    fn half_of_it_is_not_enough() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(find(home.path()), None);
        for file in
            ["linux/boot/vmlinuz-6.12", "qemu/usr/bin/qemu-system-x86_64", "qemu/bin/busybox"]
        {
            assert_eq!(find(home.path()), None);
            let path = home.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::create_dir_all(home.path().join("linux/lib/modules/6.12/kernel")).unwrap();
        let packages = find(home.path()).unwrap();
        assert!(packages.kernel.modules.ends_with("lib/modules/6.12/kernel"));
        assert_eq!(packages.stock, None);
        // A file without a program in it.
        let refused = ensure(home.path(), Install::Never).unwrap_err().to_string();
        assert!(refused.contains("--no-install"), "{refused}");
        assert!(packages.starts().is_err());
    }
}
