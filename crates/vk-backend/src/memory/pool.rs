//! Which blocks of which chunk are free. Pure: bitmaps, one bit per block, 32 blocks per chunk.

use smallvec::SmallVec;

/// Blocks in a chunk.
pub(crate) const CHUNK_BLOCKS: u32 = u32::BITS;

/// Neighbouring blocks of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) chunk: usize,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// The free blocks of every chunk; a chunk that is gone has none.
#[derive(Debug, Default)]
pub(crate) struct FreeBlocks {
    /// Bit `i` of a chunk is set when its block `i` is free.
    chunks: Vec<Option<u32>>,
}

impl FreeBlocks {
    /// How many blocks are free.
    pub(crate) fn count(&self) -> u64 {
        self.chunks.iter().flatten().map(|free| u64::from(free.count_ones())).sum()
    }

    /// Adds a chunk whose blocks are all free, and returns its number.
    pub(crate) fn add(&mut self) -> usize {
        let vacant = self.chunks.iter().position(Option::is_none);
        let number = vacant.unwrap_or_else(|| {
            self.chunks.push(None);
            self.chunks.len() - 1
        });
        self.chunks[number] = Some(u32::MAX);
        number
    }

    /// Takes `count` blocks, which are free, in as few extents as the first fit gives.
    pub(crate) fn take(&mut self, mut count: u64) -> SmallVec<[Extent; 4]> {
        let mut taken = SmallVec::new();
        while count > 0 {
            let Some(extent) = self.longest(count.min(u64::from(CHUNK_BLOCKS)) as u32) else {
                break;
            };
            if let Some(Some(free)) = self.chunks.get_mut(extent.chunk) {
                *free &= !mask(extent);
            }
            count -= u64::from(extent.count);
            taken.push(extent);
        }
        taken
    }

    /// The first run of `most` free blocks, or the longest there is.
    fn longest(&self, most: u32) -> Option<Extent> {
        let mut best: Option<Extent> = None;
        for (chunk, free) in self.chunks.iter().enumerate() {
            let mut rest = free.unwrap_or(0);
            while rest != 0 {
                let first = rest.trailing_zeros();
                let run = (rest >> first).trailing_ones();
                let found = Extent { chunk, first, count: run.min(most) };
                if found.count == most {
                    return Some(found);
                }
                if best.is_none_or(|best| best.count < found.count) {
                    best = Some(found);
                }
                rest &= !mask(Extent { chunk, first, count: run });
            }
        }
        best
    }

    /// Gives blocks back. The chunk's number is returned when it is all free and another chunk is too: then it can go.
    pub(crate) fn give(&mut self, extent: Extent) -> Option<usize> {
        let free = self.chunks.get_mut(extent.chunk)?.as_mut()?;
        debug_assert!(*free & mask(extent) == 0, "a block is given back twice");
        *free |= mask(extent);
        if *free != u32::MAX {
            return None;
        }
        // One empty chunk stays, so that a block which comes and goes does not cost two driver calls each time.
        if self.chunks.iter().flatten().filter(|free| **free == u32::MAX).count() > 1 {
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

    #[test]
    fn neighbours_come_together() {
        let mut free = FreeBlocks::default();
        assert_eq!(free.add(), 0);
        let all = free.take(32);
        assert_eq!(all.as_slice(), [Extent { chunk: 0, first: 0, count: 32 }]);
        assert!(free.take(1).is_empty());
        free.give(Extent { chunk: 0, first: 3, count: 2 });
        free.give(Extent { chunk: 0, first: 10, count: 5 });
        let five = free.take(5);
        assert_eq!(five.as_slice(), [Extent { chunk: 0, first: 10, count: 5 }]);
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
