//! One submission, checked and ready to run: the only file that touches the bytes of a device that is software.
//!
//! An [`Operation`] is made when work is submitted, from places that were found to be there, and holds them. So
//! running it needs no table and no lock, and memory that is released too early stays mapped until the operation is gone.
#![allow(unsafe_code, reason = "copies between places and hands them to Rust twins as slices")]

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use smallvec::SmallVec;

use super::{
    kernels::twin_of,
    memory::{DeviceMemory, MemoryFault},
    place::Place,
};
use crate::{
    access::Access,
    backend::{DeviceError, Direction, LaunchWork, TransferWork},
    fence::Failure,
    kernel::{MAX_PARAM_BYTES, ParamLayout, Source, Twin, TwinArray},
    sync::about_to_run_user_code,
    units::PAGE_BYTES,
};

/// What a submission does, with everything that it needs to do it.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Copies and fills.
    Transfer(Transfer),
    /// One kernel.
    Launch(Box<Launch>),
}

/// A batch of copies and fills that do not overlap each other.
#[derive(Debug)]
pub(crate) struct Transfer {
    copies: SmallVec<[PlacedCopy; 1]>,
    fills: Vec<Fill>,
}

#[derive(Debug)]
struct PlacedCopy {
    from: Place,
    to: Place,
}

/// A place and the value that each of its bytes gets.
#[derive(Debug)]
struct Fill {
    place: Place,
    byte: u8,
}

/// One run of a kernel's Rust twin.
pub(crate) struct Launch {
    source: &'static Source,
    twin: fn(&Twin<'_>),
    params: SmallVec<[u8; MAX_PARAM_BYTES]>,
    layout: ParamLayout,
    arrays: SmallVec<[PlacedArray; 6]>,
}

/// One array; `None` when it is empty.
struct PlacedArray {
    place: Option<Place>,
    access: Access,
}

impl Operation {
    /// The operation that a transfer asks for.
    ///
    /// # Errors
    /// A side of a copy, or a fill, is not backed memory or not in the arena.
    pub(crate) fn transfer(
        work: &TransferWork<'_>,
        memory: &DeviceMemory,
    ) -> Result<Self, MemoryFault> {
        let mut copies = SmallVec::with_capacity(work.copies.len());
        for copy in work.copies {
            let len_bytes = copy.host.len_bytes;
            let host = memory.host_place(copy.host.offset_bytes, len_bytes)?;
            let device = memory.device_place(copy.memory, copy.offset_bytes, len_bytes)?;
            copies.push(match copy.direction {
                Direction::HostToDevice => PlacedCopy { from: host, to: device },
                Direction::DeviceToHost => PlacedCopy { from: device, to: host },
            });
        }
        let fills = work
            .zeros
            .iter()
            .map(|zero| {
                let place = memory.device_place(zero.memory, zero.offset_bytes, zero.len_bytes)?;
                Ok(Fill { place, byte: 0 })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self::Transfer(Transfer { copies, fills }))
    }

    /// Fills places with one byte value: what a test double does to memory whose content nobody may rely on.
    pub(crate) fn fill(places: impl IntoIterator<Item = Place>, byte: u8) -> Self {
        let fills = places.into_iter().map(|place| Fill { place, byte }).collect();
        Self::Transfer(Transfer { copies: SmallVec::new(), fills })
    }

    /// The operation that a launch asks for.
    ///
    /// # Errors
    /// [`DeviceError::NoShader`] without a Rust twin; otherwise what [`Launch::places`] answers.
    pub(crate) fn launch(
        work: &LaunchWork<'_>,
        memory: &DeviceMemory,
    ) -> Result<Self, DeviceError> {
        let twin = twin_of(work.source)?;
        Ok(Self::Launch(Box::new(Launch {
            source: work.source,
            twin,
            params: SmallVec::from_slice(work.params),
            layout: work.layout.clone(),
            arrays: Launch::places(work, memory)?,
        })))
    }

    /// Does it, on the calling thread and the rayon pool that the thread belongs to.
    ///
    /// No work that overlaps this one with a write on either side runs at the same time: the engine names it in the waits of
    /// the later of the two, and the device runs an operation when its waits have ended ("Order", [`crate::backend`]).
    /// The host keeps away until the fence has ended.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Transfer(transfer) => {
                transfer.run();
                Ok(())
            }
            Self::Launch(launch) => launch.run(),
        }
    }

    /// Every range of bytes that it touches.
    pub(crate) fn touches(&self) -> Vec<Touch<'_>> {
        match self {
            Self::Transfer(Transfer { copies, fills }) => {
                let read = copies.iter().map(|copy| (&copy.from, Access::Read));
                let copied = copies.iter().map(|copy| (&copy.to, Access::Write));
                let filled = fills.iter().map(|fill| (&fill.place, Access::Write));
                let all = read.chain(copied).chain(filled);
                all.map(|(place, access)| Touch { place, access }).collect()
            }
            Self::Launch(launch) => {
                let all = launch.arrays.iter().filter_map(|array| {
                    array.place.as_ref().map(|place| Touch { place, access: array.access })
                });
                all.collect()
            }
        }
    }
}

/// Bytes that an operation touches.
#[derive(Debug)]
pub(crate) struct Touch<'a> {
    /// Which bytes.
    pub(crate) place: &'a Place,
    /// What happens to them.
    pub(crate) access: Access,
}

impl Transfer {
    fn run(&self) {
        for PlacedCopy { from, to } in &self.copies {
            // SAFETY: (1) both places hold their memory mapped for their length, which `transfer` made equal, (2) one is in
            // the arena and one in device memory, so they do not overlap, (3) nobody else writes `from` or uses `to`
            // meanwhile, as `Operation::run` requires.
            unsafe {
                let len = from.len_bytes() as usize;
                ptr::copy_nonoverlapping(from.pointer(), to.pointer(), len);
            }
        }
        for Fill { place, byte } in &self.fills {
            // SAFETY: the place holds its memory mapped for its length, and nobody else uses it meanwhile, as
            // `Operation::run` requires.
            unsafe { ptr::write_bytes(place.pointer(), *byte, place.len_bytes() as usize) }
        }
    }
}

impl Launch {
    /// The arrays of a launch, where they are.
    ///
    /// # Errors
    /// An array is not whole in backed memory or a window, or one that is written overlaps another.
    fn places(
        work: &LaunchWork<'_>,
        memory: &DeviceMemory,
    ) -> Result<SmallVec<[PlacedArray; 6]>, MemoryFault> {
        let mut arrays = SmallVec::<[PlacedArray; 6]>::new();
        for array in work.arrays {
            let place = match array.len_bytes {
                0 => None,
                len_bytes => Some(memory.locate(array.address, len_bytes)?),
            };
            let placed = PlacedArray { place, access: array.access };
            if arrays.iter().any(|other| other.conflicts_with(&placed)) {
                return Err(MemoryFault::Aliased);
            }
            arrays.push(placed);
        }
        Ok(arrays)
    }

    fn run(&self) -> Result<(), Failure> {
        let arrays: SmallVec<[TwinArray; 6]> = self.arrays.iter().map(PlacedArray::twin).collect();
        // SAFETY: (1) every array's place holds its memory mapped readable and writable for its length, (2) nobody else
        // writes an array or uses one that is written meanwhile, as `Operation::run` requires, (3) `places` refused a
        // written array that overlaps another.
        let twin = unsafe { Twin::new(&self.params, &self.layout, &arrays) };
        about_to_run_user_code();
        match catch_unwind(AssertUnwindSafe(|| (self.twin)(&twin))) {
            Ok(()) => Ok(()),
            Err(payload) => {
                tracing::warn!(kernel = self.source.name, "a kernel's Rust twin panicked");
                // Its destructor is the kernel's code too, and may panic again. One message leaked per panic is
                // cheaper than a dead worker.
                std::mem::forget(payload);
                Err(Failure::KernelPanicked)
            }
        }
    }
}

impl PlacedArray {
    fn conflicts_with(&self, other: &Self) -> bool {
        let written = self.access.writes() || other.access.writes();
        match (&self.place, &other.place) {
            (Some(ours), Some(theirs)) => written && ours.overlaps(theirs),
            _ => false,
        }
    }

    fn twin(&self) -> TwinArray {
        match &self.place {
            Some(place) => TwinArray {
                start: place.pointer(),
                len_bytes: place.len_bytes() as usize,
                access: self.access,
            },
            // Aligned for every element type that fits a page.
            None => TwinArray {
                start: ptr::without_provenance_mut(PAGE_BYTES as usize),
                len_bytes: 0,
                access: self.access,
            },
        }
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("kernel", &self.source.name).finish_non_exhaustive()
    }
}
