//! Whether the host may touch a vector's memory without asking first.
#![allow(unsafe_code, reason = "reads an atomic as the plain field that it is to its readers")]

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};

/// Whether a slice of the vector may be handed out as it is.
///
/// Where the host's touches fault and a device has memory of its own, nothing needs to be asked: what the host may not touch is
/// not mapped. Where a device works on the host's memory in place, or nothing faults, only fences keep the two apart,
/// and the vector has to ask for them. Every launch that uses the vector closes the gate; `deref_mut` opens it.
///
/// `deref` reads its half as a plain field: an atomic there makes loops over elements several times slower (the compiler may not hoist it).
/// That is sound because only a [`Hinge`] of an exclusive borrow writes that half, so no `deref` runs meanwhile.
///
/// It lies in the vector itself, so its address must not go to any call that a loop over elements makes: a store to an element might change it then, as far as
/// the compiler can see, and it would be loaded anew for each (12 times slower, measured). So whatever `deref` calls is inlined, or is given
/// something else.
///
/// # Invariants
/// `asks_to_read` is stored to only while the vector is borrowed exclusively.
#[derive(Debug)]
pub(crate) struct Gate {
    asks_to_read: AtomicBool,
    asks_to_write: AtomicBool,
    /// Somebody has asked for reading since the gate was closed. Only looked at behind a closed gate.
    answered: AtomicBool,
}

impl Gate {
    /// Whether a new vector's memory has to be asked for.
    pub(super) fn new(asks_to_read: bool, asks_to_write: bool) -> Self {
        Self {
            asks_to_read: asks_to_read.into(),
            asks_to_write: asks_to_write.into(),
            answered: false.into(),
        }
    }

    #[inline]
    pub(super) fn asks_to_read(&self) -> bool {
        // SAFETY: stores happen only under an exclusive borrow of the vector (the invariant), so none is concurrent with this read,
        // which is made through a shared borrow.
        unsafe { *self.asks_to_read.as_ptr() }
    }

    /// Behind a closed gate: true when what it was closed for is known to be over. Whoever found out stays ordered before us.
    #[inline]
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Acquire)
    }

    /// Reading was asked for, and what the gate was closed for is over.
    #[inline]
    pub(super) fn answer(&self) {
        self.answered.store(true, Release);
    }

    #[inline]
    pub(super) fn asks_to_write(&mut self) -> bool {
        *self.asks_to_write.get_mut() || *self.asks_to_read.get_mut()
    }

    #[inline]
    pub(super) fn open(&mut self) {
        *self = Self::new(false, false);
    }
}

/// An argument's hold on the gate of the vector that it borrows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hinge<'a> {
    gate: &'a Gate,
    /// `'a` is an exclusive borrow of the vector.
    exclusive: bool,
}

impl<'a> Hinge<'a> {
    pub(super) fn shared(gate: &'a Gate) -> Self {
        Self { gate, exclusive: false }
    }

    /// From an exclusive borrow, which has to last for `'a`: only then nobody reads the gate meanwhile.
    pub(super) fn exclusive(gate: &'a mut Gate) -> Self {
        Self { gate, exclusive: true }
    }

    /// A device is about to use the vector's memory on the host, to write it if the borrow is exclusive.
    pub(crate) fn close(self) {
        self.gate.asks_to_write.store(true, Relaxed);
        if self.exclusive {
            self.gate.asks_to_read.store(true, Relaxed);
            self.gate.answered.store(false, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_hinge_closes_for_writing_and_an_exclusive_one_for_both() {
        let mut gate = Gate::new(false, false);
        assert!(!gate.asks_to_read() && !gate.asks_to_write());
        Hinge::shared(&gate).close();
        assert!(!gate.asks_to_read() && gate.asks_to_write());
        Hinge::exclusive(&mut gate).close();
        assert!(gate.asks_to_read() && gate.asks_to_write() && !gate.is_answered());
        gate.answer();
        Hinge::shared(&gate).close();
        assert!(gate.is_answered(), "a reader changes nothing");
        Hinge::exclusive(&mut gate).close();
        assert!(!gate.is_answered());
        gate.open();
        assert!(!gate.asks_to_read() && !gate.asks_to_write());
    }
}
