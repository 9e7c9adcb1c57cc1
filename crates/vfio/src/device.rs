//! One device: configuration space and windows.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::Arc,
};

use hmmap_core::p2p::PciAddress;
use parking_lot::Mutex;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};

use crate::{
    BarMemory, RegisterWindow, UnplugWatch, VfioDomain, call,
    claim::{Claim, Owner, Use},
    error::{VfioError, WindowFault, failed},
    memory::{MappedWindow, long_enough},
};

/// The command register of PCI's configuration space.
const COMMAND: u64 = 4;
/// In it: answers at its memory windows.
const MEMORY: u16 = 0b010;
/// In it: may start transfers of its own.
const MASTER: u16 = 0b100;
/// The first base address register. Each has 4 bytes, the lowest of which says what it is of.
const FIRST_BAR: u64 = 0x10;
const OF_IO_PORTS: u8 = 1;

/// A PCI device that this process drives.
#[derive(Debug)]
pub struct VfioDevice {
    name: String,
    file: File,
    /// One at a time changes the command register.
    command: Mutex<()>,
    /// After the descriptor: the groups stay open as long as their devices.
    domain: Arc<VfioDomain>,
}

impl VfioDevice {
    pub(crate) fn new(name: &str, fd: OwnedFd, domain: Arc<VfioDomain>) -> Self {
        let (name, file) = (name.to_owned(), File::from(fd));
        Self { name, file, command: Mutex::default(), domain }
    }

    /// Lets it answer at its windows and start transfers. What these reach is what its domain maps.
    ///
    /// # Errors
    /// [`VfioError::Call`], [`VfioError::Configuration`].
    pub fn enable_dma(&self) -> Result<(), VfioError> {
        self.enable(MEMORY | MASTER)
    }

    /// Maps the window of one base address register, for its driver: registers.
    ///
    /// # Errors
    /// [`VfioError::NoWindow`] when it is none that can be mapped to be read and written, or is used as memory; [`VfioError::Call`].
    pub fn window(&self, index: u32) -> Result<RegisterWindow, VfioError> {
        let region = self.mappable(index)?;
        let claim = self.claim(index, Use::Registers)?;
        RegisterWindow::map(self.file.as_fd(), region.offset, region.size, Some(claim))
            .map_err(failed("mmap of a window"))
    }

    /// Takes the window of one base address register as memory for vectors: a device for [`hmmap_core::Runtime::new`] that runs no kernels. What was in it is
    /// lost as pages come. Two of its words are written and written back, to tell memory from registers: do not ask this of windows where a write does
    /// something.
    ///
    /// # Errors
    /// [`VfioError::NoWindow`] when it cannot be mapped, is too short, keeps nothing, or is in use; [`VfioError::Call`], [`VfioError::Configuration`].
    pub fn memory(&self, index: u32) -> Result<Arc<BarMemory>, VfioError> {
        let region = self.mappable(index)?;
        long_enough(&self.name, index, region.size)?;
        let owner = Owner::Claimed(self.claim(index, Use::Memory)?);
        // A window of a device that does not answer there must not be touched.
        self.enable(MEMORY)?;
        let window = MappedWindow::map(self.file.as_fd(), region.offset, region.size, owner)
            .map_err(failed("mmap of a window"))?;
        let memory = BarMemory::over(window, &self.name, index, PciAddress::parse(&self.name))?;
        self.domain.lends(&self.name, memory.window());
        Ok(memory)
    }

    /// Watches for the kernel's wish to have the device back: it is unplugged, or its driver is to change. Then nothing is mapped for this domain any more and its peers have ended, at
    /// once; `told` is called, on a thread of the watch, where vectors may be used: bring home what is only in windows of the device, and let somebody else drop this value and
    /// its windows of registers. When it returns, windows that are memory leave the device, and what is only there is lost. The kernel waits until all is closed.
    ///
    /// A domain is one table for all its devices, so all of them lose it. One watch per device: the last one counts.
    ///
    /// # Errors
    /// [`VfioError::Call`].
    pub fn watch_unplug(
        &self,
        told: impl FnOnce() + Send + 'static,
    ) -> Result<UnplugWatch, VfioError> {
        UnplugWatch::start(&self.file, &self.name, &self.domain, told)
    }

    fn enable(&self, bits: u16) -> Result<(), VfioError> {
        let at = self.region(VFIO_PCI_CONFIG_REGION_INDEX)?.offset + COMMAND;
        let wrong = |source| VfioError::Configuration { device: self.name.clone(), source };
        let _alone = self.command.lock();
        let mut word = [0; 2];
        self.file.read_exact_at(&mut word, at).map_err(wrong)?;
        let command = u16::from_le_bytes(word) | bits;
        self.file.write_all_at(&command.to_le_bytes(), at).map_err(wrong)
    }

    fn claim(&self, index: u32, wanted: Use) -> Result<Claim, VfioError> {
        let claim = Claim::take(&self.domain, &self.name, index, wanted);
        claim.ok_or_else(|| self.no_window(index, WindowFault::InUse))
    }

    /// A window that can be mapped to be read and written.
    fn mappable(&self, index: u32) -> Result<vfio_region_info, VfioError> {
        let region = self.region(index)?;
        let wanted = VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_WRITE;
        if region.flags & wanted == wanted && region.size > 0 {
            return Ok(region);
        }
        let why = match region.size {
            0 => WindowFault::None,
            _ if self.is_of_io_ports(index)? => WindowFault::IoPorts,
            _ => WindowFault::NotMappable,
        };
        Err(self.no_window(index, why))
    }

    fn is_of_io_ports(&self, index: u32) -> Result<bool, VfioError> {
        if !(VFIO_PCI_BAR0_REGION_INDEX..=VFIO_PCI_BAR5_REGION_INDEX).contains(&index) {
            return Ok(false);
        }
        let at = self.region(VFIO_PCI_CONFIG_REGION_INDEX)?.offset;
        let wrong = |source| VfioError::Configuration { device: self.name.clone(), source };
        let mut lowest = [0];
        let at = at + FIRST_BAR + 4 * u64::from(index);
        self.file.read_exact_at(&mut lowest, at).map_err(wrong)?;
        Ok(lowest[0] & OF_IO_PORTS != 0)
    }

    fn no_window(&self, index: u32, why: WindowFault) -> VfioError {
        VfioError::NoWindow { device: self.name.clone(), index, why }
    }

    fn region(&self, index: u32) -> Result<vfio_region_info, VfioError> {
        call::region(self.file.as_fd(), index).map_err(failed("VFIO_DEVICE_GET_REGION_INFO"))
    }
}
