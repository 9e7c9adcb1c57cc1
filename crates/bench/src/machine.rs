//! The machine that a figure was taken on, as facts.

use std::fs;

use hmmap::{DeviceId, core::backend::DeviceFacts};
use serde::Serialize;

mod userfault;

pub use userfault::Userfault;

/// The machine that a figure was taken on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Threads that this process may use at once.
    pub cpus: usize,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution.
    pub system: Option<String>,
    /// What userfaultfd offers to this process.
    pub userfaultfd: Userfault,
    /// The version of the Vulkan loader, where there is one.
    pub vulkan_loader: Option<String>,
    /// Limits of this process that the library can meet.
    pub limits: Limits,
    /// The devices that the figures are about.
    pub devices: Vec<DeviceReport>,
}

/// Limits that the library can meet. `None`: not known, or none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Limits {
    /// The most mappings of one process (`vm.max_map_count`).
    pub mappings: Option<u64>,
    /// Memory that this process may lock, in bytes (`ulimit -l`).
    pub locked_bytes: Option<u64>,
    /// Addresses that this process may use, in bytes (`ulimit -v`).
    pub address_bytes: Option<u64>,
    /// Open files of this process (`ulimit -n`).
    pub open_files: Option<u64>,
}

/// One device, in the words of reports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeviceReport {
    /// The number that `--device` knows it by.
    pub number: usize,
    /// The name that the driver gives.
    pub name: String,
    /// The programming interface.
    pub api: String,
    /// The driver and its version.
    pub driver: String,
    /// What kind of processor it is.
    pub kind: String,
    /// Where it sits, where that can be known.
    pub pci: Option<String>,
    /// Memory that it reports as its own, in bytes.
    pub memory_bytes: u64,
    /// True when its memory is the host's memory.
    pub shares_host_memory: bool,
    /// What was tried when it was opened, what that means, and what came of it.
    pub capabilities: Vec<CapabilityReport>,
}

/// One capability of a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CapabilityReport {
    /// Its name.
    pub name: &'static str,
    /// What it means to a user.
    pub meaning: &'static str,
    /// True when it was tried and worked.
    pub proved: bool,
    /// What came of the trial, in words.
    pub found: String,
}

impl Machine {
    /// Looks around. Devices are added by whoever opened them.
    pub fn look() -> Self {
        let cpu = field(&read("/proc/cpuinfo"), "model name");
        let os_release = read("/etc/os-release");
        let system = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let uname = rustix::system::uname();
        Self {
            cpu,
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            memory_bytes: kib("/proc/meminfo", "MemTotal"),
            kernel: uname.release().to_string_lossy().into_owned(),
            system: system.map(|name| name.trim_matches('"').to_owned()),
            userfaultfd: Userfault::probe(),
            vulkan_loader: loader_version(),
            limits: Limits::look(),
            devices: Vec::new(),
        }
    }
}

impl Limits {
    fn look() -> Self {
        use rustix::process::{Resource, getrlimit};
        let limit = |resource| getrlimit(resource).current;
        Self {
            mappings: read("/proc/sys/vm/max_map_count").trim().parse().ok(),
            locked_bytes: limit(Resource::Memlock),
            address_bytes: limit(Resource::As),
            open_files: limit(Resource::Nofile),
        }
    }
}

impl DeviceReport {
    /// What is known about an open device.
    pub fn new(device: DeviceId, facts: &DeviceFacts) -> Self {
        let summary = &facts.summary;
        let capabilities = facts.capabilities.table();
        let capabilities = capabilities.into_iter().map(|(name, meaning, capability)| {
            let (proved, found) = (capability.is_proved(), capability.to_string());
            CapabilityReport { name, meaning, proved, found }
        });
        Self {
            number: device.index(),
            name: summary.name.clone(),
            api: summary.api.to_owned(),
            driver: summary.driver.clone(),
            kind: summary.kind.to_string(),
            pci: summary.pci.map(|pci| pci.to_string()),
            memory_bytes: summary.memory_bytes,
            shares_host_memory: facts.shares_host_memory,
            capabilities: capabilities.collect(),
        }
    }
}

/// Memory that could be used now without hurting anyone, in bytes.
pub(crate) fn available_bytes() -> Option<u64> {
    kib("/proc/meminfo", "MemAvailable")
}

/// Memory that this process holds, private and shared, in bytes.
pub(crate) fn held_bytes() -> Option<u64> {
    let status = "/proc/self/status";
    Some(kib(status, "RssAnon")? + kib(status, "RssShmem")?)
}

fn kib(path: &str, name: &str) -> Option<u64> {
    let value = field(&read(path), name)?;
    Some(value.strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The value of the first `name: value` line.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// A file's text, nothing where it cannot be read: every fact is optional.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(feature = "vulkan")]
fn loader_version() -> Option<String> {
    crate::raw::loader_version()
}

#[cfg(not(feature = "vulkan"))]
fn loader_version() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_by_their_whole_name() {
        let text = "MemTotalX:  1 kB\nMemTotal:   24105 kB\nmodel name\t: A processor: fast\n";
        assert_eq!(field(text, "MemTotal").as_deref(), Some("24105 kB"));
        assert_eq!(field(text, "model name").as_deref(), Some("A processor: fast"));
        assert_eq!(field(text, "Mem"), None);
    }

    #[test]
    fn this_process_holds_memory_and_the_machine_has_more() {
        let held = held_bytes().unwrap();
        assert!(held > 0 && available_bytes().unwrap() > 0);
        assert!(Machine::look().memory_bytes.unwrap() > held);
        // Beside this test others may give some back.
        let more = std::hint::black_box(vec![1u8; 64 << 20]);
        let grown = held_bytes().unwrap().saturating_sub(held);
        assert!(
            (48 << 20..1 << 30).contains(&grown),
            "{grown} bytes more than without {}",
            more.len()
        );
    }
}
