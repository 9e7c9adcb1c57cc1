//! The machine around the tree: its processor and its kernel, which decide what the kernel believes of host bridges.

use std::{fmt, fs, io::Read as _, path::Path};

/// The most of `/proc/cpuinfo` that is read: the first processor is enough.
const CPUINFO_BYTES: u64 = 64 << 10;
const RELEASE_BYTES: u64 = 256;

/// A processor, as far as the rule for host bridges looks at it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// Its maker, as an x86 processor spells it; empty on other processors.
    pub vendor: String,
    /// Its family, 0 where it has none.
    pub family: u32,
}

impl Cpu {
    /// Reads the first processor of a `/proc/cpuinfo`; `None` for a text without one.
    pub fn parse(cpuinfo: &str) -> Option<Self> {
        let first = cpuinfo.split("\n\n").next()?;
        let value = |key: &str| {
            let mut pairs = first.lines().filter_map(|line| line.split_once(':'));
            pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
        };
        value("processor")?;
        let vendor = value("vendor_id").unwrap_or_default().to_owned();
        Some(Self { vendor, family: value("cpu family").and_then(|n| n.parse().ok()).unwrap_or(0) })
    }

    /// True for the processors whose host bridges the kernel trusts with any pair: AMD from Zen (family 17h) on. Hygon's, which
    /// are Zen too, are not among them.
    pub fn forwards_any_pair(&self) -> bool {
        self.vendor == "AuthenticAMD" && self.family >= 0x17
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vendor.as_str() {
            "" => f.write_str("a processor that is no x86"),
            vendor => write!(f, "{vendor} family {:#x}", self.family),
        }
    }
}

/// A kernel's version, as far as the list of host bridges depends on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

impl KernelVersion {
    /// Reads a release, such as `6.12.43+deb13-amd64`.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Processor and kernel. What is `None` could not be read, and nothing is taken for granted then.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Platform {
    /// The processor.
    pub cpu: Option<Cpu>,
    /// The kernel.
    pub kernel: Option<KernelVersion>,
}

impl Platform {
    /// The machine that this program runs on.
    pub fn live() -> Self {
        Self::of(Path::new("/proc/cpuinfo"), Path::new("/proc/sys/kernel/osrelease"))
    }

    /// The machine that a tree was recorded on: the files `cpuinfo` and `osrelease` in the recording's root, which are
    /// `/proc/cpuinfo` and `/proc/sys/kernel/osrelease` of then.
    pub fn recorded(root: &Path) -> Self {
        Self::of(&root.join("cpuinfo"), &root.join("osrelease"))
    }

    fn of(cpuinfo: &Path, release: &Path) -> Self {
        Self {
            cpu: beginning(cpuinfo, CPUINFO_BYTES).and_then(|text| Cpu::parse(&text)),
            kernel: beginning(release, RELEASE_BYTES).and_then(|text| KernelVersion::parse(&text)),
        }
    }
}

fn beginning(path: &Path, most_bytes: u64) -> Option<String> {
    // The recording may hold anything under this name, also a pipe.
    let file = fs::metadata(path).ok()?.is_file().then(|| fs::File::open(path).ok())??;
    let mut bytes = Vec::new();
    file.take(most_bytes).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(vendor: &str, family: u32) -> Cpu {
        Cpu::parse(&format!("processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\n\n"))
            .unwrap()
    }

    #[test]
    fn q6_zen_and_later_forward_any_pair_and_nobody_else_does() {
        assert!(cpu("AuthenticAMD", 0x17).forwards_any_pair());
        assert!(cpu("AuthenticAMD", 0x1a).forwards_any_pair());
        assert!(!cpu("AuthenticAMD", 0x16).forwards_any_pair());
        assert!(!cpu("HygonGenuine", 0x18).forwards_any_pair());
        assert!(!cpu("GenuineIntel", 0x17).forwards_any_pair());
        // Another architecture, and a second processor that does not count.
        let arm =
            Cpu::parse("processor : 0\nCPU architecture: 8\n\nvendor_id : AuthenticAMD").unwrap();
        assert!(!arm.forwards_any_pair());
        assert_eq!(Cpu::parse("vendor_id : AuthenticAMD"), None);
        assert_eq!(Cpu::parse(""), None);
    }

    #[test]
    fn q6_a_kernel_is_known_by_two_numbers() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        assert_eq!(KernelVersion::parse("6.12.43+deb13-amd64\n"), version(6, 12));
        assert_eq!(KernelVersion::parse("7.3-rc1"), version(7, 3));
        assert!(version(6, 12) < version(7, 0) && version(6, 2) < version(6, 12));
        for wrong in ["", "6", "six.1", "99999999999.1"] {
            assert_eq!(KernelVersion::parse(wrong), None, "{wrong}");
        }
    }
}
