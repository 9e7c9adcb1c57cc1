//! A kernel's Rust twin and what it sees.
//!
//! The only place that turns a launch's addresses into slices. Everything that a twin can get wrong (a wrong
//! argument number, a wrong access, the wrong element type) is a panic inside the twin, which the device catches and reports as
//! [`crate::fence::Failure::KernelPanicked`].

use std::{cell::Cell, fmt, marker::PhantomData};

use bytemuck::Pod;

use super::{FieldKind, ParamLayout};
use crate::access::Access;

/// One array as the device that runs the twin can reach it.
#[derive(Clone, Copy, Debug)]
pub struct TwinArray {
    /// The first byte; dangling but aligned when `len_bytes` is zero.
    pub start: *mut u8,
    /// The length in bytes.
    pub len_bytes: usize,
    /// What the kernel promised to do with it.
    pub access: Access,
}

/// One launch as a Rust twin sees it: the arrays, the grid and the scalars, in the order of the parameters.
pub struct Twin<'a> {
    params: &'a [u8],
    layout: &'a ParamLayout,
    arrays: &'a [TwinArray],
    taken: Cell<u32>,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Twin<'a> {
    /// A launch with these parameters.
    ///
    /// # Safety
    /// For the life `'a`, every array's bytes are readable, those of arrays that are not [`Access::Read`] are writable, nobody
    /// else writes any of them, nobody else reads the writable ones, and a writable one overlaps no other array of the launch.
    #[allow(unsafe_code, reason = "the contract under which the slices below are made")]
    pub unsafe fn new(params: &'a [u8], layout: &'a ParamLayout, arrays: &'a [TwinArray]) -> Self {
        Self { params, layout, arrays, taken: Cell::new(0), memory: PhantomData }
    }

    /// Array number `index` for reading; any access allows it, but not beside [`Twin::write`] of the same array.
    ///
    /// # Panics
    /// On a wrong index, a wrong element type, or an array that was taken for writing: caught by the device.
    #[allow(unsafe_code, reason = "slices from the launch's arrays, under the contract of `new`")]
    pub fn read<T: Pod>(&self, index: usize) -> &'a [T] {
        let array = self.array::<T>(index);
        assert!(array.access == Access::Read, "array {index} is not a Read argument");
        // SAFETY: (1) readable and unwritten for 'a by the contract of `new`, (2) the length and alignment were checked by
        // `array`, (3) any bits are a valid T, which is Pod, (4) a Read array is never handed out for writing.
        unsafe { std::slice::from_raw_parts(array.start.cast(), array.len_bytes / size_of::<T>()) }
    }

    /// Array number `index` for writing, once.
    ///
    /// # Panics
    /// On a wrong index, a wrong element type, a [`Access::Read`] argument, or a second call: caught by the device.
    #[allow(unsafe_code, reason = "slices from the launch's arrays, under the contract of `new`")]
    #[allow(clippy::mut_from_ref, reason = "each array is handed out once, which `taken` enforces")]
    pub fn write<T: Pod>(&self, index: usize) -> &'a mut [T] {
        let array = self.array::<T>(index);
        assert!(array.access.writes(), "array {index} is a Read argument");
        let bit = 1 << index;
        assert!(self.taken.get() & bit == 0, "array {index} was taken before");
        self.taken.set(self.taken.get() | bit);
        // SAFETY: as in `read`; exclusive because (1) the contract of `new` keeps everyone else away from the bytes and (2)
        // `taken` hands each writable array out once, and `read` refuses it.
        unsafe {
            std::slice::from_raw_parts_mut(array.start.cast(), array.len_bytes / size_of::<T>())
        }
    }

    /// The two words of the grid: `n, threads` or `nx, ny`.
    pub fn grid(&self) -> [u64; 2] {
        let at = self.arrays.len() * 2;
        [self.field(at, FieldKind::U64), self.field(at + 1, FieldKind::U64)]
    }

    /// Items of a [`super::Grid::Linear`].
    pub fn n(&self) -> usize {
        usize::try_from(self.grid()[0]).unwrap_or(usize::MAX)
    }

    /// Scalar number `index`, a `u64`; scalars are counted after the grid.
    ///
    /// # Panics
    /// When that scalar is none, or of another type: caught by the device.
    pub fn u64(&self, index: usize) -> u64 {
        self.field(self.arrays.len() * 2 + 2 + index, FieldKind::U64)
    }

    /// Scalar number `index`, a `u32`. Panics like [`Twin::u64`].
    pub fn u32(&self, index: usize) -> u32 {
        self.field(self.arrays.len() * 2 + 2 + index, FieldKind::U32)
    }

    /// Scalar number `index`, an `f32`. Panics like [`Twin::u64`].
    pub fn f32(&self, index: usize) -> f32 {
        self.field(self.arrays.len() * 2 + 2 + index, FieldKind::F32)
    }

    fn field<T: Pod>(&self, number: usize, kind: FieldKind) -> T {
        let field = self.layout.fields()[number];
        assert!(field.kind == kind, "parameter {number} is a {:?}, not a {kind:?}", field.kind);
        let at = field.offset_bytes as usize;
        bytemuck::pod_read_unaligned(&self.params[at..at + size_of::<T>()])
    }

    fn array<T: Pod>(&self, index: usize) -> TwinArray {
        let array = self.arrays[index];
        let fits = array.len_bytes.is_multiple_of(size_of::<T>().max(1));
        assert!(fits && array.start.cast::<T>().is_aligned(), "array {index} holds another type");
        assert!(index < u32::BITS as usize, "a kernel has at most 32 arrays");
        array
    }
}

impl fmt::Debug for Twin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twin").field("arrays", &self.arrays).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Field;

    #[test]
    #[allow(unsafe_code, reason = "stands in for a device")]
    fn a_writable_array_is_handed_out_once() {
        let mut bytes = [0u32; 4];
        let layout = ParamLayout::new([Field { offset_bytes: 0, kind: FieldKind::Address }]);
        let arrays =
            [TwinArray { start: bytes.as_mut_ptr().cast(), len_bytes: 16, access: Access::Update }];
        // SAFETY: the one array is a local that nothing else touches while the twin lives.
        let twin = unsafe { Twin::new(&[], &layout, &arrays) };
        assert_eq!(twin.write::<u32>(0).len(), 4);
        let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            twin.write::<u32>(0);
        }));
        assert!(again.is_err());
        let as_read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            twin.read::<u32>(0);
        }));
        assert!(as_read.is_err());
    }
}
