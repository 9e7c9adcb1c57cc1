//! Which bytes of a window are whose. Pure.
//!
//! A reservation is made of blocks, and a block that is backed is made of whole pages anywhere in the window: the lowest that are free. So no memory is ever too
//! scattered to be used, and what is scattered is put together again by whoever maps it.

use std::{collections::BTreeMap, ops::Range};

use hmmap_core::{
    backend::MemoryId,
    units::{BLOCK_BYTES, PAGE_BYTES, blocks_for},
};

/// Neighbouring bytes of the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) at_bytes: u64,
    pub(crate) len_bytes: u64,
}

/// One reservation: where each of its blocks is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Region {
    len_bytes: u64,
    /// `None`: not backed.
    blocks: Vec<Option<Vec<Piece>>>,
}

/// Why a call makes no sense, or there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PlaceFault {
    /// There is no such memory, or it is shorter.
    Outside,
    /// Backed already, or not backed.
    Backing,
    /// Fewer pages are free.
    Full { asked_bytes: u64 },
}

/// All of one window.
#[derive(Debug)]
pub(crate) struct Places {
    /// By page.
    used: Vec<bool>,
    regions: BTreeMap<u64, Region>,
    next: u64,
}

impl Places {
    /// Nothing of these bytes is used; what is no whole page at the end never is.
    pub(crate) fn new(len_bytes: u64) -> Self {
        let used = vec![false; (len_bytes / PAGE_BYTES) as usize];
        Self { used, regions: BTreeMap::new(), next: BLOCK_BYTES }
    }

    /// A new reservation without memory. Its number is its address, which means nothing to anybody else.
    pub(crate) fn reserve(&mut self, len_bytes: u64) -> MemoryId {
        let blocks = blocks_for(len_bytes);
        let number = self.next;
        self.next += (blocks + 1) * BLOCK_BYTES;
        let blocks = vec![None; blocks as usize];
        self.regions.insert(number, Region { len_bytes, blocks });
        MemoryId(number)
    }

    /// Puts memory under whole blocks: all of the ranges, or none.
    pub(crate) fn back(
        &mut self,
        memory: MemoryId,
        ranges: &[Range<u64>],
    ) -> Result<(), PlaceFault> {
        let region = self.regions.get_mut(&memory.0).ok_or(PlaceFault::Outside)?;
        let mut blocks = Vec::new();
        let mut asked_bytes = 0;
        for range in ranges {
            for block in region.blocks_of(range)? {
                if region.blocks[block].is_some() || blocks.contains(&block) {
                    return Err(PlaceFault::Backing);
                }
                blocks.push(block);
                asked_bytes += region.block_bytes(block).next_multiple_of(PAGE_BYTES);
            }
        }
        let free = self.used.iter().filter(|used| !**used).count() as u64;
        if asked_bytes > free * PAGE_BYTES {
            return Err(PlaceFault::Full { asked_bytes });
        }
        for block in blocks {
            let pages = region.block_bytes(block).div_ceil(PAGE_BYTES);
            region.blocks[block] = Some(take(&mut self.used, pages));
        }
        Ok(())
    }

    /// Takes the memory from under whole blocks that are backed. Those before a fault are without memory then.
    pub(crate) fn unback(
        &mut self,
        memory: MemoryId,
        ranges: &[Range<u64>],
    ) -> Result<(), PlaceFault> {
        let region = self.regions.get_mut(&memory.0).ok_or(PlaceFault::Outside)?;
        for range in ranges {
            for block in region.blocks_of(range)? {
                let pieces = region.blocks[block].take().ok_or(PlaceFault::Backing)?;
                give(&mut self.used, &pieces);
            }
        }
        Ok(())
    }

    /// Ends a reservation.
    pub(crate) fn release(&mut self, memory: MemoryId) -> Result<(), PlaceFault> {
        let region = self.regions.remove(&memory.0).ok_or(PlaceFault::Outside)?;
        region.blocks.iter().flatten().for_each(|pieces| give(&mut self.used, pieces));
        Ok(())
    }

    pub(crate) fn region(&self, memory: MemoryId) -> Result<&Region, PlaceFault> {
        self.regions.get(&memory.0).ok_or(PlaceFault::Outside)
    }
}

impl Region {
    /// Where these bytes are, in their order.
    ///
    /// # Errors
    /// Not all of them are backed.
    pub(crate) fn pieces(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<Vec<Piece>, PlaceFault> {
        let end = offset_bytes.checked_add(len_bytes).ok_or(PlaceFault::Outside)?;
        // A vector may end within its last page, which is backed whole.
        if end > self.len_bytes.next_multiple_of(PAGE_BYTES) {
            return Err(PlaceFault::Outside);
        }
        let mut found: Vec<Piece> = Vec::new();
        for number in offset_bytes / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
            let block = self.blocks.get(number as usize).ok_or(PlaceFault::Outside)?;
            let mut start = number * BLOCK_BYTES;
            for piece in block.as_ref().ok_or(PlaceFault::Backing)? {
                let (from, to) = (start.max(offset_bytes), (start + piece.len_bytes).min(end));
                if from < to {
                    push(&mut found, piece.at_bytes + (from - start), to - from);
                }
                start += piece.len_bytes;
            }
        }
        Ok(found)
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn block_bytes(&self, block: usize) -> u64 {
        (self.len_bytes - block as u64 * BLOCK_BYTES).min(BLOCK_BYTES)
    }

    fn blocks_of(&self, range: &Range<u64>) -> Result<Range<usize>, PlaceFault> {
        let ends = range.end.is_multiple_of(BLOCK_BYTES) || range.end == self.len_bytes;
        let fits = range.start < range.end && range.end <= self.len_bytes;
        if !fits || !ends || !range.start.is_multiple_of(BLOCK_BYTES) {
            return Err(PlaceFault::Outside);
        }
        Ok((range.start / BLOCK_BYTES) as usize..blocks_for(range.end) as usize)
    }
}

/// Adds bytes of the window, joined to the last where they follow it.
fn push(pieces: &mut Vec<Piece>, at_bytes: u64, len_bytes: u64) {
    match pieces.last_mut() {
        Some(last) if last.at_bytes + last.len_bytes == at_bytes => last.len_bytes += len_bytes,
        _ => pieces.push(Piece { at_bytes, len_bytes }),
    }
}

/// The lowest free pages; the caller has counted them.
fn take(used: &mut [bool], count: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let free = used.iter_mut().enumerate().filter(|(_, used)| !**used);
    for (page, used) in free.take(count as usize) {
        *used = true;
        push(&mut pieces, page as u64 * PAGE_BYTES, PAGE_BYTES);
    }
    pieces
}

fn give(used: &mut [bool], pieces: &[Piece]) {
    for Piece { at_bytes, len_bytes } in pieces {
        let pages = at_bytes / PAGE_BYTES..(at_bytes + len_bytes) / PAGE_BYTES;
        used[pages.start as usize..pages.end as usize].fill(false);
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use proptest::prelude::*;

    use super::*;

    fn piece(first_page: u64, pages: u64) -> Piece {
        Piece { at_bytes: first_page * PAGE_BYTES, len_bytes: pages * PAGE_BYTES }
    }

    #[test]
    fn blocks_are_put_together_from_what_is_free() {
        let mut places = Places::new(70 * PAGE_BYTES + 5);
        let [a, b, c] = [2, 2, 40].map(|pages| places.reserve(pages * PAGE_BYTES));
        let two = slice::from_ref(&(0..2 * PAGE_BYTES));
        places.back(a, two).unwrap();
        places.back(b, two).unwrap();
        places.release(a).unwrap();
        places.back(c, &[0..BLOCK_BYTES, BLOCK_BYTES..40 * PAGE_BYTES]).unwrap();
        let whole = places.region(c).unwrap().pieces(0, 40 * PAGE_BYTES).unwrap();
        assert_eq!(whole, [piece(0, 2), piece(4, 38)]);
        let inside = places.region(c).unwrap().pieces(PAGE_BYTES + 100, PAGE_BYTES).unwrap();
        let cut = [
            Piece { at_bytes: PAGE_BYTES + 100, len_bytes: PAGE_BYTES - 100 },
            Piece { at_bytes: 4 * PAGE_BYTES, len_bytes: 100 },
        ];
        assert_eq!(inside, cut);
        // 28 are left.
        let d = places.reserve(29 * PAGE_BYTES);
        let full = PlaceFault::Full { asked_bytes: 29 * PAGE_BYTES };
        assert_eq!(places.back(d, slice::from_ref(&(0..29 * PAGE_BYTES))), Err(full));
        assert_eq!(places.region(d).unwrap().pieces(0, 1), Err(PlaceFault::Backing));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_changes_nothing() {
        let mut places = Places::new(64 * PAGE_BYTES);
        let a = places.reserve(40 * PAGE_BYTES);
        let nobody = MemoryId(7);
        assert_eq!(places.back(nobody, &[]), Err(PlaceFault::Outside));
        assert_eq!(places.unback(nobody, &[]), Err(PlaceFault::Outside));
        assert_eq!(places.release(nobody), Err(PlaceFault::Outside));
        let odd = [0..PAGE_BYTES, PAGE_BYTES..BLOCK_BYTES, 0..0, 0..2 * BLOCK_BYTES];
        for range in odd {
            assert_eq!(places.back(a, slice::from_ref(&range)), Err(PlaceFault::Outside));
        }
        let twice = [0..BLOCK_BYTES, 0..BLOCK_BYTES];
        assert_eq!(places.back(a, &twice), Err(PlaceFault::Backing));
        assert!(places.used.iter().all(|used| !used));
        places.back(a, &[0..BLOCK_BYTES, BLOCK_BYTES..40 * PAGE_BYTES]).unwrap();
        let whole = places.region(a).unwrap();
        assert_eq!(whole.pieces(0, 40 * PAGE_BYTES + 1), Err(PlaceFault::Outside));
        assert_eq!(whole.pieces(1, u64::MAX), Err(PlaceFault::Outside));
    }

    proptest! {
        /// No two bytes share a place, and everything comes back.
        #[test]
        fn nothing_meets_and_nothing_is_lost(
            calls in proptest::collection::vec((0..3_u8, 1..70_u64, any::<usize>()), 1..40),
        ) {
            let mut places = Places::new(100 * PAGE_BYTES);
            let mut held: Vec<(MemoryId, u64)> = Vec::new();
            for (what, pages, which) in calls {
                let len_bytes = pages * PAGE_BYTES;
                if what == 0 && !held.is_empty() {
                    let (memory, _) = held.swap_remove(which % held.len());
                    places.release(memory).unwrap();
                    continue;
                }
                let memory = places.reserve(len_bytes);
                let in_use: u64 = held.iter().map(|(_, pages)| pages).sum();
                match places.back(memory, slice::from_ref(&(0..len_bytes))) {
                    Ok(()) => held.push((memory, pages)),
                    Err(fault) => {
                        prop_assert_eq!(fault, PlaceFault::Full { asked_bytes: len_bytes });
                        prop_assert!(in_use + pages > 100);
                        places.release(memory).unwrap();
                    }
                }
                let mut seen = [false; 100];
                for (memory, pages) in &held {
                    for piece in places.region(*memory).unwrap().pieces(0, pages * PAGE_BYTES).unwrap() {
                        for page in piece.at_bytes / PAGE_BYTES..(piece.at_bytes + piece.len_bytes) / PAGE_BYTES {
                            prop_assert!(!std::mem::replace(&mut seen[page as usize], true));
                        }
                    }
                }
                prop_assert_eq!(&seen[..], &places.used[..]);
            }
        }
    }
}
