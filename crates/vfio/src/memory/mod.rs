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
//! **Loss.** A device that is reset, or is not there any more, has lost what was in its window, and tells nobody. The last page of a window is not used for vectors: a word in it is looked
//! at after each copy, and when it is not what was written the device is lost: what was only there is reported, and no byte of it is believed. A peer that reads a window that was reset
//! reads what is there, until the host has noticed.
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
    p2p::{DriverView, HandleKinds, Opaque, PciAddress},
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

/// The shortest window that holds a page beside the guard and the tenth that a runtime leaves alone, in bytes.
const LEAST_BYTES: u64 = 3 * PAGE_BYTES;

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
            memory_bytes: window.pages_bytes(),
        };
        let (window, is_taken) = (Arc::new(window), Arc::default());
        Ok(Arc::new(Self { summary, window, is_taken }))
    }

    /// Where it is.
    pub(crate) fn window(&self) -> &Arc<MappedWindow> {
        &self.window
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
                opaque: Opaque::SameDriver,
                exports: HandleKinds::IN_DRIVER,
                imports: HandleKinds::NONE,
            }),
            // No limit of its own: what keeps kernels away is said when one is made ready.
            max_groups: [u32::MAX; 3],
            rates: None,
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

#[cfg(test)]
mod tests {
    use hmmap_core::{Error, Options, Runtime, SharedVec};

    use super::*;

    const WORDS: usize = 64 << 10;

    /// A vector that is in the window alone, and one that is on the host as well.
    fn two(memory: &Arc<BarMemory>) -> (SharedVec<u32>, SharedVec<u32>) {
        let runtime = Runtime::new(vec![memory.clone()], Options::default()).unwrap();
        let device = runtime.default_device().unwrap();
        let vector = || SharedVec::from_fn(&runtime, WORDS, |i| i as u32 + 1).unwrap();
        let (there, both) = (vector(), vector());
        both.prefetch(.., device).unwrap().wait().unwrap();
        let there = there.lend_on(device).unwrap().take_back().unwrap();
        // Until it has arrived in the window, it can be had from where it came from. A page that was home before is good.
        assert_eq!(there[3], 4);
        (there, both)
    }

    fn loses(memory: &Arc<BarMemory>, (there, both): &(SharedVec<u32>, SharedVec<u32>)) {
        // Once of the device, once of work that went with it, and from then on of the bytes.
        let told = [(); 3].map(|()| there.host(..).map(<[u32]>::len).unwrap_err());
        let is_of_device = |error: &Error| {
            matches!(
                error,
                Error::Device { source: DeviceError::Lost, .. } | Error::DeviceLost { .. }
            )
        };
        let is_of_bytes = |error: &Error| matches!(error, Error::DataLost { .. });
        let is_loss = |error: &Error| is_of_device(error) || is_of_bytes(error);
        assert!(told.iter().all(is_loss) && is_of_bytes(&told[2]), "{told:?}");
        assert!(both.host(..).unwrap().iter().enumerate().all(|(i, word)| *word == i as u32 + 1));
        assert!(!memory.window.is_kept());
    }

    #[test]
    fn what_a_reset_takes_is_lost_and_not_zeros() {
        let memory = BarMemory::double(1 << 20).unwrap();
        let vectors = two(&memory);
        assert!(memory.window.is_kept());
        memory.window.zero(&[Piece { at_bytes: 0, len_bytes: 1 << 20 }]);
        loses(&memory, &vectors);
    }

    #[test]
    fn a_window_that_was_left_has_lost_what_was_in_it() {
        let memory = BarMemory::double(1 << 20).unwrap();
        let vectors = two(&memory);
        memory.window.leave();
        memory.window.leave();
        loses(&memory, &vectors);
    }
}
