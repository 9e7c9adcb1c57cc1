//! `hmmap info`.

use hmmap::{
    Absent, Choice, Hmmap, NodeId, Options,
    core::host::{HostPages, HugePool, SharedHugePages},
};
use hmmap_bench::machine::{DeviceReport, Machine};
use serde::Serialize;

use crate::{args::InfoArgs, table, words};

/// Everything that is known about this machine: one JSON object.
#[derive(Serialize)]
struct Info {
    machine: Machine,
    version: &'static str,
    /// Whose touches of what is elsewhere fault.
    host_faults: String,
    /// Whether `HostPages::Huge` can be had.
    huge_pages: String,
    /// What shared memory gets of huge pages without asking.
    shared_huge_pages: String,
    nodes: Vec<Node>,
    /// Devices that were found and could not be opened.
    unusable: Vec<Missing>,
    /// What was looked for and not found.
    absent: Vec<Missing>,
}

/// A place that holds pages.
#[derive(Serialize)]
struct Node {
    node: String,
    what: String,
    memory_bytes: Option<u64>,
    /// Devices whose kernels work on this node, by number.
    devices: Vec<usize>,
}

/// Something that is not there, or not usable.
#[derive(Serialize)]
struct Missing {
    what: String,
    reason: String,
    remedy: Option<String>,
}

impl From<&Absent> for Missing {
    fn from(absent: &Absent) -> Self {
        let Absent { what, reason, remedy } = absent.clone();
        Self { what, reason, remedy: Some(remedy) }
    }
}

pub(crate) fn run(args: InfoArgs) -> anyhow::Result<()> {
    let mem = Hmmap::new()?;
    let info = Info::look(&mem);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&info)?);
    } else {
        print!("{}", info.text());
    }
    Ok(())
}

impl Info {
    fn look(mem: &Hmmap) -> Self {
        let mut machine = Machine::look();
        let mut nodes = vec![Node {
            node: NodeId::HOST.to_string(),
            what: "host memory".to_owned(),
            memory_bytes: machine.memory_bytes,
            devices: Vec::new(),
        }];
        let mut unusable = Vec::new();
        for (device, summary) in mem.devices() {
            let facts = match mem.facts(device) {
                Ok(facts) => facts,
                Err(error) => {
                    let (what, reason) = (summary.name.clone(), chain(&error));
                    unusable.push(Missing { what, reason, remedy: None });
                    continue;
                }
            };
            machine.devices.push(DeviceReport::new(device, facts));
            match mem.node(device) {
                Ok(NodeId::HOST) => nodes[0].devices.push(device.index()),
                _ => nodes.push(Node {
                    node: NodeId::of_device(device).to_string(),
                    what: summary.name.clone(),
                    memory_bytes: Some(summary.memory_bytes),
                    devices: vec![device.index()],
                }),
            }
        }
        let absent = mem.absent().iter().map(Missing::from).collect();
        let host_faults = mem.host_faults().map_or_else(
            || "none: a vector comes home whole when it is indexed".to_owned(),
            |facts| facts.to_string(),
        );
        Self {
            machine,
            version: env!("CARGO_PKG_VERSION"),
            host_faults,
            huge_pages: huge_pages(),
            shared_huge_pages: SharedHugePages::look().to_string(),
            nodes,
            unusable,
            absent,
        }
    }

    fn text(&self) -> String {
        let mut text = format!("hmmap {}\n\n{}\n", self.version, self.machine_table());
        text.push_str(&format!("\n{}\n", self.node_table()));
        for device in &self.machine.devices {
            text.push_str(&device_text(device));
        }
        for Missing { what, reason, .. } in &self.unusable {
            text.push_str(&format!("\nnot usable: {what}: {reason}\n"));
        }
        for Missing { what, reason, remedy } in &self.absent {
            text.push_str(&format!("\nno {what}: {reason}\n"));
            if let Some(remedy) = remedy {
                text.push_str(&format!("  {remedy}\n"));
            }
        }
        text
    }

    fn machine_table(&self) -> String {
        let machine = &self.machine;
        let unknown = || "unknown".to_owned();
        let limit = |value: Option<u64>| value.map_or("none".to_owned(), |value| value.to_string());
        let at_most = |value: Option<u64>| {
            value.map_or("no limit".to_owned(), |bytes| format!("at most {}", words::bytes(bytes)))
        };
        let sized = |value: Option<u64>| value.map_or("none".to_owned(), words::bytes);
        let cpu = machine.cpu.clone().unwrap_or_else(unknown);
        let memory = machine.memory_bytes.map_or_else(unknown, words::bytes);
        let limits = &machine.limits;
        let rows = [
            ("processor", format!("{cpu}, {} threads", machine.cpus)),
            ("memory", memory),
            ("system", machine.system.clone().unwrap_or_else(unknown)),
            ("kernel", machine.kernel.clone()),
            ("userfaultfd", machine.userfaultfd.to_string()),
            ("host faults", self.host_faults.clone()),
            ("huge pages", self.huge_pages.clone()),
            ("shared huge pages", self.shared_huge_pages.clone()),
            ("Vulkan loader", machine.vulkan_loader.clone().unwrap_or("none".to_owned())),
            ("mappings", format!("at most {}", limit(limits.mappings))),
            ("locked memory", format!("at most {}", sized(limits.locked_bytes))),
            ("addresses", at_most(limits.address_bytes)),
            ("open files", format!("at most {}", limit(limits.open_files))),
        ];
        let mut table = table::plain(["machine", ""]);
        for (name, value) in rows {
            table.add_row([name.to_owned(), value]);
        }
        table.to_string()
    }

    fn node_table(&self) -> String {
        let mut table = table::plain(["node", "memory", "devices on it", ""]);
        for Node { node, what, memory_bytes, devices } in &self.nodes {
            let memory = memory_bytes.map_or(String::new(), words::bytes);
            let devices: Vec<_> = devices.iter().map(ToString::to_string).collect();
            table.add_row([node, &memory, &devices.join(", "), what]);
        }
        table.to_string()
    }
}

fn device_text(device: &DeviceReport) -> String {
    let DeviceReport { number, name, api, driver, kind, pci, .. } = device;
    let at = pci.as_ref().map_or(String::new(), |pci| format!(" at {pci}"));
    let default = if *number == 0 { " (default)" } else { "" };
    let memory = words::bytes(device.memory_bytes);
    let whose = if device.shares_host_memory { "of the host's memory" } else { "of its own" };
    let mut table = table::plain(["  tried", "means", "found"]);
    for capability in &device.capabilities {
        let name = format!("  {}", capability.name);
        table.add_row([name.as_str(), capability.meaning, &capability.found]);
    }
    format!(
        "\ndevice {number}{default}: {name}, {kind}{at}\n  {api}, {driver}; {memory} {whose}\n{table}\n"
    )
}

/// Whether `HostPages::Huge` can be had, by trying.
fn huge_pages() -> String {
    let options = Options { host_pages: HostPages::Huge, ..Options::default() };
    match Hmmap::builder().devices(Choice::Embedded).options(options).build() {
        Ok(mem) if mem.host_faults().is_some() => format!("{} (HostPages::Huge)", HugePool::look()),
        Ok(_) => format!("{}; without page faults", HugePool::look()),
        Err(error) => format!("none: {}", chain(&error)),
    }
}

/// An error and what it came from.
fn chain(error: &hmmap::Error) -> String {
    format!("{:#}", anyhow::Error::new(error.clone()))
}
