//! PCI devices behind an IOMMU as peers: their addresses are I/O virtual addresses, and the IOMMU is what takes them away.
//!
//! **Problem.** A device that does DMA on its own is to work on a vector's pages. It must reach those pages and nothing else, only to read where that is all it may,
//! and lose them when they are needed elsewhere, whether its driver answers or not.
//!
//! ```text
//! sysfs: device -> IOMMU group -> /dev/vfio/GROUP     one domain: a Type1 container with the groups of its devices
//! VfioDomain::open(&["0000:03:00.0"])                 ranges of I/O addresses, page size
//! VfioPeer::new(domain, legs, revoke)                 a Peer for SharedVec::map_peer: maps on map, unmaps on unmap and on cut_off
//! domain.device("0000:03:00.0")                       registers (a window), configuration space, bus mastering
//! device.memory(2)                                    a window as a node of the directory: pages go there, peers reach them there
//! ```
//!
//! **Words.** An *IOVA* is an address as the device puts it on its bus. A *domain* is a table from IOVAs to memory; devices of one domain see the same. A
//! *group* is the smallest set of devices that the IOMMU tells apart; it is the unit of ownership.
//!
//! **Rules.** Only [`VfioPeer`] maps memory, and only what the library hands it. The kernel pins what is mapped, and an unmap returns after the
//! IOMMU has forgotten it: from then on, a device that still uses the address is blocked, and nobody tells it. Mappings of a vector
//! that is not lent are read-only, in the IOMMU too.
//!
//! | module | what | touches the world |
//! |---|---|---|
//! | [`iova`] | which addresses are free | no |
//! | `info` | what the kernel says of an IOMMU, from bytes | no |
//! | `domain`, `device`, `window` | container, groups, devices, registers | `ioctl`, `mmap` |
//! | `unplug` | the kernel wants a device back | `poll` |
//! | `claim` | who uses which window | no |
//! | `memory` | [`BarMemory`]: a window as a node, for pages | `mmap` |
//! | `ways` | which windows a peer reaches | sysfs |
//! | `peer` | the [`hmmap_core::peer::Peer`] | by the domain |
//!
//! `docs/lab.md` has the machine that its tests run in: no hardware is needed.
#![deny(unsafe_code)]

mod call;
mod claim;
mod device;
mod domain;
mod error;
mod info;
pub mod iova;
mod memory;
mod peer;
mod unplug;
mod ways;
mod window;

pub use device::VfioDevice;
pub use domain::VfioDomain;
pub use error::{VfioError, WindowFault};
pub use memory::BarMemory;
pub use peer::VfioPeer;
pub use unplug::UnplugWatch;
pub use window::{RegisterFault, RegisterWindow};
