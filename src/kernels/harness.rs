//! Runs a twin over local arrays, as a device would: the parameter block is built here, in the order of the calls.

use std::marker::PhantomData;

use bytemuck::Pod;

use hmmap_core::{
    access::Access,
    kernel::{Field, FieldKind, ParamLayout, Source, Twin, TwinArray},
};

/// One launch of a twin: arrays, then the grid, then scalars.
pub(super) struct Call<'a> {
    params: Vec<u8>,
    fields: Vec<Field>,
    arrays: Vec<TwinArray>,
    borrowed: PhantomData<&'a mut [u8]>,
}

impl<'a> Call<'a> {
    pub(super) fn new() -> Self {
        Self { params: Vec::new(), fields: Vec::new(), arrays: Vec::new(), borrowed: PhantomData }
    }

    pub(super) fn read<T: Pod>(self, array: &'a [T]) -> Self {
        self.array::<T>(array.as_ptr().cast_mut().cast(), array.len(), Access::Read)
    }

    pub(super) fn update<T: Pod>(self, array: &'a mut [T]) -> Self {
        let len = array.len();
        self.array::<T>(array.as_mut_ptr().cast(), len, Access::Update)
    }

    /// The array is filled with a pattern first, so that a place left out shows.
    pub(super) fn write<T: Pod>(self, array: &'a mut [T]) -> Self {
        bytemuck::cast_slice_mut::<T, u8>(array).fill(0xA5);
        let len = array.len();
        self.array::<T>(array.as_mut_ptr().cast(), len, Access::Write)
    }

    pub(super) fn line(self, n: u64) -> Self {
        let threads = n.div_ceil(256).clamp(1, 65_535) * 256;
        self.u64(n).u64(threads)
    }

    pub(super) fn plane(self, nx: usize, ny: usize) -> Self {
        self.u64(nx as u64).u64(ny as u64)
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.field(FieldKind::U64, &value.to_ne_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.field(FieldKind::U32, &value.to_ne_bytes())
    }

    pub(super) fn f32(self, value: f32) -> Self {
        self.field(FieldKind::F32, &value.to_ne_bytes())
    }

    pub(super) fn run(self, source: &Source) {
        let layout = ParamLayout::new(self.fields);
        // SAFETY: the arrays are slices that `self` has borrowed for as long as the twin lives: those that it may write
        // exclusively, so that they overlap nothing, the others shared, so that nobody writes them.
        let launch = unsafe { Twin::new(&self.params, &layout, &self.arrays) };
        source.twin.expect("every shipped kernel has a twin")(&launch);
    }

    fn array<T: Pod>(mut self, start: *mut u8, len: usize, access: Access) -> Self {
        self.arrays.push(TwinArray { start, len_bytes: len * size_of::<T>(), access });
        self.field(FieldKind::Address, &(start as u64).to_ne_bytes()).u64(len as u64)
    }

    fn field(mut self, kind: FieldKind, bytes: &[u8]) -> Self {
        self.fields.push(Field { offset_bytes: self.params.len() as u32, kind });
        self.params.extend_from_slice(bytes);
        self
    }
}
