//! What is said before a program dies of a page that it cannot have.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, Output},
    sync::Arc,
};

use hmmap_core::{
    MemoryModel, Options, Runtime, SharedVec,
    embedded::{Backing, EmbeddedMemory},
    host,
    host::{HostFaults, HostPages},
    simulated::{Progress, SimulatedOptions, SimulatedProvider},
};

use crate::{
    kernels::{Break, Count},
    panics::runtime_that_panics,
    rig::{lacks_huge_pages, runtime, runtime_on, signal_of_a_lost_page},
};

const N: usize = 100_000;
const PAGE: usize = 65_536 / 4;

/// Runs a test of this file again, alone, as a child that is expected to die; `None` in that child.
fn child(test: &str) -> Option<Output> {
    if std::env::var_os("HMMAP_TEST_CHILD").is_some() {
        return None;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("sigbus::{test}"), "--nocapture"]);
    Some(child.env("HMMAP_TEST_CHILD", "1").output().unwrap())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A vector whose data went with the second work of the device.
fn lost(mem: &Runtime) -> SharedVec<u32> {
    let mut y = SharedVec::new(mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
    let failed = mem.launch(N, Break { y: y.update() }).unwrap();
    println!("WORK {}", failed.point().unwrap());
    println!("VECTOR {:#x}", y.as_ptr().addr());
    failed.wait().unwrap_err();
    y
}

/// How the line begins that tells of a lost page.
fn own_line() -> String {
    format!("hmmap: {} at 0x", signal_of_a_lost_page().1)
}

/// What a child printed behind a word.
fn printed<'o>(output: &'o Output, word: &str) -> &'o str {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let found = text.lines().find_map(|line| line.split_once(word).map(|(_, rest)| rest.trim()));
    found.unwrap_or_else(|| panic!("no {word} in {text}"))
}

#[test]
fn the_cause_is_printed_and_the_program_dies() {
    if let Some(output) = child("the_cause_is_printed_and_the_program_dies") {
        assert_eq!(output.status.signal(), Some(signal_of_a_lost_page().0), "{output:?}");
        let said = stderr(&output);
        let vector = printed(&output, "VECTOR ");
        let wanted = format!(
            ": page 2 of the vector at {vector} cannot be had: its only copy was lost with {}, \
             which failed: the kernel's Rust twin panicked\n",
            printed(&output, "WORK ")
        );
        assert!(said.contains(&wanted), "{said} has not {wanted}");
        assert_eq!(said.matches(&own_line()).count(), 1, "{said}");
        return;
    }
    host::report_sigbus().unwrap();
    host::report_sigbus().unwrap();
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let y = lost(&mem);
    println!("{}", y[2 * PAGE + 7]);
}

/// Of each page is told what took it, and not what took another one since.
#[test]
fn each_page_has_a_cause_of_its_own() {
    if let Some(output) = child("each_page_has_a_cause_of_its_own") {
        let (said, work) = (stderr(&output), printed(&output, "FIRST "));
        assert_ne!(work, printed(&output, "LAST "));
        let wanted = format!(
            ": page 1 of the vector at {} cannot be had: its only copy was lost with {work},",
            printed(&output, "VECTOR ")
        );
        assert!(said.contains(&wanted), "{said} has not {wanted}");
        return;
    }
    host::report_sigbus().unwrap();
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut y = SharedVec::<u32>::new(&mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
    println!("VECTOR {:#x}", y.as_ptr().addr());
    for (word, page) in [("FIRST", 1), ("NEXT", 3), ("LAST", 4)] {
        let kernel = Break { y: y.update().range(page * PAGE..(page + 1) * PAGE) };
        let failed = mem.launch(PAGE, kernel).unwrap();
        println!("{word} {}", failed.point().unwrap());
        failed.wait().unwrap_err();
    }
    println!("{}", y[PAGE + 7]);
}

/// A page whose only copy was at rest on a device that was lost, after earlier work had spoiled it and it was made good again.
#[test]
fn what_went_with_a_device_at_rest_is_said_to() {
    if let Some(output) = child("what_went_with_a_device_at_rest_is_said_to") {
        let said = stderr(&output);
        let wanted = ": its only copy was lost with device 0\n";
        assert!(said.contains(&own_line()) && said.contains(wanted), "{said}");
        return;
    }
    host::report_sigbus().unwrap();
    let device = SimulatedProvider::new(SimulatedOptions {
        seed: 1,
        progress: Progress::WhenAsked,
        backing: Backing::Blocks,
        ..SimulatedOptions::default()
    });
    let control = device.control();
    let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
    let mem = Runtime::new(vec![Arc::new(device)], options).unwrap();
    let mut y = SharedVec::<u32>::new(&mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
    mem.launch(N, Break { y: y.update() }).unwrap().wait().unwrap_err();
    mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap().wait().unwrap();
    control.lose();
    println!("{}", y[2 * PAGE + 7]);
}

/// The library's own failure, here a device's code that panics, is told of the page.
#[test]
fn a_page_that_a_panic_took_is_told_of() {
    if let Some(output) = child("a_page_that_a_panic_took_is_told_of") {
        assert_eq!(output.status.signal(), Some(signal_of_a_lost_page().0), "{output:?}");
        let vector = printed(&output, "VECTOR ");
        let wanted =
            format!(": page 2 of the vector at {vector} cannot be had: the library failed");
        assert!(stderr(&output).contains(&wanted), "{output:?}");
        return;
    }
    host::report_sigbus().unwrap();
    let (mem, faults) = runtime_that_panics(HostFaults::Auto);
    let mut y = SharedVec::<u32>::new(&mem, N).unwrap();
    mem.launch(N, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap().wait().unwrap();
    println!("VECTOR {:#x}", y.as_ptr().addr());
    faults.panic_in_next_wait();
    println!("{}", y[2 * PAGE + 7]);
}

/// Where a lost page ends with SIGSEGV, the cause is told as well.
#[test]
fn the_rung_without_sharing_tells_too() {
    if let Some(output) = child("the_rung_without_sharing_tells_too") {
        assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
        let (said, vector) = (stderr(&output), printed(&output, "VECTOR "));
        let wanted = format!(
            ": page 2 of the vector at {vector} cannot be had: its only copy was lost with {},",
            printed(&output, "WORK ")
        );
        assert!(said.contains("hmmap: SIGSEGV at 0x") && said.contains(&wanted), "{said}");
        return;
    }
    host::report_sigbus().unwrap();
    let mem = runtime(HostFaults::NoSharing, EmbeddedMemory::Own, 1);
    let y = lost(&mem);
    println!("{}", y[2 * PAGE + 7]);
}

/// A SIGSEGV that is none of ours is the system's, and what was there before for it still is: Rust's word about a stack that is full.
#[test]
fn a_strangers_sigsegv_is_passed_on() {
    fn endless(depth: u64) -> u64 {
        let deep = std::hint::black_box([depth; 64]);
        if deep[7] == u64::MAX { 0 } else { endless(depth + 1) + deep[3] }
    }
    if let Some(output) = child("a_strangers_sigsegv_is_passed_on") {
        assert!(
            matches!(output.status.signal(), Some(libc::SIGABRT | libc::SIGSEGV)),
            "{output:?}"
        );
        assert!(!stderr(&output).contains("hmmap: SIG"), "{output:?}");
        assert!(stderr(&output).contains("overflowed its stack"), "{output:?}");
        return;
    }
    host::report_sigbus().unwrap();
    println!("{}", endless(0));
}

/// Any page of a huge one that has a lost page in it.
#[test]
fn a_neighbour_of_a_lost_page_in_a_huge_one_is_told_of() {
    if let Some(reason) = lacks_huge_pages() {
        println!("HMMAP-SKIP: {reason}");
        return;
    }
    if let Some(output) = child("a_neighbour_of_a_lost_page_in_a_huge_one_is_told_of") {
        assert_eq!(output.status.signal(), Some(signal_of_a_lost_page().0), "{output:?}");
        let (said, vector) = (stderr(&output), printed(&output, "VECTOR "));
        let wanted = format!(
            ": pages 32 to 63 of the vector at {vector} come and go together, and one of them \
             cannot be had: its only copy was lost with {},",
            printed(&output, "WORK ")
        );
        assert!(said.contains(&wanted), "{said} has not {wanted}");
        return;
    }
    host::report_sigbus().unwrap();
    let mem = runtime_on(HostPages::Huge, HostFaults::Auto, EmbeddedMemory::Own, 1);
    let mut y = SharedVec::<u32>::new(&mem, 96 * PAGE).unwrap();
    let n = y.len();
    mem.launch(n, Count { y: y.write(), seed: 1, pause_ms: 0 }).unwrap();
    println!("VECTOR {:#x}", y.as_ptr().addr());
    let failed = mem.launch(PAGE, Break { y: y.update().range(40 * PAGE..41 * PAGE) }).unwrap();
    println!("WORK {}", failed.point().unwrap());
    failed.wait().unwrap_err();
    println!("{}", y[50 * PAGE]);
}

/// Without the handler nothing is said, and the program dies all the same.
#[test]
fn nothing_is_printed_unasked() {
    if let Some(output) = child("nothing_is_printed_unasked") {
        assert_eq!(output.status.signal(), Some(signal_of_a_lost_page().0), "{output:?}");
        assert!(!stderr(&output).contains("hmmap: SIG"), "{output:?}");
        return;
    }
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    println!("{}", lost(&mem)[2 * PAGE + 7]);
}

/// Touches a page behind the end of a file, which is a SIGBUS of the program's own.
fn touch_behind_the_end() {
    let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    // SAFETY: a mapping of the program's own, of a file that is empty: touching it is what is tested.
    unsafe {
        let place = rustix::mm::mmap(
            std::ptr::null_mut(),
            4096,
            rustix::mm::ProtFlags::READ,
            rustix::mm::MapFlags::SHARED,
            &file,
            0,
        );
        println!("{}", place.unwrap().cast::<u8>().read_volatile());
    }
}

#[test]
fn a_strangers_sigbus_is_passed_on() {
    if let Some(output) = child("a_strangers_sigbus_is_passed_on") {
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
        assert!(!stderr(&output).contains("hmmap: SIGBUS"), "{output:?}");
        return;
    }
    host::report_sigbus().unwrap();
    let _mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    touch_behind_the_end();
}

extern "C" fn theirs(_: libc::c_int) {
    let said = b"the handler of before\n";
    // SAFETY: writes bytes of ours and ends the process, as a handler may.
    unsafe {
        libc::write(2, said.as_ptr().cast(), said.len());
        libc::_exit(42);
    }
}

fn install_theirs() {
    // SAFETY: the handler does only what one may.
    unsafe {
        libc::signal(libc::SIGBUS, theirs as *const () as usize);
        libc::signal(libc::SIGSEGV, theirs as *const () as usize);
    }
}

/// The handler that was there before has the last word, of our pages and of others.
#[test]
fn the_handler_of_before_is_called() {
    if let Some(output) = child("the_handler_of_before_is_called") {
        assert_eq!(output.status.code(), Some(42), "{output:?}");
        let said = stderr(&output);
        let ours = said.find(&own_line()).expect("our line");
        assert!(said.find("the handler of before").is_some_and(|theirs| ours < theirs), "{said}");
        return;
    }
    install_theirs();
    host::report_sigbus().unwrap();
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    println!("{}", lost(&mem)[2 * PAGE + 7]);
}

#[test]
fn the_handler_of_before_has_a_strangers_sigbus() {
    if let Some(output) = child("the_handler_of_before_has_a_strangers_sigbus") {
        assert_eq!(output.status.code(), Some(42), "{output:?}");
        assert!(!stderr(&output).contains("hmmap: SIGBUS"), "{output:?}");
        return;
    }
    install_theirs();
    host::report_sigbus().unwrap();
    let _mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    touch_behind_the_end();
}
