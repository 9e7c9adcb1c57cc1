//! Vectors are made and dropped for long on a device with a third of the room for them: the process grows by nothing, and the accounts end where they began.
//!
//! A program of its own, since the figures are those of the whole process. Sixty thousand operations; a million with `HMMAP_DEEP`.
#![allow(unsafe_code, reason = "defines a kernel")]

#[path = "kernels/increment.rs"]
mod increment;

use std::sync::Arc;

use hmmap_core::{
    DeviceId, Group, Options, Runtime, Share, SharedVec,
    backend::Provider,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
};
use increment::Increment;

const PAGE_BYTES: usize = 64 << 10;
const PAGE: usize = PAGE_BYTES / size_of::<u32>();
/// Pages that the device has room for; vectors of three times as many live at any time.
const BUDGET_PAGES: usize = 64;
/// What the process may have more at the end than half way: what allocators keep of sizes that come late. By then the eviction policy's logs are full.
const MOST_GROWTH_BYTES: u64 = 1 << 20;

/// A vector and what its first elements should be.
struct Live {
    vec: SharedVec<u32>,
    value: u32,
}

/// Bytes of anonymous memory (what allocators have) and of shared memory (what the arena and its files have) that the process has.
fn resident_bytes() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    ["RssAnon:", "RssShmem:"].map(|name| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    })
}

struct World {
    mem: Runtime,
    group: Group,
    live: Vec<Live>,
    pages: usize,
    random: fastrand::Rng,
}

impl World {
    fn new() -> Self {
        let embedded =
            EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
        let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(embedded));
        let options = Options {
            device_memory_limit_bytes: Some((BUDGET_PAGES * PAGE_BYTES) as u64),
            // Little of what was dropped, so that spans come and go.
            max_kept_bytes: Some(4 << 20),
            ..Options::default()
        };
        let mem = Runtime::new(vec![provider], options).unwrap();
        let group = Group::new(&mem, "half");
        let device = mem.default_device().unwrap();
        let reserve_bytes = (BUDGET_PAGES * PAGE_BYTES / 4) as u64;
        group.set_share(device, Share { reserve_bytes, limit_bytes: 3 * reserve_bytes }).unwrap();
        let random = fastrand::Rng::with_seed(5);
        Self { mem, group, live: Vec::new(), pages: 0, random }
    }

    fn device(&self) -> DeviceId {
        self.mem.default_device().unwrap()
    }

    /// A vector is dropped, made, launched on, or touched.
    fn step(&mut self) {
        let random = &mut self.random;
        if self.pages > 3 * BUDGET_PAGES {
            let gone = self.live.swap_remove(random.usize(..self.live.len()));
            self.pages -= gone.vec.len() / PAGE;
            return;
        }
        match random.u8(..8) {
            0..4 => {
                let pages = random.usize(1..8);
                let mem = if random.bool() { &self.mem } else { &*self.group };
                self.live.push(Live { vec: SharedVec::new(mem, pages * PAGE).unwrap(), value: 0 });
                self.pages += pages;
                self.launch(self.live.len() - 1);
            }
            4..7 if !self.live.is_empty() => {
                let at = random.usize(..self.live.len());
                self.launch(at);
            }
            _ => {
                if let Some(Live { vec, value }) = self.random.choice(&self.live) {
                    assert_eq!(vec[7], *value);
                }
            }
        }
    }

    fn launch(&mut self, at: usize) {
        let Live { vec, value } = &mut self.live[at];
        *value += 1;
        let part = vec.update().range(..64);
        self.mem.launch(64, Increment(part)).unwrap();
    }
}

#[test]
fn a_program_that_makes_and_drops_vectors_for_long_grows_by_nothing() {
    let steps: u64 = if std::env::var_os("HMMAP_DEEP").is_some() { 1_000_000 } else { 60_000 };
    let mut world = World::new();
    let device = world.device();
    let mut before = [0; 2];
    for step in 0..steps {
        world.step();
        if step == steps / 2 {
            before = resident_bytes();
        }
    }
    let after = resident_bytes();
    let stats = world.mem.stats();
    println!(
        "{steps} operations, {} vectors live; anonymous {} -> {} KiB, shared {} -> {} KiB; {} blocks evicted; {stats}",
        world.live.len(),
        before[0] >> 10,
        after[0] >> 10,
        before[1] >> 10,
        after[1] >> 10,
        stats.evicted_blocks,
    );
    assert!(stats.evicted_blocks > steps / 10, "there was room: {stats}");
    for (before, after) in before.into_iter().zip(after) {
        assert!(after <= before + MOST_GROWTH_BYTES, "{before} -> {after}");
    }
    let memory = world.mem.device_memory(device).unwrap();
    assert!(memory.used_bytes + memory.idle_reserve_bytes <= memory.limit_bytes, "{memory:?}");
    // With the vectors all of it goes, ours and the process's.
    let World { mem, group, live, .. } = world;
    for Live { vec, value } in live {
        assert_eq!(vec.host(..1).unwrap()[0], value);
    }
    mem.trim();
    let memory = mem.device_memory(device).unwrap();
    assert_eq!((memory.used_bytes, group.used_bytes(device).unwrap()), (0, 0));
    let [_, shared] = resident_bytes();
    assert!(shared < 1 << 20, "{shared} bytes of shared memory stay");
}
