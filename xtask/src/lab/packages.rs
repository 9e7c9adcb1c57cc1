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

/// Modules that are put into the machine, in the order in which they are loaded: each after those that it needs.
pub(super) const MODULES: [&str; 9] = [
    "fs/netfs/netfs",
    "net/9p/9pnet",
    "net/9p/9pnet_virtio",
    "fs/9p/9p",
    "virt/lib/irqbypass",
    "drivers/vfio/vfio",
    "drivers/vfio/vfio_iommu_type1",
    "drivers/vfio/pci/vfio-pci-core",
    "drivers/vfio/pci/vfio-pci",
];

/// Unpacked packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packages {
    /// The top of QEMU's, its libraries', firmware's and busybox's files.
    pub(super) qemu: PathBuf,
    pub(super) kernel: PathBuf,
    /// `lib/modules/VERSION/kernel`.
    pub(super) modules: PathBuf,
}

/// Finds them, or downloads them.
pub(super) fn ensure(root: &Path, install: Install) -> Result<Packages> {
    ensure!(cfg!(target_arch = "x86_64"), "its machine is x86-64, as the tests are that run in it");
    let dir = root.join(".dev").join("lab");
    if let Some(packages) = find(&dir) {
        return Ok(packages);
    }
    ensure!(install == Install::Allowed, "{} is not there, and --no-install", dir.display());
    let apt = Apt::find(Privilege::detect()).context("apt is not here: not a Debian system")?;
    if apt.candidates(MACHINE[0])?.is_empty() && apt.may_install() {
        apt.update()?;
    }
    println!("    downloading QEMU and a kernel into {}", dir.display());
    fs::create_dir_all(&dir)?;
    stage(&dir.join("qemu"), |fresh| fetch_machine(apt, fresh))?;
    stage(&dir.join("linux"), |fresh| fetch_kernel(apt, fresh))?;
    find(&dir).with_context(|| format!("{} is not complete", dir.display()))
}

fn find(dir: &Path) -> Option<Packages> {
    let (qemu, linux) = (dir.join("qemu"), dir.join("linux"));
    let only = |dir: PathBuf, prefix: &str| {
        let entries = dir.read_dir().ok()?.flatten();
        entries.map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
    };
    let kernel = only(linux.join("boot"), "vmlinuz-")?;
    let mut modules = ["usr/lib/modules", "lib/modules"].iter();
    let modules = modules.find_map(|below| only(linux.join(below), ""))?.join("kernel");
    let packages = Packages { qemu, kernel, modules };
    (packages.program().is_file() && packages.busybox().is_some()).then_some(packages)
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

    /// The file of one of [`MODULES`], packed or not.
    pub(super) fn module(&self, name: &str) -> Result<PathBuf> {
        let files = ["ko.xz", "ko"].map(|end| self.modules.join(format!("{name}.{end}")));
        let found = files.into_iter().find(|file| file.is_file());
        found.with_context(|| format!("the kernel has no module {name}"))
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
        assert!(packages.modules.ends_with("lib/modules/6.12/kernel"));
        assert!(packages.module("drivers/vfio/vfio").is_err());
    }
}
