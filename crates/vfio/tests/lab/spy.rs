//! A second look at a device's window, past the library: what is really in it. The kernel maps a window that `vfio-pci` has for nobody else, so this goes by the library's
//! own mapping.
#![allow(unsafe_code, reason = "reads and writes a mapping of the library's")]

use std::ptr::NonNull;

/// The only mapping of a VFIO device's window of this length in this process. Good while its node is open.
pub(crate) struct Spy {
    start: NonNull<u32>,
    words: usize,
}

impl Spy {
    pub(crate) fn on(len_bytes: usize) -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let windows = maps.lines().filter(|line| line.contains("vfio-device"));
        let ranges = windows.map(|line| {
            let (start, rest) = line.split_once('-').unwrap();
            let (end, _) = rest.split_once(' ').unwrap();
            (number(start), number(end))
        });
        let found: Vec<_> = ranges.filter(|(start, end)| end - start == len_bytes).collect();
        let [(start, _)] = found[..] else { panic!("{found:x?}\n{maps}") };
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(start)).unwrap();
        Self { start, words: len_bytes / 4 }
    }

    pub(crate) fn read(&self, at: usize) -> u32 {
        assert!(at < self.words);
        // SAFETY: inside of the mapping; volatile, since others write it.
        unsafe { self.start.as_ptr().add(at).read_volatile() }
    }

    pub(crate) fn write(&self, at: usize, word: u32) {
        assert!(at < self.words);
        // SAFETY: as for `read`.
        unsafe { self.start.as_ptr().add(at).write_volatile(word) };
    }

    /// Where these words are, one after the other.
    pub(crate) fn find(&self, words: &[u32]) -> Option<usize> {
        (0..self.words - words.len())
            .find(|at| words.iter().enumerate().all(|(i, word)| self.read(at + i) == *word))
    }
}
