//! Touches that wait long for a device, and longer than they may.
#![allow(unsafe_code, reason = "defines kernels")]

#[path = "host_faults/kernels.rs"]
#[allow(dead_code, reason = "the other tests' kernels")]
mod kernels;

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use bytemuck::cast_slice;
use hmmap_core::{
    Fence, Options, Runtime, SharedVec,
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
};
use kernels::Count;

const N: usize = 100_000;

fn runtime(options: Options) -> Runtime {
    let memory = EmbeddedMemory::Own;
    let device = EmbeddedProvider::new(EmbeddedOptions { memory, ..EmbeddedOptions::default() });
    let mem = Runtime::new(vec![Arc::new(device)], options).unwrap();
    assert!(mem.host_faults().is_some(), "userfaultfd was refused");
    mem
}

/// A vector that a kernel is busy with for so long.
fn busy(mem: &Runtime, seed: u32, pause_ms: u32) -> (SharedVec<u32>, Fence) {
    let mut y = SharedVec::new(mem, N).unwrap();
    let fence = mem.launch(N, Count { y: y.write(), seed, pause_ms }).unwrap();
    (y, fence)
}

/// What events say, each with the thread that said it.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Listener;

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = format!("[{}]", thread::current().name().unwrap_or("?"));
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            let _ = write!(line, " {}={value:?}", field.name());
        });
        SAID.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// The threads that answer faults say nothing, so another one does.
#[test]
fn a_touch_that_waits_long_has_it_said() {
    tracing::subscriber::set_global_default(Listener).unwrap();
    let options =
        Options { own_fence_warning: Some(Duration::from_millis(20)), ..Options::default() };
    let mem = runtime(options);
    let (y, fence) = busy(&mem, 3, 400);
    let mut in_flight = Vec::new();
    thread::scope(|scope| {
        let touching = scope.spawn(|| y[N - 1]);
        // The touch waits for its copy home, and that for the kernel.
        while !touching.is_finished() {
            let now = y.in_flight(..).unwrap().into_iter();
            in_flight.extend(now.map(|work| format!("fence={} ", work.fence)));
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(touching.join().unwrap(), 3 + N as u32 - 1);
    });
    // Ends the thread, so whatever it had to say was said.
    drop((y, fence, mem));
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let text = "a touch or a recall still waits for our own device";
    let mine: Vec<_> = said.iter().filter(|line| line.contains(text)).collect();
    assert!(!mine.is_empty(), "nobody said that it takes long: {said:?}");
    for line in mine {
        assert!(line.starts_with("[hmmap watcher]"), "{line}");
        assert!(in_flight.iter().any(|fence| line.contains(fence)), "{line} of {in_flight:?}");
    }
}

/// A touch as a system call makes it, which says `EFAULT` where a load would end with a signal.
fn touch(elements: &[u32]) -> io::Result<()> {
    let fd: OwnedFd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC)?;
    File::from(fd).write_all(cast_slice(elements))
}

/// A vector with a page whose touch waited longer than it may; the kernel is still busy.
fn given_up(mem: &Runtime, seed: u32) -> (SharedVec<u32>, Fence) {
    let (y, fence) = busy(mem, seed, 400);
    let refused = touch(&y[..10]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::FAULT.raw_os_error()));
    assert!(!fence.has_ended(), "the test's kernel was too quick");
    (y, fence)
}

fn until(mut done: impl FnMut() -> bool) -> bool {
    (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        done()
    })
}

#[test]
fn a_page_that_was_given_up_can_be_touched_once_its_kernel_has_ended() {
    let options =
        Options { own_fence_deadline: Some(Duration::from_millis(20)), ..Options::default() };
    let mem = runtime(options);
    if mem.host_faults().is_some_and(|facts| !facts.poison) {
        println!("HMMAP-SKIP: no poison here");
        return;
    }
    // By itself.
    let (y, fence) = given_up(&mem, 7);
    assert!(until(|| fence.has_ended()));
    assert!(until(|| touch(&y[..10]).is_ok()), "nobody took the signal back");
    assert_eq!(y[9], 16);
    // At once, for who asks by a guard.
    let (y, fence) = given_up(&mem, 8);
    assert!(until(|| fence.has_ended()));
    assert_eq!(y.host(..10).unwrap()[9], 17);
    assert_eq!(y[9], 17);
    // A runtime that ends does not wait for pages that were given up longer than for the work itself.
    let _ = given_up(&mem, 9);
}
