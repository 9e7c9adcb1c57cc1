//! What the system says of huge pages: its pool of them, and what shared memory gets without asking.

use std::{fmt, fs, path::Path};

/// The system's pool of huge pages of 2 MiB, as pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HugePool {
    /// How many an administrator has put there.
    pub pages: u64,
    /// How many nobody uses and nobody has reserved.
    pub free: u64,
    /// How many more the system makes when the pool is empty, as far as it finds memory in one piece.
    pub overcommit: u64,
}

impl HugePool {
    /// What the pool has now. All zero where there is none.
    pub fn look() -> Self {
        Self::of(Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB"))
    }

    fn of(folder: &Path) -> Self {
        let number = |name: &str| -> u64 {
            let text = fs::read_to_string(folder.join(name)).ok();
            text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        let surplus = number("surplus_hugepages");
        Self {
            pages: number("nr_hugepages").saturating_sub(surplus),
            free: number("free_hugepages").saturating_sub(number("resv_hugepages")),
            overcommit: number("nr_overcommit_hugepages").saturating_sub(surplus),
        }
    }

    /// What an administrator does so that `needed` more pages are there.
    pub fn remedy(&self, needed: u64) -> String {
        let pages = self.pages + needed.saturating_sub(self.free);
        format!("as root: `echo {pages} > /proc/sys/vm/nr_hugepages`")
    }
}

impl fmt::Display for HugePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} are free", self.free, self.pages)?;
        if self.overcommit > 0 {
            write!(f, ", and {} more are made if there is memory", self.overcommit)?;
        }
        Ok(())
    }
}
