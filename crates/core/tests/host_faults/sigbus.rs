//! What is said before a program dies of a page that it cannot have.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, Output},
};

use hmmap_core::{Runtime, SharedVec, embedded::EmbeddedMemory, host, host::HostFaults};

use crate::{
    kernels::{Break, Count},
    rig::runtime,
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

/// What a child printed behind a word.
fn printed<'o>(output: &'o Output, word: &str) -> &'o str {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let found = text.lines().find_map(|line| line.split_once(word).map(|(_, rest)| rest.trim()));
    found.unwrap_or_else(|| panic!("no {word} in {text}"))
}

#[test]
fn the_cause_is_printed_and_the_program_dies() {
    if let Some(output) = child("the_cause_is_printed_and_the_program_dies") {
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
        let said = stderr(&output);
        let vector = printed(&output, "VECTOR ");
        let wanted = format!(
            ": page 2 of the vector at {vector} cannot be had: its only copy was lost with {}, \
             which failed: the kernel's Rust twin panicked\n",
            printed(&output, "WORK ")
        );
        assert!(said.contains(&wanted), "{said} has not {wanted}");
        assert_eq!(said.matches("hmmap: SIGBUS at 0x").count(), 1, "{said}");
        return;
    }
    host::report_sigbus().unwrap();
    host::report_sigbus().unwrap();
    let mem = runtime(HostFaults::Auto, EmbeddedMemory::Own, 1);
    let y = lost(&mem);
    println!("{}", y[2 * PAGE + 7]);
}

/// Without the handler nothing is said, and the program dies all the same.
#[test]
fn nothing_is_printed_unasked() {
    if let Some(output) = child("nothing_is_printed_unasked") {
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
        assert!(!stderr(&output).contains("hmmap: SIGBUS"), "{output:?}");
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
    unsafe { libc::signal(libc::SIGBUS, theirs as *const () as usize) };
}

/// The handler that was there before has the last word, of our pages and of others.
#[test]
fn the_handler_of_before_is_called() {
    if let Some(output) = child("the_handler_of_before_is_called") {
        assert_eq!(output.status.code(), Some(42), "{output:?}");
        let said = stderr(&output);
        let ours = said.find("hmmap: SIGBUS at 0x").expect("our line");
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
