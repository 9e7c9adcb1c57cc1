//! The recorded command stream: what one submission does, before any driver sees it.
//!
//! Every submission is first recorded here, by pure functions, and then played: into a Vulkan command buffer by `play`, or over shadow memory with
//! simulated caches by the `NonCoherent` test double. So what the tests prove of a stream holds for what the driver is given.
//!
//! ```text
//! HostFlush*   by the CPU, before the submission
//! Barrier?     acquire: after the same queue's earlier work that the submission waits for
//! Copy* Fill*  or  Dispatch
//! Barrier?     release: the device's writes become available to the CPU
//! HostInvalidate*  by the CPU, after the fence
//! ```
//!
//! A stream keeps its vectors when it is cleared, so that recording allocates nothing once a queue is warm. `B` is whatever names
//! a buffer: a `VkBuffer`, or the double's own number.

use std::ops::Range;

use hmmap_core::{
    access::Access,
    backend::ArrayArgument,
    kernel::{KernelId, MAX_PARAM_BYTES},
};
use smallvec::SmallVec;

use crate::uses::Uses;

/// An execution and memory dependency: what `from` did before it is done, available, and visible to what `to` does after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Barrier {
    /// What must have ended.
    pub from: Uses,
    /// What may begin then.
    pub to: Uses,
}

/// One contiguous piece of a copy, in bytes from the starts of the two buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Where it is read.
    pub from_bytes: u64,
    /// Where it is written.
    pub to_bytes: u64,
    /// How long it is.
    pub len_bytes: u64,
}

/// Part of a buffer that the CPU touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostPart<B> {
    /// The buffer.
    pub buffer: B,
    /// Where the part begins, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes.
    pub len_bytes: u64,
}

/// A kernel with its parameters.
#[derive(Clone, PartialEq, Debug)]
pub struct Dispatch {
    /// Which kernel.
    pub kernel: KernelId,
    /// Workgroups in x, y, z.
    pub groups: [u32; 3],
    /// The parameter block.
    pub params: SmallVec<[u8; MAX_PARAM_BYTES]>,
    /// What it touches, by device address.
    pub arrays: SmallVec<[ArrayArgument; 6]>,
}

/// One recorded command.
#[derive(Clone, PartialEq, Debug)]
pub enum Command<B> {
    /// A dependency between what comes before, earlier submissions of the queue included, and what comes after.
    Barrier(Barrier),
    /// Copies between two buffers; the pieces are [`Stream::regions`].
    Copy {
        /// What is read.
        from: B,
        /// What is written.
        to: B,
        /// Which of the stream's regions.
        regions: Range<usize>,
    },
    /// Zeros.
    Fill {
        /// What is written.
        buffer: B,
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much, in bytes.
        len_bytes: u64,
    },
    /// A kernel: [`Stream::dispatched`].
    Dispatch(usize),
    /// Before the submission, the CPU's writes leave its caches (memory that is not coherent).
    HostFlush(HostPart<B>),
    /// After the fence, the CPU's caches forget the bytes (memory that is not coherent).
    HostInvalidate(HostPart<B>),
}

/// One submission.
#[derive(Clone, PartialEq, Debug)]
pub struct Stream<B> {
    commands: Vec<Command<B>>,
    regions: Vec<Region>,
    dispatches: Vec<Dispatch>,
}

impl<B> Default for Stream<B> {
    fn default() -> Self {
        Self { commands: Vec::new(), regions: Vec::new(), dispatches: Vec::new() }
    }
}

impl<B: Copy + PartialEq> Stream<B> {
    /// The commands in order.
    pub fn commands(&self) -> &[Command<B>] {
        &self.commands
    }

    /// The pieces of one copy command.
    pub fn regions(&self, range: &Range<usize>) -> &[Region] {
        self.regions.get(range.clone()).unwrap_or_default()
    }

    /// The kernel of a [`Command::Dispatch`].
    pub fn dispatched(&self, number: usize) -> Option<&Dispatch> {
        self.dispatches.get(number)
    }

    /// Takes a command out: what a test does to see that it is missed.
    #[cfg(any(test, feature = "test-doubles"))]
    pub(crate) fn remove(&mut self, command: usize) {
        self.commands.remove(command);
    }

    /// Changes every barrier: what a test does to see that it is noticed.
    #[cfg(test)]
    pub(crate) fn edit_barriers(&mut self, edit: impl Fn(&mut Barrier)) {
        for command in &mut self.commands {
            if let Command::Barrier(barrier) = command {
                edit(barrier);
            }
        }
    }

    /// Forgets everything but keeps the memory.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.regions.clear();
        self.dispatches.clear();
    }

    /// Appends a barrier.
    pub fn barrier(&mut self, barrier: Barrier) {
        self.commands.push(Command::Barrier(barrier));
    }

    /// Appends a copy. It joins the command before it when that copies between the same two buffers, and the
    /// region before it when the two continue each other.
    pub fn copy(&mut self, from: B, to: B, region: Region) {
        let begin = self.regions.len();
        if let Some(Command::Copy { from: f, to: t, regions }) = self.commands.last_mut()
            && *f == from
            && *t == to
        {
            if let Some(last) = self.regions.last_mut()
                && last.from_bytes + last.len_bytes == region.from_bytes
                && last.to_bytes + last.len_bytes == region.to_bytes
            {
                last.len_bytes += region.len_bytes;
                return;
            }
            regions.end += 1;
        } else {
            self.commands.push(Command::Copy { from, to, regions: begin..begin + 1 });
        }
        self.regions.push(region);
    }

    /// Appends a fill with zeros.
    pub fn fill(&mut self, buffer: B, offset_bytes: u64, len_bytes: u64) {
        self.commands.push(Command::Fill { buffer, offset_bytes, len_bytes });
    }

    /// Appends a launch.
    pub fn dispatch(
        &mut self,
        kernel: KernelId,
        groups: [u32; 3],
        params: &[u8],
        arrays: &[ArrayArgument],
    ) {
        self.commands.push(Command::Dispatch(self.dispatches.len()));
        let (params, arrays) = (SmallVec::from_slice(params), SmallVec::from_slice(arrays));
        self.dispatches.push(Dispatch { kernel, groups, params, arrays });
    }

    /// Appends a flush of the CPU's writes.
    pub fn host_flush(&mut self, part: HostPart<B>) {
        self.commands.push(Command::HostFlush(part));
    }

    /// Appends an invalidation before the CPU's reads.
    pub fn host_invalidate(&mut self, part: HostPart<B>) {
        self.commands.push(Command::HostInvalidate(part));
    }

    /// The parts that the CPU flushes before the submission.
    pub fn flushes(&self) -> impl Iterator<Item = &HostPart<B>> {
        self.commands.iter().filter_map(|command| match command {
            Command::HostFlush(part) => Some(part),
            _ => None,
        })
    }

    /// The parts that the CPU invalidates after the fence.
    pub fn invalidations(&self) -> impl Iterator<Item = &HostPart<B>> {
        self.commands.iter().filter_map(|command| match command {
            Command::HostInvalidate(part) => Some(part),
            _ => None,
        })
    }
}

/// What a launch does to an array.
pub const fn uses_of(access: Access) -> Uses {
    match access {
        Access::Read => Uses::SHADER_READ,
        // A kernel that overwrites an array may still read what it wrote.
        Access::Update | Access::Write => Uses::SHADER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(from_bytes: u64, to_bytes: u64, len_bytes: u64) -> Region {
        Region { from_bytes, to_bytes, len_bytes }
    }

    #[test]
    fn neighbours_become_one_region_and_the_rest_one_command() {
        let mut stream = Stream::default();
        stream.copy(1, 2, region(0, 100, 10));
        stream.copy(1, 2, region(10, 110, 10)); // continues both sides
        stream.copy(1, 2, region(20, 500, 10)); // continues one side only
        stream.copy(2, 1, region(0, 0, 10)); // another direction
        let Command::Copy { regions, .. } = &stream.commands()[0] else { panic!("a copy") };
        assert_eq!(stream.regions(regions), [region(0, 100, 20), region(20, 500, 10)]);
        assert_eq!(stream.commands().len(), 2);
    }

    #[test]
    fn a_cleared_stream_holds_what_comes_next_alone() {
        let mut stream = Stream::<u32>::default();
        stream.dispatch(KernelId(1), [1, 1, 1], &[1, 2], &[]);
        stream.copy(1, 2, region(0, 0, 10));
        stream.clear();
        assert!(stream.commands().is_empty());
        stream.dispatch(KernelId(2), [3, 1, 1], &[9], &[]);
        let [Command::Dispatch(number)] = stream.commands() else { panic!("a dispatch") };
        let dispatch = stream.dispatched(*number).unwrap();
        assert_eq!((dispatch.kernel, dispatch.groups[0]), (KernelId(2), 3));
        assert_eq!(dispatch.params.as_slice(), [9]);
        // A copy that follows a cleared one must not join it.
        stream.copy(1, 2, region(10, 10, 10));
        assert_eq!(stream.commands().len(), 2);
    }
}
