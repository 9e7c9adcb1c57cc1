//! Records the two kinds of submission into a stream. Pure.

use hmmap_core::backend::{LaunchWork, Zero};

use crate::{
    dependencies::{HostSees, QueueShape, acquire, release},
    stream::{Region, Stream, uses_of},
    uses::Uses,
};
use hmmap_core::fence::FencePoint;
use smallvec::SmallVec;

/// Semaphore waits that a recorded stream needs: timeline and value.
pub type Semaphores = SmallVec<[(u8, u64); 4]>;

/// One piece of a copy between two buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<B> {
    /// What is read.
    pub from: B,
    /// What is written.
    pub to: B,
    /// Where and how much.
    pub region: Region,
}

/// Records a launch, and returns what it waits for.
pub fn launch<B: Copy + PartialEq>(
    stream: &mut Stream<B>,
    queue: QueueShape,
    work: &LaunchWork<'_>,
    host: HostSees,
) -> Semaphores {
    let uses = work.arrays.iter().fold(Uses::NONE, |uses, array| uses.or(uses_of(array.access)));
    let before = acquire(queue, work.waits, uses.or(Uses::SHADER_READ));
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
pub fn transfer<B: Copy + PartialEq>(
    stream: &mut Stream<B>,
    queue: QueueShape,
    waits: &[FencePoint],
    host: HostSees,
    pieces: impl IntoIterator<Item = Piece<B>>,
    fills: impl IntoIterator<Item = (B, Zero)>,
) -> Semaphores {
    let before = acquire(queue, waits, Uses::TRANSFER);
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
