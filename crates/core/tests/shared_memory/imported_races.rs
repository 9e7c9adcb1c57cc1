//! Grants and recalls that meet.
#![allow(clippy::single_range_in_vec_init, reason = "one stretch of pages is meant")]

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use hmmap_core::{
    Imported, Options, Runtime, SharedVec,
    backend::{Provider, faulty::FaultyProvider},
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    home::{Grant, Home, HomeError, Keep, Recalled},
    simulated::{SimulatedOptions, SimulatedProvider},
};
use parking_lot::{Condvar, Mutex};

use crate::{
    exporter::{Exporter, PAGE, recall},
    kernels::{Add, Count},
    rig::{device, each_rung},
};

const N: usize = 8 * PAGE;

#[test]
fn a_grant_that_is_recalled_on_its_way_is_asked_for_again() {
    each_rung(|mem| {
        let exporter = Exporter::new(1);
        let y = exporter.import(mem, N);
        let (handle, home) = (y.recall(), exporter.clone());
        *exporter.meanwhile.lock() = Some(Box::new(move || {
            assert_eq!(recall(&handle, 0..1, Keep::Nothing), Recalled::default());
            home.memory.store(0, 6);
        }));
        assert_eq!(y.load(0).unwrap(), 6);
        assert_eq!(exporter.take_asked().len(), 2);
    });
}

/// Devices that are late and go on in an order of their own are waited for, whatever the order; nothing is used behind its back.
#[test]
fn late_devices_are_waited_for() {
    for seed in 0..40 {
        let devices: Vec<_> = [seed, seed + 1000]
            .map(|seed| {
                SimulatedProvider::new(SimulatedOptions { seed, ..SimulatedOptions::default() })
            })
            .into();
        let providers = devices.iter().map(|one| Arc::new(one.clone()) as Arc<dyn Provider>);
        let mem = Runtime::new(providers.collect(), Options::default()).unwrap();
        let exporter = Exporter::new(1);
        let mut y = exporter.import(&mem, N);
        let x = SharedVec::from_fn(&mem, N, |_| 1u32).unwrap();
        let mut expected = 0;
        for round in 0..6 {
            for step in 0..3 {
                let add = Add { x: x.read(), y: y.update() };
                mem.launch_on(device((seed as usize + round + step) % 2), N, add).unwrap();
            }
            let keep = if round % 2 == 0 { Keep::Nothing } else { Keep::Reading };
            assert_eq!(recall(&y.recall(), 0..8, keep).lost, []);
            expected += 3;
            assert_eq!(exporter.memory.load(N - 1), expected, "seed {seed}");
            if keep == Keep::Nothing {
                (0..N).for_each(|i| exporter.memory.store(i, exporter.memory.load(i) + 1));
                expected += 1;
            }
        }
        assert_eq!(y.load(PAGE).unwrap(), expected);
        drop((x, y, mem));
        assert!(devices.iter().all(|one| one.control().violations().is_empty()), "seed {seed}");
    }
}

/// The last handle goes where a recall is done: on the import's own thread.
#[test]
fn an_import_can_be_dropped_by_its_own_recall() {
    each_rung(|mem| {
        let exporter = Exporter::new(1);
        let mut y = exporter.import(mem, N);
        y.store(0, 1).unwrap();
        let handle = y.recall();
        handle.recall(0..1, Keep::Nothing, move |_| drop(y));
        while exporter.closed.lock().is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(recall(&handle, 0..1, Keep::Nothing), Recalled::default());
    });
}

/// Whatever happens to the thread that recalls: its answer is waited for by another process.
#[test]
fn a_recall_is_answered_when_a_device_panics() {
    for memory in [EmbeddedMemory::Own, EmbeddedMemory::Host] {
        let options = EmbeddedOptions { memory, ..EmbeddedOptions::default() };
        let device = FaultyProvider::new(Arc::new(EmbeddedProvider::new(options)));
        let mem = Runtime::new(vec![Arc::new(device.clone())], Options::default()).unwrap();
        let exporter = Exporter::new(1);
        let mut y = exporter.import(&mem, N);
        y.store(0, 1).unwrap();
        let fence = mem.launch(N, Count { y: y.write(), seed: 4, pause_ms: 100 }).unwrap();
        device.faults().panic_in_next_wait();
        let recalled = recall(&y.recall(), 1..8, Keep::Reading);
        assert!(fence.has_ended(), "what runs is waited for all the same");
        assert_eq!(recalled, Recalled { dirty: vec![1..8], lost: vec![1..8] });
        // And it goes on: what is read on is what the file holds, and the rest comes home.
        assert_eq!(y.load(PAGE).unwrap(), exporter.memory.load(PAGE));
        let rest = recall(&y.recall(), 0..8, Keep::Nothing);
        assert_eq!(rest, Recalled { dirty: vec![0..1], lost: vec![] });
        assert_eq!(exporter.memory.load(3), 7);
        y.store(PAGE, 9).unwrap();
        assert_eq!(exporter.memory.load(PAGE), 9);
    }
}

/// A home that has its pages itself at times, and raises each word then.
struct Turns {
    exporter: Arc<Exporter>,
    /// Pages that are not for others now.
    mine: Mutex<Option<Range<usize>>>,
    changed: Condvar,
}

impl Home for Turns {
    fn grant(&self, pages: Range<usize>, _: Grant) -> Result<(), HomeError> {
        let mut mine = self.mine.lock();
        while mine.as_ref().is_some_and(|mine| mine.start < pages.end && pages.start < mine.end) {
            self.changed.wait(&mut mine);
        }
        Ok(())
    }

    fn closed(&self, recalled: &Recalled) {
        self.exporter.closed(recalled);
    }
}

#[test]
fn no_step_is_lost_between_two_who_count_in_turns() {
    each_rung(|mem| {
        let exporter = Exporter::new(1);
        let (mine, changed) = (Mutex::default(), Condvar::new());
        let home = Arc::new(Turns { exporter: exporter.clone(), mine, changed });
        let mut y: Imported<u32> =
            mem.import(exporter.memory(Grant::Write), N, home.clone()).unwrap();
        let handle = y.recall();
        let x = SharedVec::from_fn(mem, N, |_| 1u32).unwrap();
        let (over, steps) = (AtomicBool::new(false), AtomicU32::new(0));
        let mut launches = 0;
        let mut own = [0u32; 8];
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0.. {
                    if over.load(SeqCst) && round > 20 {
                        break;
                    }
                    let page = (round * 5) % 8;
                    let pages = page..(page + 1 + round % 3).min(8);
                    *home.mine.lock() = Some(pages.clone());
                    recall(&handle, pages.clone(), Keep::Nothing);
                    for page in pages {
                        own[page] += 1;
                        for i in [page * PAGE, (page + 1) * PAGE - 1] {
                            exporter.memory.store(i, exporter.memory.load(i) + 1);
                        }
                    }
                    *home.mine.lock() = None;
                    home.changed.notify_all();
                    steps.fetch_add(1, SeqCst);
                }
            });
            while launches < 60 || steps.load(SeqCst) < 20 {
                mem.launch(N, Add { x: x.read(), y: y.update() }).unwrap();
                launches += 1;
            }
            over.store(true, SeqCst);
        });
        for (page, own) in own.iter().enumerate() {
            for i in [page * PAGE, (page + 1) * PAGE - 1] {
                assert_eq!(y.load(i).unwrap(), launches + own, "page {page}");
            }
        }
    });
}
