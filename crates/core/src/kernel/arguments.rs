//! The parameter list that a kernel binds and the engine completes.

use std::{num::NonZeroUsize, ops::Range, sync::Arc};

use bytemuck::Pod;
use smallvec::SmallVec;

use super::{Field, FieldKind, Grid, ParamLayout};
use crate::{
    access::Access,
    vec::{Buffer, Hinge, Read, Update, Write},
};

/// The most bytes a parameter block can have: what every Vulkan device accepts as push constants.
pub const MAX_PARAM_BYTES: usize = 128;

/// The parameters of one launch, in the order of the shader's struct.
#[derive(Debug)]
pub struct Arguments<'a> {
    params: SmallVec<[u8; MAX_PARAM_BYTES]>,
    layout: ParamLayout,
    arrays: SmallVec<[BoundArray<'a>; 6]>,
    grid: Grid,
    workgroup: [u32; 3],
    has_grid: bool,
    grid_at: usize,
    fault: Option<ArgumentFault>,
}

/// One array of a launch, before its address is known.
#[derive(Debug, Clone)]
pub(crate) struct BoundArray<'a> {
    pub(crate) buffer: &'a Arc<Buffer>,
    pub(crate) hinge: Hinge<'a>,
    /// In bytes from the buffer's start.
    pub(crate) bytes: Range<u64>,
    /// How long the whole vector is, in bytes.
    pub(crate) vec_bytes: u64,
    pub(crate) access: Access,
    /// Where in the parameter block its address goes; its length follows.
    pub(crate) address_at: usize,
    /// Bytes of an element.
    element_bytes: u64,
    /// Bytes that one item of the grid uses, where each uses only its own.
    pub(crate) item_bytes: Option<u64>,
    /// Items of the launch; none for work that is no kernel of ours.
    pub(crate) items: u64,
    /// How many elements one item reads, wherever they are, where the kernel says so; else it may read all.
    pub(crate) scattered_per_item: Option<u64>,
}

impl BoundArray<'_> {
    /// The most elements that a launch reads of it, as the kernel says.
    pub(crate) fn scattered(&self) -> Option<u64> {
        self.scattered_per_item.map(|per_item| per_item.saturating_mul(self.items))
    }
}

/// What is wrong with a list of arguments; reported by the launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ArgumentFault {
    /// The block would be larger than every device accepts.
    #[error("the parameters take {asked_bytes} bytes, at most {MAX_PARAM_BYTES} fit")]
    TooLarge {
        /// How large it would be.
        asked_bytes: usize,
    },
    /// A range does not lie inside its vector.
    #[error("the range {start}..{end} does not lie in a vector of {len} elements")]
    OutOfRange {
        /// First element.
        start: usize,
        /// One past the last.
        end: usize,
        /// The vector's length.
        len: usize,
    },
    /// An array was listed after the grid, or the grid twice or never.
    #[error("a kernel lists its arrays, then the grid once, then its scalars")]
    Order,
    /// Some arguments are split by items, and one that is overwritten whole is not: each tile would overwrite all of it.
    #[error(
        "arguments are split, but one that is overwritten whole is not: say `split` of it too, or take `update`"
    )]
    WholeWrite,
}

/// One array for work that the caller submits: made by `.into()` from a [`Read`], an [`Update`] or a [`Write`].
#[derive(Debug)]
pub struct Argument<'a>(Result<BoundArray<'a>, ArgumentFault>);

impl<'a> Argument<'a> {
    fn new<T: Pod>(
        buffer: &'a Arc<Buffer>,
        hinge: Hinge<'a>,
        elements: Result<Range<usize>, ArgumentFault>,
        (vec_len, per_item): (usize, Option<NonZeroUsize>),
        access: Access,
    ) -> Self {
        let size = size_of::<T>() as u64;
        Self(elements.map(|elements| BoundArray {
            buffer,
            hinge,
            bytes: elements.start as u64 * size..elements.end as u64 * size,
            vec_bytes: vec_len as u64 * size,
            access,
            address_at: 0,
            element_bytes: size,
            item_bytes: per_item.map(|count| (count.get() as u64).saturating_mul(size)),
            items: 0,
            scattered_per_item: None,
        }))
    }

    pub(crate) fn bind(self) -> Result<BoundArray<'a>, ArgumentFault> {
        self.0
    }
}

impl<'a, T: Pod> From<Read<'a, T>> for Argument<'a> {
    fn from(array: Read<'a, T>) -> Self {
        Self::new::<T>(
            array.buffer(),
            array.hinge(),
            array.elements(),
            (array.vec_len(), array.per_item()),
            Access::Read,
        )
    }
}

impl<'a, T: Pod> From<Update<'a, T>> for Argument<'a> {
    fn from(array: Update<'a, T>) -> Self {
        Self::new::<T>(
            array.buffer(),
            array.hinge(),
            array.elements(),
            (array.vec_len(), array.per_item()),
            Access::Update,
        )
    }
}

impl<'a, T: Pod> From<Write<'a, T>> for Argument<'a> {
    fn from(array: Write<'a, T>) -> Self {
        Self::new::<T>(
            array.buffer(),
            array.hinge(),
            array.elements(),
            (array.vec_len(), array.per_item()),
            Access::Write,
        )
    }
}

impl<'a> Arguments<'a> {
    pub(crate) fn new(grid: Grid, workgroup: [u32; 3]) -> Self {
        Self {
            params: SmallVec::new(),
            layout: ParamLayout::default(),
            arrays: SmallVec::new(),
            grid,
            workgroup,
            has_grid: false,
            grid_at: 0,
            fault: None,
        }
    }

    /// An array that the kernel only reads: address, then length in elements.
    pub fn read<T: Pod>(&mut self, array: &Read<'a, T>) -> &mut Self {
        self.array::<T>(Argument::new::<T>(
            array.buffer(),
            array.hinge(),
            array.elements(),
            (array.vec_len(), array.per_item()),
            Access::Read,
        ))
    }

    /// An array of which the kernel reads little: each item of the grid reads at most so many elements, wherever they are. So it is passed as
    /// [`Arguments::read`] passes it, and a launch for which bringing it would cost more than reaching for it leaves it in host memory. What
    /// is said too low costs time, and nothing else.
    pub fn read_scattered<T: Pod>(&mut self, array: &Read<'a, T>, per_item: u64) -> &mut Self {
        let before = self.arrays.len();
        self.read(array);
        self.arrays.iter_mut().skip(before).for_each(|one| one.scattered_per_item = Some(per_item));
        self
    }

    /// An array that the kernel reads and writes.
    pub fn update<T: Pod>(&mut self, array: &'a Update<'_, T>) -> &mut Self {
        self.array::<T>(Argument::new::<T>(
            array.buffer(),
            array.hinge(),
            array.elements(),
            (array.vec_len(), array.per_item()),
            Access::Update,
        ))
    }

    /// An array that the kernel overwrites whole.
    pub fn write<T: Pod>(&mut self, array: &'a Write<'_, T>) -> &mut Self {
        self.array::<T>(Argument::new::<T>(
            array.buffer(),
            array.hinge(),
            array.elements(),
            (array.vec_len(), array.per_item()),
            Access::Write,
        ))
    }

    /// The grid: `n, threads` for a line, `nx, ny` for a plane.
    pub fn grid(&mut self) -> &mut Self {
        if std::mem::replace(&mut self.has_grid, true) {
            self.fault.get_or_insert(ArgumentFault::Order);
        }
        let [first, second] = self.grid.words(self.workgroup);
        self.grid_at = self.push(FieldKind::U64, &first.to_ne_bytes());
        self.push(FieldKind::U64, &second.to_ne_bytes());
        self
    }

    /// A `u64` scalar.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.scalar(FieldKind::U64, &value.to_ne_bytes())
    }

    /// A `u32` scalar.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.scalar(FieldKind::U32, &value.to_ne_bytes())
    }

    /// An `i32` scalar.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.scalar(FieldKind::I32, &value.to_ne_bytes())
    }

    /// An `f32` scalar.
    pub fn f32(&mut self, value: f32) -> &mut Self {
        self.scalar(FieldKind::F32, &value.to_ne_bytes())
    }

    fn scalar(&mut self, kind: FieldKind, bytes: &[u8]) -> &mut Self {
        if !self.has_grid {
            self.fault.get_or_insert(ArgumentFault::Order);
        }
        self.push(kind, bytes);
        self
    }

    fn array<T: Pod>(&mut self, array: Argument<'a>) -> &mut Self {
        if self.has_grid {
            self.fault.get_or_insert(ArgumentFault::Order);
        }
        let address_at = self.push(FieldKind::Address, &0u64.to_ne_bytes());
        match array.bind() {
            Ok(bound) => {
                let len = (bound.bytes.end - bound.bytes.start) / size_of::<T>() as u64;
                self.push(FieldKind::U64, &len.to_ne_bytes());
                self.arrays.push(BoundArray { address_at, items: self.grid.items(), ..bound });
            }
            Err(fault) => {
                self.fault.get_or_insert(fault);
            }
        }
        self
    }

    /// Appends a field at its natural alignment and returns where it is.
    fn push(&mut self, kind: FieldKind, bytes: &[u8]) -> usize {
        let at = self.params.len().next_multiple_of(bytes.len());
        let end = at + bytes.len();
        if end > MAX_PARAM_BYTES {
            self.fault.get_or_insert(ArgumentFault::TooLarge { asked_bytes: end });
            return 0;
        }
        self.params.resize(at, 0);
        self.params.extend_from_slice(bytes);
        self.layout.push(Field { offset_bytes: at as u32, kind });
        at
    }

    /// The parts, or what is wrong with them.
    pub(crate) fn finish(self) -> Result<BoundArguments<'a>, ArgumentFault> {
        match self.fault {
            Some(fault) => Err(fault),
            None if !self.has_grid => Err(ArgumentFault::Order),
            None => {
                let Self { params, layout, arrays, grid, workgroup, .. } = self;
                let is_split = arrays.iter().any(|array| array.item_bytes.is_some());
                let mut whole = arrays.iter().filter(|array| array.item_bytes.is_none());
                if is_split && whole.any(|array| array.access == Access::Write) {
                    return Err(ArgumentFault::WholeWrite);
                }
                let grid_at = self.grid_at;
                Ok(BoundArguments { params, layout, arrays, grid, grid_at, workgroup })
            }
        }
    }
}

/// Arguments that were found to be in order.
#[derive(Clone, Debug)]
pub(crate) struct BoundArguments<'a> {
    pub(crate) params: SmallVec<[u8; MAX_PARAM_BYTES]>,
    pub(crate) layout: ParamLayout,
    pub(crate) arrays: SmallVec<[BoundArray<'a>; 6]>,
    pub(crate) grid: Grid,
    /// Where in the parameter block the two words of the grid are.
    grid_at: usize,
    pub(crate) workgroup: [u32; 3],
}

impl BoundArguments<'_> {
    /// The same work on some of the grid's items. Arguments that are not split stay whole; the last items bring all that is left of the others.
    pub(crate) fn tile(&self, items: Range<u64>) -> Self {
        let Self { mut params, layout, arrays, grid, grid_at, workgroup } = self.clone();
        let (count, is_last) = (items.end - items.start, items.end == grid.split_items());
        let grid = match grid {
            Grid::Linear(_) => Grid::Linear(count),
            Grid::Groups { groups, .. } => Grid::Groups { n: count, groups },
            Grid::Plane { nx, .. } => Grid::Plane { nx, ny: count },
        };
        let mut put = |at: usize, word: u64| {
            params[at..at + size_of::<u64>()].copy_from_slice(&word.to_ne_bytes());
        };
        let arrays = arrays.into_iter().map(|array| {
            let array = BoundArray { items: grid.items(), ..array };
            let Some(item_bytes) = array.item_bytes else { return array };
            let Range { start, end } = array.bytes;
            let at = |item: u64| start.saturating_add(item.saturating_mul(item_bytes)).min(end);
            let bytes = at(items.start)..if is_last { end } else { at(items.end) };
            let len = (bytes.end - bytes.start) / array.element_bytes;
            put(array.address_at + size_of::<u64>(), len);
            BoundArray { bytes, ..array }
        });
        let arrays = arrays.collect();
        let words = grid.words(workgroup);
        put(grid_at, words[0]);
        put(grid_at + size_of::<u64>(), words[1]);
        Self { params, layout, arrays, grid, grid_at, workgroup }
    }
}
