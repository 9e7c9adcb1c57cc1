//! What the simulated device writes down: every work, and every breach of the device contract.

use std::{fmt, ops::Range};

use crate::{
    access::Access,
    backend::{ArrayArgument, Copy, DeviceError, LaunchWork, TransferWork, Zero},
    embedded::{MemorySpace, memory::DeviceMemory, operation::Operation},
    fence::{FencePoint, FenceState},
    kernel::{FieldKind, KernelId, MAX_PARAM_BYTES, ParamLayout, Source},
};

/// One work as it was submitted, and what became of it.
#[derive(Clone, Debug)]
pub struct WorkRecord {
    /// Its fence.
    pub fence: FencePoint,
    /// What it had to wait for.
    pub waits: Vec<FencePoint>,
    /// What it was asked to do.
    pub request: Request,
    /// How its fence stands.
    pub state: FenceState,
    /// When it was executed, counted over all works of the device; `None` when it was not.
    pub turn: Option<u64>,
    /// When it began on the virtual clock, in nanoseconds.
    pub begin_ns: u64,
    /// When it ended on the virtual clock, in nanoseconds.
    pub end_ns: u64,
}

/// What a work was asked to do.
#[derive(Clone, Debug)]
pub enum Request {
    /// [`crate::backend::Device::submit_transfer`].
    Transfer {
        /// The copies.
        copies: Vec<Copy>,
        /// The fills.
        zeros: Vec<Zero>,
    },
    /// [`crate::backend::Device::submit_launch`].
    Launch {
        /// The kernel's number.
        kernel: KernelId,
        /// The kernel.
        source: &'static Source,
        /// Workgroups in x, y, z.
        groups: [u32; 3],
        /// The parameter block.
        params: Vec<u8>,
        /// Its layout.
        layout: ParamLayout,
        /// The arrays.
        arrays: Vec<ArrayArgument>,
    },
}

impl Request {
    pub(super) fn transfer(work: &TransferWork<'_>) -> Self {
        Self::Transfer { copies: work.copies.to_vec(), zeros: work.zeros.to_vec() }
    }

    pub(super) fn launch(work: &LaunchWork<'_>) -> Self {
        Self::Launch {
            kernel: work.kernel,
            source: work.source,
            groups: work.groups,
            params: work.params.to_vec(),
            layout: work.layout.clone(),
            arrays: work.arrays.to_vec(),
        }
    }

    /// The operation, on memory as it is now.
    ///
    /// # Errors
    /// [`DeviceError::Misuse`] when it touches memory that is not there.
    pub(super) fn operation(&self, memory: &DeviceMemory) -> Result<Operation, DeviceError> {
        match self {
            Self::Transfer { copies, zeros } => {
                let work = TransferWork { waits: &[], copies, zeros };
                Ok(Operation::transfer(&work, memory)?)
            }
            Self::Launch { kernel, source, groups, params, layout, arrays } => {
                let work = LaunchWork {
                    kernel: *kernel,
                    source,
                    groups: *groups,
                    params,
                    layout,
                    arrays,
                    waits: &[],
                };
                Operation::launch(&work, memory)
            }
        }
    }

    /// What is wrong with it before any memory is looked at.
    pub(super) fn defect(&self, max_groups: [u32; 3]) -> Option<&'static str> {
        let Self::Launch { groups, params, layout, arrays, .. } = self else { return None };
        if params.len() > MAX_PARAM_BYTES {
            return Some("a parameter block is larger than every device accepts");
        }
        if groups.iter().zip(max_groups).any(|(asked, most)| *asked == 0 || *asked > most) {
            return Some("a launch asks for no workgroups, or for too many");
        }
        let mut addresses = layout.fields().iter().filter(|field| field.kind == FieldKind::Address);
        let passed = |at: u32| params.get(at as usize..at as usize + size_of::<u64>());
        let agree = arrays.iter().all(|array| {
            addresses.next().and_then(|field| passed(field.offset_bytes))
                == Some(&array.address.to_ne_bytes())
        });
        (!agree || addresses.next().is_some())
            .then_some("the addresses in a parameter block are not those of the launch's arrays")
    }
}

/// A breach of the contract of [`crate::backend::Device`]: a defect of whoever drives the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A work touches memory that is not there, or is not well formed; it does not run.
    Work {
        /// Its fence.
        work: FencePoint,
        /// What is wrong.
        what: &'static str,
    },
    /// Two works touch the same bytes, at least one of them writes, and nothing orders them.
    Hazard {
        /// The work that was submitted first.
        earlier: FencePoint,
        /// What it does to the bytes.
        earlier_access: Access,
        /// The other, which does not wait for it. The same as `earlier` for two parts of one batch.
        later: FencePoint,
        /// What that does.
        later_access: Access,
        /// In which memory.
        space: MemorySpace,
        /// The bytes, by offset in that memory.
        bytes: Range<u64>,
    },
    /// Memory was given back while a work that touches it had not ended.
    InUse {
        /// The work's fence.
        work: FencePoint,
        /// Which call gave it back.
        call: &'static str,
    },
    /// A call was refused as a breach of the contract.
    Call {
        /// What is wrong.
        what: &'static str,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work { work, what } => write!(f, "{work}: {what}"),
            Self::Hazard { earlier, earlier_access, later, later_access, space, bytes } => write!(
                f,
                "{later} ({later_access}) does not wait for {earlier} ({earlier_access}), \
                 which touches bytes {bytes:?} of {space} too"
            ),
            Self::InUse { work, call } => write!(f, "{call} of memory that {work} still uses"),
            Self::Call { what } => f.write_str(what),
        }
    }
}
