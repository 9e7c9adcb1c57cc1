//! One device: configuration space and windows.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::Arc,
};

use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_WRITE,
    vfio_region_info,
};

use crate::{
    RegisterWindow, VfioDomain, call,
    error::{VfioError, failed},
};

/// The command register of PCI's configuration space.
const COMMAND: u64 = 4;
/// In it: answers at its memory windows, and may start transfers of its own.
const MEMORY_AND_MASTER: u16 = 0b110;

/// A PCI device that this process drives.
#[derive(Debug)]
pub struct VfioDevice {
    name: String,
    file: File,
    /// After the descriptor: the groups stay open as long as their devices.
    _domain: Arc<VfioDomain>,
}

impl VfioDevice {
    pub(crate) fn new(name: &str, fd: OwnedFd, domain: Arc<VfioDomain>) -> Self {
        Self { name: name.to_owned(), file: File::from(fd), _domain: domain }
    }

    /// Lets it answer at its windows and start transfers. What these reach is what its domain maps.
    ///
    /// # Errors
    /// [`VfioError::Call`], [`VfioError::Configuration`].
    pub fn enable_dma(&self) -> Result<(), VfioError> {
        let at = self.region(VFIO_PCI_CONFIG_REGION_INDEX)?.offset + COMMAND;
        let wrong = |source| VfioError::Configuration { device: self.name.clone(), source };
        let mut word = [0; 2];
        self.file.read_exact_at(&mut word, at).map_err(wrong)?;
        let command = u16::from_le_bytes(word) | MEMORY_AND_MASTER;
        self.file.write_all_at(&command.to_le_bytes(), at).map_err(wrong)
    }

    /// Maps the window of one base address register.
    ///
    /// # Errors
    /// [`VfioError::NoWindow`] when it is none that can be mapped to be read and written; [`VfioError::Call`].
    pub fn window(&self, index: u32) -> Result<RegisterWindow, VfioError> {
        let region = self.region(index)?;
        let wanted = VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_WRITE;
        if region.flags & wanted != wanted || region.size == 0 {
            return Err(VfioError::NoWindow { device: self.name.clone(), index });
        }
        RegisterWindow::map(self.file.as_fd(), region.offset, region.size)
            .map_err(failed("mmap of a window"))
    }

    fn region(&self, index: u32) -> Result<vfio_region_info, VfioError> {
        call::region(self.file.as_fd(), index).map_err(failed("VFIO_DEVICE_GET_REGION_INFO"))
    }
}
