//! Two buffers of one device over another device's memory, by opaque descriptor.

use std::{
    os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd},
    time::Duration,
};

use ash::{khr, vk};
use hmmap::core::backend::DeviceSummary;

use super::{Buffer, Device, RawError, Side, failed};

const KIND: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD;

/// A copy from one imported buffer to another, as the device that took them in does it.
pub struct SharedPair {
    from: Buffer,
    to: Buffer,
    /// What they show.
    _owned: [Buffer; 2],
}

impl SharedPair {
    /// Opens the device twice, gives two buffers out, and takes them in.
    ///
    /// # Errors
    /// [`RawError::Lacks`] without `VK_KHR_external_memory_fd`; what a call answered.
    pub fn new(summary: &DeviceSummary, bytes: u64) -> Result<Self, RawError> {
        let (owner, user) = (Device::open(summary)?, Device::open(summary)?);
        let share = || -> Result<(Buffer, Buffer), RawError> {
            let (owned, fd) = export(&owner, bytes)?;
            let taken = import(&user, fd, &owned)?;
            Ok((owned, taken))
        };
        let ((first, from), (second, to)) = (share()?, share()?);
        Ok(Self { from, to, _owned: [first, second] })
    }

    /// Copies all of the one to the other and waits; says how long it took.
    ///
    /// # Errors
    /// What a call answered.
    pub fn copy(&mut self) -> Result<Duration, RawError> {
        let bytes = self.from.len_bytes();
        self.from.copy_to(&mut self.to, bytes)
    }
}

impl std::fmt::Debug for SharedPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedPair").field("bytes", &self.from.len_bytes()).finish_non_exhaustive()
    }
}

fn export(device: &Device, bytes: u64) -> Result<(Buffer, OwnedFd), RawError> {
    let extension = device.memory_fd()?;
    let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(KIND);
    let buffer = Buffer::external(device, bytes, KIND, &mut export)?;
    let info = vk::MemoryGetFdInfoKHR::default().memory(buffer.memory()).handle_type(KIND);
    // SAFETY: the memory lives and was allocated to be given out in this way; the descriptor is made for us.
    unsafe {
        let fd = extension.get_memory_fd(&info).map_err(failed("vkGetMemoryFdKHR"))?;
        Ok((buffer, OwnedFd::from_raw_fd(fd)))
    }
}

fn import(device: &Device, fd: OwnedFd, owned: &Buffer) -> Result<Buffer, RawError> {
    // The driver owns the descriptor from here on; if it refuses, the program ends and with it the descriptor.
    let mut import = vk::ImportMemoryFdInfoKHR::default().handle_type(KIND).fd(fd.into_raw_fd());
    Buffer::external(device, owned.len_bytes(), KIND, &mut import)
}

impl Device {
    fn memory_fd(&self) -> Result<khr::external_memory_fd::Device, RawError> {
        let open = self.open_handles();
        if !open.shares {
            return Err(RawError::Lacks { what: "VK_KHR_external_memory_fd" });
        }
        Ok(khr::external_memory_fd::Device::new(open.instance(), &open.device))
    }
}

impl Buffer {
    /// A buffer over memory that `chain` gives out or takes in.
    fn external(
        device: &Device,
        bytes: u64,
        kind: vk::ExternalMemoryHandleTypeFlags,
        chain: &mut impl vk::ExtendsMemoryAllocateInfo,
    ) -> Result<Self, RawError> {
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(kind);
        let mut made = Self::create(device, bytes, Some(&mut external))?;
        made.bind(Side::Device, Some(chain))?;
        Ok(made)
    }
}
