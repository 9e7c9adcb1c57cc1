//! A device's memory window as a node of the directory.
//!
//! **Problem.** A card has memory behind one of its base address registers, and other devices are to work on a vector's pages there, without the host in
//! between. No kernels run there; pages come and go by the processor's copies.
//!
//! ```text
//! device.memory(2)?            (or BarMemory::of_resource) the window is claimed, mapped, and tried: does it keep what is written?
//! Runtime::new(vec![memory])   a device that runs no kernels: x.prefetch(..) brings pages there, touches fault them back
//! x.map_peer(vfio_peer, ..)    they stay; the window is mapped into the peer's IOMMU domain for as long as the mapping lives
//! ```
//!
//! **Rules.** A window is used by one runtime at a time, and by nobody as registers meanwhile. Copies run in the order in which they are submitted, on a thread of
//! their own; a fence has ended when what was written has arrived (writes to a bus are posted, and a read behind them waits for them).
//! Memory is put under single blocks, in pages that may be anywhere in the window ([`places`]); who maps them sees neighbours.
//!
//! What it cannot do is said by its [`Capabilities`]: no kernels, no host memory in place, no handle that other drivers understand.

mod device;
mod mapped;
mod places;
mod resource;

use std::{
    fmt,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use hmmap_core::{
    backend::{
        self, Capabilities, Capability, Device, DeviceError, DeviceFacts, DeviceKind,
        DeviceSummary, OpenContext, Provider,
    },
    p2p::{DriverView, HandleKinds, PciAddress},
    units::PAGE_BYTES,
};
use rustix::fs::{FlockOperation, MemfdFlags, flock, ftruncate, memfd_create};

use crate::{
    claim::Owner,
    error::{VfioError, WindowFault, failed},
};
use device::{Taken, WindowDevice};

pub(crate) use device::WindowShare;
pub(crate) use mapped::MappedWindow;
pub(crate) use places::Piece;

/// Stands for this crate where drivers are compared: only its own peers understand what is given out.
pub(crate) const DRIVER: [u8; 16] = *b"hmmap pci window";

/// The shortest window that holds a page beside the tenth that a runtime leaves alone, in bytes.
const LEAST_BYTES: u64 = 2 * PAGE_BYTES;

/// Memory behind a base address register of a PCI device, as a device of a [`hmmap_core::Runtime`] that runs no kernels. Made by [`crate::VfioDevice::memory`], [`BarMemory::of_resource`].
pub struct BarMemory {
    summary: DeviceSummary,
    window: Arc<MappedWindow>,
    /// A runtime has it open.
    is_taken: Arc<AtomicBool>,
}

impl BarMemory {
    /// A file in the place of a window, for tests where there is no such device. It has no place in a PCI tree, so that every peer reaches it as host memory.
    ///
    /// # Errors
    /// [`VfioError::NoWindow`] when it would be too short; [`VfioError::Call`].
    pub fn double(len_bytes: u64) -> Result<Arc<Self>, VfioError> {
        let file = memfd_create("hmmap window", MemfdFlags::CLOEXEC).map_err(failed("memfd"))?;
        ftruncate(&file, len_bytes).map_err(failed("ftruncate"))?;
        Self::of_file(file, "double of a window", len_bytes)
    }

    /// A file that is a window.
    fn of_file(
        file: std::os::fd::OwnedFd,
        name: &str,
        len_bytes: u64,
    ) -> Result<Arc<Self>, VfioError> {
        long_enough(name, 0, len_bytes)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            VfioError::NoWindow { device: name.to_owned(), index: 0, why: WindowFault::InUse }
        })?;
        let owned = file.try_clone().map_err(|_| failed("dup")(rustix::io::Errno::MFILE))?;
        let window = MappedWindow::map(file.as_fd(), 0, len_bytes, Owner::Locked(owned))
            .map_err(failed("mmap of a window"))?;
        Self::over(window, name, 0, None)
    }

    /// A mapped window that nobody else uses.
    pub(crate) fn over(
        window: MappedWindow,
        device: &str,
        index: u32,
        pci: Option<PciAddress>,
    ) -> Result<Arc<Self>, VfioError> {
        if !window.keeps_what_is_written() {
            let device = device.to_owned();
            return Err(VfioError::NoWindow { device, index, why: WindowFault::NotMemory });
        }
        let name = match pci {
            Some(_) => format!("window {index} of {device}"),
            None => device.to_owned(),
        };
        let pci = pci.map(|at| backend::PciAddress {
            domain: at.domain(),
            bus: at.bus(),
            device: at.devfn() >> 3,
            function: at.devfn() & 7,
        });
        let summary = DeviceSummary {
            name,
            api: "window",
            driver: concat!("hmmap ", env!("CARGO_PKG_VERSION")).to_owned(),
            kind: DeviceKind::Memory,
            uuid: None,
            pci,
            memory_bytes: window.len_bytes(),
        };
        let (window, is_taken) = (Arc::new(window), Arc::default());
        Ok(Arc::new(Self { summary, window, is_taken }))
    }

    fn facts(&self) -> DeviceFacts {
        let no_kernels = || Capability::none("memory without a processor: it runs no kernels");
        let by_window =
            || Capability::none("only the IOMMU mappings of this library's VFIO peers reach it");
        DeviceFacts {
            summary: self.summary.clone(),
            capabilities: Capabilities {
                host_window: no_kernels(),
                // Both by the trial when it was made, and by what `places` does.
                direct_copy: Capability::Proved,
                sparse: Capability::Proved,
                transfer_queue: no_kernels(),
                long_loops: no_kernels(),
                export: by_window(),
                dma_buf: by_window(),
            },
            shares_host_memory: false,
            external: Some(DriverView {
                driver: DRIVER,
                exports: HandleKinds::IN_DRIVER,
                imports: HandleKinds::NONE,
            }),
            // No limit of its own: what keeps kernels away is said when one is made ready.
            max_groups: [u32::MAX; 3],
        }
    }
}

/// Refuses windows in which no page has room.
pub(crate) fn long_enough(device: &str, index: u32, len_bytes: u64) -> Result<(), VfioError> {
    if len_bytes >= LEAST_BYTES {
        return Ok(());
    }
    let why = WindowFault::TooShort { len_bytes, least_bytes: LEAST_BYTES };
    Err(VfioError::NoWindow { device: device.to_owned(), index, why })
}

impl Provider for BarMemory {
    fn summary(&self) -> &DeviceSummary {
        &self.summary
    }

    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        if self.is_taken.swap(true, SeqCst) {
            return Err(DeviceError::Unsupported { what: "a window in two runtimes at once" });
        }
        let taken = Taken(self.is_taken.clone());
        Ok(Arc::new(WindowDevice::open(self.facts(), self.window.clone(), context, taken)?))
    }
}

impl fmt::Debug for BarMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarMemory")
            .field("name", &self.summary.name)
            .field("len_bytes", &self.summary.memory_bytes)
            .finish_non_exhaustive()
    }
}
