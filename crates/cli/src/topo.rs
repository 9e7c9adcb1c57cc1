//! `hmmap topo`: the PCI functions of a machine, and what any two of them can do for each other.

mod matrix;
mod probe;

use std::path::{Path, PathBuf};

use hmmap::core::p2p::{Acs, Link, P2p, PciAddress, PciFunction, PcieKind, Problem, RootBus};
use serde::Serialize;

use crate::args::TopoArgs;
use matrix::Matrix;
use probe::Probe;

/// Everything that is shown: one JSON object.
#[derive(Serialize)]
struct Topo {
    /// What was read.
    root: PathBuf,
    cpu: Option<String>,
    kernel: Option<String>,
    functions: Vec<Function>,
    #[serde(flatten)]
    matrix: Matrix,
    /// Copies that were measured; `null` unless they were asked for.
    probe: Option<Probe>,
    /// What could not be read, and what would help.
    unreadable: Vec<String>,
}

#[derive(Serialize)]
struct Function {
    address: String,
    root_bus: String,
    /// The bridge above, of a virtual function that of its physical one.
    parent: Option<String>,
    what: &'static str,
    vendor: Option<u16>,
    device: Option<u16>,
    class: Option<u32>,
    kind: &'static str,
    /// What is switched on of access control; `null` where there is none, or it could not be read (`acs_known`).
    acs_control: Option<u16>,
    acs_known: bool,
    acs_redirects: Option<bool>,
    max_payload_bytes: Option<u32>,
    link: Option<String>,
    max_link: Option<String>,
    numa_node: Option<u32>,
    iommu_group: Option<u32>,
    driver: Option<String>,
    physical_function: Option<String>,
}

pub(crate) fn run(args: &TopoArgs) -> anyhow::Result<()> {
    let live = Path::new("/sys");
    let root = args.root.as_deref().unwrap_or(live);
    let p2p = match root == live {
        true => P2p::live(),
        false => P2p::recorded(root),
    };
    if args.json {
        let topo = Topo {
            root: root.to_owned(),
            cpu: p2p.platform().cpu.as_ref().map(ToString::to_string),
            kernel: p2p.platform().kernel.as_ref().map(ToString::to_string),
            functions: functions(&p2p),
            matrix: Matrix::new(&p2p, matrix::MOST_IN_JSON),
            probe: args.probe.then(Probe::measure).transpose()?,
            unreadable: unreadable(&p2p),
        };
        println!("{}", serde_json::to_string_pretty(&topo)?);
    } else {
        print!("{}", text(&p2p, root));
        if args.probe {
            print!("{}", Probe::measure()?.text());
        }
    }
    Ok(())
}

fn text(p2p: &P2p, root: &Path) -> String {
    let count = p2p.tree().functions().len();
    let unknown = || "not known".to_owned();
    let platform = p2p.platform();
    let cpu = platform.cpu.as_ref().map_or_else(unknown, ToString::to_string);
    let kernel = platform.kernel.as_ref().map_or_else(unknown, ToString::to_string);
    let mut text =
        format!("{}: {count} PCI functions\nprocessor: {cpu}\nkernel: {kernel}\n", root.display());
    if count == 0 {
        text.push_str(
            "\nThere is no PCI function here, so no device can reach another's memory through PCI.\n\
             In a container or a virtual machine, ask its host; `--root DIR` reads a recorded tree.\n",
        );
    } else {
        text.push('\n');
        draw(p2p, &mut text);
        text.push_str(&Matrix::new(p2p, matrix::MOST_IN_TEXT).text());
    }
    let unreadable = unreadable(p2p);
    if !unreadable.is_empty() {
        text.push_str("\nnot readable:\n");
    }
    for line in unreadable {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

/// The tree, a line for each function, below the bus or the function that it is below.
fn draw(p2p: &P2p, text: &mut String) {
    let mut roots: Vec<RootBus> =
        p2p.tree().functions().iter().map(|function| function.root).collect();
    roots.sort_unstable();
    roots.dedup();
    for root in roots {
        text.push_str(&format!("{root}\n"));
        draw_below(p2p, root, None, "", text);
    }
}

fn draw_below(p2p: &P2p, root: RootBus, above: Option<PciAddress>, lead: &str, text: &mut String) {
    let below = |function: &&PciFunction| {
        let path = p2p.tree().path(function.address);
        function.root == root && path.get(1).map(|parent| parent.address) == above
    };
    let below: Vec<_> = p2p.tree().functions().iter().filter(below).collect();
    for (index, function) in below.iter().enumerate() {
        let (corner, bar) = match index + 1 == below.len() {
            true => ("`- ", "   "),
            false => ("|- ", "|  "),
        };
        text.push_str(&format!("{lead}{corner}{}\n", line(function)));
        draw_below(p2p, root, Some(function.address), &format!("{lead}{bar}"), text);
    }
}

/// One function in a line.
fn line(function: &PciFunction) -> String {
    let mut line = format!("{} {}", function.address, what(function));
    if let Some(id) = function.id {
        line.push_str(&format!(" [{:04x}:{:04x}]", id.vendor, id.device));
    }
    let optional = [
        function.driver.as_ref().map(|driver| format!("driver {driver}")),
        function.physical.map(|physical| format!("virtual, of {physical}")),
        function.link.map(|link| link_words(link, function.max_link)),
        function.numa_node.map(|node| format!("NUMA node {node}")),
        function.iommu_group.map(|group| format!("IOMMU group {group}")),
        acs_words(function.config.acs),
    ];
    optional.into_iter().flatten().for_each(|part| line.push_str(&format!(", {part}")));
    line
}

fn link_words(link: Link, most: Option<Link>) -> String {
    match most.filter(|most| *most != link) {
        Some(most) => format!("{link} (of {most})"),
        None => link.to_string(),
    }
}

fn acs_words(acs: Acs) -> Option<String> {
    match (acs.redirects(), acs) {
        (None, _) => Some("ACS unknown".to_owned()),
        (Some(true), Acs::Present { control, .. }) => {
            Some(format!("ACS redirects ({control:04x})"))
        }
        _ => None,
    }
}

/// What a function is, by its class.
fn what(function: &PciFunction) -> &'static str {
    let port = match function.config.kind {
        PcieKind::RootPort => Some("root port"),
        PcieKind::SwitchUpstream => Some("switch, upper side"),
        PcieKind::SwitchDownstream => Some("switch, lower side"),
        _ => None,
    };
    let class = match function.class.unwrap_or(u32::MAX) >> 8 {
        0x0108 => "NVMe controller",
        0x0302 => "3D controller",
        0x0600 => "host bridge",
        0x0604 => "bridge",
        0x0b40 => "co-processor",
        class => match class >> 8 {
            0x01 => "storage controller",
            0x02 => "network controller",
            0x03 => "display controller",
            0x04 => "multimedia controller",
            0x05 => "memory controller",
            0x06 => "bridge of another kind",
            0x08 => "system peripheral",
            0x0c => "serial bus controller",
            0x12 => "accelerator",
            _ => "function",
        },
    };
    port.unwrap_or(class)
}

fn functions(p2p: &P2p) -> Vec<Function> {
    let function = |function: &PciFunction| {
        let path = p2p.tree().path(function.address);
        let acs = function.config.acs;
        Function {
            address: function.address.to_string(),
            root_bus: function.root.to_string(),
            parent: path.get(1).map(|parent| parent.address.to_string()),
            what: what(function),
            vendor: function.id.map(|id| id.vendor),
            device: function.id.map(|id| id.device),
            class: function.class,
            kind: kind(function.config.kind),
            acs_control: match acs {
                Acs::Present { control, .. } => Some(control),
                _ => None,
            },
            acs_known: acs != Acs::Unknown,
            acs_redirects: acs.redirects(),
            max_payload_bytes: function.config.max_payload_bytes,
            link: function.link.map(|link| link.to_string()),
            max_link: function.max_link.map(|link| link.to_string()),
            numa_node: function.numa_node,
            iommu_group: function.iommu_group,
            driver: function.driver.clone(),
            physical_function: function.physical.map(|physical| physical.to_string()),
        }
    };
    p2p.tree().functions().iter().map(function).collect()
}

fn kind(kind: PcieKind) -> &'static str {
    match kind {
        PcieKind::Unknown => "unknown",
        PcieKind::Conventional => "conventional",
        PcieKind::Endpoint => "endpoint",
        PcieKind::RootPort => "root-port",
        PcieKind::SwitchUpstream => "switch-upstream",
        PcieKind::SwitchDownstream => "switch-downstream",
        PcieKind::Bridge => "pci-bridge",
        PcieKind::Integrated => "integrated",
    }
}

/// What could not be read, the many functions that were cut off in one line.
fn unreadable(p2p: &P2p) -> Vec<String> {
    let is_cut = |problem: &&Problem| matches!(problem, Problem::CutOff { .. });
    let (cut, others): (Vec<_>, Vec<_>) = p2p.tree().problems().iter().partition(is_cut);
    let mut lines: Vec<String> = others.iter().map(ToString::to_string).collect();
    if let [Problem::CutOff { address, read_bytes }, more @ ..] = &cut[..] {
        let more = match more.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        lines.push(format!(
            "the configuration of {address}{more} beyond {read_bytes} bytes: their access control (ACS) is unknown, and no \
             answer about them is a yes; run as root (CAP_SYS_ADMIN), or record the tree as root"
        ));
    }
    lines
}
