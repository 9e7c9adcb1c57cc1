//! What can go wrong with devices and their IOMMU.

use std::{io, path::PathBuf};

use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};

use crate::iova::IovaError;

/// Why a device, a domain or a mapping cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// The device has no IOMMU group: no such device, or no IOMMU is in front of it (on Intel: boot with `intel_iommu=on`).
    #[error("{device} has no IOMMU group: no such device, or the IOMMU is off")]
    NoGroup {
        /// Its name below `/sys/bus/pci/devices`.
        device: String,
        /// What the look-up said.
        source: io::Error,
    },
    /// A file of VFIO cannot be opened: no module, no permission, or somebody else has it open.
    #[error("cannot open {}", path.display())]
    NotOpened {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A device of the group is used by another driver.
    #[error("group {group} has a device that is bound to another driver than vfio-pci")]
    NotViable {
        /// The group's number.
        group: u32,
    },
    /// The kernel has no Type1 IOMMU here.
    #[error("this kernel offers no Type1 IOMMU (modules vfio, vfio_iommu_type1)")]
    NoType1,
    /// More memory would be pinned than this process may pin.
    #[error(
        "{asked_bytes} bytes cannot be pinned for a device: {}",
        limit_bytes.map_or("memory is short".to_owned(), |bytes| format!(
            "at most {bytes} may be in all, by RLIMIT_MEMLOCK (or memory is short)"
        ))
    )]
    PinLimit {
        /// What was to be mapped.
        asked_bytes: u64,
        /// RLIMIT_MEMLOCK: what one user may have pinned, all of it together; `None`: no limit.
        limit_bytes: Option<u64>,
        /// What the kernel answered.
        source: Errno,
    },
    /// Only iommufd is here, which nothing is mapped through: the kernel of the lab has none to test it with.
    #[error(
        "{} is not here, but /dev/iommu is: only the Type1 interface of VFIO is supported (CONFIG_VFIO_GROUP, CONFIG_VFIO_CONTAINER)",
        path.display()
    )]
    OnlyIommufd {
        /// What is missing.
        path: PathBuf,
        /// Why it could not be opened.
        source: io::Error,
    },
    /// A call to the kernel failed.
    #[error("{what}")]
    Call {
        /// Which call.
        what: &'static str,
        /// What the kernel answered.
        source: Errno,
    },
    /// A device of the domain is being unplugged.
    #[error("a device of this domain is being unplugged")]
    Unplugged,
    /// A dma-buf's memory cannot be put behind the IOMMU by a mapping of it.
    #[error("no memory for an IOMMU by a mapping of its dma-buf: {what}")]
    DmaBuf {
        /// Which call.
        what: &'static str,
        /// What the kernel answered; `EFAULT` for memory that it finds no pages of to pin.
        source: Errno,
    },
    /// Reading or writing configuration space failed.
    #[error("configuration space of {device}")]
    Configuration {
        /// The device.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// The device's window cannot be used like this.
    #[error("window {index} of {device}: {why}")]
    NoWindow {
        /// The device.
        device: String,
        /// The number of its base address register.
        index: u32,
        /// What keeps it from that.
        why: WindowFault,
    },
    /// There is no I/O address for it.
    #[error("no I/O address")]
    Iova(#[from] IovaError),
}

/// Why a window cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WindowFault {
    /// The device has no window there.
    #[error("the device has none there")]
    None,
    /// It is a range of I/O ports, which cannot be mapped.
    #[error("it is of I/O ports, which cannot be mapped")]
    IoPorts,
    /// The kernel does not let it be mapped to be read and written.
    #[error("the kernel does not let it be mapped to be read and written")]
    NotMappable,
    /// It is used as memory, or as registers, already.
    #[error("it is in use already")]
    InUse,
    /// No page has room in it.
    #[error("its {len_bytes} bytes are too few for memory ({least_bytes} at least)")]
    TooShort {
        /// How long it is.
        len_bytes: u64,
        /// How long it would have to be.
        least_bytes: u64,
    },
    /// It does not keep what is written: registers, or a device that does not answer.
    #[error("it does not keep what is written: no memory, or the device does not answer")]
    NotMemory,
}

/// What it says when the kernel refuses a mapping.
pub(crate) fn not_mapped(asked_bytes: u64, source: Errno) -> VfioError {
    match source {
        Errno::NOMEM => {
            let limit_bytes = getrlimit(Resource::Memlock).current;
            VfioError::PinLimit { asked_bytes, limit_bytes, source }
        }
        source => VfioError::Call { what: "VFIO_IOMMU_MAP_DMA", source },
    }
}

/// For `map_err`.
pub(crate) fn failed(what: &'static str) -> impl Fn(Errno) -> VfioError {
    move |source| VfioError::Call { what, source }
}
