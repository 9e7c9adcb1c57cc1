//! One machine: what QEMU is told, and one boot of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::initramfs;
use super::packages::{Kernel, Packages};
use super::report::Results;
use super::sessions::Iommu;
use crate::process;

/// `no_timer_check`: emulated timers are late on a busy host.
const KERNEL_WORDS: &str = "console=ttyS0 quiet no_timer_check panic=-1";

impl Iommu {
    /// `strict`: what is unmapped is unreachable when the call returns.
    fn kernel_words(self) -> &'static str {
        match self {
            Self::Used => "intel_iommu=on iommu.strict=1",
            Self::LeftAlone => "intel_iommu=off",
        }
    }
}

/// A switch with ports, as cards are found behind, and in them a device that does DMA, one that has memory, and one with I/O ports. Behind a bridge, two that an IOMMU
/// cannot tell apart, one of which the kernel drives. An IOMMU in front of all.
const DEVICES: [&str; 13] = [
    "intel-iommu,intremap=on",
    "pcie-root-port,id=root,chassis=1",
    "x3130-upstream,id=up,bus=root",
    "xio3130-downstream,id=first,bus=up,chassis=2",
    "xio3130-downstream,id=second,bus=up,chassis=3",
    "edu,bus=first",
    "ivshmem-plain,memdev=window,bus=second",
    "xio3130-downstream,id=third,bus=up,chassis=4",
    "e1000,bus=third,romfile=",
    "pcie-root-port,id=other,chassis=5",
    "pcie-pci-bridge,id=bridge,bus=other",
    "pci-testdev,bus=bridge,addr=1",
    "virtio-rng-pci,bus=bridge,addr=2",
];

/// A machine that can be started again and again.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    pub(super) packages: &'a Packages,
    pub(super) kernel: &'a Kernel,
    pub(super) iommu: Iommu,
    /// For all that it is made of and leaves.
    pub(super) dir: &'a Path,
    /// How long one boot may take.
    pub(super) limit: Duration,
    /// When all has to be over.
    pub(super) deadline: Option<Instant>,
}

impl Boot<'_> {
    /// What the machine boots, and the job that it does.
    pub(super) fn prepare(&self, job: &str) -> Result<()> {
        initramfs::make(self.packages, self.kernel, self.dir)?;
        fs::create_dir_all(self.results())?;
        fs::write(self.results().join("job"), job).context("the job cannot be written")
    }

    /// One boot. `None` when it left no status.
    pub(super) fn run(&self) -> Result<Option<Results>> {
        for left in ["status", "output", "dmesg"] {
            let _ = fs::remove_file(self.results().join(left));
        }
        let own = Instant::now().checked_add(self.limit);
        let deadline = own.into_iter().chain(self.deadline).min();
        process::run_logged(&mut self.command(), deadline, &self.console())?;
        let read = |name: &str| fs::read_to_string(self.results().join(name)).unwrap_or_default();
        let status = read("status").trim().parse();
        Ok(status.ok().map(|status| Results { output: read("output"), status }))
    }

    /// What the machine wrote to its serial line.
    pub(super) fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    fn results(&self) -> PathBuf {
        self.dir.join("results")
    }

    /// By emulation on one processor, which boots wherever QEMU runs, and hung least; two took longer, on hosts that are busy.
    fn command(&self) -> Command {
        let qemu = &self.packages.qemu;
        let mut command = Command::new(self.packages.program());
        command.env("LD_LIBRARY_PATH", self.packages.library_path());
        for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(qemu.join(firmware));
        }
        command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", "2048"]);
        command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        let words = format!("{KERNEL_WORDS} {}", self.iommu.kernel_words());
        command.arg("-kernel").arg(&self.kernel.image);
        command.arg("-initrd").arg(self.dir.join("initramfs.cpio")).args(["-append", &words]);
        command.args(["-object", "memory-backend-ram,id=window,size=16M,share=on"]);
        command.args([
            "-fsdev",
            "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        ]);
        command.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        let results =
            format!("local,id=results,path={},security_model=none", self.results().display());
        command.args([
            "-fsdev",
            &results,
            "-device",
            "virtio-9p-pci,fsdev=results,mount_tag=results",
        ]);
        command.args(DEVICES.iter().flat_map(|device| ["-device", device]));
        command
    }
}
