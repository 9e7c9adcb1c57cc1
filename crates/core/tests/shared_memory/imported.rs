//! Memory of another process is used like one's own: granted before, recalled after, by every way to a page.

#![allow(clippy::single_range_in_vec_init, reason = "one stretch of pages is meant")]

use std::{
    sync::{Arc, atomic::Ordering::SeqCst, mpsc},
    time::Duration,
};

use hmmap_core::{
    Error, Runtime, SharedVec,
    home::{ForeignMemory, Grant, HomeError, Keep, Recalled},
    host::{HostError, ShareFault},
};
use rustix::fs::SealFlags;

use crate::{
    exporter::{BLOCK, Exporter, PAGE, file, recall},
    kernels::{Add, Break, Count},
    rig::{device, each_rung},
};

const N: usize = 2 * BLOCK as usize / 4;
const PAGES: usize = N / PAGE;

fn ones(mem: &Runtime) -> SharedVec<u32> {
    SharedVec::from_fn(mem, N, |_| 1).unwrap()
}

#[test]
fn pages_are_asked_for_once_and_before_they_are_used() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        exporter.memory.store(PAGE + 1, 41);
        let mut y = exporter.import(mem, N);
        assert!(exporter.take_asked().is_empty(), "nobody has used anything");
        assert_eq!((y.load(PAGE + 1).unwrap(), y.load(PAGE).unwrap()), (41, 0));
        assert_eq!(exporter.take_asked(), [(1..2, Grant::Read)]);
        y.store(PAGE + 1, 42).unwrap();
        y.store(PAGE + 2, 43).unwrap();
        assert_eq!(exporter.take_asked(), [(1..2, Grant::Write)]);
        assert_eq!((exporter.memory.load(PAGE + 1), exporter.memory.load(PAGE + 2)), (42, 43));
        let mut all = vec![0; N];
        y.copy_to(0, &mut all).unwrap();
        assert_eq!((all[PAGE + 1], all[N - 1]), (42, 0));
        assert_eq!(exporter.take_asked().len(), PAGES - 1);
        assert!(matches!(y.load(N), Err(Error::OutOfRange { .. })));
    });
}

#[test]
fn what_kernels_wrote_comes_home_with_a_recall_and_is_asked_for_again() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        (0..N).for_each(|i| exporter.memory.store(i, i as u32));
        let mut y = exporter.import(mem, N);
        let x = ones(mem);
        for round in 1..4u32 {
            for on in [0, 1] {
                let add = Add { x: x.read(), y: y.update() };
                mem.launch_on(device(on), N, add).unwrap();
            }
            assert_eq!(exporter.take_asked(), [(0..PAGES, Grant::Write)], "once for both");
            let recalled = recall(&y.recall(), 0..usize::MAX, Keep::Nothing);
            assert_eq!(recalled, Recalled { dirty: vec![0..PAGES], lost: vec![] });
            // It is ours now: each word was raised by one twice a round, and here by three.
            for i in [0, PAGE - 1, PAGE, N - 1] {
                assert_eq!(exporter.memory.load(i), i as u32 + 5 * (round - 1) + 2);
            }
            (0..N).for_each(|i| exporter.memory.store(i, exporter.memory.load(i) + 3));
        }
        assert_eq!(y.load(7).unwrap(), 7 + 15, "what is read is what is there now");
    });
}

#[test]
fn a_recall_waits_for_our_work_and_its_caller_for_nothing() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        let mut y = exporter.import(mem, N);
        let count = Count { y: y.write(), seed: 5, pause_ms: 100 };
        let fence = mem.launch_on(device(1), N, count).unwrap();
        let (told, done) = mpsc::channel();
        let home = exporter.clone();
        y.recall().recall(0..1, Keep::Nothing, move |recalled| {
            told.send((home.memory.load(3), fence.has_ended(), recalled.dirty)).unwrap();
        });
        let (word, ended, dirty) = done.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!((word, ended, dirty), (8, true, vec![0..1]));
    });
}

#[test]
fn reading_can_stay() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        let mut y = exporter.import(mem, N);
        mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
        exporter.take_asked();
        let recalled = recall(&y.recall(), 0..PAGES, Keep::Reading);
        assert_eq!(recalled.dirty, [0..PAGES]);
        assert_eq!(exporter.memory.load(9), 10, "home all the same");
        assert_eq!(y.load(9).unwrap(), 10);
        let mut sum = ones(mem);
        mem.launch(N, Add { x: y.read(), y: sum.update() }).unwrap();
        assert_eq!(sum[9], 11);
        assert!(exporter.take_asked().is_empty(), "nothing but reading");
        y.store(9, 2).unwrap();
        assert_eq!(exporter.take_asked(), [(0..1, Grant::Write)]);
        assert_eq!(recall(&y.recall(), 0..PAGES, Keep::Nothing).dirty, [0..1]);
    });
}

/// A slice over memory that the test knows nobody to write while it looks.
#[allow(unsafe_code, reason = "vouches for the exporter, which is the test itself")]
#[test]
fn a_touch_of_a_recalled_page_brings_it_again() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        exporter.memory.store(5, 1);
        let mut y = exporter.import(mem, N);
        let handle = y.recall();
        mem.launch_on(device(0), N, Add { x: ones(mem).read(), y: y.update() }).unwrap();
        // SAFETY: the exporter writes only what no reference is used on at that time: every element is read anew, by index.
        let words = unsafe { y.slice(..) }.unwrap();
        assert_eq!((words[5], words[N - 1]), (2, 1));
        recall(&handle, 0..PAGES, Keep::Nothing);
        exporter.take_asked();
        exporter.memory.store(5, 70);
        let words = match mem.host_faults() {
            Some(_) => words,
            // SAFETY: as above.
            None => unsafe { y.slice(..1000) }.unwrap(),
        };
        assert_eq!(std::hint::black_box(words)[5], 70);
        assert_eq!(exporter.take_asked()[0].0.start, 0, "it was asked for again");
    });
}

#[test]
fn what_is_refused_is_an_error_by_every_way() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        let mut y = exporter.import(mem, N);
        *exporter.refuses.lock() = Some(HomeError::Gone);
        let gone = |pages| Error::Home { pages, source: HomeError::Gone };
        assert_eq!(y.load(PAGE).unwrap_err(), gone(1..2));
        assert_eq!(y.store(0, 1).unwrap_err(), gone(0..1));
        let x = ones(mem);
        let refused = mem.launch(N, Add { x: x.read(), y: y.update() }).unwrap_err();
        assert_eq!(refused, gone(0..PAGES));
        let refused = mem.acquire(device(0), [y.read().into()]).unwrap_err();
        assert!(matches!(refused, Error::Home { source: HomeError::Acquired, .. }));
        *exporter.refuses.lock() = None;
        mem.launch(N, Add { x: x.read(), y: y.update() }).unwrap();
        assert_eq!(y.load(N - 1).unwrap(), 1, "and nothing is spoiled by it");
    });
}

#[test]
fn what_was_shared_for_reading_is_read() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        exporter.memory.store(N - 1, 8);
        let mut y = mem.import::<u32>(exporter.memory(Grant::Read), N, exporter.clone()).unwrap();
        let mut sum = ones(mem);
        mem.launch_on(device(0), N, Add { x: y.read(), y: sum.update() }).unwrap();
        assert_eq!((sum[N - 1], y.load(N - 1).unwrap()), (9, 8));
        let refused = y.store(0, 1).unwrap_err();
        assert!(matches!(refused, Error::Home { source: HomeError::ReadOnly, .. }));
        let written = mem.launch(N, Add { x: sum.read(), y: y.update() }).unwrap_err();
        assert!(matches!(written, Error::Home { source: HomeError::ReadOnly, .. }));
        assert_eq!(recall(&y.recall(), 0..PAGES, Keep::Nothing), Recalled::default());
        exporter.memory.store(N - 1, 9);
        mem.launch_on(device(0), N, Add { x: y.read(), y: sum.update() }).unwrap();
        assert_eq!(sum[N - 1], 18, "no device keeps a copy");
    });
}

#[test]
fn files_that_could_change_under_us_are_not_mapped() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        let (shrink, grow) = (SealFlags::SHRINK, SealFlags::GROW);
        let fault = |fd, len_bytes, len| {
            let memory = ForeignMemory { fd, len_bytes, most: Grant::Write };
            match mem.import::<u32>(memory, len, exporter.clone()).unwrap_err() {
                Error::Host(HostError::NotShared(fault)) => fault,
                other => panic!("{other}"),
            }
        };
        for seals in [SealFlags::empty(), shrink, grow] {
            assert_eq!(fault(file(BLOCK, seals), BLOCK, 1), ShareFault::NotSealed);
        }
        let pipe = rustix::pipe::pipe().unwrap().0;
        assert_eq!(fault(pipe, BLOCK, 1), ShareFault::NotSealed);
        let (file_bytes, said_bytes) = (BLOCK, 2 * BLOCK);
        let wrong = ShareFault::WrongSize { file_bytes, said_bytes };
        assert_eq!(fault(file(BLOCK, shrink | grow), said_bytes, 1), wrong);
        let asked_bytes = BLOCK + 4;
        let short = ShareFault::TooShort { asked_bytes, file_bytes };
        assert_eq!(fault(file(BLOCK, shrink | grow), BLOCK, BLOCK as usize / 4 + 1), short);
        let sealed = fault(file(BLOCK, shrink | grow | SealFlags::FUTURE_WRITE), BLOCK, 1);
        assert!(matches!(sealed, ShareFault::Refused(_)), "{sealed:?}");
        assert_eq!(exporter.grants.load(SeqCst), 0);
    });
}

#[test]
fn the_end_brings_everything_home_and_says_so_once() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        let mut y = exporter.import(mem, N);
        let handle = y.recall();
        mem.launch_on(device(1), N, Count { y: y.write(), seed: 3, pause_ms: 20 }).unwrap();
        drop(y);
        assert_eq!(exporter.memory.load(N - 1), 3 + N as u32 - 1);
        let closed = std::mem::take(&mut *exporter.closed.lock());
        assert_eq!(closed, [Recalled { dirty: vec![0..PAGES], lost: vec![] }]);
        assert_eq!(recall(&handle, 0..PAGES, Keep::Nothing), Recalled::default());
        assert!(exporter.closed.lock().is_empty());
        let kept = Arc::strong_count(&exporter);
        assert_eq!(kept, 1, "nothing of it is left");
    });
}

#[test]
fn a_forgotten_import_is_recalled_like_any_other() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        let mut y = exporter.import(mem, N);
        let handle = y.recall();
        mem.launch(N, Count { y: y.write(), seed: 3, pause_ms: 0 }).unwrap();
        std::mem::forget(y);
        assert_eq!(recall(&handle, 0..PAGES, Keep::Nothing).dirty, [0..PAGES]);
        assert_eq!(exporter.memory.load(1), 4);
    });
}

/// A kernel that fails leaves what was there, and it comes home as that.
#[test]
fn what_a_failed_kernel_did_stays_here() {
    each_rung(|mem| {
        let exporter = Exporter::new(2);
        let mut y = exporter.import(mem, N);
        mem.launch(N, Count { y: y.write(), seed: 3, pause_ms: 0 }).unwrap();
        recall(&y.recall(), 0..PAGES, Keep::Nothing);
        let in_place = mem.node(device(0)).unwrap().is_host();
        let _ = mem.launch(N, Break { y: y.update() });
        let recalled = recall(&y.recall(), 0..PAGES, Keep::Nothing);
        assert_eq!(recalled.dirty, [0..PAGES]);
        // What worked in place has spoiled the file itself, and says so.
        assert_eq!(recalled.lost.is_empty(), !in_place);
        if !in_place {
            assert_eq!((exporter.memory.load(0), exporter.memory.load(N - 1)), (3, N as u32 + 2));
        }
        y.store(0, 1).unwrap();
        assert_eq!(y.load(0).unwrap(), 1, "and goes on");
    });
}
