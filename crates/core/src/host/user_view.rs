//! The user view: the mapping of the arena that the program touches, whose entries come and go.
//!
//! It is a second mapping of the arena's files. An entry exists only while the host's copy of a page is current, so a touch of
//! anything else is a fault that the fault loop hears of. Taking an entry away leaves the bytes in the file, where the
//! service view shows them.
#![allow(unsafe_code, reason = "maps memory and takes mappings away")]

use std::{
    fmt,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustix::{
    io::Errno,
    mm::{Advice, MprotectFlags, ProtFlags},
};

use super::{
    HostFaults, HostSpan, ServiceView,
    causes::{self, Cause, Reason},
    userfault::{Fault, Reach, Userfault},
    view::Mapping,
};
use crate::{access::Access, units::PAGE_BYTES};

/// How the host's touches are served: what was asked for, as far as the system has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostFaultFacts {
    /// Whose touches fault.
    pub reach: Reach,
    /// A page can be mapped for reading alone, so host and device may both hold it.
    pub write_protect: bool,
    /// A page that was lost can be marked so that a touch ends with SIGBUS; else its mapping is taken away (SIGSEGV).
    pub poison: bool,
}

impl fmt::Display for HostFaultFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reach {
            Reach::Full => "the program's touches and system calls",
            Reach::UserMode => "the program's touches, not system calls",
        })?;
        if !self.write_protect {
            f.write_str("; what the host reads leaves the devices")?;
        }
        Ok(())
    }
}

/// The program's mapping of the whole arena.
///
/// # Invariants
/// The mapping is of the arena's files, as long as the service view, registered with `userfault`.
#[derive(Debug)]
pub struct UserView {
    service: Arc<ServiceView>,
    mapping: Mapping,
    userfault: Userfault,
    facts: HostFaultFacts,
    /// How often pages were mapped.
    shows: AtomicU64,
}

impl Drop for UserView {
    fn drop(&mut self) {
        // Whatever is mapped at these addresses next has other causes.
        let start = self.mapping.address();
        causes::forget(start..start + self.service.len_bytes());
    }
}

impl UserView {
    /// Maps the arena a second time and finds what can be used of userfaultfd.
    ///
    /// # Errors
    /// What the system refused.
    pub(super) fn map(service: Arc<ServiceView>, asked: HostFaults) -> Result<Self, Errno> {
        let mapping = Mapping::of(service.files())?;
        let most = if asked == HostFaults::UserModeOnly { Reach::UserMode } else { Reach::Full };
        let start = mapping.address();
        let huge_from = service.files().huge_from_bytes().map(|from| start + from);
        let userfault = Userfault::open(start..start + service.len_bytes(), huge_from, most)?;
        let newest = asked != HostFaults::NoSharing;
        let facts = HostFaultFacts {
            reach: userfault.reach,
            write_protect: false,
            poison: userfault.poisons && newest,
        };
        let shows = AtomicU64::new(0);
        let mut view = Self { service, mapping, userfault, facts, shows };
        view.facts.write_protect = newest && view.can_write_protect()?;
        Ok(view)
    }

    /// What is used of userfaultfd.
    pub fn facts(&self) -> HostFaultFacts {
        self.facts
    }

    /// The first byte of a span, as the program touches it. Good for the span's length while the view lives.
    pub fn pointer(&self, span: HostSpan) -> *mut u8 {
        self.mapping.pointer(span)
    }

    /// The descriptor to wait on for faults.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.userfault.fd()
    }

    /// The next fault that nobody has taken, as an offset in the arena. Does not wait.
    pub(super) fn next(&self) -> Option<(u64, bool)> {
        let Fault { address, write } = self.userfault.next()?;
        Some((address.wrapping_sub(self.mapping.address()), write))
    }

    /// The entry of the mapping with this byte of the arena.
    pub(crate) fn entry(&self, offset_bytes: u64) -> HostSpan {
        self.service.files().whole_entries(HostSpan { offset_bytes, len_bytes: 1 })
    }

    /// How many pages of a vector's span come and go together, at multiples of so many from its start: those that one entry covers, and one at least.
    pub(crate) fn unit_pages(&self, span: HostSpan) -> u64 {
        self.service.files().entry_bytes(span.offset_bytes).div_ceil(PAGE_BYTES)
    }

    /// Changes after pages were mapped or given free to be written, before the buffer's lock is released. A fault that was taken before may be over.
    /// Not before the mapping: a touch can go on in the middle of it, and its fault be taken just before that.
    pub(crate) fn stamp(&self) -> u64 {
        self.shows.load(Relaxed)
    }

    /// Maps pages to what the host holds, and wakes whoever waits for them. Those that are mapped stay as they are.
    pub(crate) fn show(&self, span: HostSpan, access: Access) -> Result<(), Errno> {
        let writable = access.writes() || !self.facts.write_protect;
        let (start, len) = self.place(span);
        let files = self.service.files();
        let map = || {
            let entry_bytes = files.entry_bytes(span.offset_bytes);
            self.userfault.map(start, len, entry_bytes, writable)
        };
        let mapped = match map() {
            // The file has a hole, which reads as zeros: pages for it, then again.
            Err(Errno::FAULT) => {
                self.service.populate(files.whole_entries(span)).and_then(|()| map())
            }
            result => result,
        };
        self.shows.fetch_add(1, Relaxed);
        mapped
    }

    /// Writes to mapped pages are told from now on.
    pub(crate) fn protect(&self, span: HostSpan) -> Result<(), Errno> {
        let (start, len) = self.place(span);
        self.userfault.protect(start, len, true)
    }

    /// Writes to mapped pages go through again; whoever waits to write is woken.
    pub(crate) fn unprotect(&self, span: HostSpan) -> Result<(), Errno> {
        let (start, len) = self.place(span);
        let unprotected = self.userfault.protect(start, len, false);
        self.shows.fetch_add(1, Relaxed);
        unprotected
    }

    /// Wakes whoever waits for these pages, to touch them again.
    pub(crate) fn wake(&self, span: HostSpan) -> Result<(), Errno> {
        let (start, len) = self.place(span);
        self.userfault.wake(start, len)
    }

    /// Takes pages away: the next touch is a fault. What the host holds of them stays in the file.
    pub(crate) fn revoke(&self, span: HostSpan) -> Result<(), Errno> {
        self.advise(span, Advice::LinuxDontNeed)
    }

    /// A touch of a page ends the thread with a signal from now on, and this is why.
    pub(crate) fn poison(
        &self,
        span: HostSpan,
        vector: Option<HostSpan>,
        why: Reason,
    ) -> Result<(), Errno> {
        let address = |span| self.pointer(span).addr() as u64;
        let (start, len) = self.place(span);
        let vector = vector.map_or(0, address);
        causes::record(Cause { address: start, len_bytes: len, vector, why });
        self.revoke(span)?;
        if self.facts.poison {
            // Pages that were mapped for reading alone leave a mark behind, which the kernel does not overwrite. Whoever waits sleeps on: woken
            // here, it would fault once more, and that fault may find the page to be fine.
            self.userfault.unprotect_without_waking(start, len)?;
            self.shows.fetch_add(1, Relaxed);
            return self.userfault.poison(start, len).and_then(|()| self.wake(span));
        }
        self.guard(span, MprotectFlags::empty())?;
        self.wake(span)
    }

    /// Undoes [`UserView::poison`]: a touch is a fault again.
    pub(crate) fn cure(&self, span: HostSpan) -> Result<(), Errno> {
        if !self.facts.poison {
            self.guard(span, MprotectFlags::READ | MprotectFlags::WRITE)?;
        }
        let (start, len) = self.place(span);
        causes::forget(start..start + len);
        self.revoke(span)
    }

    /// Maps a file over a span, and has the touches there told again: a new mapping is not registered.
    pub(super) fn place_file(
        &self,
        span: HostSpan,
        file: BorrowedFd<'_>,
        offset_bytes: u64,
    ) -> Result<(), Errno> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        self.mapping.place(span, file, rights, offset_bytes)?;
        let (start, len) = self.place(span);
        self.userfault.register(start, len)
    }

    fn guard(&self, span: HostSpan, flags: MprotectFlags) -> Result<(), Errno> {
        let span = self.service.files().whole_entries(span);
        // SAFETY: the span lies in our mapping, as `pointer` checks; references into it that a revoked protection would break end with the
        // signal that is promised for lost pages.
        unsafe { rustix::mm::mprotect(self.pointer(span).cast(), span.len_bytes as usize, flags) }
    }

    fn advise(&self, span: HostSpan, advice: Advice) -> Result<(), Errno> {
        // Of a part of a huge page the kernel would do nothing, and say that it is done.
        let span = self.service.files().whole_entries(span);
        // SAFETY: the span lies in our shared mapping of a file: dropping its entries loses no byte, and a touch brings
        // them back by a fault.
        unsafe { rustix::mm::madvise(self.pointer(span).cast(), span.len_bytes as usize, advice) }
    }

    /// Tries the mode on the first page of each file, which nobody has yet.
    fn can_write_protect(&self) -> Result<bool, Errno> {
        for (part, _) in self.service.files().parts() {
            let first = self.entry(part.offset_bytes);
            let (start, len) = self.place(first);
            self.service.files().reserve(first)?;
            self.service.populate(first)?;
            let result = self.userfault.map(start, len, len, false);
            self.revoke(first)?;
            self.service.files().punch(first)?;
            match result {
                Ok(()) => {}
                Err(Errno::INVAL) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Where the entries are that a span needs.
    fn place(&self, span: HostSpan) -> (u64, u64) {
        let span = self.service.files().whole_entries(span);
        (self.pointer(span).addr() as u64, span.len_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt as _, sync::atomic::AtomicBool, thread, time::Duration};

    use parking_lot::Mutex;

    use super::*;
    use crate::host::{Arena, files::ENTRY_BYTES};

    const ENTRIES: u64 = PAGE_BYTES / ENTRY_BYTES;
    const PAGE: HostSpan = HostSpan { offset_bytes: 3 * PAGE_BYTES, len_bytes: PAGE_BYTES };

    /// A view of an arena whose page has memory but no entry; nobody answers its faults.
    fn view() -> Option<(Arena, Arc<UserView>)> {
        let arena = Arena::new().unwrap();
        let Ok(view) = arena.map_user_view(HostFaults::Auto) else {
            println!("HMMAP-SKIP: no userfaultfd");
            return None;
        };
        view.service.populate(PAGE).unwrap();
        Some((arena, Arc::new(view)))
    }

    fn entry(number: u64) -> HostSpan {
        PAGE.part(number * ENTRY_BYTES, ENTRY_BYTES)
    }

    /// Which entries the page has, by the kernel's own list.
    fn present(view: &UserView) -> Vec<bool> {
        let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
        let mut words = vec![0; ENTRIES as usize * 8];
        let (start, _) = view.place(PAGE);
        pagemap.read_exact_at(&mut words, start / ENTRY_BYTES * 8).unwrap();
        let words = words.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
        words.map(|word| word >> 63 == 1).collect()
    }

    fn all_but(missing: &[u64]) -> Vec<bool> {
        (0..ENTRIES).map(|entry| !missing.contains(&entry)).collect()
    }

    /// A thread that reads a byte of an entry, and has slept on it when this returns.
    fn sleeper(view: &Arc<UserView>, number: u64) -> thread::JoinHandle<u8> {
        let touches = view.clone();
        let thread = thread::spawn(move || {
            // SAFETY: the byte lies in the view, which the thread holds; nobody writes it.
            unsafe { touches.pointer(entry(number)).read_volatile() }
        });
        while view.next().is_none() {
            thread::sleep(Duration::from_micros(100));
        }
        thread
    }

    /// The kernel stops at an entry that is there already, and says how far it came.
    #[test]
    fn a_page_with_some_entries_is_mapped_whole() {
        for access in [Access::Read, Access::Update] {
            let Some((_arena, view)) = view() else { return };
            for number in [0, 5, 6, 11, ENTRIES - 1] {
                view.show(entry(number), access).unwrap();
            }
            view.show(PAGE, access).unwrap();
            assert_eq!(present(&view), all_but(&[]), "{access:?}");
            view.revoke(entry(7)).unwrap();
            assert_eq!(present(&view), all_but(&[7]));
            view.show(PAGE, access).unwrap();
            assert_eq!(present(&view), all_but(&[]), "one hole between what is mapped");
        }
    }

    /// Who sleeps on an entry that was mapped meanwhile, and not for him, is woken though there is nothing to map.
    #[test]
    fn whoever_sleeps_on_what_is_mapped_already_is_woken() {
        let Some((_arena, view)) = view() else { return };
        let sleepers = [2, 9, ENTRIES - 1].map(|number| sleeper(&view, number));
        for number in [2, ENTRIES - 1] {
            let (start, len) = view.place(entry(number));
            view.userfault.map_without_waking(start, len).unwrap();
        }
        thread::sleep(Duration::from_millis(20));
        assert!(sleepers.iter().all(|sleeper| !sleeper.is_finished()), "nobody woke them");
        view.show(PAGE, Access::Read).unwrap();
        for sleeper in sleepers {
            assert_eq!(sleeper.join().unwrap(), 0);
        }
    }

    /// Taking an entry away keeps the bytes, and forgets that it was protected; showing it for reading protects it again.
    #[test]
    fn protection_is_asked_for_each_time() {
        let Some((_arena, view)) = view() else { return };
        if !view.facts().write_protect {
            println!("HMMAP-SKIP: no mapping for reading alone");
            return;
        }
        for round in 0..3u8 {
            view.show(PAGE, Access::Read).unwrap();
            let touches = view.clone();
            let writer = thread::spawn(move || {
                // SAFETY: the byte lies in the view, which the thread holds; nobody else touches it.
                unsafe { touches.pointer(PAGE).write_volatile(round) }
            });
            let fault = std::iter::repeat_with(|| view.next()).find_map(|fault| fault).unwrap();
            assert_eq!(fault, (PAGE.offset_bytes, true), "a protected page is written to");
            view.unprotect(PAGE).unwrap();
            writer.join().unwrap();
            // SAFETY: as above; the writer has ended.
            assert_eq!(unsafe { view.service.pointer(PAGE).read_volatile() }, round);
            view.revoke(PAGE).unwrap();
        }
    }

    /// A fault is taken just when its page is shown, and whoever took it comes late: the touch is over, and the page may be another's by then.
    #[test]
    fn whoever_took_a_fault_that_is_over_sees_it_by_the_stamp() {
        let Some((_arena, view)) = view() else { return };
        let lock = Mutex::new(());
        let mut random = fastrand::Rng::with_seed(1);
        for protected in [false, true] {
            if protected && !view.facts().write_protect {
                println!("HMMAP-SKIP: no mapping for reading alone");
                continue;
            }
            for round in 0..2000 {
                view.revoke(PAGE).unwrap();
                if protected {
                    view.show(PAGE, Access::Read).unwrap();
                }
                let (spins, over) = (random.u32(0..20_000), AtomicBool::new(false));
                thread::scope(|scope| {
                    scope.spawn(|| {
                        // SAFETY: the byte lies in the view, which the test holds; nobody else touches it.
                        unsafe { view.pointer(PAGE).write_volatile(1) };
                        over.store(true, Relaxed);
                    });
                    scope.spawn(|| {
                        (0..spins).for_each(|_| std::hint::spin_loop());
                        while !over.load(Relaxed) {
                            let _shown = lock.lock();
                            let all = if protected {
                                view.unprotect(PAGE)
                            } else {
                                view.show(PAGE, Access::Update)
                            };
                            all.unwrap();
                        }
                    });
                    let mut stamp = view.stamp();
                    let mut taken = None;
                    while !over.load(Relaxed) && taken.is_none() {
                        stamp = view.stamp();
                        taken = view.next();
                    }
                    while !over.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                    let _late = lock.lock();
                    assert!(
                        taken.is_none() || view.stamp() != stamp,
                        "round {round}, protected: {protected}"
                    );
                });
            }
        }
    }
}
