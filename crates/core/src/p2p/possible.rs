//! Is it possible? The answer, its reasons, and what would change it.

use std::fmt;

use super::{
    address::{PciAddress, RootBus},
    drivers::{DriverObstacle, Drivers, HandleKinds},
    map_type::{HostBridges, MapType, Way},
    platform::Cpu,
    tree::PciId,
};

/// Whether a peer can reach a provider's memory in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Possible {
    /// It can.
    Yes {
        /// How packets go: [`MapType::BusAddress`] or [`MapType::ThroughHostBridge`].
        map_type: MapType,
        /// Steps up from both ends, as the kernel counts.
        distance: u32,
        /// Why they go no shorter way; empty for bus addresses.
        because: Vec<Reason>,
    },
    /// It cannot.
    No {
        /// Everything that is in the way; never empty.
        because: Vec<Reason>,
    },
    /// It is not known, and must be taken for a no.
    Unknown {
        /// Steps up from both ends, as the kernel counts.
        distance: u32,
        /// What could not be read, and what is in the way besides; never empty.
        because: Vec<Reason>,
    },
}

/// Why packets do not go, or go a longer way. `Display` says what would change it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The two have no bridge in common below the host bridge.
    NoCommonAncestor {
        /// The root buses of provider and peer.
        roots: [RootBus; 2],
    },
    /// Access control sends packets between peers up to the host bridge.
    AcsRedirect {
        /// Who does, the provider's side first; never empty.
        at: Vec<PciAddress>,
    },
    /// The kernel does not trust this host bridge to forward.
    HostBridgeNotListed {
        /// Its root bus.
        root: RootBus,
        /// What stands for it: the first function on the bus.
        first: Option<(PciAddress, Option<PciId>)>,
        /// The processor, which is none whose host bridges all forward.
        cpu: Option<Cpu>,
    },
    /// What decides is beyond the 64 bytes of configuration that an unprivileged reader sees.
    UnknownWithoutPrivilege {
        /// Whose; never empty.
        functions: Vec<PciAddress>,
    },
    /// The host bridges are not listed, and there was no description of the processor.
    CpuNotKnown,
    /// One of the two is no PCI function of the tree.
    NotPci {
        /// Which.
        address: PciAddress,
    },
    /// A driver was asked about this pair and said no.
    DriverRefuses {
        /// The call that said so.
        query: &'static str,
    },
    /// The only handles in common are those that one driver's devices understand, and these are two drivers.
    DifferentDriver {
        /// The kinds in common.
        common: HandleKinds,
    },
    /// What the provider's driver gives out the peer's does not take in.
    NoHandleTypeInCommon {
        /// What the provider's gives out.
        exports: HandleKinds,
        /// What the peer's takes in.
        imports: HandleKinds,
    },
}

impl Possible {
    /// Puts PCI's answer and the drivers' together. `first` and `cpu` describe the host bridge that is not listed, if one is not.
    pub(super) fn of(
        way: &Way,
        drivers: &Drivers,
        first: Option<(PciAddress, Option<PciId>)>,
        cpu: Option<&Cpu>,
    ) -> Self {
        let mut because = Vec::new();
        if way.common.is_none() {
            because.push(Reason::NoCommonAncestor { roots: way.roots });
        }
        if !way.redirects.is_empty() {
            because.push(Reason::AcsRedirect { at: way.redirects.clone() });
        }
        match way.host_bridge {
            Some(HostBridges::NotListed(root)) => {
                because.push(Reason::HostBridgeNotListed { root, first, cpu: cpu.cloned() });
            }
            Some(HostBridges::ProcessorNotKnown) => because.push(Reason::CpuNotKnown),
            _ => {}
        }
        let mut functions = way.unread.clone();
        if let Some(HostBridges::Unread(_)) = way.host_bridge {
            functions.extend(first.map(|(address, _)| address));
        }
        if way.map_type == MapType::Unknown && !functions.is_empty() {
            because.push(Reason::UnknownWithoutPrivilege { functions });
        }
        let refused = drivers.obstacle().map(|obstacle| because.push(obstacle.into())).is_some();
        let Way { map_type, distance, .. } = *way;
        match map_type {
            _ if refused => Self::No { because },
            MapType::NotSupported => Self::No { because },
            MapType::Unknown => Self::Unknown { distance, because },
            MapType::BusAddress | MapType::ThroughHostBridge => {
                Self::Yes { map_type, distance, because }
            }
        }
    }

    /// True for a certain yes only.
    pub const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes { .. })
    }

    /// The reasons, whatever the answer.
    pub fn because(&self) -> &[Reason] {
        let (Self::Yes { because, .. } | Self::No { because } | Self::Unknown { because, .. }) =
            self;
        because
    }
}

impl From<DriverObstacle> for Reason {
    fn from(obstacle: DriverObstacle) -> Self {
        match obstacle {
            DriverObstacle::Refuses { query } => Self::DriverRefuses { query },
            DriverObstacle::Different { common } => Self::DifferentDriver { common },
            DriverObstacle::NoHandle { exports, imports } => {
                Self::NoHandleTypeInCommon { exports, imports }
            }
        }
    }
}

/// Names in a row.
fn list(addresses: &[PciAddress]) -> String {
    let names: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    names.join(", ")
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCommonAncestor { roots: [a, b] } if a == b => write!(
                f,
                "no common ancestor: only the host bridge of {a} is above both; put both below one switch to be independent of it"
            ),
            Self::NoCommonAncestor { roots: [a, b] } => write!(
                f,
                "no common ancestor: {a} and {b} are below two host bridges; put both devices below one switch, or at least one socket"
            ),
            Self::AcsRedirect { at } => write!(
                f,
                "ACS redirect: {} sends packets between peers up to the host bridge; `pci=disable_acs_redir={}` on the kernel's \
                 command line stops that, and gives up isolation between what is below",
                list(at),
                at.iter().map(ToString::to_string).collect::<Vec<_>>().join(";")
            ),
            Self::HostBridgeNotListed { root, first, cpu } => {
                write!(
                    f,
                    "host bridge not listed: the kernel does not know that {root} forwards ("
                )?;
                match first {
                    Some((address, Some(PciId { vendor, device }))) => {
                        write!(f, "{address} is {vendor:04x}:{device:04x}")?;
                    }
                    Some((address, None)) => write!(f, "{address} has no readable number")?,
                    None => f.write_str("it has no function of its own")?,
                }
                if let Some(cpu) = cpu {
                    write!(f, ", {cpu}")?;
                }
                f.write_str("); put both below one switch, or use a kernel that lists it, or an AMD Zen processor")
            }
            Self::UnknownWithoutPrivilege { functions } => write!(
                f,
                "unknown without privilege: the access control (ACS) of {} could not be read; an unprivileged reader sees 64 bytes of \
                 configuration, so ask as root (CAP_SYS_ADMIN), and see that the devices answer",
                list(functions)
            ),
            Self::CpuNotKnown => f.write_str(
                "the processor is not known, and the kernel's list does not have the host bridge; \
                 put `/proc/cpuinfo` beside the recorded tree as `cpuinfo`",
            ),
            Self::NotPci { address } => write!(f, "{address} is no PCI function of this tree"),
            Self::DriverRefuses { query } => write!(
                f,
                "the driver refuses: `{query}` says no; some drivers do so for consumer cards or without a large BAR"
            ),
            Self::DifferentDriver { common } => write!(
                f,
                "different driver: both know {common}, which only one driver's own devices understand; \
                 use drivers that export dma-buf, or one driver for both"
            ),
            Self::NoHandleTypeInCommon { exports, imports } => write!(
                f,
                "no handle type in common: the provider's driver exports {exports}, the peer's imports {imports}; \
                 a driver with dma-buf on both sides would do"
            ),
        }
    }
}

impl fmt::Display for MapType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BusAddress => "bus address",
            Self::ThroughHostBridge => "through host bridge",
            Self::NotSupported => "not supported",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Possible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes { map_type, distance, .. } => {
                write!(f, "yes, {map_type}, distance {distance}")?
            }
            Self::No { .. } => f.write_str("no")?,
            Self::Unknown { distance, .. } => write!(f, "unknown, distance {distance}")?,
        }
        self.because().iter().try_for_each(|reason| write!(f, "; {reason}"))
    }
}
