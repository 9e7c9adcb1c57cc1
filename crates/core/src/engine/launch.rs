//! A launch: bring the working set, run the kernel, remember what it promised.

use std::{collections::VecDeque, sync::atomic::Ordering::Relaxed};

use smallvec::SmallVec;

use super::{
    ledger::{Doing, Note, Used},
    split,
    wait::Fence,
    working_set::{Brought, WorkingSet},
};
use crate::{
    backend::{ArrayArgument, DeviceError, LaunchWork},
    directory::FenceSet,
    error::Error,
    events::What,
    fence::{FencePoint, FenceState},
    kernel::{Arguments, BoundArguments, BoundArray, Grid, Kernel, KernelId, Source},
    node::DeviceId,
    runtime::{Inner, OpenDevice, Runtime},
    stats::Cause,
    sync::about_to_run_user_code,
};

impl Runtime {
    /// Launches a kernel on the default device. Asynchronous: the pages are brought, the kernel is queued, the fence says when it
    /// has ended. Whoever keeps no fence loses nothing: the next access to the vectors waits for what it must.
    ///
    /// # Errors
    /// As [`Runtime::launch_on`].
    pub fn launch(&self, grid: impl Into<Grid>, kernel: impl Kernel) -> Result<Fence, Error> {
        self.launch_on(self.default_device()?, grid, kernel)
    }

    /// Launches a kernel on a device. A grid without items does nothing.
    ///
    /// A working set that does not fit the device's budget is run in tiles if its arguments say how ([`crate::Read::split`]); the fence comes after
    /// all of them. The call returns when the last tile has been queued, which is when the one that has to make room for it has ended. An error in the
    /// middle leaves what the tiles before it have written.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::Arguments`], [`Error::ForeignVector`] and [`Error::GridTooLarge`] for what is wrong with
    /// the call; [`Error::Device`] for what the device refuses (a kernel that it has no code for, a layout that does not
    /// match the shader's); [`Error::OutOfDeviceMemory`] when the working set does not fit; [`Error::WorkFailed`],
    /// [`Error::DeviceLost`] and [`Error::DataLost`] for what happened to the vectors before. Nothing was launched then.
    pub fn launch_on(
        &self,
        device: DeviceId,
        grid: impl Into<Grid>,
        kernel: impl Kernel,
    ) -> Result<Fence, Error> {
        let inner = self.inner();
        let point = launch(inner, inner.open(device)?, grid.into(), &kernel);
        inner.tell_losses();
        let point = point?;
        Ok(Fence::new(self.clone(), point))
    }
}

fn launch<K: Kernel>(
    inner: &Inner,
    open: &OpenDevice,
    grid: Grid,
    kernel: &K,
) -> Result<Option<FencePoint>, Error> {
    let source = K::source();
    let name = source.name;
    let mut arguments = Arguments::new(grid, source.workgroup);
    about_to_run_user_code();
    kernel.bind(&mut arguments);
    let bound = arguments.finish().map_err(|source| Error::Arguments { kernel: name, source })?;
    let foreign = bound.arrays.iter().position(|array| array.buffer.runtime_id != inner.id);
    if let Some(argument) = foreign {
        return Err(Error::ForeignVector { kernel: name, argument });
    }
    if grid.is_empty() {
        return Ok(None);
    }
    let groups = grid.groups(source.workgroup).ok_or(Error::GridTooLarge { kernel: name })?;
    let limits = open.device.facts().max_groups;
    if groups.iter().zip(limits).any(|(asked, limit)| *asked > limit) {
        return Err(Error::GridTooLarge { kernel: name });
    }
    let ready = open.kernel(source, &bound.layout);
    let kernel = ready.map_err(|error| inner.refused(open, error))?;
    inner.recorder.name_kernel(open.id, kernel, name);
    inner.release_retired();
    let launch = Launch { inner, open, source, kernel, groups, bound: &bound };
    match split::items_of_a_tile(&bound, open) {
        None => launch.run(&Ahead::default()).map(Some),
        Some(items) => launch.run_in_tiles(items).map(Some),
    }
}

/// One launch on its way.
#[derive(Clone, Copy)]
struct Launch<'l, 'a> {
    inner: &'l Inner,
    open: &'l OpenDevice,
    source: &'static Source,
    kernel: KernelId,
    groups: [u32; 3],
    bound: &'l BoundArguments<'a>,
}

/// Launches that a policy hears of before they come.
const QUEUED: usize = 4;

/// What is known of other launches.
#[derive(Default)]
struct Ahead<'n> {
    /// Those that follow, the next one first.
    queue: &'n [Note],
    /// Those that have to end before this one may.
    after: FenceSet,
}

impl Launch<'_, '_> {
    /// Runs it part by part; the last part's fence comes after those of all.
    fn run_in_tiles(self, items: u64) -> Result<FencePoint, Error> {
        let tiles = split::tiles(self.bound.grid.split_items(), items);
        let mut tiles = tiles.into_iter().map(|tile| self.bound.tile(tile));
        // The next tile, and those that follow it, each with what the ledger hears of it.
        let (mut bound, mut notes) = (VecDeque::new(), VecDeque::new());
        let mut after = FenceSet::default();
        let mut fence = None;
        loop {
            for tile in tiles.by_ref().take(QUEUED + 1 - bound.len()) {
                notes.push_back(self.note(&tile));
                bound.push_back(tile);
            }
            let Some(tile) = bound.pop_front() else { break };
            notes.pop_front();
            let groups = tile.grid.groups(tile.workgroup).unwrap_or(self.groups);
            // Submissions are in no order: what ends with the last is said to wait for the others.
            let is_last = bound.is_empty();
            let after_all = if is_last { std::mem::take(&mut after) } else { FenceSet::default() };
            let part = Launch { groups, bound: &tile, ..self };
            let point = part.run(&Ahead { queue: notes.make_contiguous(), after: after_all })?;
            after.retain(|fence| self.inner.poll(fence) != FenceState::Ok);
            after.insert(point);
            fence = Some(point);
        }
        fence.ok_or(Error::Device {
            device: self.open.id,
            name: self.source.name.to_owned(),
            source: DeviceError::Misuse { what: "a launch in no tiles" },
        })
    }

    /// What the ledger hears of a tile that is to come.
    fn note(&self, bound: &BoundArguments<'_>) -> Note {
        let used =
            |array: &BoundArray<'_>| Used::of_blocks(array.buffer, &array.bytes, array.access);
        Note {
            doing: Doing::Kernel(self.kernel.0),
            uses: bound.arrays.iter().filter(|array| !array.bytes.is_empty()).map(used).collect(),
        }
    }

    fn run(&self, ahead: &Ahead<'_>) -> Result<FencePoint, Error> {
        let Self { inner, open, source, bound, .. } = self;
        let mut params = bound.params.clone();
        let set = WorkingSet {
            inner,
            open,
            arrays: &bound.arrays,
            cause: Cause::Launch,
            doing: Doing::Kernel(self.kernel.0),
            queue: ahead.queue,
        };
        let fence = set.bring(|locked, Brought { uses, waits, .. }| {
            let mut all = FenceSet::default();
            let waits = if ahead.after.is_empty() {
                waits
            } else {
                all.extend(waits.as_slice().iter().chain(ahead.after.as_slice()).copied());
                &all
            };
            let arrays: SmallVec<[ArrayArgument; 6]> = bound
                .arrays
                .iter()
                .map(|array| {
                    let len_bytes = array.bytes.end - array.bytes.start;
                    let address =
                        if len_bytes == 0 { 0 } else { locked.address(array, uses, open) };
                    let at = array.address_at;
                    params[at..at + size_of::<u64>()].copy_from_slice(&address.to_ne_bytes());
                    let (access, scattered) = (array.access, array.scattered());
                    ArrayArgument { address, len_bytes, access, scattered }
                })
                .collect();
            let submitted = open.device.submit_launch(&LaunchWork {
                kernel: self.kernel,
                source,
                groups: self.groups,
                params: &params,
                layout: &bound.layout,
                arrays: &arrays,
                waits: waits.as_slice(),
            });
            let fence = submitted.map_err(|error| inner.refused(open, error))?;
            let launches = inner.counters.launches.fetch_add(1, Relaxed) + 1;
            locked.record(&inner.recorder, fence, uses, (Cause::Launch, launches));
            let (device, kernel) = (open.id, self.kernel);
            inner.recorder.note(|| What::Launched { device, kernel, launch: launches, fence });
            Ok(fence)
        })?;
        about_to_run_user_code();
        tracing::debug!(kernel = source.name, device = %open.id, %fence, "launched");
        Ok(fence)
    }
}
