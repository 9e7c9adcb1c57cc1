//! What a `Vec` can do beyond indexing: grow and shrink. Growing may move the elements, so all of it borrows exclusively.

use bytemuck::Pod;

use super::SharedVec;
use crate::error::Error;

impl<T: Pod> SharedVec<T> {
    /// How many elements fit without moving.
    pub fn capacity(&self) -> usize {
        (self.buffer.span.len_bytes / Self::ELEMENT_BYTES as u64) as usize
    }

    /// Makes room for `additional` more elements. When they do not fit, the elements come home and move to a new place; a shareable vector's
    /// to a new file, which those who share the old one know nothing of. What was said about them moves with them.
    ///
    /// # Errors
    /// [`Error::LengthOverflow`]; [`Error::Pinned`] when the elements would have to move away from a static peer; as [`SharedVec::new`] and
    /// [`SharedVec::host`].
    pub fn reserve(&mut self, additional: usize) -> Result<(), Error> {
        let overflow = Error::LengthOverflow { len: self.len, element_bytes: Self::ELEMENT_BYTES };
        let needed = self.len.checked_add(additional).ok_or(overflow)?;
        if needed <= self.capacity() {
            return Ok(());
        }
        if let Some((peer, bytes)) = self.buffer.state.lock().pinned(self.buffer.all()) {
            return Err(Error::Pinned { peer, bytes });
        }
        let room = needed.max(self.capacity().saturating_mul(2));
        let mut grown = match self.buffer.file {
            None => Self::new(&self.runtime, room)?,
            Some(_) => Self::shareable(&self.runtime, room)?,
        };
        grown.len = self.len;
        grown.keep_hints_of(self);
        grown.host_mut(..)?.copy_from_slice(self.host(..)?);
        *self = grown;
        Ok(())
    }

    /// Appends an element.
    ///
    /// # Errors
    /// As [`SharedVec::reserve`].
    pub fn push(&mut self, element: T) -> Result<(), Error> {
        self.extend_from_slice(&[element])
    }

    /// Appends the elements of a slice.
    ///
    /// # Errors
    /// As [`SharedVec::reserve`].
    pub fn extend_from_slice(&mut self, elements: &[T]) -> Result<(), Error> {
        let old_len = self.len;
        self.reserve(elements.len())?;
        self.len += elements.len();
        match self.host_mut(old_len..) {
            Ok(room) => room.copy_from_slice(elements),
            Err(error) => {
                self.len = old_len;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes the vector `len` elements long; new ones are `element`.
    ///
    /// # Errors
    /// As [`SharedVec::reserve`].
    pub fn resize(&mut self, len: usize, element: T) -> Result<(), Error> {
        let old_len = self.len;
        if len > old_len {
            self.reserve(len - old_len)?;
            self.len = len;
            match self.host_mut(old_len..) {
                Ok(room) => room.fill(element),
                Err(error) => {
                    self.len = old_len;
                    return Err(error);
                }
            }
        }
        self.truncate(len);
        Ok(())
    }

    /// Drops the elements from `len` on, if there are any. Keeps the capacity.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}
