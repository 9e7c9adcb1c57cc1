//! The devices of a domain as a peer.
#![allow(unsafe_code, reason = "maps the library's memory for a device")]

use std::{error::Error, fmt, sync::Arc};

use hmmap_core::{
    Access,
    backend::{Exported, Handle, MappedMemory},
    p2p::HandleKinds,
    peer::{
        AddressKind, AddressLimits, Participation, Peer, PeerAddress, PeerMemory, Place, Reach,
        Revoked,
    },
    revocation::Enforcement,
};

use crate::{
    VfioDomain, VfioError,
    call::Rights,
    memory::{DRIVER, Piece, WindowShare},
    ways::{HOST_HOPS, Ways},
};

/// What the application does when a range is needed.
type OnRevoke = Box<dyn Fn(Revoked) + Send + Sync>;

/// Devices of one domain as a peer for [`hmmap_core::SharedVec::map_peer`] and [`hmmap_core::Lent::map_peer`]. It reaches host memory, windows of other devices that
/// are nodes ([`crate::BarMemory`]) where [`hmmap_core::p2p`] says a certain yes, and memory of devices that is the process's own pages (Mesa's software device); addresses of its segments are I/O
/// addresses. It is mapped from the first page to the last that the range touches, so a device sees the rest of those pages of the same vector too.
///
/// Who is late is cut off: the IOMMU blocks what the device still does, and nothing tells the device.
pub struct VfioPeer {
    name: String,
    domain: Arc<VfioDomain>,
    address_bits: u32,
    /// `None`: it cannot be asked, and pins what it maps.
    on_revoke: Option<OnRevoke>,
    /// How far other devices' windows are.
    ways: Ways,
}

impl VfioPeer {
    /// `address_bits` (1 to 64) is how many bits of an address the device has. `on_revoke` is called when a range is needed, as
    /// [`Peer::revoke`]: hand out no more work on it and confirm, then or later.
    #[expect(clippy::new_ret_no_self, reason = "nobody may have one by value: see `map`")]
    pub fn new(
        name: impl Into<String>,
        domain: Arc<VfioDomain>,
        address_bits: u32,
        on_revoke: impl Fn(Revoked) + Send + Sync + 'static,
    ) -> Arc<dyn Peer> {
        Self::of(name.into(), domain, address_bits, Some(Box::new(on_revoke)))
    }

    /// The same for a device that cannot be stopped: it takes no part in revocation, and what it maps is pinned for as long as the mapping lives
    /// ([`Participation::Static`]).
    pub fn pinning(
        name: impl Into<String>,
        domain: Arc<VfioDomain>,
        address_bits: u32,
    ) -> Arc<dyn Peer> {
        Self::of(name.into(), domain, address_bits, None)
    }

    fn of(
        name: String,
        domain: Arc<VfioDomain>,
        address_bits: u32,
        on_revoke: Option<OnRevoke>,
    ) -> Arc<dyn Peer> {
        let address_bits = address_bits.clamp(1, 64);
        Arc::new(Self { name, domain, address_bits, on_revoke, ways: Ways::default() })
    }

    fn take(&self, address: PeerAddress) {
        if let Err(error) = self.domain.unmap(address.token) {
            let error: &dyn Error = &error;
            tracing::error!(peer = self.name, iova = address.token, error, "not unmapped");
        }
    }

    /// Maps ranges of memory, of which `offset_bytes` from the start on are what was asked for.
    ///
    /// # Safety
    /// As [`VfioDomain::map`].
    unsafe fn map_ranges(
        &self,
        ranges: &[(u64, u64)],
        offset_bytes: u64,
        access: Access,
    ) -> Result<PeerAddress, String> {
        let rights = if access == Access::Read { Rights::Read } else { Rights::ReadWrite };
        let highest = u64::MAX >> (64 - self.address_bits);
        // SAFETY: by this function's own contract.
        let iova = unsafe { self.domain.map(ranges, rights, highest) };
        let iova = iova.map_err(|error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })?;
        Ok(PeerAddress { address: iova + offset_bytes, kind: AddressKind::Bus, token: iova })
    }
}

/// Bytes that may begin and end anywhere, as whole pages of the IOMMU: the first byte of the first page, and how long they are.
fn whole_pages(start: u64, len_bytes: u64, page_bytes: u64) -> (u64, u64) {
    let first = start & !(page_bytes - 1);
    (first, (start + len_bytes).next_multiple_of(page_bytes) - first)
}

/// Where a part of a vector is in this process that is in a window or in another device's memory, by the handle that its node gave out, rounded to pages of the IOMMU; and from which of
/// their bytes on.
fn ranges_of(exported: &Exported, page_bytes: u64) -> Option<(Vec<(u64, u64)>, u64)> {
    let Handle::InProcess(handle) = &exported.handle else { return None };
    if let Some(mapped) = handle.downcast_ref::<MappedMemory>() {
        let start = mapped.address().checked_add(exported.offset_bytes)?;
        let (first, len_bytes) = whole_pages(start, exported.len_bytes, page_bytes);
        let end = mapped.address() + mapped.len_bytes();
        let is_inside = first >= mapped.address() && first + len_bytes <= end;
        return is_inside.then(|| (vec![(first, len_bytes)], start - first));
    }
    let share = handle.downcast_ref::<WindowShare>()?;
    let (first, len_bytes) = whole_pages(exported.offset_bytes, exported.len_bytes, page_bytes);
    let pieces = share.pieces(first, len_bytes)?;
    let start = share.window.address();
    let ranges = pieces.iter().map(|Piece { at_bytes, len_bytes }| (start + at_bytes, *len_bytes));
    Some((ranges.collect(), exported.offset_bytes - first))
}

impl Peer for VfioPeer {
    fn name(&self) -> &str {
        &self.name
    }

    fn limits(&self) -> AddressLimits {
        AddressLimits { address_bits: self.address_bits, ..AddressLimits::default() }
    }

    fn participation(&self) -> Participation {
        if self.on_revoke.is_some() { Participation::Dynamic } else { Participation::Static }
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        if self.domain.is_over() {
            return Reach::No { reason: VfioError::Unplugged.to_string() };
        }
        match place.device {
            None => Reach::Hops(HOST_HOPS),
            Some((_, facts)) if facts.external.as_ref().is_some_and(|v| v.driver == DRIVER) => {
                self.ways.reach(facts, self.domain.functions())
            }
            // Of the process's own pages: as far as host memory is.
            Some((_, facts))
                if place.exports.contains(HandleKinds::MAPPED) && facts.shares_host_memory =>
            {
                Reach::Hops(HOST_HOPS)
            }
            Some((device, _)) => Reach::No {
                reason: format!(
                    "the memory of {device} is neither a window of a VFIO device nor mapped here of the process's own pages"
                ),
            },
        }
    }

    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        if !memory.is_for(self) {
            return Err("the memory was given to another peer".to_owned());
        }
        let page_bytes = self.domain.page_bytes();
        if memory.kind() == AddressKind::Process {
            let (first, len_bytes) = whole_pages(memory.address(), memory.len_bytes(), page_bytes);
            let offset_bytes = memory.address() - first;
            // SAFETY: the library gives out addresses of its own view of host memory, which stays mapped as long as the runtime, and keeps those pages for this mapping
            // until `unmap` or `cut_off`, which unmap; that it calls them is what `is_for` says, since nobody has a `VfioPeer` by value. The vector begins on a
            // page of the library's, which is a multiple of the IOMMU's, so rounding stays in it. Only lent vectors are given for writing, and nobody has
            // references to the elements of those.
            return unsafe {
                self.map_ranges(&[(first, len_bytes)], offset_bytes, memory.access())
            };
        }
        let kinds = HandleKinds::IN_DRIVER.or(HandleKinds::MAPPED);
        let exported = memory.export(kinds).map_err(|error| error.to_string())?;
        let (ranges, offset_bytes) = ranges_of(&exported, page_bytes)
            .ok_or_else(|| format!("{} addresses cannot be put behind an IOMMU", memory.kind()))?;
        // SAFETY: these are bytes of a window's mapping, which its device keeps as long as the runtime, or of memory that a device has mapped, which stays until the reservation is
        // released (`MappedMemory`); the library keeps those pages for this mapping, as above, and so nobody else's vector is there: a vector's memory on a device is
        // whole pages of the library's. Nobody ever has a reference into either.
        unsafe { self.map_ranges(&ranges, offset_bytes, memory.access()) }
    }

    fn unmap(&self, address: PeerAddress) {
        self.take(address);
    }

    fn enforcement(&self) -> Enforcement {
        Enforcement::CutOff
    }

    fn enforces_reading(&self) -> bool {
        true
    }

    fn cut_off(&self, address: PeerAddress) {
        self.take(address);
    }

    fn revoke(&self, revoked: Revoked) {
        if self.domain.is_over() {
            // It reaches nothing any more, and nobody may be there to ask.
            return revoked.ended();
        }
        match &self.on_revoke {
            Some(on_revoke) => on_revoke(revoked),
            // Nobody asks a static peer.
            None => drop(revoked),
        }
    }
}

impl fmt::Debug for VfioPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioPeer")
            .field("name", &self.name)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}
