//! Which I/O virtual addresses are free. Pure.
//!
//! **Problem.** A device behind an IOMMU uses addresses that we choose. Not all will do: the hardware has so many bits, windows in between belong to
//! interrupts, and a device may have shorter legs than its IOMMU. Two mappings must not meet.
//!
//! Lowest fit first, so that devices with few address bits find room as long as there is any.

use std::{collections::BTreeMap, ops::RangeInclusive};

/// Why there is no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IovaError {
    /// No free range is long enough within the device's reach.
    #[error("no {len_bytes} neighbouring I/O addresses are free up to {highest:#x}")]
    Exhausted {
        /// How many were asked for, in bytes of whole pages.
        len_bytes: u64,
        /// The highest address that the device can use.
        highest: u64,
    },
    /// Nothing, more than there are addresses, or an alignment that is no power of two.
    #[error("{len_bytes} bytes aligned to {alignment_bytes} cannot be had anywhere")]
    Request {
        /// How many were asked for, in bytes.
        len_bytes: u64,
        /// What the first address was to be a multiple of, in bytes.
        alignment_bytes: u64,
    },
    /// It was not given out, or was given back already.
    #[error("the I/O address {iova:#x} is not in use")]
    NotInUse {
        /// The address.
        iova: u64,
    },
}

/// The I/O addresses of one IOMMU domain: free ones and those in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IovaSpace {
    page_bytes: u64,
    /// First to last address.
    free: BTreeMap<u64, u64>,
    in_use: BTreeMap<u64, u64>,
}

impl IovaSpace {
    /// Everything in `ranges` is free, in whole pages of `page_bytes`, which is a power of two (the next one is taken where it is not).
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<u64>>, page_bytes: u64) -> Self {
        let page_bytes = page_bytes.max(1).checked_next_power_of_two().unwrap_or(1 << 63);
        let mut space = Self { page_bytes, free: BTreeMap::new(), in_use: BTreeMap::new() };
        for range in ranges {
            if let Some((first, last)) = space.whole_pages(*range.start(), *range.end()) {
                space.exclude(first..=last);
                space.insert_free(first, last);
            }
        }
        space
    }

    /// The unit, in bytes.
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// How many addresses are in use, in bytes.
    pub fn in_use_bytes(&self) -> u64 {
        self.in_use.iter().fold(0, |sum, (first, last)| sum.saturating_add(last - first + 1))
    }

    /// Where each allocation begins that is in use.
    pub fn in_use(&self) -> Vec<u64> {
        self.in_use.keys().copied().collect()
    }

    /// How many allocations are in use.
    pub fn in_use_count(&self) -> usize {
        self.in_use.len()
    }

    /// Takes a window out for good: no address of it is given out any more. What is in use stays in use.
    pub fn exclude(&mut self, window: RangeInclusive<u64>) {
        let (from, to) = window.into_inner();
        if from > to {
            return;
        }
        let mask = self.page_bytes - 1;
        let (from, to) = (from & !mask, to | mask);
        let touched: Vec<(u64, u64)> = self
            .free
            .range(..=to)
            .rev()
            .take_while(|(_, last)| **last >= from)
            .map(|(first, last)| (*first, *last))
            .collect();
        for (first, last) in touched {
            self.free.remove(&first);
            if first < from {
                self.free.insert(first, from - 1);
            }
            if last > to {
                self.free.insert(to + 1, last);
            }
        }
    }

    /// The lowest free addresses for `len_bytes` (rounded up to whole pages), none above `highest`.
    ///
    /// # Errors
    /// [`IovaError::Exhausted`]; [`IovaError::Request`].
    pub fn allocate(
        &mut self,
        len_bytes: u64,
        alignment_bytes: u64,
        highest: u64,
    ) -> Result<u64, IovaError> {
        let refused = IovaError::Request { len_bytes, alignment_bytes };
        let len_bytes = len_bytes.checked_next_multiple_of(self.page_bytes).ok_or(refused)?;
        if len_bytes == 0 || !alignment_bytes.is_power_of_two() {
            return Err(refused);
        }
        let alignment_bytes = alignment_bytes.max(self.page_bytes);
        let fit = self.free.iter().find_map(|(&first, &last)| {
            let iova = first.checked_next_multiple_of(alignment_bytes)?;
            let end = iova.checked_add(len_bytes - 1)?;
            (end <= last.min(highest)).then_some((first, last, iova, end))
        });
        let (first, last, iova, end) = fit.ok_or(IovaError::Exhausted { len_bytes, highest })?;
        self.free.remove(&first);
        if first < iova {
            self.free.insert(first, iova - 1);
        }
        if end < last {
            self.free.insert(end + 1, last);
        }
        self.in_use.insert(iova, end);
        Ok(iova)
    }

    /// How many bytes were allocated at `iova`.
    ///
    /// # Errors
    /// [`IovaError::NotInUse`].
    pub fn len_bytes(&self, iova: u64) -> Result<u64, IovaError> {
        let last = self.in_use.get(&iova).ok_or(IovaError::NotInUse { iova })?;
        Ok(last - iova + 1)
    }

    /// Gives an allocation back.
    ///
    /// # Errors
    /// [`IovaError::NotInUse`].
    pub fn release(&mut self, iova: u64) -> Result<(), IovaError> {
        let last = self.in_use.remove(&iova).ok_or(IovaError::NotInUse { iova })?;
        self.insert_free(iova, last);
        Ok(())
    }

    /// Joins with its neighbours.
    fn insert_free(&mut self, mut first: u64, mut last: u64) {
        if let Some((&before, &end)) = self.free.range(..first).next_back()
            && end.checked_add(1) == Some(first)
        {
            self.free.remove(&before);
            first = before;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(end) = self.free.remove(&next)
        {
            last = end;
        }
        self.free.insert(first, last);
    }

    fn whole_pages(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let mask = self.page_bytes - 1;
        let first = first.checked_next_multiple_of(self.page_bytes)?;
        let last = if last & mask == mask { last } else { (last & !mask).checked_sub(1)? };
        (first <= last).then_some((first, last))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Intel's IOMMU leaves beside the window for interrupts.
    fn intel() -> IovaSpace {
        let high = 0xfef0_0000..=0xffff_ffff_ffff;
        IovaSpace::new([0..=0xfedf_ffff, high], 0x1000)
    }

    #[test]
    fn the_lowest_fit_is_given_and_what_comes_back_is_given_again() {
        let mut space = intel();
        space.exclude(0..=0xfff);
        assert_eq!(space.allocate(0x1800, 1, u64::MAX), Ok(0x1000));
        assert_eq!(space.allocate(0x1000, 0x1_0000, u64::MAX), Ok(0x1_0000));
        assert_eq!(space.allocate(0x1000, 1, u64::MAX), Ok(0x3000));
        assert_eq!(space.in_use_bytes(), 0x4000);
        space.release(0x1000).unwrap();
        assert_eq!(space.release(0x1000), Err(IovaError::NotInUse { iova: 0x1000 }));
        assert_eq!(space.allocate(0x2000, 1, u64::MAX), Ok(0x1000));
    }

    #[test]
    fn a_device_with_short_legs_and_the_interrupt_window_are_respected() {
        let mut space = intel();
        let highest = (1 << 28) - 1;
        assert_eq!(space.allocate(1 << 28, 1, highest), Ok(0));
        let exhausted = IovaError::Exhausted { len_bytes: 0x1000, highest };
        assert_eq!(space.allocate(1, 1, highest), Err(exhausted));
        let rest = 0xfee0_0000 - (1 << 28);
        assert_eq!(space.allocate(rest, 1, u64::MAX), Ok(1 << 28));
        assert_eq!(space.allocate(1, 1, u64::MAX), Ok(0xfef0_0000));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_changes_nothing() {
        let mut space = IovaSpace::new([0..=u64::MAX], 0x1000);
        let before = space.clone();
        for (len_bytes, alignment_bytes) in [(0, 1), (u64::MAX, 1), (1, 0), (1, 3)] {
            let refused = IovaError::Request { len_bytes, alignment_bytes };
            assert_eq!(space.allocate(len_bytes, alignment_bytes, u64::MAX), Err(refused));
        }
        assert_eq!(space, before);
        let last = u64::MAX - 0xfff;
        assert_eq!(space.allocate(0x1000, 1, 0xffe).unwrap_err(), {
            IovaError::Exhausted { len_bytes: 0x1000, highest: 0xffe }
        });
        space.exclude(0..=last - 1);
        assert_eq!(space.allocate(0x1000, 1, u64::MAX), Ok(last));
        space.release(last).unwrap();
        assert_eq!(IovaSpace::new([1..=0xffe, 0x1001..=0x1ffe], 0x1000).free, BTreeMap::new());
    }

    const SPACE_BYTES: u64 = 64 * 0x1000;

    proptest! {
        /// Against one flag per page.
        #[test]
        fn nothing_meets_and_nothing_is_lost(
            window in (0..64_u64, 0..8_u64),
            highest_page in 0..64_u64,
            calls in proptest::collection::vec((any::<bool>(), 1..0x9000_u64, 0..4_u32, any::<usize>()), 1..80),
        ) {
            let mut space = IovaSpace::new([0..=SPACE_BYTES - 1], 0x1000);
            let (reserved, count) = window;
            let excluded = reserved..(reserved + count).min(64);
            if !excluded.is_empty() {
                space.exclude(excluded.start * 0x1000..=excluded.end * 0x1000 - 1);
            }
            let highest = highest_page * 0x1000 + 0xfff;
            let mut taken = [false; 64];
            taken[excluded.start as usize..excluded.end as usize].fill(true);
            let start = taken;
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (gives_back, len_bytes, alignment, which) in calls {
                if gives_back && !held.is_empty() {
                    let (iova, pages) = held.swap_remove(which % held.len());
                    prop_assert_eq!(space.len_bytes(iova), Ok(pages * 0x1000));
                    prop_assert_eq!(space.release(iova), Ok(()));
                    taken[(iova / 0x1000) as usize..][..pages as usize].fill(false);
                    continue;
                }
                let pages = len_bytes.div_ceil(0x1000);
                let step = 1_u64 << alignment;
                let expected = (0..64).step_by(step as usize).find(|first| {
                    first + pages <= highest_page + 1
                        && (*first..first + pages).all(|page| !taken[page as usize])
                });
                match (space.allocate(len_bytes, step * 0x1000, highest), expected) {
                    (Ok(iova), Some(first)) => {
                        prop_assert_eq!(iova, first * 0x1000);
                        taken[first as usize..][..pages as usize].fill(true);
                        held.push((iova, pages));
                    }
                    (Err(_), None) => {}
                    (found, expected) => prop_assert!(false, "{:?}, expected {:?}", found, expected),
                }
                prop_assert_eq!(space.in_use_count(), held.len());
            }
            for (iova, _) in held.drain(..) {
                space.release(iova).unwrap();
            }
            let free: u64 = space.free.iter().map(|(first, last)| last - first + 1).sum();
            prop_assert_eq!(free / 0x1000, start.iter().filter(|taken| !**taken).count() as u64);
        }
    }
}
