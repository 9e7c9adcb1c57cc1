//! The vector that the CPU and the devices share.

use std::{fmt, marker::PhantomData, ops::Range};

use bytemuck::Pod;

use crate::kernel::ArgumentFault;

/// The memory of one vector: its pages, where they are, and what is pending on them.
#[derive(Debug)]
pub struct Buffer {}

/// A kernel argument that is only read.
pub struct Read<'a, T> {
    buffer: &'a Buffer,
    elements: Result<Range<usize>, ArgumentFault>,
    element: PhantomData<&'a [T]>,
}

impl<'a, T: Pod> Read<'a, T> {
    pub(crate) fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    pub(crate) fn elements(&self) -> Result<Range<usize>, ArgumentFault> {
        self.elements.clone()
    }
}

/// A kernel argument that is read and written.
pub struct Update<'a, T> {
    buffer: &'a Buffer,
    elements: Result<Range<usize>, ArgumentFault>,
    element: PhantomData<&'a mut [T]>,
}

impl<'a, T: Pod> Update<'a, T> {
    pub(crate) fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    pub(crate) fn elements(&self) -> Result<Range<usize>, ArgumentFault> {
        self.elements.clone()
    }
}

/// A kernel argument that is overwritten whole.
pub struct Write<'a, T> {
    buffer: &'a Buffer,
    elements: Result<Range<usize>, ArgumentFault>,
    element: PhantomData<&'a mut [T]>,
}

impl<'a, T: Pod> Write<'a, T> {
    pub(crate) fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    pub(crate) fn elements(&self) -> Result<Range<usize>, ArgumentFault> {
        self.elements.clone()
    }
}

impl<T> fmt::Debug for Read<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Read").field("elements", &self.elements).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Update<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update").field("elements", &self.elements).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Write<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write").field("elements", &self.elements).finish_non_exhaustive()
    }
}
