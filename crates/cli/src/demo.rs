//! A program on data more than twice its device, for `hmmap trace` and `hmmap top --demo` to look at.
//!
//! `a = b + 3 c`, tile by tile and round by round, on 24 MiB vectors and a budget of 32 MiB; a small vector that every tile uses; and beside it all that moves
//! pages otherwise: a prefetch, the host's guards and its faults, and a discarded range.

use anyhow::ensure;
use hmmap::{
    DeviceId, Hmmap, MemoryModel, Options, SharedVec,
    core::{
        embedded::{Backing, EmbeddedMemory, EmbeddedOptions},
        units::PAGE_BYTES,
    },
    kernels::{Saxpy, StreamTriad},
};

const MIB: usize = (1 << 20) / size_of::<f32>();
const PAGE: usize = PAGE_BYTES as usize / size_of::<f32>();
const LEN: usize = 24 * MIB;
const TILE: usize = 4 * MIB;
const BUDGET_BYTES: u64 = 32 << 20;

/// The program, between two rounds.
pub(crate) struct Demo {
    mem: Hmmap,
    device: DeviceId,
    a: SharedVec<f32>,
    b: SharedVec<f32>,
    c: SharedVec<f32>,
    hot: SharedVec<f32>,
}

impl Demo {
    /// Makes the runtime; the vectors are filled, and nothing has moved yet.
    pub(crate) fn new(device: Option<&str>) -> anyhow::Result<Self> {
        let options = Options {
            memory_model: MemoryModel::Migrate,
            device_memory_limit_bytes: Some(BUDGET_BYTES),
            ..Options::default()
        };
        let (memory, backing) = (EmbeddedMemory::Own, Backing::Blocks);
        let embedded = EmbeddedOptions { memory, backing, ..EmbeddedOptions::default() };
        let mem = Hmmap::builder().options(options).embedded(embedded).build()?;
        let (device, _) = hmmap_bench::choose(&mem, device)?;
        let filled = |name, value| -> Result<SharedVec<f32>, hmmap::Error> {
            let vec = SharedVec::from_fn(&mem, LEN, |_| value)?;
            vec.set_name(name);
            Ok(vec)
        };
        let (b, c) = (filled("b", 1.0)?, filled("c", 2.0)?);
        let (a, hot) = (SharedVec::new(&mem, LEN)?, SharedVec::new(&mem, MIB)?);
        a.set_name("a");
        hot.set_name("hot");
        Ok(Self { mem, device, a, b, c, hot })
    }

    pub(crate) fn runtime(&self) -> &Hmmap {
        &self.mem
    }

    /// One round over all of it.
    pub(crate) fn round(&mut self) -> anyhow::Result<()> {
        let Self { mem, device, a, b, c, hot } = self;
        b.prefetch(..TILE, *device)?;
        for tile in 0..LEN / TILE {
            let range = tile * TILE..(tile + 1) * TILE;
            let (b, c) = (b.read().range(range.clone()), c.read().range(range.clone()));
            let triad = StreamTriad { b, c, a: a.write().range(range.clone()), scalar: 3.0 };
            mem.launch_on(*device, TILE, triad)?;
            let x = a.read().range(range.start..range.start + MIB);
            mem.launch_on(*device, MIB, Saxpy { a: 1.0, x, y: hot.update() })?;
        }
        // Of the last tile, which the device has just written, the host touches every second page, and takes the others in one go.
        let pages = || (LEN - TILE..LEN).step_by(2 * PAGE);
        let seen: f32 = pages().map(|i| a[i]).sum();
        ensure!(seen == 7.0 * pages().count() as f32, "every second page adds up to {seen}");
        let last = a.host(LEN - TILE..)?;
        ensure!(last.iter().all(|x| *x == 7.0), "the last tile is not what it should be");
        c.host_mut(TILE..2 * TILE)?.fill(2.0);
        a.discard(2 * TILE..3 * TILE)?;
        Ok(())
    }
}
