//! Which blocks of which chunk are free, and which of those have their pages still. Pure: bitmaps, one bit per block, 32 blocks per chunk.
//!
//! A block that leaves a full device is soon another's: where the driver's memory is the process's, giving 512 pages back to the system and faulting others in takes
//! longer than to copy what they hold. So as many as a chunk has may keep theirs, and go first.

use smallvec::SmallVec;

/// Blocks in a chunk.
pub(crate) const CHUNK_BLOCKS: u32 = u32::BITS;

/// Neighbouring blocks of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) chunk: usize,
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// What is behind it in memory.
    pub(crate) pages: Pages,
}

/// Whether blocks that nobody uses have pages of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pages {
    /// Those of the last user.
    Kept,
    /// None, or it is not known.
    Fresh,
}

/// Bits of one chunk.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    free: u32,
    /// Those of the free ones that have kept their pages.
    kept: u32,
}

/// The free blocks of every chunk; a chunk that is gone has none.
#[derive(Debug, Default)]
pub(crate) struct FreeBlocks {
    /// Bit `i` of a chunk is block `i`.
    chunks: Vec<Option<Chunk>>,
}

impl FreeBlocks {
    /// How many blocks are free.
    pub(crate) fn count(&self) -> u64 {
        self.chunks.iter().flatten().map(|chunk| u64::from(chunk.free.count_ones())).sum()
    }

    /// How many blocks more may keep their pages.
    pub(crate) fn may_keep(&self) -> u32 {
        let kept: u32 = self.chunks.iter().flatten().map(|chunk| chunk.kept.count_ones()).sum();
        CHUNK_BLOCKS.saturating_sub(kept)
    }

    /// Adds a chunk whose blocks are all free, and returns its number.
    pub(crate) fn add(&mut self) -> usize {
        let vacant = self.chunks.iter().position(Option::is_none);
        let number = vacant.unwrap_or_else(|| {
            self.chunks.push(None);
            self.chunks.len() - 1
        });
        self.chunks[number] = Some(Chunk { free: u32::MAX, kept: 0 });
        number
    }

    /// Takes `count` blocks, which are free, those with pages first; in as few extents as the first fit gives.
    pub(crate) fn take(&mut self, mut count: u64) -> SmallVec<[Extent; 4]> {
        let mut taken = SmallVec::new();
        while count > 0 {
            let most = count.min(u64::from(CHUNK_BLOCKS)) as u32;
            let kept = self.longest(most, Pages::Kept);
            let Some(extent) = kept.or_else(|| self.longest(most, Pages::Fresh)) else { break };
            if let Some(Some(chunk)) = self.chunks.get_mut(extent.chunk) {
                chunk.free &= !mask(extent);
                chunk.kept &= !mask(extent);
            }
            count -= u64::from(extent.count);
            taken.push(extent);
        }
        taken
    }

    /// The first run of `most` free blocks, or the longest there is.
    fn longest(&self, most: u32, pages: Pages) -> Option<Extent> {
        let mut best: Option<Extent> = None;
        for (number, chunk) in self.chunks.iter().enumerate() {
            let Some(Chunk { free, kept }) = *chunk else { continue };
            let mut rest = match pages {
                Pages::Kept => kept,
                Pages::Fresh => free & !kept,
            };
            while rest != 0 {
                let first = rest.trailing_zeros();
                let run = (rest >> first).trailing_ones();
                let found = Extent { chunk: number, first, count: run.min(most), pages };
                if found.count == most {
                    return Some(found);
                }
                if best.is_none_or(|best| best.count < found.count) {
                    best = Some(found);
                }
                rest &= !mask(Extent { count: run, ..found });
            }
        }
        best
    }

    /// Gives blocks back. The chunk's number is returned when it is all free and another chunk is too: then it can go.
    pub(crate) fn give(&mut self, extent: Extent) -> Option<usize> {
        let chunk = self.chunks.get_mut(extent.chunk)?.as_mut()?;
        debug_assert!(chunk.free & mask(extent) == 0, "a block is given back twice");
        chunk.free |= mask(extent);
        if extent.pages == Pages::Kept {
            chunk.kept |= mask(extent);
        }
        if chunk.free != u32::MAX {
            return None;
        }
        // One empty chunk stays, so that a block which comes and goes does not cost two driver calls each time.
        if self.chunks.iter().flatten().filter(|chunk| chunk.free == u32::MAX).count() > 1 {
            self.chunks[extent.chunk] = None;
            return Some(extent.chunk);
        }
        None
    }
}

const fn mask(extent: Extent) -> u32 {
    let ones = if extent.count >= u32::BITS { u32::MAX } else { (1 << extent.count) - 1 };
    ones << extent.first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(chunk: usize, first: u32, count: u32) -> Extent {
        Extent { chunk, first, count, pages: Pages::Fresh }
    }

    #[test]
    fn blocks_that_kept_their_pages_go_first_and_no_more_than_a_chunk_keep_them() {
        let mut free = FreeBlocks::default();
        free.add();
        free.add();
        free.take(64);
        let kept = Extent { pages: Pages::Kept, ..fresh(1, 7, 2) };
        free.give(fresh(0, 0, 8));
        free.give(kept);
        assert_eq!(free.may_keep(), 30);
        assert_eq!(free.take(5).as_slice(), [kept, fresh(0, 0, 3)]);
        assert_eq!(free.may_keep(), 32);
        free.give(Extent { pages: Pages::Kept, ..fresh(1, 0, 32) });
        assert_eq!(free.may_keep(), 0);
    }

    #[test]
    fn neighbours_come_together() {
        let mut free = FreeBlocks::default();
        assert_eq!(free.add(), 0);
        let all = free.take(32);
        assert_eq!(all.as_slice(), [fresh(0, 0, 32)]);
        assert!(free.take(1).is_empty());
        free.give(fresh(0, 3, 2));
        free.give(fresh(0, 10, 5));
        let five = free.take(5);
        assert_eq!(five.as_slice(), [fresh(0, 10, 5)]);
        assert_eq!(free.count(), 2);
    }

    #[test]
    fn what_does_not_fit_in_one_piece_comes_in_several() {
        let mut free = FreeBlocks::default();
        free.add();
        free.add();
        let forty = free.take(40);
        assert_eq!(forty.iter().map(|extent| extent.count).sum::<u32>(), 40);
        assert_eq!(forty.len(), 2);
        assert_eq!(free.count(), 24);
    }

    #[test]
    fn a_second_empty_chunk_goes_and_its_number_is_used_again() {
        let mut free = FreeBlocks::default();
        free.add();
        free.add();
        let all = free.take(64);
        assert_eq!(free.give(all[0]), None, "one empty chunk stays");
        assert_eq!(free.give(all[1]), Some(all[1].chunk));
        assert_eq!(free.count(), 32);
        assert_eq!(free.add(), all[1].chunk);
    }
}
