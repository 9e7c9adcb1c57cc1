//! Huge pages for the tests' time: the system's pool is filled before them and is as large as before after them.
//!
//! Tests that need some look at the pool themselves and are counted as left out where it has too few. So everything here is tried, and what the
//! system refuses (to anyone but root, all) changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// How many are enough for a few tests at once.
const ENOUGH: u64 = 256;
/// The most of the memory that could be used now: one part in so many.
const PART: u64 = 8;
const PAGE_KIB: u64 = 2048;

/// A pool that was filled; dropped, it is as large as it was.
#[derive(Debug)]
pub(crate) struct HugePages {
    pool: PathBuf,
    before: u64,
}

impl HugePages {
    /// Fills the pool, unless it has enough already or may not be changed.
    pub(crate) fn fill() -> Option<Self> {
        let available_kib = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        });
        Self::fill_up_to(Path::new("/proc/sys/vm/nr_hugepages"), available_kib.unwrap_or(0))
    }

    fn fill_up_to(pool: &Path, available_kib: u64) -> Option<Self> {
        let before: u64 = fs::read_to_string(pool).ok()?.trim().parse().ok()?;
        let wanted = ENOUGH.min(before + available_kib / PART / PAGE_KIB);
        if wanted <= before {
            return None;
        }
        fs::write(pool, wanted.to_string()).ok()?;
        Some(Self { pool: pool.to_owned(), before })
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if fs::write(&self.pool, self.before.to_string()).is_err() {
            eprintln!("could not set {} back to {}", self.pool.display(), self.before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_as_large_after_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let pool = folder.path().join("nr_hugepages");
        let pages = || fs::read_to_string(&pool).unwrap().trim().parse::<u64>().unwrap();
        fs::write(&pool, "7\n").unwrap();
        let filled = HugePages::fill_up_to(&pool, 1 << 30).unwrap();
        assert_eq!(pages(), ENOUGH);
        assert!(HugePages::fill_up_to(&pool, 1 << 30).is_none(), "it has enough");
        drop(filled);
        assert_eq!(pages(), 7);
        let filled = HugePages::fill_up_to(&pool, PART * PAGE_KIB * 10 + 5).unwrap();
        assert_eq!(pages(), 17, "a machine with little memory keeps most of it");
        drop(filled);
        assert!(HugePages::fill_up_to(&pool, 5).is_none());
        assert!(HugePages::fill_up_to(&folder.path().join("none"), 1 << 30).is_none());
        assert_eq!(pages(), 7);
    }
}
