//! The PCI functions of a machine and what lies above each.
//!
//! A function's place is the target of its link in `bus/pci/devices`: `../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0` is below
//! one bridge, which is on a root bus. The nearest root bus ends the way up, also where it lies below another function (a volume
//! management device brings a domain of its own). The targets are read as text, and nothing is followed.
//!
//! A virtual function stands for its physical function on the way up, as in the kernel. So the parents form a forest: each step
//! up shortens the place by one component, whatever the folder says. A function whose place makes no sense is left out, and named
//! among the [`Problem`]s.

use std::{collections::BTreeMap, io};

use super::{
    address::{PciAddress, RootBus},
    config::{ConfigFacts, EXTENDED_BYTES},
    link::Link,
    sysfs::{Beginning, Sysfs},
};

/// The most functions that are read; a machine with more has the rest left out, and named as a problem.
pub const MAX_FUNCTIONS: usize = 8192;
/// Attributes are a line; what is behind is not looked at.
const ATTRIBUTE_BYTES: usize = 256;
const DEVICES: &str = "bus/pci/devices";

/// One PCI function, as sysfs shows it. `None` stands for what is not there or could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciFunction {
    /// Its name.
    pub address: PciAddress,
    /// The root bus that it is on or below.
    pub root: RootBus,
    /// Who made it, and what it is: vendor and device number.
    pub id: Option<PciId>,
    /// Base class, subclass and interface, as in `0x030200`.
    pub class: Option<u32>,
    /// What configuration space says.
    pub config: ConfigFacts,
    /// Its link as it runs now; of a root port or a lower side of a switch, the link below it.
    pub link: Option<Link>,
    /// What the function could do with its link.
    pub max_link: Option<Link>,
    /// The nearest node of memory.
    pub numa_node: Option<u32>,
    /// Functions in one group cannot be kept apart by the IOMMU.
    pub iommu_group: Option<u32>,
    /// The kernel's driver that is bound to it.
    pub driver: Option<String>,
    /// Its physical function, where it is a virtual one.
    pub physical: Option<PciAddress>,
    parent: Option<usize>,
}

/// Vendor and device number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct PciId {
    /// Who made it.
    pub vendor: u16,
    /// What it is.
    pub device: u16,
}

impl PciFunction {
    /// True for a bridge between PCI buses.
    pub fn is_bridge(&self) -> bool {
        self.class.is_some_and(|class| class >> 8 == 0x0604)
    }
}

/// Something in a sysfs that could not be read, or that no kernel writes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// There is no list of functions.
    #[error("no PCI: `{DEVICES}` cannot be read ({kind})")]
    NoPci {
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// More functions than are read.
    #[error("more than {limit} PCI functions; the rest is left out")]
    TooMany {
        /// The most that are read.
        limit: usize,
    },
    /// A name that no function has.
    #[error("`{name}` in `{DEVICES}` is not the name of a PCI function; it is left out")]
    Name {
        /// The name's beginning.
        name: String,
    },
    /// A place that no function has.
    #[error(
        "{address} has no place in the tree and is left out: `{DEVICES}/{address}` must be a link as the kernel's \
         (copy a tree with its links)"
    )]
    Place {
        /// The function.
        address: PciAddress,
    },
    /// A file that every function has is missing or makes no sense.
    #[error("{address}: `{file}` cannot be read ({kind})")]
    Attribute {
        /// The function.
        address: PciAddress,
        /// Which file.
        file: &'static str,
        /// What the system says; `InvalidData` for contents that the kernel does not write.
        kind: io::ErrorKind,
    },
    /// Part of configuration space was kept from this reader.
    #[error(
        "{address}: {read_bytes} bytes of its configuration could be read, which does not show access control (ACS); \
         read as root (CAP_SYS_ADMIN)"
    )]
    CutOff {
        /// The function.
        address: PciAddress,
        /// How much could be read, in bytes.
        read_bytes: u16,
    },
    /// A device that has gone, or sleeps: every bit of its configuration is set.
    #[error(
        "{address} does not answer: its configuration reads as ones; wake it up, or look whether it is still there"
    )]
    NoAnswer {
        /// The function.
        address: PciAddress,
    },
    /// A virtual function whose physical function is not in the tree, or not beside it.
    #[error("{address} is a virtual function whose physical function is not beside it in the tree")]
    Physical {
        /// The virtual function.
        address: PciAddress,
    },
}

/// The PCI functions of a machine.
#[derive(Clone, Debug, Default)]
pub struct PciTree {
    /// Sorted by address.
    functions: Vec<PciFunction>,
    problems: Vec<Problem>,
}

impl PciTree {
    /// Reads every function of a sysfs. Never fails as a whole: what could not be read is in [`Self::problems`].
    pub fn read(sysfs: &dyn Sysfs) -> Self {
        let mut tree = Self::default();
        let places = tree.places(sysfs);
        // Parents before children.
        let mut by_depth: Vec<_> = places.iter().collect();
        by_depth.sort_by_key(|(_, place)| place.path.len());
        let mut parents: BTreeMap<PciAddress, Option<PciAddress>> = BTreeMap::new();
        for (&address, place) in by_depth {
            match place.parent {
                Some(parent) if !holds(&places, &parents, parent, place) => {
                    tree.problems.push(Problem::Place { address });
                }
                parent => drop(parents.insert(address, parent)),
            }
        }
        tree.functions =
            parents.keys().map(|&address| tree.look(sysfs, &places[&address])).collect();
        for index in 0..tree.functions.len() {
            tree.attach(index, &places, &parents);
        }
        tree
    }

    /// The functions, by address.
    pub fn functions(&self) -> &[PciFunction] {
        &self.functions
    }

    /// What could not be read, in the order in which it was met.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The function of this name.
    pub fn function(&self, address: PciAddress) -> Option<&PciFunction> {
        self.index(address).map(|index| &self.functions[index])
    }

    /// The function and the bridges above it, nearest first, up to its root bus; empty for a function that is not in the tree.
    pub fn path(&self, address: PciAddress) -> Vec<&PciFunction> {
        let mut at = self.index(address);
        let above = std::iter::from_fn(|| {
            let function = &self.functions[at?];
            at = function.parent;
            Some(function)
        });
        above.collect()
    }

    /// The first function on a root bus: the one that speaks for the host bridge.
    pub fn first_on(&self, root: RootBus) -> Option<&PciFunction> {
        let on_root = |function: &&PciFunction| function.root == root && function.parent.is_none();
        self.functions.iter().filter(on_root).min_by_key(|function| {
            let PciFunction { address, .. } = function;
            (function.physical.is_some(), address.bus(), address.devfn())
        })
    }

    /// The PCI function that a device of any kind belongs to: the nearest in its own place. `path` is its link or folder,
    /// relative to the root, such as `class/block/nvme0n1`; `None` for a device that is below no function.
    pub fn owner(&self, sysfs: &dyn Sysfs, path: &str) -> Option<PciAddress> {
        let place = sysfs.link(path).unwrap_or_else(|_| path.to_owned());
        let names = place.rsplit('/').map(PciAddress::parse);
        names.flatten().find(|&address| self.function(address).is_some())
    }

    fn index(&self, address: PciAddress) -> Option<usize> {
        self.functions.binary_search_by_key(&address, |function| function.address).ok()
    }

    /// Where every function is.
    fn places(&mut self, sysfs: &dyn Sysfs) -> BTreeMap<PciAddress, Place> {
        let names = sysfs.names(DEVICES, MAX_FUNCTIONS + 1).unwrap_or_else(|error| {
            self.problems.push(Problem::NoPci { kind: error.kind() });
            Vec::new()
        });
        if names.len() > MAX_FUNCTIONS {
            self.problems.push(Problem::TooMany { limit: MAX_FUNCTIONS });
        }
        let mut places = BTreeMap::new();
        for name in names.into_iter().take(MAX_FUNCTIONS) {
            let Some(address) = PciAddress::parse(&name) else {
                self.problems.push(Problem::Name { name: name.chars().take(32).collect() });
                continue;
            };
            let target = sysfs.link(&format!("{DEVICES}/{name}")).ok();
            match target.and_then(|target| Place::parse(&target, address)) {
                Some(place) => drop(places.insert(address, place)),
                None => self.problems.push(Problem::Place { address }),
            }
        }
        places
    }

    /// Reads one function; its parent and physical function come later.
    fn look(&mut self, sysfs: &dyn Sysfs, place: &Place) -> PciFunction {
        let Place { address, root, ref path, .. } = *place;
        let read = |file: &str, most| sysfs.read(&format!("{path}/{file}"), most);
        let text = |file: &str| {
            let text = String::from_utf8(read(file, ATTRIBUTE_BYTES)?.bytes);
            text.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
        };
        let mut must = |file: &'static str| {
            let number = text(file).and_then(|text| {
                let digits =
                    text.trim().strip_prefix("0x").map(|digits| u32::from_str_radix(digits, 16));
                digits.and_then(Result::ok).ok_or_else(|| io::ErrorKind::InvalidData.into())
            });
            number.map_err(|error| {
                self.problems.push(Problem::Attribute { address, file, kind: error.kind() });
            })
        };
        let short = |number: Result<u32, ()>| number.ok().and_then(|n| u16::try_from(n).ok());
        let (vendor, device, class) = (short(must("vendor")), short(must("device")), must("class"));
        let config = read("config", EXTENDED_BYTES).unwrap_or_else(|error| {
            self.problems.push(Problem::Attribute { address, file: "config", kind: error.kind() });
            Beginning { bytes: Vec::new(), file_bytes: 0 }
        });
        let gone = config.bytes.starts_with(&[0xff; 2]);
        let config = ConfigFacts::parse(&config.bytes, config.file_bytes);
        if gone {
            self.problems.push(Problem::NoAnswer { address });
        } else if !config.is_whole() {
            self.problems.push(Problem::CutOff { address, read_bytes: config.read_bytes });
        }
        let link = |speed, width| Link::parse(&text(speed).ok()?, &text(width).ok()?);
        let last = |file| {
            let target = sysfs.link(&format!("{path}/{file}")).ok()?;
            Some(target.rsplit('/').next()?.chars().take(ATTRIBUTE_BYTES).collect::<String>())
        };
        PciFunction {
            address,
            root,
            id: vendor.zip(device).map(|(vendor, device)| PciId { vendor, device }),
            class: class.ok().filter(|&class| class >> 24 == 0),
            config,
            link: link("current_link_speed", "current_link_width"),
            max_link: link("max_link_speed", "max_link_width"),
            // -1 where the machine does not say.
            numa_node: text("numa_node").ok().and_then(|text| text.trim().parse().ok()),
            iommu_group: last("iommu_group").and_then(|group| group.parse().ok()),
            driver: last("driver"),
            physical: last("physfn").and_then(|name| PciAddress::parse(&name)),
            parent: None,
        }
    }

    /// Gives a function its parent, and a virtual one that of its physical function.
    fn attach(
        &mut self,
        index: usize,
        places: &BTreeMap<PciAddress, Place>,
        parents: &BTreeMap<PciAddress, Option<PciAddress>>,
    ) {
        let PciFunction { address, physical, root, .. } = self.functions[index];
        let mut above = parents[&address];
        if let Some(physical) = physical {
            // At equal depth, so that every step up is one component shorter and none leads round.
            let depth = |address| places.get(address).map(|place| place.depth());
            let beside = depth(&physical) == depth(&address) && places[&physical].root == root;
            match parents.get(&physical).filter(|_| beside) {
                Some(&parent) => above = parent,
                None => {
                    self.problems.push(Problem::Physical { address });
                    self.functions[index].physical = None;
                }
            }
        }
        self.functions[index].parent = above.and_then(|above| self.index(above));
    }
}

/// True when `parent` is in the tree and is what the place of its child says.
fn holds(
    places: &BTreeMap<PciAddress, Place>,
    parents: &BTreeMap<PciAddress, Option<PciAddress>>,
    parent: PciAddress,
    child: &Place,
) -> bool {
    let above = child.path.rsplit_once('/').map(|(above, _)| above);
    parents.contains_key(&parent) && above == Some(&places[&parent].path)
}

/// A function's folder and what its components mean.
#[derive(Debug)]
struct Place {
    address: PciAddress,
    root: RootBus,
    parent: Option<PciAddress>,
    /// Relative to the root of the sysfs.
    path: String,
}

impl Place {
    /// Reads the target of a function's link.
    fn parse(target: &str, address: PciAddress) -> Option<Self> {
        let mut path = target;
        while let Some(rest) = path.strip_prefix("../") {
            path = rest;
        }
        let parts: Vec<&str> = path.split('/').collect();
        let plain = parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
        let (&last, above) = parts.split_last()?;
        if !plain || parts[0] != "devices" || PciAddress::parse(last) != Some(address) {
            return None;
        }
        let parent = PciAddress::parse(above.last()?);
        // Bridges, then the bus that they are on.
        let root = above.iter().rev().find(|part| PciAddress::parse(part).is_none());
        Some(Self { address, root: RootBus::parse(root?)?, parent, path: path.to_owned() })
    }

    fn depth(&self) -> usize {
        self.path.split('/').count()
    }
}
