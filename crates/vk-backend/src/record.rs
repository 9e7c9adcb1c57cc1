//! Records the two kinds of submission into a stream. Pure.

use hmmap_core::backend::{Direction, LaunchWork, Zero};

use crate::{
    dependencies::{After, HostSees, Point, Visible, acquire, release},
    ring::Load,
    stream::{HostPart, Region, Stream, uses_of},
    uses::Uses,
};
use smallvec::SmallVec;

/// Semaphore waits that a recorded stream needs: timeline and value.
pub(crate) type Semaphores = SmallVec<[Point; 4]>;

/// One piece of a copy between two buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece<B> {
    /// What is read.
    pub(crate) from: B,
    /// What is written.
    pub(crate) to: B,
    /// Where and how much.
    pub(crate) region: Region,
}

/// Records a launch, and returns what it waits for.
pub(crate) fn launch<B: Copy + PartialEq>(
    stream: &mut Stream<B>,
    after: &After<'_>,
    visible: &mut Visible,
    work: &LaunchWork<'_>,
    host: HostSees,
) -> Semaphores {
    let uses = work.arrays.iter().fold(Uses::NONE, |uses, array| uses.or(uses_of(array.access)));
    let before = acquire(after, visible, uses.or(Uses::SHADER_READ));
    if let Some(barrier) = before.barrier {
        stream.barrier(barrier);
    }
    stream.dispatch(work.kernel, work.groups, work.params, work.arrays);
    if let Some(barrier) = release(uses, host) {
        stream.barrier(barrier);
    }
    before.semaphores
}

/// Records copies and fills, and returns what they wait for. `buffer_of` finds the buffer and the offset in it of a fill.
pub(crate) fn transfer<B: Copy + PartialEq>(
    stream: &mut Stream<B>,
    after: &After<'_>,
    visible: &mut Visible,
    host: HostSees,
    pieces: impl IntoIterator<Item = Piece<B>>,
    fills: impl IntoIterator<Item = (B, Zero)>,
) -> Semaphores {
    let before = acquire(after, visible, Uses::TRANSFER);
    if let Some(barrier) = before.barrier {
        stream.barrier(barrier);
    }
    for Piece { from, to, region } in pieces {
        stream.copy(from, to, region);
    }
    for (buffer, zero) in fills {
        stream.fill(buffer, zero.offset_bytes, zero.len_bytes);
    }
    if let Some(barrier) = release(Uses::TRANSFER_WRITE, host) {
        stream.barrier(barrier);
    }
    before.semaphores
}

/// Records what passes through one slot of a staging ring, between flush and invalidation, and returns what it waits for.
/// `ring` is the ring's buffer and where in it the slot begins.
pub(crate) fn staged<B: Copy + PartialEq>(
    stream: &mut Stream<B>,
    after: &After<'_>,
    visible: &mut Visible,
    ring: (B, u64),
    load: Option<&Load<B>>,
    fills: impl IntoIterator<Item = (B, Zero)>,
) -> Semaphores {
    let (buffer, start) = ring;
    let whole =
        |load: &Load<B>| HostPart { buffer, offset_bytes: start, len_bytes: load.len_bytes };
    let up = load.filter(|load| load.direction == Direction::HostToDevice);
    let down = load.filter(|load| load.direction == Direction::DeviceToHost);
    if let Some(load) = up {
        stream.host_flush(whole(load));
    }
    let pieces = load.iter().flat_map(|load| &load.parts).map(|part| {
        let (copy, slot) = (part.copy, start + part.slot_offset_bytes);
        let len_bytes = copy.host.len_bytes;
        match copy.direction {
            Direction::HostToDevice => {
                let region = Region { from_bytes: slot, to_bytes: copy.offset_bytes, len_bytes };
                Piece { from: buffer, to: copy.buffer, region }
            }
            Direction::DeviceToHost => {
                let region = Region { from_bytes: copy.offset_bytes, to_bytes: slot, len_bytes };
                Piece { from: copy.buffer, to: buffer, region }
            }
        }
    });
    let host = if down.is_some() { HostSees::Yes } else { HostSees::No };
    let semaphores = transfer(stream, after, visible, host, pieces, fills);
    if let Some(load) = down {
        stream.host_invalidate(whole(load));
    }
    semaphores
}
