//! An optional handler that says why a touch ends with SIGBUS, or with SIGSEGV where pages cannot be poisoned, before the program dies of it.
//!
//! What a handler may do is little: this one reads a table of atomics ([`super::causes`]), formats numbers into memory on its stack, and calls
//! `write`. Then it passes the signal on to whoever had it before, or to the system's default, so the program ends as it would have.
#![allow(unsafe_code, reason = "installs a signal handler")]

use std::{
    fmt::Write as _,
    io, mem,
    os::fd::BorrowedFd,
    ptr,
    sync::{Once, OnceLock},
};

use libc::{c_int, c_void, sigaction, siginfo_t};

use super::causes;

/// How a touch of a page that cannot be had ends: SIGSEGV where [`super::HostFaultFacts::poison`] is false.
const SIGNALS: [(c_int, &str); 2] = [(libc::SIGBUS, "SIGBUS"), (libc::SIGSEGV, "SIGSEGV")];

/// Who had each of the signals before.
static PREVIOUS: [OnceLock<sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; SIGNALS.len()];

/// From now on a touch of a vector's page that cannot be had says why on the standard error before the program ends with SIGBUS (or, where
/// [`super::HostFaultFacts::poison`] is false, SIGSEGV): which page of which vector, and which device's work took it. A signal that is none of
/// ours is passed on untouched, as ours is after that: to the handler that was installed before, or to the system. Installed once for
/// the process; calling it again does nothing.
///
/// # Errors
/// What the system answered.
pub fn report_sigbus() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| result = (0..SIGNALS.len()).try_for_each(install));
    result
}

fn install(number: usize) -> io::Result<()> {
    let (signal, _) = SIGNALS[number];
    // SAFETY: a `sigaction` is integers and an optional function pointer, all of which may be zero.
    let (mut ours, mut before): (sigaction, sigaction) = unsafe { (mem::zeroed(), mem::zeroed()) };
    // SAFETY: asks only; `before` is one `sigaction`.
    if unsafe { libc::sigaction(signal, ptr::null(), &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Before the handler can run.
    let _ = PREVIOUS[number].set(before);
    ours.sa_sigaction = on_signal as *const () as usize;
    // On the thread's own signal stack where it has one, since its stack may be what is broken.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `on_signal` has the signature that SA_SIGINFO asks for, and does only what a handler may: it touches atomics and its own
    // stack, calls `write`, `sigaction` and `raise`, and the handler that was there before it.
    if unsafe { libc::sigaction(signal, &raw const ours, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the signal's own `siginfo_t`, whose address is set when a fault caused it (a code above zero).
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr()) };
    let Some(number) = SIGNALS.iter().position(|(known, _)| *known == signal) else { return };
    if code > 0
        && let Some(cause) = causes::find(address.addr() as u64)
    {
        let mut line = Line { bytes: [0; 320], len: 0 };
        let _ = writeln!(line, "hmmap: {} at {:#x}: {cause}", SIGNALS[number].1, address.addr());
        // SAFETY: only asked to write; when it is closed, nothing is written.
        let stderr = unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) };
        let _ = rustix::io::write(stderr, &line.bytes[..line.len]);
    }
    pass_on(number, code, info, context);
}

fn pass_on(number: usize, code: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(previous) = PREVIOUS[number].get() else { return };
    let (signal, _) = SIGNALS[number];
    match previous.sa_sigaction {
        // Sent by somebody, and to be ignored. What a fault causes cannot be.
        libc::SIG_IGN if code <= 0 => {}
        libc::SIG_IGN | libc::SIG_DFL => {
            // SAFETY: zeros are the default action.
            let default: sigaction = unsafe { mem::zeroed() };
            // SAFETY: gives the signal back to the system; raised here, it comes when this handler returns.
            unsafe {
                libc::sigaction(signal, &raw const default, ptr::null_mut());
                libc::raise(signal);
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: whoever installed it said by SA_SIGINFO that this is its signature; zero and one were told apart above.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: as above, without SA_SIGINFO.
            let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// Text on the stack; what does not fit is cut off.
struct Line {
    bytes: [u8; 320],
    len: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let fits = text.len().min(room.len());
        room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}
