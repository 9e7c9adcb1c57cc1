//! The arena: who owns which part of the window.

use std::sync::Arc;

use range_alloc::RangeAllocator;
use rustix::io::Errno;

use super::{
    HostFaults, HostPages, HugePool, ShareFault, UserView,
    files::Files,
    kept::{Evicted, Kept},
    view::{HostSpan, ServiceView},
};
use crate::{
    sync::Mutex,
    units::{BLOCK_BYTES, PAGE_BYTES},
};

/// The window that is tried first; it is halved until the system grants it.
const WINDOW_BYTES: u64 = 1 << 40;
/// Below this there is no point in going on.
const SMALLEST_WINDOW_BYTES: u64 = 1 << 30;
/// The window's first part of so many is for small buffers.
const SMALL_PART: u64 = 4;
/// Buffers of this size and more get whole blocks; smaller ones share blocks at page granularity.
const LARGE_FROM_BYTES: u64 = 1 << 20;

/// Why host memory could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    /// The system refuses even the smallest window.
    #[error(
        "the system grants no address window of {asked_bytes} bytes ({source}); see `ulimit -v`"
    )]
    NoWindow {
        /// The smallest size tried.
        asked_bytes: u64,
        /// What it said.
        source: Errno,
    },
    /// Pages could not be taken out of the program's reach, so no device may use them.
    #[error("host pages could not be taken away from the program")]
    NotRevoked {
        /// What the system said.
        source: Errno,
    },
    /// Memory that other processes map too could not be had, shared or adopted.
    #[error("memory that several processes map")]
    NotShared(#[source] ShareFault),
    /// The system cannot map huge pages.
    #[error("the system has no huge pages of 2 MiB ({source}), which HostPages::Huge asks for")]
    NoHugePages {
        /// What it said.
        source: Errno,
    },
    /// The system's pool of huge pages has too few.
    #[error("too few huge pages of 2 MiB: {needed} are needed, {pool}; {}", pool.remedy(*needed))]
    TooFewHugePages {
        /// How many are needed.
        needed: u64,
        /// What the pool has.
        pool: HugePool,
    },
    /// The window has no free range of this length.
    #[error(
        "no room for {asked_bytes} bytes in an address window of {window_bytes} bytes; \
         drop vectors that are not needed any more"
    )]
    WindowFull {
        /// How much was asked for.
        asked_bytes: u64,
        /// How large the window is.
        window_bytes: u64,
    },
}

/// One address window and the free ranges in it.
#[derive(Debug)]
pub struct Arena {
    view: Arc<ServiceView>,
    free: Mutex<FreeRanges>,
    kept: Mutex<Kept>,
}

/// A span for a new vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Where it is.
    pub span: HostSpan,
    /// It has memory, which holds what a dropped vector left there; else it reads as zeros.
    pub is_used: bool,
}

/// Free ranges, in pages (the first quarter) and in blocks (the rest).
#[derive(Debug)]
struct FreeRanges {
    small_pages: RangeAllocator<u64>,
    /// Where other blocks are of huge pages: those that files of single vectors are mapped over, which have ordinary ones.
    file_blocks: Option<RangeAllocator<u64>>,
    large_blocks: RangeAllocator<u64>,
}

impl Arena {
    /// Reserves a window, the largest that the system grants up to 1 TiB. Memory is used as pages are touched.
    ///
    /// # Errors
    /// [`HostError::NoWindow`] when even 1 GiB is refused.
    pub fn new() -> Result<Self, HostError> {
        Self::of_pages(HostPages::Ordinary)
    }

    /// As [`Arena::new`], with large spans on pages of another size.
    ///
    /// # Errors
    /// [`HostError::NoWindow`]; [`HostError::NoHugePages`] and [`HostError::TooFewHugePages`] when not even one huge page can be had.
    pub fn of_pages(pages: HostPages) -> Result<Self, HostError> {
        let is_huge = pages == HostPages::Huge;
        if is_huge {
            // What the system lacks is told before what no size of window would change is tried for each.
            let one = HostSpan { offset_bytes: 0, len_bytes: BLOCK_BYTES };
            let files = Files::new(BLOCK_BYTES, Some(0));
            let files = files.map_err(|source| HostError::NoHugePages { source })?;
            reserve(&files, one)?;
        }
        let mut len_bytes = WINDOW_BYTES;
        let view = loop {
            let huge_from = is_huge.then_some(len_bytes / SMALL_PART);
            match Files::new(len_bytes, huge_from).and_then(ServiceView::map) {
                Ok(view) => break view,
                Err(_) if len_bytes > SMALLEST_WINDOW_BYTES => len_bytes /= 2,
                Err(source) => {
                    return Err(HostError::NoWindow { asked_bytes: len_bytes, source });
                }
            }
        };
        let large_from = len_bytes / SMALL_PART;
        let small_bytes = if is_huge { large_from / 2 } else { large_from };
        let blocks =
            |from: u64, end: u64| RangeAllocator::new(from / BLOCK_BYTES..end / BLOCK_BYTES);
        let free = FreeRanges {
            small_pages: RangeAllocator::new(0..small_bytes / PAGE_BYTES),
            file_blocks: is_huge.then(|| blocks(small_bytes, large_from)),
            large_blocks: blocks(large_from, len_bytes),
        };
        Ok(Self { view: Arc::new(view), free: Mutex::new(free), kept: Mutex::default() })
    }

    /// The mapping through which the library reads and writes the window.
    pub fn view(&self) -> &Arc<ServiceView> {
        &self.view
    }

    /// Maps the window a second time, for the program to touch.
    ///
    /// # Errors
    /// What the system refused.
    pub(crate) fn map_user_view(&self, asked: HostFaults) -> Result<UserView, Errno> {
        UserView::map(self.view.clone(), asked)
    }

    /// Takes a free span of `len_bytes`, rounded up to pages. It reads as zeros and costs nothing until it is touched, but for a place in the pool for
    /// each huge page.
    ///
    /// # Errors
    /// [`HostError::WindowFull`]; [`HostError::TooFewHugePages`].
    pub fn allocate(&self, len_bytes: u64) -> Result<HostSpan, HostError> {
        let full =
            HostError::WindowFull { asked_bytes: len_bytes, window_bytes: self.view.len_bytes() };
        if len_bytes > self.view.len_bytes() {
            return Err(full);
        }
        let pages = len_bytes.div_ceil(PAGE_BYTES);
        let len_bytes = pages * PAGE_BYTES;
        let mut free = self.free.lock();
        let offset_bytes = if len_bytes < LARGE_FROM_BYTES {
            free.small_pages.allocate_range(pages).map(|range| range.start * PAGE_BYTES)
        } else {
            let blocks = len_bytes.div_ceil(BLOCK_BYTES);
            free.large_blocks.allocate_range(blocks).map(|range| range.start * BLOCK_BYTES)
        };
        let span = HostSpan { offset_bytes: offset_bytes.map_err(|_| full)?, len_bytes };
        drop(free);
        reserve(self.view.files(), span).inspect_err(|_| self.put_back(span))?;
        Ok(span)
    }

    /// Takes free blocks of ordinary pages, `len_bytes` of whole blocks, for a file to be mapped over them.
    pub(super) fn allocate_for_file(&self, len_bytes: u64) -> Result<HostSpan, HostError> {
        let mut free = self.free.lock();
        let FreeRanges { file_blocks, large_blocks, .. } = &mut *free;
        let blocks = file_blocks.as_mut().unwrap_or(large_blocks);
        let range = blocks.allocate_range(len_bytes.div_ceil(BLOCK_BYTES)).map_err(|_| {
            HostError::WindowFull { asked_bytes: len_bytes, window_bytes: self.view.len_bytes() }
        })?;
        Ok(HostSpan { offset_bytes: range.start * BLOCK_BYTES, len_bytes })
    }

    /// Takes a span of `len_bytes`, rounded up to pages: a kept one, or a free one.
    ///
    /// # Errors
    /// [`HostError::WindowFull`]; kept spans may be in the way then, see `Arena::take_kept`.
    pub fn take(&self, len_bytes: u64) -> Result<Taken, HostError> {
        let rounded = len_bytes.checked_next_multiple_of(PAGE_BYTES);
        let kept = rounded.and_then(|len_bytes| self.kept.lock().take(len_bytes));
        match kept {
            Some(span) => Ok(Taken { span, is_used: true }),
            None => self.allocate(len_bytes).map(|span| Taken { span, is_used: false }),
        }
    }

    /// Keeps a span with its memory for the next [`Arena::take`] of the same length, as far as the limit allows. Nobody may use it any more;
    /// devices may keep it imported. What is returned has to be given to [`Arena::free`] in its place.
    pub(crate) fn keep(&self, span: HostSpan, limit_bytes: u64) -> Evicted {
        self.kept.lock().keep(span, limit_bytes)
    }

    /// Everything that is kept, to be given to [`Arena::free`].
    pub(crate) fn take_kept(&self) -> Evicted {
        self.kept.lock().take_all()
    }

    /// Bytes of host memory that are kept for the next vectors.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.lock().bytes()
    }

    /// Fills a span, which need not be whole pages, with zeros, whatever it held. Its memory stays, since a device may have it
    /// imported. Nobody else may use it meanwhile.
    pub fn zero(&self, span: HostSpan) {
        self.view.fill_with_zeros(span);
    }

    /// Gives a span back. `touched` is the part that may hold anything but zeros; its memory goes back to the system.
    /// Nobody may use the span any more, and no device keeps it imported.
    pub fn free(&self, span: HostSpan, touched: Option<HostSpan>) {
        if let Some(touched) = touched
            && let Err(error) = self.view.files().punch(touched)
        {
            // The span would no longer read as zeros, so it is never dealt out again.
            tracing::warn!(?span, %error, "could not give host pages back to the system");
            return;
        }
        self.put_back(span);
    }

    fn put_back(&self, span: HostSpan) {
        let mut free = self.free.lock();
        let FreeRanges { small_pages, file_blocks, large_blocks } = &mut *free;
        let first = span.offset_bytes / BLOCK_BYTES;
        let blocks = first..first + span.len_bytes.div_ceil(BLOCK_BYTES);
        if span.len_bytes < LARGE_FROM_BYTES {
            let first = span.offset_bytes / PAGE_BYTES;
            small_pages.free_range(first..first + span.len_bytes / PAGE_BYTES);
        } else if span.offset_bytes < self.view.len_bytes() / SMALL_PART
            && let Some(file_blocks) = file_blocks
        {
            file_blocks.free_range(blocks);
        } else {
            large_blocks.free_range(blocks);
        }
    }
}

fn reserve(files: &Files, span: HostSpan) -> Result<(), HostError> {
    files.reserve(span).map_err(|_| {
        let needed = span.len_bytes.div_ceil(BLOCK_BYTES);
        HostError::TooFewHugePages { needed, pool: HugePool::look() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_disjoint_aligned_and_reused() {
        let arena = Arena::new().unwrap();
        let small = arena.allocate(1).unwrap();
        let other = arena.allocate(PAGE_BYTES + 1).unwrap();
        let large = arena.allocate(3 << 20).unwrap();
        assert_eq!(small.len_bytes, PAGE_BYTES);
        assert_eq!(other.len_bytes, 2 * PAGE_BYTES);
        assert_eq!(large.offset_bytes % BLOCK_BYTES, 0);
        assert!(!small.overlaps(other) && !other.overlaps(large) && !small.overlaps(large));
        arena.free(large, None);
        assert_eq!(arena.allocate(4 << 20).unwrap().offset_bytes, large.offset_bytes);
    }

    #[test]
    fn the_boundary_size_is_freed_where_it_was_taken() {
        let arena = Arena::new().unwrap();
        for len_bytes in [LARGE_FROM_BYTES - 1, LARGE_FROM_BYTES, LARGE_FROM_BYTES + 1] {
            let span = arena.allocate(len_bytes).unwrap();
            arena.free(span, None);
            assert_eq!(arena.allocate(len_bytes).unwrap(), span);
            arena.free(span, None);
        }
    }

    #[test]
    fn a_full_window_says_so_in_numbers() {
        let arena = Arena::new().unwrap();
        let window_bytes = arena.view().len_bytes();
        let error = arena.allocate(window_bytes).unwrap_err();
        assert_eq!(error, HostError::WindowFull { asked_bytes: window_bytes, window_bytes });
        assert!(arena.allocate(u64::MAX).is_err());
    }
}
