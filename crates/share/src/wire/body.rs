//! Fields, one after the other, with no padding but what is written as zeros.

use super::WireError;

/// Appends fields.
pub(super) struct Writer<'a> {
    pub(super) to: &'a mut Vec<u8>,
}

impl Writer<'_> {
    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.to.extend_from_slice(bytes);
    }
}

/// Takes fields off the front.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    len_bytes: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram, len_bytes: datagram.len() }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(WireError::Short { len_bytes: self.len_bytes })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (bytes, rest) =
            self.rest.split_first_chunk().ok_or(WireError::Short { len_bytes: self.len_bytes })?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Four bytes that have to be zero.
    pub(super) fn zero(&mut self, field: &'static str) -> Result<(), WireError> {
        match self.u32()? {
            0 => Ok(()),
            value => Err(WireError::Field { field, value: value.into() }),
        }
    }

    pub(super) fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(WireError::Long { len_bytes: self.len_bytes })
        }
    }
}
