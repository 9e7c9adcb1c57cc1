//! Words that several write at once, read and changed as one: for vectors that others may write ([`Lent`], [`Imported`]).
//!
//! A volatile store is whole, where it is an aligned word, and says nothing about what was written before it. A flag, a ring's head or a counter that owner and peer
//! both change needs more. These are the processor's atomic operations on the host's memory, all sequentially consistent: what was written before one by a side is
//! seen by the other side after it, if that side uses atomic operations too (or a device whose writes arrive in order).
#![allow(unsafe_code, reason = "atomic access to memory that others write")]

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

use super::{Imported, Lent, SharedVec};
use crate::{access::Access, error::Error};

/// Integers of 4 or 8 bytes, which the processor changes as one.
pub trait AtomicWord: sealed::Word {}

mod sealed {
    use bytemuck::Pod;

    pub trait Word: Pod {
        /// Does it, and gives what was there before.
        ///
        /// # Safety
        /// `at` is aligned and good for reads, and for writes unless the operation is [`Operation::Load`]; no reference to it exists.
        unsafe fn apply(at: *mut Self, operation: Operation<Self>) -> Self;
    }

    #[derive(Clone, Copy, Debug)]
    pub enum Operation<T> {
        Load,
        Swap(T),
        /// Round the end.
        Add(T),
        /// Swaps where the first is there.
        Exchange(T, T),
    }
}

use sealed::Operation;

macro_rules! words {
    ($($word:ty: $atomic:ty),*) => {$(
        impl AtomicWord for $word {}

        impl sealed::Word for $word {
            unsafe fn apply(at: *mut Self, operation: Operation<Self>) -> Self {
                // SAFETY: the caller vouches for alignment and for the bytes. Whoever uses them meanwhile is outside of this language, or uses atomic or
                // volatile operations of a word, by the rules of lent and imported memory.
                let word = unsafe { <$atomic>::from_ptr(at) };
                match operation {
                    Operation::Load => word.load(SeqCst),
                    Operation::Swap(new) => word.swap(new, SeqCst),
                    Operation::Add(what) => word.fetch_add(what, SeqCst),
                    Operation::Exchange(known, new) => word
                        .compare_exchange(known, new, SeqCst, SeqCst)
                        .unwrap_or_else(|found| found),
                }
            }
        }
    )*};
}

words!(u32: AtomicU32, i32: AtomicI32, u64: AtomicU64, i64: AtomicI64);

impl<T: AtomicWord> SharedVec<T> {
    fn atomic(&self, at: usize, operation: Operation<T>) -> Result<T, Error> {
        let range = self.resolve(at..at.saturating_add(1))?;
        let access =
            if matches!(operation, Operation::Load) { Access::Read } else { Access::Update };
        let mut before = T::zeroed();
        self.each_page(Self::bytes(&range), access, |word, _| {
            // SAFETY: `each_page` gives a pointer to the element's mapped bytes, for writing if the access says so; an element of 4 or 8 bytes lies in one page and
            // is aligned, as the vector is; vectors that others may write give no references.
            before = unsafe { T::apply(word.cast(), operation) };
        })?;
        Ok(before)
    }
}

impl<T: AtomicWord> Lent<T> {
    /// One element, with all that its writer wrote before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn atomic_load(&self, at: usize) -> Result<T, Error> {
        self.vec.atomic(at, Operation::Load)
    }

    /// Puts `new` there and gives what was there before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn atomic_swap(&self, at: usize, new: T) -> Result<T, Error> {
        self.vec.atomic(at, Operation::Swap(new))
    }

    /// Adds, round the end of the type, and gives what was there before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn atomic_add(&self, at: usize, what: T) -> Result<T, Error> {
        self.vec.atomic(at, Operation::Add(what))
    }

    /// Puts `new` there if `known` is there, and gives what was there before: `known`, if it was done.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn atomic_exchange(&self, at: usize, known: T, new: T) -> Result<T, Error> {
        self.vec.atomic(at, Operation::Exchange(known, new))
    }
}

impl<T: AtomicWord> Imported<T> {
    /// As [`Lent::atomic_load`]; the page is asked for, for reading.
    ///
    /// # Errors
    /// As [`Imported::copy_to`].
    pub fn atomic_load(&self, at: usize) -> Result<T, Error> {
        self.vec.atomic(at, Operation::Load)
    }

    /// As [`Lent::atomic_swap`]; the page is asked for, for writing.
    ///
    /// # Errors
    /// As [`Imported::copy_to`].
    pub fn atomic_swap(&mut self, at: usize, new: T) -> Result<T, Error> {
        self.vec.atomic(at, Operation::Swap(new))
    }

    /// As [`Lent::atomic_add`]; the page is asked for, for writing.
    ///
    /// # Errors
    /// As [`Imported::copy_to`].
    pub fn atomic_add(&mut self, at: usize, what: T) -> Result<T, Error> {
        self.vec.atomic(at, Operation::Add(what))
    }

    /// As [`Lent::atomic_exchange`]; the page is asked for, for writing.
    ///
    /// # Errors
    /// As [`Imported::copy_to`].
    pub fn atomic_exchange(&mut self, at: usize, known: T, new: T) -> Result<T, Error> {
        self.vec.atomic(at, Operation::Exchange(known, new))
    }
}
