//! The layout of a parameter block, as both sides describe it.

use smallvec::SmallVec;

/// The type of one parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FieldKind {
    /// A device address, 8 bytes.
    Address,
    /// A 64-bit unsigned integer.
    U64,
    /// A 32-bit unsigned integer.
    U32,
    /// A 32-bit signed integer.
    I32,
    /// A 32-bit float.
    F32,
}

impl FieldKind {
    /// Size and alignment, in bytes.
    pub const fn size_bytes(self) -> u32 {
        match self {
            Self::Address | Self::U64 => 8,
            Self::U32 | Self::I32 | Self::F32 => 4,
        }
    }
}

/// One parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Field {
    /// Where it begins, in bytes from the start of the block.
    pub offset_bytes: u32,
    /// What it is.
    pub kind: FieldKind,
}

/// The layout of a parameter block: its fields in order of offset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ParamLayout {
    fields: SmallVec<[Field; 16]>,
}

impl ParamLayout {
    /// The layout with these fields.
    pub fn new(fields: impl IntoIterator<Item = Field>) -> Self {
        Self { fields: fields.into_iter().collect() }
    }

    /// The fields in order of offset.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub(super) fn push(&mut self, field: Field) {
        self.fields.push(field);
    }

    /// The first place where two layouts differ: the offset, what `self` has there, what `other` has there.
    pub fn first_difference(&self, other: &Self) -> Option<Difference> {
        let longest = self.fields.len().max(other.fields.len());
        (0..longest).find_map(|i| {
            let (ours, theirs) = (self.fields.get(i), other.fields.get(i));
            (ours != theirs).then(|| Difference {
                offset_bytes: ours.or(theirs).map_or(0, |field| field.offset_bytes),
                ours: ours.map(|field| field.kind),
                theirs: theirs.map(|field| field.kind),
            })
        })
    }
}

/// Where two layouts differ first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where, in bytes from the start of the block.
    pub offset_bytes: u32,
    /// What the first layout has there, `None` past its end.
    pub ours: Option<FieldKind>,
    /// What the second layout has there, `None` past its end.
    pub theirs: Option<FieldKind>,
}
