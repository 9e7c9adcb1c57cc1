//! The calls to VFIO: numbers and structures of linux/vfio.h, and one way to make a call.
#![allow(unsafe_code, reason = "ioctl")]

use std::{
    ffi::{CStr, c_void},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::{
    io::{Errno, Result},
    ioctl::{Ioctl, IoctlOutput, Opcode, opcode},
};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_GROUP_FLAGS_VIABLE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_REQ_IRQ_INDEX, VFIO_TYPE,
    VFIO_TYPE1v2_IOMMU, vfio_group_status, vfio_iommu_type1_dma_map, vfio_region_info,
};

/// The most that is asked of the kernel about an IOMMU, in bytes.
const INFO_BYTES: usize = 4096;

/// A call of VFIO, by its number after `VFIO_BASE`. All of them are `_IO(VFIO_TYPE, VFIO_BASE + n)`: neither size nor direction is in the number.
struct Call {
    number: u32,
    argument: *mut c_void,
}

// SAFETY: the opcode and the argument are the caller's, who vouches for them at `make`; it is taken as one that writes, which is the safe side.
unsafe impl Ioctl for Call {
    type Output = i32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::none(VFIO_TYPE, (VFIO_BASE + self.number) as u8)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(out)
    }
}

/// # Safety
/// `argument` is what this call takes: a number, or a pointer to a structure that lives and may be written while the call lasts.
unsafe fn make(fd: BorrowedFd<'_>, number: u32, argument: *mut c_void) -> Result<i32> {
    // SAFETY: by this function's own contract. On a descriptor that is not VFIO's, type ';' is unknown and refused.
    unsafe { rustix::ioctl::ioctl(fd, Call { number, argument }) }
}

fn number_of(value: u32) -> *mut c_void {
    std::ptr::without_provenance_mut(value as usize)
}

/// VFIO_GET_API_VERSION is 0, and the Type1 IOMMU is there (VFIO_CHECK_EXTENSION).
pub(crate) fn has_type1(container: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: takes no argument.
    let version = unsafe { make(container, 0, std::ptr::null_mut()) }?;
    // SAFETY: takes a number.
    let has = unsafe { make(container, 1, number_of(VFIO_TYPE1v2_IOMMU)) }?;
    Ok(version == 0 && has == 1)
}

/// VFIO_SET_IOMMU: Type1, from now on the domain of the container's groups.
pub(crate) fn set_type1(container: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes a number.
    unsafe { make(container, 2, number_of(VFIO_TYPE1v2_IOMMU)) }.map(drop)
}

/// VFIO_GROUP_GET_STATUS: whether all devices of the group are free to be used from here.
pub(crate) fn is_viable(group: BorrowedFd<'_>) -> Result<bool> {
    let mut status = vfio_group_status { argsz: size_of::<vfio_group_status>() as u32, flags: 0 };
    // SAFETY: takes this structure, with its size in it.
    unsafe { make(group, 3, (&raw mut status).cast()) }?;
    Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
}

/// VFIO_GROUP_SET_CONTAINER.
pub(crate) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<()> {
    let mut descriptor: i32 = container.as_raw_fd();
    // SAFETY: takes a pointer to a descriptor's number, which it reads.
    unsafe { make(group, 4, (&raw mut descriptor).cast()) }.map(drop)
}

/// VFIO_GROUP_GET_DEVICE_FD.
pub(crate) fn device_of(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    // SAFETY: takes a C string, which it reads.
    let descriptor = unsafe { make(group, 6, name.as_ptr().cast_mut().cast()) }?;
    // SAFETY: what the call returns is a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// VFIO_DEVICE_GET_REGION_INFO.
pub(crate) fn region(device: BorrowedFd<'_>, index: u32) -> Result<vfio_region_info> {
    let argsz = size_of::<vfio_region_info>() as u32;
    let mut info = vfio_region_info { argsz, index, ..Default::default() };
    // SAFETY: takes this structure, with its size in it, and writes no more than that.
    unsafe { make(device, 8, (&raw mut info).cast()) }?;
    Ok(info)
}

/// `struct vfio_irq_set` with one descriptor behind it.
#[derive(Debug)]
#[repr(C)]
struct Interrupt {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    descriptor: i32,
}

/// VFIO_DEVICE_SET_IRQS for the request interrupt: the kernel rings this eventfd when it wants the device back.
pub(crate) fn watch_requests(device: BorrowedFd<'_>, eventfd: i32) -> Result<()> {
    let mut interrupt = Interrupt {
        argsz: size_of::<Interrupt>() as u32,
        flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        index: VFIO_PCI_REQ_IRQ_INDEX,
        start: 0,
        count: 1,
        descriptor: eventfd,
    };
    // SAFETY: takes this structure, with its size in it, and reads it; the kernel keeps what the descriptor stands for itself.
    unsafe { make(device, 10, (&raw mut interrupt).cast()) }.map(drop)
}

/// VFIO_IOMMU_GET_INFO: the structure with its chain of capabilities.
pub(crate) fn iommu_info(container: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut answer = vec![0_u64; INFO_BYTES / 8];
    answer[0] = u64::from_ne_bytes(first_words(INFO_BYTES as u32));
    // SAFETY: takes a structure whose first field is the size of all that may be written, which is the whole of `answer`, aligned for it.
    unsafe { make(container, 12, answer.as_mut_ptr().cast()) }?;
    Ok(answer.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

fn first_words(argsz: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&argsz.to_ne_bytes());
    bytes
}

/// What a device may do with memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rights {
    Read,
    ReadWrite,
}

/// VFIO_IOMMU_MAP_DMA. All in bytes, and multiples of the IOMMU's page.
///
/// # Safety
/// Until [`unmap_dma`], the memory at `address` stays mapped, is no object that Rust believes unchanged while the device writes it, and is not given to anybody else.
/// With [`Rights::Read`], the device cannot write it.
pub(crate) unsafe fn map_dma(
    container: BorrowedFd<'_>,
    address: u64,
    iova: u64,
    size: u64,
    rights: Rights,
) -> Result<()> {
    let flags = match rights {
        Rights::Read => VFIO_DMA_MAP_FLAG_READ,
        Rights::ReadWrite => VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
    };
    let argsz = size_of::<vfio_iommu_type1_dma_map>() as u32;
    let mut map = vfio_iommu_type1_dma_map { argsz, flags, vaddr: address, iova, size };
    // SAFETY: takes this structure and reads it; what the mapping itself asks for is the caller's.
    unsafe { make(container, 13, (&raw mut map).cast()) }.map(drop)
}

/// `struct vfio_iommu_type1_dma_unmap` without the bitmap after it.
#[derive(Debug)]
#[repr(C)]
struct Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// VFIO_IOMMU_UNMAP_DMA of exactly one mapping, or of neighbours. When it succeeds, no device of the container reaches it any more.
pub(crate) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, size: u64) -> Result<()> {
    let argsz = size_of::<Unmap>() as u32;
    let mut unmap = Unmap { argsz, flags: 0, iova, size };
    // SAFETY: takes this structure, with its size in it; taking a device's access away endangers nobody.
    unsafe { make(container, 14, (&raw mut unmap).cast()) }?;
    // The kernel answers with what it unmapped.
    if unmap.size == size { Ok(()) } else { Err(Errno::INVAL) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_not_vfio_refuses_every_call() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let fd = null.as_fd();
        assert_eq!(has_type1(fd), Err(Errno::NOTTY));
        assert_eq!(set_type1(fd), Err(Errno::NOTTY));
        assert_eq!(is_viable(fd), Err(Errno::NOTTY));
        assert_eq!(set_container(fd, fd), Err(Errno::NOTTY));
        assert_eq!(device_of(fd, c"0000:00:00.0").err(), Some(Errno::NOTTY));
        assert_eq!(region(fd, 0).err(), Some(Errno::NOTTY));
        assert_eq!(watch_requests(fd, 0), Err(Errno::NOTTY));
        assert_eq!(iommu_info(fd), Err(Errno::NOTTY));
        assert_eq!(unmap_dma(fd, 0, 0x1000), Err(Errno::NOTTY));
    }
}
