//! Where a buffer is on a device: bound once in each way, backed as far as it is used.

use std::{ops::Range, sync::Arc};

use smallvec::SmallVec;

use crate::{
    backend::Reservation,
    directory::{PageSpan, Run},
    error::Error,
    node::NodeId,
    runtime::{Inner, OpenDevice},
    units::{BLOCK_BYTES, PAGES_PER_BLOCK},
    vec::{Binding, Buffer, BufferState},
};

/// Byte ranges of one buffer's reservation that need memory.
#[derive(Debug, Default)]
pub(super) struct Unbacked {
    pub(super) ranges: SmallVec<[Range<u64>; 2]>,
    pub(super) bytes: u64,
}

impl Inner {
    /// The buffer's place on a device for work on this node; made the first time.
    pub(super) fn bind(
        &self,
        open: &OpenDevice,
        node: NodeId,
        buffer: &Arc<Buffer>,
        state: &mut BufferState,
    ) -> Result<Binding, Error> {
        if let Some(binding) = state.binding(open.id, node) {
            return Ok(binding);
        }
        let refused = |error| self.refused(open, error);
        let device = open.id;
        let binding = if node.is_host() {
            let window = open.device.open_window(buffer.span).map_err(refused)?;
            // Kernels write host pages through the window without the library seeing which.
            state.host_touched = true;
            Binding::Window { device, window }
        } else {
            let len_bytes = buffer.span.len_bytes;
            // What a neighbour is to reach has to be one piece of memory.
            let is_one_piece =
                buffer.file.is_some() && state.grants.is_none() && self.has_neighbours(open);
            let reserved = match is_one_piece {
                true => open.device.reserve_whole(len_bytes),
                false => open.device.reserve(len_bytes),
            };
            let reservation = reserved.map_err(refused)?;
            let mut residents = self.slot(device)?.residents.lock();
            // Dropped buffers leave their place here; look for them when the list would grow.
            if residents.len() == residents.capacity() {
                residents.retain(|resident| resident.strong_count() > 0);
            }
            residents.push(Arc::downgrade(buffer));
            Binding::Memory { device, reservation }
        };
        state.bindings.push(binding);
        Ok(binding)
    }

    /// What of these spans has no memory on the device yet.
    pub(super) fn unbacked(
        &self,
        reservation: Reservation,
        node: NodeId,
        buffer: &Buffer,
        state: &BufferState,
        spans: impl Iterator<Item = PageSpan>,
    ) -> Unbacked {
        let mut ranges = SmallVec::<[Range<u64>; 2]>::new();
        let mut look = |blocks: Range<u32>, run: &Run| {
            if run.backed.contains(node) {
                return;
            }
            let range = if reservation.backs_whole {
                0..buffer.span.len_bytes
            } else {
                buffer.byte_range(&blocks)
            };
            ranges.push(range);
        };
        for span in spans {
            state.directory.look(span, |blocks, _, run| look(blocks, run));
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let mut unbacked = Unbacked::default();
        for range in ranges {
            match unbacked.ranges.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => unbacked.ranges.push(range),
            }
        }
        unbacked.bytes = unbacked.ranges.iter().map(|range| range.end - range.start).sum();
        unbacked
    }

    /// Puts memory under ranges whose bytes were taken from the budget.
    pub(super) fn back(
        &self,
        open: &OpenDevice,
        reservation: Reservation,
        state: &mut BufferState,
        unbacked: &Unbacked,
    ) -> Result<(), crate::backend::DeviceError> {
        open.device.back(reservation.memory, &unbacked.ranges)?;
        for range in &unbacked.ranges {
            let span = block_span(range, state.directory.pages());
            state.directory.change(span, |_, _, run| run.backed.insert(open.node));
        }
        Ok(())
    }

    /// Takes the memory from under blocks that hold nothing that is current there, and gives it back to the budget.
    pub(super) fn unback(
        &self,
        open: &OpenDevice,
        reservation: Reservation,
        buffer: &Buffer,
        state: &mut BufferState,
        ranges: &[Range<u64>],
    ) {
        for range in ranges {
            let span = block_span(range, state.directory.pages());
            state.directory.change(span, |_, _, run| run.backed.remove(open.node));
        }
        self.let_go_of_imports_from(open.id, state);
        open.device.unback(reservation.memory, ranges);
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        open.budget.give(buffer.group_id(), bytes);
    }

    /// Bytes that back a buffer on a device.
    pub(super) fn backed_bytes(&self, node: NodeId, buffer: &Buffer, state: &BufferState) -> u64 {
        let runs = state.directory.runs().filter(|(_, run)| run.backed.contains(node));
        runs.map(|(blocks, _)| {
            let range = buffer.byte_range(&blocks);
            range.end - range.start
        })
        .sum()
    }
}

/// The pages of whole blocks given as bytes; the last may end with the buffer.
fn block_span(range: &Range<u64>, pages: u64) -> PageSpan {
    let first = range.start / BLOCK_BYTES * PAGES_PER_BLOCK;
    let end = range.end.div_ceil(BLOCK_BYTES) * PAGES_PER_BLOCK;
    PageSpan { first, end: end.min(pages) }
}
