//! Elements that somebody else may write at the same time: copied in and out, never borrowed.
//!
//! A `&[T]` says that nobody writes. Of memory that a peer or another process may write, that cannot be said, so there are no slices of it: bytes are
//! copied by volatile loads and stores, a word at a time. What is read while somebody writes may be torn, and is still a `T`, since any bytes are.
#![allow(unsafe_code, reason = "volatile access to memory that others write")]

use bytemuck::Pod;

use super::SharedVec;
use crate::{
    access::Access, directory::PageSpan, engine::Request, error::Error, units::PAGE_BYTES,
};

const WORD: usize = size_of::<u64>();

impl<T: Pod> SharedVec<T> {
    /// Copies elements out, from `start` on.
    pub(super) fn copy_out(&self, start: usize, elements: &mut [T]) -> Result<(), Error> {
        let range = self.resolve(start..start.saturating_add(elements.len()))?;
        let bytes = bytemuck::cast_slice_mut(elements);
        self.each_page(Self::bytes(&range), Access::Read, |from, part| {
            // SAFETY: `each_page` gives a pointer to as many mapped bytes as the part has; the slice is ours alone.
            unsafe { read(from, &mut bytes[part]) }
        })
    }

    /// Copies elements in, from `start` on.
    pub(super) fn copy_in(&self, start: usize, elements: &[T]) -> Result<(), Error> {
        let range = self.resolve(start..start.saturating_add(elements.len()))?;
        let bytes = bytemuck::cast_slice(elements);
        self.each_page(Self::bytes(&range), Access::Update, |to, part| {
            // SAFETY: as in `copy_out`; the bytes are mapped for writing, else the access would have been refused, and nobody has a reference to
            // them: vectors that others may write give none.
            unsafe { write(to, &bytes[part]) }
        })
    }

    /// Makes the pages of a byte range good, one after the other, and has each looked at: a pointer to its first byte in the range, and which part of the
    /// range it is.
    pub(super) fn each_page(
        &self,
        bytes: std::ops::Range<u64>,
        access: Access,
        mut work: impl FnMut(*mut u8, std::ops::Range<usize>),
    ) -> Result<(), Error> {
        let inner = self.runtime.inner();
        let mut at = bytes.start;
        while at < bytes.end {
            let end = bytes.end.min((at / PAGE_BYTES + 1) * PAGE_BYTES);
            let request = Request::by_host(access, PageSpan::touching(&(at..end)));
            let part = (at - bytes.start) as usize..(end - bytes.start) as usize;
            inner.with_host_pages(&self.buffer, request, |page: *mut u8| {
                work(page.wrapping_add((at % PAGE_BYTES) as usize), part);
            })?;
            at = end;
        }
        Ok(())
    }
}

/// # Safety
/// `from` is good for reads of as many bytes as `to` has. Others may write them.
unsafe fn read(from: *const u8, to: &mut [u8]) {
    let head = from.align_offset(WORD).min(to.len());
    let (first, rest) = to.split_at_mut(head);
    let (words, last) = rest.as_chunks_mut::<WORD>();
    let middle = from.wrapping_add(head);
    let tail = middle.wrapping_add(words.len() * WORD);
    // SAFETY: all of it lies in the bytes that the caller vouches for; `middle` is aligned to words, unless there is no word.
    unsafe {
        first.iter_mut().enumerate().for_each(|(i, b)| *b = from.wrapping_add(i).read_volatile());
        for (i, word) in words.iter_mut().enumerate() {
            *word = middle.cast::<u64>().wrapping_add(i).read_volatile().to_ne_bytes();
        }
        last.iter_mut().enumerate().for_each(|(i, b)| *b = tail.wrapping_add(i).read_volatile());
    }
}

/// # Safety
/// `to` is good for writes of as many bytes as `from` has, and no reference to them exists. Others may use them.
unsafe fn write(to: *mut u8, from: &[u8]) {
    let head = to.align_offset(WORD).min(from.len());
    let (first, rest) = from.split_at(head);
    let (words, last) = rest.as_chunks::<WORD>();
    let middle = to.wrapping_add(head);
    let tail = middle.wrapping_add(words.len() * WORD);
    // SAFETY: as in `read`.
    unsafe {
        first.iter().enumerate().for_each(|(i, b)| to.wrapping_add(i).write_volatile(*b));
        for (i, word) in words.iter().enumerate() {
            middle.cast::<u64>().wrapping_add(i).write_volatile(u64::from_ne_bytes(*word));
        }
        last.iter().enumerate().for_each(|(i, b)| tail.wrapping_add(i).write_volatile(*b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_at_every_offset_is_copied_and_nothing_beside_it() {
        for offset in 0..9 {
            for len in 0..40 {
                let source: Vec<u8> = (0..60).collect();
                let mut copy = vec![0; len];
                // SAFETY: `offset + len` is less than 60.
                unsafe { read(source.as_ptr().wrapping_add(offset), &mut copy) };
                assert_eq!(copy, source[offset..offset + len]);
                let mut target = vec![255; 60];
                // SAFETY: as above; the vector is not borrowed meanwhile.
                unsafe { write(target.as_mut_ptr().wrapping_add(offset), &copy) };
                assert_eq!(target[offset..offset + len], source[offset..offset + len]);
                let beside = target[..offset].iter().chain(&target[offset + len..]);
                assert!(beside.into_iter().all(|byte| *byte == 255));
            }
        }
    }
}
