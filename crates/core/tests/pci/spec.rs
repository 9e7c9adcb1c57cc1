//! PCI trees as text, and the sysfs that each stands for.
//!
//! ```text
//! cpu AuthenticAMD 25                                   vendor (`-`: none, no x86) and family, as in /proc/cpuinfo
//! kernel 6.12
//! pci0000:00                                            a root bus; what is indented below is on it
//!   0000:00:01.0 1022:14a5 060400 kind=root-port ...    a function: id, class, and what else it has
//!     0000:01:00.0 10de:2331 030200 kind=endpoint ...
//!       - nvme/nvme0/nvme0n1                            a device of another kind below it
//! ```
//!
//! Of a function: `kind=` (`none` is a conventional one), `link=16.0x16` and `max=` (GT/s and lanes), `acs=001d` (it has access
//! control, with this switched on), `mps=256`, `numa=`, `iommu=`, `driver=`, `physfn=`, `reads=64` (how much of its configuration can be
//! read), or `bytes=` with `size=` (its configuration as it was read, in hexadecimal, then zeros).
//!
//! Used by the tests beside this file, by those of the command, and by a fuzzer in `fuzz/`.

use std::{collections::BTreeMap, fs, io, os::unix::fs::symlink, path::Path};

use hmmap_core::p2p::{Beginning, Sysfs};

#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) cpu: Option<(String, u32)>,
    pub(crate) kernel: Option<String>,
    pub(crate) nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// By place in the list, always an earlier one.
    pub(crate) parent: Option<usize>,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    RootBus,
    Function(Box<Function>),
    Other,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) class: u32,
    /// The kind's number in the PCI Express capability, `None` for a conventional function.
    pub(crate) kind: Option<u8>,
    /// What is switched on of its access control, `None` where it has none.
    pub(crate) acs: Option<u16>,
    pub(crate) max_payload_bytes: Option<u32>,
    pub(crate) link: Option<(String, String)>,
    pub(crate) max_link: Option<(String, String)>,
    pub(crate) numa: Option<u32>,
    pub(crate) iommu: Option<u32>,
    pub(crate) driver: Option<String>,
    pub(crate) physfn: Option<String>,
    pub(crate) reads: Option<usize>,
    pub(crate) bytes: Option<(Vec<u8>, usize)>,
}

const KINDS: [(&str, Option<u8>); 7] = [
    ("none", None),
    ("endpoint", Some(0)),
    ("root-port", Some(4)),
    ("upstream", Some(5)),
    ("downstream", Some(6)),
    ("pci-bridge", Some(7)),
    ("integrated", Some(9)),
];

impl Spec {
    /// Reads a tree; says what is wrong with a text that is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut spec = Self::default();
        // The place of the last node at each depth.
        let mut open: Vec<usize> = Vec::new();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        for line in lines {
            let depth = (line.len() - line.trim_start_matches(' ').len()) / 2;
            let mut words = line.split_whitespace();
            let first = words.next().ok_or("an empty line")?;
            let rest: Vec<&str> = words.collect();
            match (first, &rest[..]) {
                ("cpu", [vendor, family]) => {
                    let family = family.parse().map_err(|_| "a family that is no number")?;
                    spec.cpu = Some(((*vendor).to_owned(), family));
                    continue;
                }
                ("kernel", [version]) => {
                    spec.kernel = Some((*version).to_owned());
                    continue;
                }
                _ => {}
            }
            if depth > open.len() {
                return Err(format!("`{first}` is indented too far"));
            }
            open.truncate(depth);
            let (name, what) = match (first, &rest[..]) {
                ("-", [path]) => (*path, What::Other),
                (root, []) => (root, What::RootBus),
                (name, words) => (name, What::Function(Box::new(Function::parse(words)?))),
            };
            let (name, parent) = (name.to_owned(), open.last().copied());
            open.push(spec.nodes.len());
            spec.nodes.push(Node { name, parent, what });
        }
        Ok(spec)
    }

    /// The same tree for a reader that sees so much of each configuration.
    #[allow(dead_code, reason = "not every user of this file cuts")]
    pub(crate) fn reading(mut self, bytes: usize) -> Self {
        for node in &mut self.nodes {
            if let What::Function(function) = &mut node.what {
                function.reads = Some(bytes);
            }
        }
        self
    }

    /// Where a node is, relative to the root.
    pub(crate) fn path(&self, index: usize) -> String {
        let Node { name, parent, .. } = &self.nodes[index];
        let above = parent.map_or("devices".to_owned(), |parent| self.path(parent));
        format!("{above}/{name}")
    }

    /// The functions, by place.
    #[allow(dead_code, reason = "not every user of this file asks")]
    pub(crate) fn functions(&self) -> impl Iterator<Item = (usize, &Function)> {
        self.nodes.iter().enumerate().filter_map(|(index, node)| match &node.what {
            What::Function(function) => Some((index, &**function)),
            _ => None,
        })
    }

    /// The sysfs that the tree stands for.
    pub(crate) fn sysfs(&self) -> Memory {
        let mut files = BTreeMap::new();
        files.insert("bus/pci/devices/".into(), Entry::Folder);
        if let Some((vendor, family)) = &self.cpu {
            let vendor = match vendor.as_str() {
                "-" => String::new(),
                vendor => format!("vendor_id\t: {vendor}\ncpu family\t: {family}\n"),
            };
            let text = format!("processor\t: 0\n{vendor}\n");
            files.insert("cpuinfo".into(), Entry::File(text.into_bytes(), None));
        }
        if let Some(kernel) = &self.kernel {
            files.insert("osrelease".into(), Entry::File(format!("{kernel}.0\n").into(), None));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let (path, name) = (self.path(index), &node.name);
            match &node.what {
                What::RootBus => {}
                What::Other => {
                    let last = name.rsplit('/').next().unwrap_or(name);
                    let target = format!("../../{path}");
                    files.insert(format!("class/block/{last}"), Entry::Link(target));
                    files.insert(format!("{path}/dev"), Entry::File(b"259:0\n".to_vec(), None));
                }
                What::Function(function) => {
                    let target = format!("../../../{path}");
                    files.insert(format!("bus/pci/devices/{name}"), Entry::Link(target));
                    for (file, entry) in function.entries() {
                        files.insert(format!("{path}/{file}"), entry);
                    }
                }
            }
        }
        Memory(files)
    }
}

impl Function {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let hex = |digits: &str| {
            u32::from_str_radix(digits, 16).map_err(|_| format!("`{digits}` is not hexadecimal"))
        };
        let number =
            |digits: &str| digits.parse::<u32>().map_err(|_| format!("`{digits}` is no number"));
        let [id, class, options @ ..] = words else {
            return Err("a function has id and class".into());
        };
        let (vendor, device) = id.split_once(':').ok_or("an id is vendor:device")?;
        let short = |digits: &str| hex(digits).map(|number| number as u16);
        let mut function = Self {
            vendor: short(vendor)?,
            device: short(device)?,
            class: hex(class)?,
            ..Self::default()
        };
        for option in options {
            let (key, value) = option.split_once('=').ok_or("an option is key=value")?;
            let pair = || {
                let (speed, lanes) = value.split_once('x').ok_or("a link is speed x lanes")?;
                Ok::<_, String>(Some((format!("{speed} GT/s PCIe\n"), format!("{lanes}\n"))))
            };
            match key {
                "kind" => {
                    let kind = KINDS.iter().find(|(name, _)| *name == value);
                    function.kind = kind.ok_or("a kind that is none")?.1;
                }
                "acs" => function.acs = Some(short(value)?),
                "mps" => function.max_payload_bytes = Some(number(value)?),
                "link" => function.link = pair()?,
                "max" => function.max_link = pair()?,
                "numa" => function.numa = Some(number(value)?),
                "iommu" => function.iommu = Some(number(value)?),
                "driver" => function.driver = Some(value.to_owned()),
                "physfn" => function.physfn = Some(value.to_owned()),
                "reads" => function.reads = Some(number(value)?.min(4096) as usize),
                "bytes" => {
                    let digits = value.as_bytes().chunks(2).map(|two| {
                        let two = std::str::from_utf8(two).map_err(|_| "bytes are hexadecimal")?;
                        hex(two).map(|byte| byte as u8)
                    });
                    let size = function.bytes.take().map_or(256, |(_, size)| size);
                    function.bytes = Some((digits.collect::<Result<_, _>>()?, size));
                }
                "size" => {
                    let bytes = function.bytes.take().map_or(Vec::new(), |(bytes, _)| bytes);
                    function.bytes = Some((bytes, number(value)?.min(4096) as usize));
                }
                _ => return Err(format!("no option `{key}`")),
            }
        }
        Ok(function)
    }

    /// Configuration space as the device has it.
    fn config(&self) -> Vec<u8> {
        if let Some((bytes, size)) = &self.bytes {
            let mut bytes = bytes.clone();
            bytes.resize(*size, 0);
            return bytes;
        }
        let mut bytes = vec![0; if self.kind.is_some() { 4096 } else { 256 }];
        bytes[..2].copy_from_slice(&self.vendor.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.device.to_le_bytes());
        bytes[9..12].copy_from_slice(&self.class.to_le_bytes()[..3]);
        if let Some(kind) = self.kind {
            // A list of two: power management at 0x40, PCI Express at 0x60.
            bytes[6] = 0x10;
            bytes[0x34] = 0x40;
            bytes[0x40..0x42].copy_from_slice(&[0x01, 0x60]);
            bytes[0x60..0x64].copy_from_slice(&[0x10, 0, kind << 4 | 2, 0]);
            let code = self.max_payload_bytes.unwrap_or(128).max(128).ilog2() - 7;
            bytes[0x68] = (code as u8 & 7) << 5;
            // Error reporting, which everybody has, then access control.
            let next = if self.acs.is_some() { 0x14 } else { 0 };
            bytes[0x100..0x104].copy_from_slice(&[0x01, 0, 0x02, next]);
            if let Some(control) = self.acs {
                bytes[0x140..0x146].copy_from_slice(&[0x0d, 0, 0x01, 0, 0x5f, 0]);
                bytes[0x146..0x148].copy_from_slice(&control.to_le_bytes());
            }
        }
        bytes
    }

    fn entries(&self) -> Vec<(&'static str, Entry)> {
        let text = |text: String| Entry::File(text.into_bytes(), None);
        let mut config = self.config();
        let size = config.len() as u64;
        config.truncate(self.reads.unwrap_or(usize::MAX));
        let numa = self.numa.map_or("-1\n".to_owned(), |node| format!("{node}\n"));
        let mut entries = vec![
            ("vendor", text(format!("{:#06x}\n", self.vendor))),
            ("device", text(format!("{:#06x}\n", self.device))),
            ("class", text(format!("{:#08x}\n", self.class))),
            ("config", Entry::File(config, Some(size))),
            ("numa_node", text(numa)),
        ];
        let links = [
            (&self.link, "current_link_speed", "current_link_width"),
            (&self.max_link, "max_link_speed", "max_link_width"),
        ];
        for (link, speed, width) in links {
            if let Some((speeds, lanes)) = link {
                entries.push((speed, text(speeds.clone())));
                entries.push((width, text(lanes.clone())));
            }
        }
        let targets = [
            (
                "iommu_group",
                self.iommu.map(|group| format!("../../../kernel/iommu_groups/{group}")),
            ),
            ("driver", self.driver.as_ref().map(|name| format!("../../../bus/pci/drivers/{name}"))),
            ("physfn", self.physfn.as_ref().map(|name| format!("../{name}"))),
        ];
        let links =
            targets.into_iter().filter_map(|(file, target)| Some((file, Entry::Link(target?))));
        entries.extend(links);
        entries
    }
}

/// Something in a sysfs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Folder,
    /// What can be read, and how long the file states to be where that is more.
    File(Vec<u8>, Option<u64>),
    Link(String),
}

/// A sysfs that is in no file system, by path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(pub(crate) BTreeMap<String, Entry>);

impl Memory {
    /// Makes the folder that this sysfs would be. Files state the length that can be read of them, as copies do.
    #[allow(dead_code, reason = "not every user of this file writes")]
    pub(crate) fn write(&self, root: &Path) -> io::Result<()> {
        for (path, entry) in &self.0 {
            let path = root.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            match entry {
                Entry::Folder => fs::create_dir_all(path)?,
                Entry::File(bytes, _) => fs::write(path, bytes)?,
                Entry::Link(target) => symlink(target, path)?,
            }
        }
        Ok(())
    }
}

impl Sysfs for Memory {
    fn names(&self, folder: &str, most: usize) -> io::Result<Vec<String>> {
        let start = format!("{folder}/");
        let below = self.0.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start));
        let names: Vec<String> = below.map(|(path, _)| path[start.len()..].to_owned()).collect();
        if names.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(names.into_iter().filter(|name| !name.is_empty()).take(most).collect())
    }

    fn link(&self, path: &str) -> io::Result<String> {
        match self.0.get(path) {
            Some(Entry::Link(target)) => Ok(target.clone()),
            Some(_) => Err(io::ErrorKind::InvalidInput.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read(&self, path: &str, most_bytes: usize) -> io::Result<Beginning> {
        match self.0.get(path) {
            Some(Entry::File(bytes, stated)) => Ok(Beginning {
                bytes: bytes[..bytes.len().min(most_bytes)].to_vec(),
                file_bytes: stated.unwrap_or(bytes.len() as u64),
            }),
            Some(_) => Err(io::ErrorKind::InvalidInput.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
