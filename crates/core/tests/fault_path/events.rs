//! A subscriber that looks at who emits, and under which locks.

use std::{
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use hmmap_core::{
    MemoryModel, Options, Runtime, SharedVec,
    backend::Provider,
    embedded::{Backing, EmbeddedMemory},
    host::HostFaults,
    locks_held,
    simulated::{Progress, SimulatedControl, SimulatedOptions, SimulatedProvider},
};

use crate::{
    alone,
    kernels::{Add, Break, Count},
    rig::{device, each_rung, runtime},
};

const PAGE: usize = 65_536 / 4;
const N: usize = 100 * PAGE;

static EVENTS: AtomicU64 = AtomicU64::new(0);
static WARNINGS: AtomicU64 = AtomicU64::new(0);
static BREACHES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Watch;

impl tracing::Subscriber for Watch {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        EVENTS.fetch_add(1, Relaxed);
        WARNINGS.fetch_add(u64::from(*event.metadata().level() == tracing::Level::WARN), Relaxed);
        let thread = thread::current();
        let answers_faults = thread.name() == Some("hmmap faults");
        let held = locks_held().unwrap_or_default();
        if answers_faults || held > 0 {
            let what = event.metadata().name();
            BREACHES.lock().unwrap().push(format!("{what}: by {:?}, {held} locks", thread.name()));
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// What was emitted in a scene.
struct Emitted {
    events: u64,
    warnings: u64,
}

/// Counts what a scene emits, none of which broke a rule. The next test's events are none of it.
fn watched(scene: impl FnOnce()) -> Emitted {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| tracing::subscriber::set_global_default(Watch).unwrap());
    let _alone = alone();
    let (events, warnings) = (EVENTS.load(Relaxed), WARNINGS.load(Relaxed));
    scene();
    let breaches = std::mem::take(&mut *BREACHES.lock().unwrap());
    assert!(breaches.is_empty(), "{breaches:#?}");
    Emitted { events: EVENTS.load(Relaxed) - events, warnings: WARNINGS.load(Relaxed) - warnings }
}

fn simulated(seed: u64, progress: Progress, options: Options) -> (Runtime, Vec<SimulatedControl>) {
    let providers: Vec<_> = (0..2)
        .map(|k| {
            SimulatedProvider::new(SimulatedOptions {
                seed: seed + k,
                progress,
                backing: Backing::Blocks,
                ..SimulatedOptions::default()
            })
        })
        .collect();
    let controls = providers.iter().map(SimulatedProvider::control).collect();
    let providers = providers.into_iter().map(|one| Arc::new(one) as Arc<dyn Provider>).collect();
    let options = Options { memory_model: MemoryModel::Migrate, ..options };
    (Runtime::new(providers, options).unwrap(), controls)
}

#[test]
fn events_of_faults_and_launches_come_from_unlocked_threads() {
    let Emitted { events, .. } = watched(|| {
        each_rung(|mem| {
            let mut y = SharedVec::<u32>::new(mem, N).unwrap();
            mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 5 }).unwrap();
            assert_eq!(y[N - 1], N as u32);
            y[5] += 1;
            let mut z = SharedVec::<u32>::new(mem, N).unwrap();
            mem.launch_on(device(1), N, Add { x: y.read(), y: z.update() }).unwrap();
            y.prefetch(.., device(0)).unwrap();
            drop(mem.acquire(device(0), [y.read().into()]).unwrap());
            assert_eq!(z[5], 7);
            let _ = mem.launch(N, Break { y: z.update() }).unwrap().wait();
            let _ = z.host(..);
            mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 20 }).unwrap();
            drop((y, z));
            mem.trim();
        });
    });
    assert!(events > 50, "{events}");
}

/// Room is made for one vector by another.
#[test]
fn events_of_evictions_come_from_unlocked_threads() {
    let Emitted { events, .. } = watched(|| {
        let limit = Options { device_memory_limit_bytes: Some(8 << 20), ..Options::default() };
        let (mem, _) = simulated(1, Progress::WhenAsked, limit);
        let mut vecs: Vec<_> = (0..4).map(|_| SharedVec::<u32>::new(&mem, N).unwrap()).collect();
        for seed in 0..20 {
            let y = &mut vecs[seed as usize % 4];
            mem.launch_on(device(seed as usize % 2), N, Count { y: y.write(), seed, pause_ms: 0 })
                .unwrap();
            assert_eq!(y[PAGE], seed + PAGE as u32);
        }
    });
    assert!(events >= 20, "{events}");
}

/// A device is lost while a fault waits for it, and whoever faulted goes on with what the host has. That it was lost is told by
/// the next thread that has no lock and answers no fault.
#[test]
fn the_loss_of_a_device_is_told_by_an_unlocked_thread() {
    for seed in 0..16 {
        let finder = seed % 4;
        let emitted = watched(|| {
            let (mem, controls) = simulated(seed, Progress::ByStep, Options::default());
            assert!(mem.host_faults().is_some(), "userfaultfd was refused");
            let mut x = SharedVec::from_fn(&mem, N, |i| i as u32).unwrap();
            let mut z = SharedVec::<u32>::new(&mem, N).unwrap();
            let fence = mem.launch_on(device(0), N, Add { x: x.read(), y: z.update() }).unwrap();
            thread::scope(|scope| {
                // A write waits for the kernel that reads.
                let write = scope.spawn(|| x[7] = 8);
                thread::sleep(Duration::from_millis(20));
                controls[0].lose();
                if finder == 0 {
                    let _ = fence.wait();
                }
                write.join().unwrap();
            });
            match finder {
                1 => drop(z.host(..)),
                2 => {
                    let y = z.update();
                    drop(mem.launch_on(device(0), N, Add { x: x.read(), y }));
                }
                3 => drop(z),
                _ => {}
            }
            assert_eq!(x[7], 8);
            // That may have ended well: a lost device has done some of what was asked. By now somebody has heard of it.
            let _ = fence.wait();
            let mut y = SharedVec::<u32>::new(&mem, N).unwrap();
            let launched = mem.launch_on(device(0), N, Add { x: x.read(), y: y.update() });
            assert!(launched.is_err());
        });
        assert_eq!(emitted.warnings, 1, "{seed}: told once");
        assert!(emitted.events >= 3, "{seed}: {} events", emitted.events);
    }
}

/// The rule has teeth: whoever emits from a thread of the loop is seen.
#[test]
fn the_loop_s_threads_are_known_by_their_name() {
    let _alone = alone();
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    // It takes its name once it runs.
    let named = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
        names.filter_map(Result::ok).any(|name| name.trim() == "hmmap faults")
    };
    while !named() {
        thread::yield_now();
    }
    drop(mem);
}
