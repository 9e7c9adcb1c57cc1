//! A domain: a Type1 container with the groups of its devices, and which of its addresses are used.

use std::{
    ffi::CString,
    fmt,
    fs::OpenOptions,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use hmmap_core::p2p::PciAddress;
use parking_lot::Mutex;

use crate::{
    VfioDevice,
    call::{self, Rights},
    claim::{Claims, Owner},
    error::{VfioError, failed, not_mapped},
    info,
    iova::IovaSpace,
    memory::MappedWindow,
};

/// Where VFIO's files are.
const VFIO: &str = "/dev/vfio";
/// The other interface to IOMMUs.
const IOMMUFD: &str = "/dev/iommu";

/// One table from I/O addresses to memory, and the devices that see by it.
pub struct VfioDomain {
    groups: Vec<(u32, OwnedFd)>,
    container: OwnedFd,
    space: Mutex<IovaSpace>,
    /// Who uses which window of the devices.
    pub(crate) claims: Claims,
    /// The devices that it was opened for.
    functions: Vec<PciAddress>,
    /// Something could not be unmapped.
    broken: AtomicBool,
    /// One of its devices is to go: nothing is mapped any more.
    is_over: AtomicBool,
    /// Windows of its devices that are memory, by the device's name.
    windows: Mutex<Vec<(String, Weak<MappedWindow>)>>,
}

impl VfioDomain {
    /// Opens the groups of these PCI devices (`0000:03:00.0`) as one domain. Each has to be bound to `vfio-pci`, with all devices of its group.
    ///
    /// # Errors
    /// [`VfioError::NoGroup`], [`VfioError::NotOpened`], [`VfioError::OnlyIommufd`], [`VfioError::NotViable`], [`VfioError::NoType1`],
    /// [`VfioError::Call`].
    pub fn open(devices: &[&str]) -> Result<Arc<Self>, VfioError> {
        let mut numbers: Vec<u32> = Vec::new();
        for device in devices {
            let number = group_of(device)?;
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        let container = open(&Path::new(VFIO).join("vfio"))?;
        if !call::has_type1(container.as_fd()).map_err(failed("VFIO_CHECK_EXTENSION"))? {
            return Err(VfioError::NoType1);
        }
        let mut groups = Vec::new();
        for number in numbers {
            let group = open(&Path::new(VFIO).join(number.to_string()))?;
            if !call::is_viable(group.as_fd()).map_err(failed("VFIO_GROUP_GET_STATUS"))? {
                return Err(VfioError::NotViable { group: number });
            }
            call::set_container(group.as_fd(), container.as_fd())
                .map_err(failed("VFIO_GROUP_SET_CONTAINER"))?;
            groups.push((number, group));
        }
        call::set_type1(container.as_fd()).map_err(failed("VFIO_SET_IOMMU"))?;
        let answer = call::iommu_info(container.as_fd()).map_err(failed("VFIO_IOMMU_GET_INFO"))?;
        let info = info::parse(&answer);
        let mut space = IovaSpace::new(info.ranges, info.page_bytes);
        // A device that was never told an address uses this one.
        space.exclude(0..=info.page_bytes - 1);
        let functions = devices.iter().filter_map(|name| PciAddress::parse(name)).collect();
        let (space, broken) = (Mutex::new(space), AtomicBool::new(false));
        let claims = Claims::default();
        let (is_over, windows) = (AtomicBool::new(false), Mutex::default());
        let domain = Self { groups, container, space, claims, functions, broken, is_over, windows };
        Ok(Arc::new(domain))
    }

    /// One of its devices.
    ///
    /// # Errors
    /// [`VfioError::NoGroup`]; [`VfioError::NotOpened`] when its group is not of this domain; [`VfioError::Call`].
    pub fn device(self: &Arc<Self>, name: &str) -> Result<VfioDevice, VfioError> {
        let number = group_of(name)?;
        let group = self.groups.iter().find(|(known, _)| *known == number);
        let no_file = |kind: io::ErrorKind| VfioError::NotOpened {
            path: PathBuf::from(name),
            source: kind.into(),
        };
        let (_, group) = group.ok_or_else(|| no_file(io::ErrorKind::NotFound))?;
        let c_name = CString::new(name).map_err(|_| no_file(io::ErrorKind::InvalidInput))?;
        let opened = call::device_of(group.as_fd(), &c_name);
        let fd = opened.map_err(failed("VFIO_GROUP_GET_DEVICE_FD"))?;
        Ok(VfioDevice::new(name, fd, self.clone()))
    }

    /// How many mappings there are.
    pub fn mapping_count(&self) -> usize {
        self.space.lock().in_use_count()
    }

    /// The IOMMU's page, in bytes.
    pub fn page_bytes(&self) -> u64 {
        self.space.lock().page_bytes()
    }

    /// A device of the domain is being unplugged: nothing is mapped any more, nor will be.
    pub fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    /// Takes everything from its devices, for good.
    pub(crate) fn end(&self) {
        self.is_over.store(true, SeqCst);
        let mut space = self.space.lock();
        for iova in space.in_use() {
            let unmapped = space.len_bytes(iova).is_ok_and(|len| self.unmap_dma(iova, len).is_ok());
            if unmapped {
                let _ = space.release(iova);
            }
        }
    }

    /// A window of one of its devices is memory.
    pub(crate) fn lends(&self, device: &str, window: &Arc<MappedWindow>) {
        let mut windows = self.windows.lock();
        windows.retain(|(_, known)| known.strong_count() > 0);
        windows.push((device.to_owned(), Arc::downgrade(window)));
    }

    /// The windows of a device that are memory are no longer its.
    pub(crate) fn leave_windows(&self, device: &str) {
        let windows = self.windows.lock().clone();
        let of_device = windows.iter().filter(|(of, _)| of == device);
        of_device.filter_map(|(_, window)| window.upgrade()).for_each(|window| window.leave());
    }

    /// The PCI functions that it was opened for.
    pub(crate) fn functions(&self) -> &[PciAddress] {
        &self.functions
    }

    /// Maps ranges of whole pages, given by their first address and length, one behind the other at I/O addresses that `highest` and the ranges of the
    /// IOMMU allow. All of them, or none.
    ///
    /// # Safety
    /// As [`call::map_dma`] for each, until [`Self::unmap`].
    #[allow(unsafe_code, reason = "hands the contract of the call on")]
    pub(crate) unsafe fn map(
        &self,
        ranges: &[(u64, u64)],
        rights: Rights,
        highest: u64,
    ) -> Result<u64, VfioError> {
        if self.broken.load(SeqCst) {
            let source = rustix::io::Errno::IO;
            return Err(VfioError::Call { what: "the domain failed to unmap before", source });
        }
        if self.is_over() {
            return Err(VfioError::Unplugged);
        }
        let len_bytes = ranges.iter().map(|(_, len_bytes)| len_bytes).sum();
        let iova = self.space.lock().allocate(len_bytes, 1, highest)?;
        let mut mapped_bytes = 0;
        for (address, len_bytes) in ranges {
            let at = iova + mapped_bytes;
            // SAFETY: the caller's promise; the I/O addresses were free and are ours until they are released.
            let mapped =
                unsafe { call::map_dma(self.container.as_fd(), *address, at, *len_bytes, rights) };
            if let Err(source) = mapped {
                // Those before it, if any; they are released only when no device reaches them.
                if mapped_bytes == 0 || self.unmap_dma(iova, mapped_bytes).is_ok() {
                    let _ = self.space.lock().release(iova);
                }
                return Err(not_mapped(*len_bytes, source));
            }
            mapped_bytes += len_bytes;
        }
        if self.is_over() {
            // It may have come too late to be taken with the others.
            let _ = self.unmap(iova);
            return Err(VfioError::Unplugged);
        }
        Ok(iova)
    }

    /// Whether the kernel puts memory behind this IOMMU by a mapping of its dma-buf: the first page is mapped and unmapped again. A dma-buf of system memory is refused, since
    /// Type1 pins pages and such a mapping has none to pin; then its owner's own mapping will do, which is what [`crate::VfioPeer`] takes.
    ///
    /// # Errors
    /// [`VfioError::DmaBuf`] with the kernel's reason, [`VfioError::Iova`].
    #[allow(unsafe_code, reason = "maps a page that it made for that")]
    pub fn try_dma_buf(&self, buffer: impl AsFd) -> Result<(), VfioError> {
        let no = |what| move |source| VfioError::DmaBuf { what, source };
        let len_bytes = self.page_bytes();
        let page =
            MappedWindow::map(buffer.as_fd(), 0, len_bytes, Owner::Nobody).map_err(no("mmap"))?;
        // SAFETY: the mapping lives until the end, and is unmapped from the device before; nobody has a reference into it.
        let mapped = unsafe { self.map(&[(page.address(), len_bytes)], Rights::Read, u64::MAX) };
        match mapped {
            Ok(iova) => self.unmap(iova),
            Err(VfioError::Call { what, source }) => Err(VfioError::DmaBuf { what, source }),
            Err(other) => Err(other),
        }
    }

    fn unmap_dma(&self, iova: u64, len_bytes: u64) -> Result<(), VfioError> {
        call::unmap_dma(self.container.as_fd(), iova, len_bytes).map_err(|source| {
            self.broken.store(true, SeqCst);
            VfioError::Call { what: "VFIO_IOMMU_UNMAP_DMA", source }
        })
    }

    /// Takes one mapping from the devices. When this returns without error, they are blocked there.
    pub(crate) fn unmap(&self, iova: u64) -> Result<(), VfioError> {
        // Held throughout, so that nobody else takes it from the devices at the same time.
        let mut space = self.space.lock();
        let len_bytes = match space.len_bytes(iova) {
            // It went with the others.
            Err(_) if self.is_over() => return Ok(()),
            known => known?,
        };
        self.unmap_dma(iova, len_bytes)?;
        Ok(space.release(iova)?)
    }
}

impl fmt::Debug for VfioDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<u32> = self.groups.iter().map(|(number, _)| *number).collect();
        f.debug_struct("VfioDomain")
            .field("groups", &groups)
            .field("mappings", &self.mapping_count())
            .finish_non_exhaustive()
    }
}

/// The number of a device's group.
fn group_of(device: &str) -> Result<u32, VfioError> {
    let link = Path::new("/sys/bus/pci/devices").join(device).join("iommu_group");
    let no_group = |source| VfioError::NoGroup { device: device.to_owned(), source };
    let target = std::fs::read_link(link).map_err(no_group)?;
    let number =
        target.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    number.ok_or_else(|| no_group(io::ErrorKind::InvalidData.into()))
}

fn open(path: &Path) -> Result<OwnedFd, VfioError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map(OwnedFd::from).map_err(|source| not_opened(path, source, Path::new(IOMMUFD)))
}

fn not_opened(path: &Path, source: io::Error, iommufd: &Path) -> VfioError {
    let path = path.to_owned();
    if source.kind() == io::ErrorKind::NotFound && iommufd.exists() {
        return VfioError::OnlyIommufd { path, source };
    }
    VfioError::NotOpened { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_has_no_group() {
        for device in ["ffff:ff:1f.7", "", "../../../../etc", "a\0b"] {
            assert!(
                matches!(VfioDomain::open(&[device]), Err(VfioError::NoGroup { .. })),
                "{device}"
            );
        }
    }

    #[test]
    fn where_only_iommufd_is_that_is_the_reason() {
        let why = |kind: io::ErrorKind, iommufd| {
            not_opened(Path::new("/dev/vfio/7"), kind.into(), Path::new(iommufd))
        };
        let only = why(io::ErrorKind::NotFound, "/dev/null");
        assert!(matches!(only, VfioError::OnlyIommufd { .. }), "{only}");
        for (kind, iommufd) in [
            (io::ErrorKind::NotFound, "/nonexistent"),
            (io::ErrorKind::PermissionDenied, "/dev/null"),
        ] {
            let neither = why(kind, iommufd);
            assert!(matches!(neither, VfioError::NotOpened { .. }), "{neither}");
        }
    }

    #[test]
    fn a_device_without_an_iommu_in_front_of_it_has_no_group() {
        let folder = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
        let bare = folder.map(|entry| entry.path()).filter(|at| !at.join("iommu_group").exists());
        let names: Vec<_> =
            bare.filter_map(|at| Some(at.file_name()?.to_str()?.to_owned())).collect();
        if names.is_empty() {
            println!("HMMAP-SKIP-CASE: no PCI device here is without an IOMMU group");
        }
        for name in names {
            let refused = VfioDomain::open(&[&name]);
            assert!(matches!(refused, Err(VfioError::NoGroup { .. })), "{name}: {refused:?}");
        }
    }
}
