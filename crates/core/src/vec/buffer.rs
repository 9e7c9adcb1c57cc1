//! The memory of one vector: its span of the arena, its directory, and where it is bound on devices.

use std::{ops::Range, sync::Arc};

use hmmap_eviction::thrash::Thrash;
use smallvec::SmallVec;

use super::spoils::Spoils;
use crate::{
    backend::{MemoryId, Reservation, Window},
    coherence::{Effect, Settlement},
    directory::{Directory, PageSpan},
    engine::{Rents, Streams, Strides, TakenInList},
    events::VectorId,
    fence::{Failure, FencePoint},
    group::{GroupId, Member},
    hints::HintMap,
    home::Grants,
    host::{HostSpan, MemoryFile, Taken},
    node::{DeviceId, NodeId},
    peer::PeerTable,
    runtime::Runtime,
    stats::Moved,
    sync::Mutex,
    units::{PAGE_BYTES, PAGES_PER_BLOCK},
};

/// The memory of one vector.
#[derive(Debug)]
pub struct Buffer {
    /// Which runtime it belongs to.
    pub(crate) runtime_id: u64,
    /// Its part of the arena, whole pages. Empty for a vector of length zero.
    pub(crate) span: HostSpan,
    /// The file that other processes map too; most vectors lie in the arena's own.
    pub(crate) file: Option<MemoryFile>,
    /// Whose share of a device it is counted against; nothing for most vectors.
    pub(crate) group: Option<Arc<Member>>,
    /// Everything that changes. Several buffers are locked in order of address; nobody waits while holding one, and
    /// no user code runs under it.
    pub(crate) state: Mutex<BufferState>,
}

/// What changes about a buffer.
#[derive(Debug)]
pub(crate) struct BufferState {
    /// Which vector of the runtime it is.
    pub(crate) number: VectorId,
    /// What the program calls it.
    pub(crate) name: Option<Arc<str>>,
    /// What was copied and zeroed for it.
    pub(crate) moved: Moved,
    pub(crate) directory: Directory,
    pub(crate) bindings: SmallVec<[Binding; 1]>,
    /// What devices have taken in of its memory on others.
    pub(crate) taken_in: TakenInList,
    /// Work that did not end Ok and that nobody was told of yet.
    pub(crate) notice: Option<Notice>,
    /// What may have taken the only copies of pages.
    pub(crate) spoils: Spoils,
    /// The host pages may hold anything but zeros.
    pub(crate) host_touched: bool,
    /// An interrupted write, or the vector that was there before, may have left bytes in host pages that count as empty, so they are zeroed
    /// before use.
    pub(crate) host_spoiled: bool,
    /// Devices whose loss this buffer has taken note of.
    pub(crate) losses: SmallVec<[DeviceId; 1]>,
    /// How many [`crate::engine::Acquired`] keep its pages in place.
    pub(crate) held: u32,
    /// When a launch used it last, in launches of the runtime.
    pub(crate) last_use: u64,
    /// Its memory was given back: nobody may use it any more, and whoever still knows it has come too late.
    pub(crate) is_gone: bool,
    /// Where the host's faults go.
    pub(crate) streams: Streams,
    pub(crate) strides: Strides,
    /// Whether it goes back and forth between the host and devices.
    pub(crate) thrash: Thrash,
    /// What it has cost to leave it on the host, for devices that read little of it.
    pub(crate) rents: Rents,
    /// What the caller has said about its pages.
    pub(crate) hints: HintMap,
    /// Who else holds addresses; nothing for most vectors.
    pub(crate) peers: Option<Box<PeerTable>>,
    /// Its owner has given up its slices and its launches, so that peers may write: all pages are current on this node alone, and stay there.
    pub(crate) lent_on: Option<NodeId>,
    /// What its home has granted; nothing where this process is the home.
    pub(crate) grants: Option<Box<Grants>>,
}

/// Where a buffer is on one device; it may be in both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Binding {
    /// In memory of the device's own.
    Memory { device: DeviceId, reservation: Reservation },
    /// In host memory, through a window.
    Window { device: DeviceId, window: Window },
    /// In a neighbour's memory, taken in.
    Neighbour { device: DeviceId, address: u64 },
}

impl Binding {
    pub(crate) fn device(&self) -> DeviceId {
        match self {
            Self::Memory { device, .. }
            | Self::Window { device, .. }
            | Self::Neighbour { device, .. } => *device,
        }
    }

    fn is_window(&self) -> bool {
        matches!(self, Self::Window { .. })
    }

    pub(crate) fn address(&self) -> u64 {
        match self {
            Self::Memory { reservation, .. } => reservation.address,
            Self::Window { window, .. } => window.address,
            Self::Neighbour { address, .. } => *address,
        }
    }
}

/// Work that did not end Ok.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Notice {
    pub(crate) fence: FencePoint,
    /// `None`: its device was lost.
    pub(crate) failure: Option<Failure>,
    pub(crate) span: PageSpan,
}

impl Buffer {
    pub(crate) fn new(runtime: &Runtime, taken: Taken, file: Option<MemoryFile>) -> Self {
        let Taken { span, is_used } = taken;
        let state = BufferState {
            number: runtime.inner().recorder.number(),
            name: None,
            moved: Moved::default(),
            directory: Directory::new(span.len_bytes / PAGE_BYTES),
            bindings: SmallVec::new(),
            taken_in: TakenInList::new(),
            notice: None,
            spoils: Spoils::default(),
            host_touched: is_used,
            host_spoiled: is_used,
            losses: SmallVec::new(),
            held: 0,
            last_use: 0,
            is_gone: false,
            streams: Streams::default(),
            strides: Strides::default(),
            thrash: Thrash::default(),
            rents: Rents::default(),
            hints: HintMap::default(),
            peers: None,
            lent_on: None,
            grants: None,
        };
        let (runtime_id, group) = (runtime.inner().id, runtime.group().cloned());
        Self { runtime_id, span, file, group, state: Mutex::new(state) }
    }

    pub(crate) fn group_id(&self) -> GroupId {
        self.group.as_ref().map_or(GroupId::DEFAULT, |group| group.id)
    }

    pub(crate) fn pages(&self) -> u64 {
        self.span.len_bytes / PAGE_BYTES
    }

    pub(crate) fn all(&self) -> PageSpan {
        PageSpan { first: 0, end: self.pages() }
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.pages().div_ceil(PAGES_PER_BLOCK) as u32
    }

    /// The pages of whole blocks; the last may end with the buffer.
    pub(crate) fn span_of(&self, blocks: &Range<u32>) -> PageSpan {
        let [first, end] =
            [blocks.start, blocks.end].map(|block| u64::from(block) * PAGES_PER_BLOCK);
        PageSpan { first, end: end.min(self.pages()) }
    }

    /// The bytes of whole blocks; the last may end with the buffer.
    pub(crate) fn byte_range(&self, blocks: &Range<u32>) -> Range<u64> {
        let span = self.span_of(blocks);
        span.first * PAGE_BYTES..span.end * PAGE_BYTES
    }

    /// The part of the arena that holds these pages.
    pub(crate) fn host_span(&self, pages: PageSpan) -> HostSpan {
        self.span.part(pages.first * PAGE_BYTES, pages.count() * PAGE_BYTES)
    }
}

impl BufferState {
    /// Where work of a device on this node finds the buffer: the host's through a window, its own in the device's memory, another's through an import.
    pub(crate) fn binding(&self, device: DeviceId, node: NodeId) -> Option<Binding> {
        if let Some(from) = node.device().filter(|from| *from != device) {
            let address = self.address_abroad(from, device)?;
            return Some(Binding::Neighbour { device, address });
        }
        let is_there = |binding: &&Binding| {
            binding.device() == device && binding.is_window() == node.is_host()
        };
        self.bindings.iter().find(is_there).copied()
    }

    pub(crate) fn memory(&self, device: DeviceId) -> Option<Reservation> {
        match self.binding(device, NodeId::of_device(device)) {
            Some(Binding::Memory { reservation, .. }) => Some(reservation),
            _ => None,
        }
    }

    pub(crate) fn memory_id(&self, device: DeviceId) -> Option<MemoryId> {
        self.memory(device).map(|reservation| reservation.memory)
    }

    /// Takes note of work that was not kept. Reads leave nothing behind; the first notice stands for those that follow from it.
    pub(crate) fn note(&mut self, blocks: Range<u32>, settlement: Settlement) {
        if matches!(settlement.effect, Effect::Read { .. }) {
            return;
        }
        let pages = settlement
            .pages
            .spans()
            .fold((u32::MAX, 0), |(first, end), span| (first.min(span.start), end.max(span.end)));
        let first = u64::from(blocks.start) * PAGES_PER_BLOCK + u64::from(pages.0);
        let end = (u64::from(blocks.end) - 1) * PAGES_PER_BLOCK + u64::from(pages.1);
        let span = PageSpan { first, end: end.min(self.directory.pages()) };
        let Settlement { fence, failure, .. } = settlement;
        self.notice = match self.notice.take() {
            None => Some(Notice { fence, failure, span }),
            Some(known) => Some(Notice {
                span: PageSpan {
                    first: known.span.first.min(span.first),
                    end: known.span.end.max(span.end),
                },
                ..known
            }),
        };
    }
}
