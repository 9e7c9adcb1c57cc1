//! Faults beside one that waits for a kernel: none of them waits with it, in other vectors and in its own.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use hmmap_core::{
    Kernel, Runtime, SharedVec, Source, Update, embedded::EmbeddedMemory, host::HostFaults,
    kernel::Arguments,
};

use crate::{
    kernels::Count,
    rig::{device, runtime},
};

const PAGE: usize = 65_536 / 4;
/// So long a test hangs before it fails; of the faults that it watches none waits for this.
const TOO_LONG: Duration = Duration::from_secs(60);

/// What keeps a kernel of [`Hold`] from its end.
struct Door {
    is_open: Mutex<bool>,
    opened: Condvar,
}

/// The tests here have one door.
static TURN: Mutex<()> = Mutex::new(());
static DOOR: Door = Door { is_open: Mutex::new(false), opened: Condvar::new() };

impl Door {
    fn wait(&self) {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = self.opened.wait_timeout_while(is_open, TOO_LONG, |open| !*open);
        drop(opened.unwrap_or_else(PoisonError::into_inner));
    }

    fn set(&self, open: bool) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = open;
        self.opened.notify_all();
    }
}

/// `y += 1`, once the test lets it.
struct Hold<'a> {
    y: Update<'a, u32>,
}

static HOLD: Source = Source {
    name: "hold",
    spirv: &[],
    ptx: "",
    workgroup: [64, 1, 1],
    twin: Some(|twin| {
        DOOR.wait();
        twin.write::<u32>(0).iter_mut().for_each(|y| *y += 1);
    }),
};

// SAFETY: the twin, the only code, goes through safe slices and writes only the Update argument.
unsafe impl Kernel for Hold<'_> {
    fn source() -> &'static Source {
        &HOLD
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.y).grid();
    }
}

fn counted(mem: &Runtime, pages: usize) -> SharedVec<u32> {
    let n = pages * PAGE;
    let mut y = SharedVec::new(mem, n).unwrap();
    let kernel = Count { y: y.write(), seed: 0, pause_ms: 0 };
    mem.launch_on(device(1), n, kernel).unwrap().wait().unwrap();
    y
}

/// A thread's touch waits for a held kernel, and `scene` runs; the kernel must still be held at its end.
fn beside_a_wait(
    mem: &Runtime,
    slow: &mut SharedVec<u32>,
    page: usize,
    scene: impl FnOnce(&[u32]),
) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    DOOR.set(false);
    let range = page * PAGE..(page + 1) * PAGE;
    let kernel = Hold { y: slow.update().range(range) };
    let fence = mem.launch_on(device(0), PAGE, kernel).unwrap();
    let slow = &slow[..];
    thread::scope(|scope| {
        let waits: Vec<_> = (0..3).map(|k| scope.spawn(move || slow[page * PAGE + k])).collect();
        // Mostly they have faulted by then; that a fault comes later makes the test weaker, and not wrong.
        thread::sleep(Duration::from_millis(20));
        scene(slow);
        let is_held = !fence.has_ended() && waits.iter().all(|wait| !wait.is_finished());
        DOOR.set(true);
        assert!(is_held, "a fault elsewhere waited until the kernel was let go");
        for (k, wait) in waits.into_iter().enumerate() {
            assert_eq!(wait.join().unwrap(), (page * PAGE + k) as u32 + 1);
        }
    });
}

/// First writes to pages that both have, and touches of pages that another device has.
#[test]
fn a_thousand_faults_elsewhere_wait_for_nobody() {
    for rung in [HostFaults::Auto, HostFaults::NoSharing, HostFaults::UserModeOnly] {
        let mem = runtime(rung, EmbeddedMemory::Own, 2);
        let mut slow = counted(&mem, 1);
        let mut written = SharedVec::<u32>::new(&mem, 700 * PAGE).unwrap();
        written.fill(1);
        written.prefetch(.., device(1)).unwrap().wait().unwrap();
        let read = counted(&mem, 300);
        beside_a_wait(&mem, &mut slow, 0, |_| {
            // 37 has no part with 700, and steps over what a stream would bring.
            for page in (0..700).map(|turn| turn * 37 % 700) {
                written[page * PAGE] += 1;
            }
            assert!((0..300).rev().all(|page| read[page * PAGE] == (page * PAGE) as u32));
        });
        assert!(written.iter().step_by(PAGE).all(|element| *element == 2), "{rung:?}");
    }
}

/// Neighbours of the page that is waited for, which a fault would bring with what was touched.
#[test]
fn faults_on_neighbours_of_a_page_that_is_waited_for_do_not_wait() {
    const PAGES: usize = 96;
    for rung in [HostFaults::Auto, HostFaults::NoSharing, HostFaults::UserModeOnly] {
        let mem = runtime(rung, EmbeddedMemory::Own, 2);
        let orders: [Vec<usize>; 3] = [
            (0..PAGES).collect(),
            (0..PAGES).rev().collect(),
            (0..PAGES).map(|turn| turn * 37 % PAGES).collect(),
        ];
        for (number, order) in orders.into_iter().enumerate() {
            for held in [0, 5, 40, PAGES - 1] {
                let mut y = counted(&mem, PAGES);
                beside_a_wait(&mem, &mut y, held, |y| {
                    for page in order.iter().copied().filter(|page| *page != held) {
                        assert_eq!(y[page * PAGE], (page * PAGE) as u32, "{rung:?}, {number}");
                    }
                });
            }
        }
    }
}

/// A page that a kernel writes waits for that one, and not for the one that writes its neighbour, which a stream would bring along.
#[test]
fn a_fault_that_waits_for_its_own_kernel_does_not_wait_for_its_neighbours() {
    for rung in [HostFaults::Auto, HostFaults::NoSharing, HostFaults::UserModeOnly] {
        let mem = runtime(rung, EmbeddedMemory::Own, 2);
        let mut y = counted(&mem, 96);
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        DOOR.set(false);
        assert!((0..40).all(|page| y[page * PAGE] == (page * PAGE) as u32));
        let kernel = Hold { y: y.update().range(41 * PAGE..42 * PAGE) };
        let held = mem.launch_on(device(0), PAGE, kernel).unwrap();
        let range = 40 * PAGE..41 * PAGE;
        let kernel = Count { y: y.write().range(range), seed: 7, pause_ms: 30 };
        mem.launch_on(device(1), PAGE, kernel).unwrap();
        assert_eq!(y[40 * PAGE + 1], 8);
        let is_held = !held.has_ended();
        DOOR.set(true);
        assert!(is_held, "{rung:?}: the touch waited for its neighbour's kernel");
        assert_eq!(y[41 * PAGE], 41 * PAGE as u32 + 1);
    }
}
