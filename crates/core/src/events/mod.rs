//! What happened, one event at a time: what moved, why, for whom, which pages of which vector, and when.
//!
//! Counters ([`crate::Stats`]) say how much. Events say what, and are there only while somebody records ([`Runtime::record`](crate::Runtime::record)).
//!
//! ```text
//! launches, guards, fault threads --push--> ring, bounded, made beforehand --Recording::read--> whoever writes a trace, draws, counts
//!                                             full: the event is dropped and counted
//! ```
//!
//! Whoever makes an event neither waits, allocates nor calls anybody for it: threads that answer faults make them too. Off, which is the
//! ordinary state, an event costs one relaxed load.
//!
//! **Order.** Events of one vector are made under its lock, so they are read in the order in which they came to be; applied one after another to what
//! [`What::Found`] says they give the vector's residency. Events of different vectors are in the order of their times but for a few
//! nanoseconds.
//!
//! **Times.** [`Event::at_ns`] is when the library did it. Work on a device is queued then; when the device does it is known to the driver
//! alone. [`What::Ended`] is when the reader of the recording first saw that it was over, so a span between the two is an upper bound on the work,
//! with the reader's pace as its grain.

mod reading;
mod recorder;
mod recording;

use std::fmt;

use crate::{
    directory::{NodeSet, PageSpan},
    fence::{FencePoint, FenceState},
    kernel::KernelId,
    node::{DeviceId, NodeId},
    stats::Cause,
    units::PAGE_BYTES,
};

pub use reading::{NodeReading, VectorReading};
pub(crate) use recorder::Recorder;
pub use recording::{Recording, RecordingFacts};

/// A vector of one runtime, counted from 1 in the order in which they were made. Numbers are not used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VectorId(pub u64);

impl fmt::Display for VectorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vector {}", self.0)
    }
}

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Nanoseconds since the runtime was made, by the monotonic clock.
    pub at_ns: u64,
    /// The system's number of the thread that did it or asked for it.
    pub thread: u32,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// These nodes hold the pages' current contents, whatever was told before: a recording began, work failed, or a device was lost.
    Found {
        /// Which vector.
        vector: VectorId,
        /// Which pages.
        pages: PageSpan,
        /// Who holds them; nobody: never written, or lost.
        nodes: NodeSet,
    },
    /// A vector was made; nobody holds its pages.
    Made {
        /// Which vector.
        vector: VectorId,
        /// How many pages it has.
        pages: u64,
    },
    /// A vector was dropped.
    Dropped {
        /// Which vector.
        vector: VectorId,
    },
    /// A copy of pages was queued on a device.
    Copied {
        /// Which vector.
        vector: VectorId,
        /// Which pages.
        pages: PageSpan,
        /// The node that had them.
        from: NodeId,
        /// The node that has them too now.
        to: NodeId,
        /// What for.
        cause: Cause,
        /// Ends with the copy.
        fence: FencePoint,
    },
    /// Pages that nobody had written were filled with zeros where they were needed.
    Zeroed {
        /// Which vector.
        vector: VectorId,
        /// Which pages.
        pages: PageSpan,
        /// Where.
        on: NodeId,
        /// What for; `None` for the host, which counts no bytes for it.
        cause: Option<Cause>,
        /// Ends with the fill; `None` when it is done.
        fence: Option<FencePoint>,
    },
    /// Work that reads pages was queued.
    Read {
        /// Which vector.
        vector: VectorId,
        /// Which pages.
        pages: PageSpan,
        /// Where it reads them.
        on: NodeId,
        /// Ends with the work.
        fence: FencePoint,
    },
    /// Pages are written from now on: no other node's copy is current any more.
    Written {
        /// Which vector.
        vector: VectorId,
        /// Which pages.
        pages: PageSpan,
        /// Where.
        on: NodeId,
        /// On whose behalf.
        cause: Cause,
        /// Ends with the work; `None` for the host and for other processes.
        fence: Option<FencePoint>,
    },
    /// Pages count as never written.
    Discarded {
        /// Which vector.
        vector: VectorId,
        /// Which pages.
        pages: PageSpan,
    },
    /// Blocks gave up their memory on a device; nothing was copied for it. What had to go home first was, as [`What::Copied`] for
    /// [`Cause::Eviction`].
    Evicted {
        /// Which vector.
        vector: VectorId,
        /// Which pages.
        pages: PageSpan,
        /// Where.
        from: NodeId,
        /// What was current there.
        gave: Gave,
    },
    /// A kernel was queued.
    Launched {
        /// On which device.
        device: DeviceId,
        /// Which kernel, by the device's own numbering.
        kernel: KernelId,
        /// Which launch of the runtime, from 1.
        launch: u64,
        /// Ends with the kernel.
        fence: FencePoint,
    },
    /// A launch uses vectors in host memory for want of room on its device.
    Windowed {
        /// On which device.
        device: DeviceId,
        /// How many vectors.
        vectors: u32,
    },
    /// A launch uses a vector in host memory: it went back and forth.
    KeptHome {
        /// Which vector.
        vector: VectorId,
        /// Which device uses it there.
        device: DeviceId,
    },
    /// A launch uses a vector in host memory: it reads little of it.
    LeftHome {
        /// Which vector.
        vector: VectorId,
        /// Which device uses it there.
        device: DeviceId,
    },
    /// An eviction policy named what cannot go.
    Ignored {
        /// On which device.
        device: DeviceId,
        /// How many answers.
        answers: u64,
    },
    /// A peer was given addresses.
    Mapped {
        /// Which vector.
        vector: VectorId,
        /// Which pages.
        pages: PageSpan,
    },
    /// A mapping was taken back from a peer.
    TakenBack {
        /// Which vector.
        vector: VectorId,
        /// Which pages.
        pages: PageSpan,
        /// What for.
        cause: Cause,
        /// On behalf of which node.
        by: NodeId,
        /// The peer did not give it back in time.
        late: bool,
    },
    /// The reader of the recording saw that work is over. Everything queued on the same timeline before is over too.
    Ended {
        /// Which work.
        fence: FencePoint,
        /// How it ended.
        state: FenceState,
    },
}

/// What was current of evicted blocks where they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Gave {
    /// Nothing: never used since, or discarded.
    Nothing,
    /// Copies of what others hold too.
    Clean,
}

impl What {
    /// The vector that it is about.
    pub fn vector(&self) -> Option<VectorId> {
        match *self {
            Self::Found { vector, .. }
            | Self::Made { vector, .. }
            | Self::Dropped { vector }
            | Self::Copied { vector, .. }
            | Self::Zeroed { vector, .. }
            | Self::Read { vector, .. }
            | Self::Written { vector, .. }
            | Self::Discarded { vector, .. }
            | Self::Evicted { vector, .. }
            | Self::KeptHome { vector, .. }
            | Self::LeftHome { vector, .. }
            | Self::Mapped { vector, .. }
            | Self::TakenBack { vector, .. } => Some(vector),
            Self::Launched { .. }
            | Self::Windowed { .. }
            | Self::Ignored { .. }
            | Self::Ended { .. } => None,
        }
    }

    /// The fence of the work that it is about.
    pub fn fence(&self) -> Option<FencePoint> {
        match *self {
            Self::Copied { fence, .. }
            | Self::Read { fence, .. }
            | Self::Launched { fence, .. }
            | Self::Ended { fence, .. } => Some(fence),
            Self::Zeroed { fence, .. } | Self::Written { fence, .. } => fence,
            _ => None,
        }
    }

    /// Bytes that a device copies or fills for it: what [`crate::Stats`] counts.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Copied { pages, .. } | Self::Zeroed { pages, cause: Some(_), .. } => {
                pages.count() * PAGE_BYTES
            }
            _ => 0,
        }
    }
}
