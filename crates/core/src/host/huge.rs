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
        Self::of(|name| read("/sys/kernel/mm/hugepages/hugepages-2048kB", name))
    }

    fn of(read: impl Fn(&str) -> String) -> Self {
        let number = |name: &str| -> u64 { read(name).trim().parse().unwrap_or(0) };
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

/// What shared memory, which the arena is, gets of huge pages without anybody's asking (`shmem_enabled`). It makes memory quicker to take and to take
/// away; the program's entries stay those of ordinary pages, so a scan by faults is no faster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SharedHugePages {
    /// The sizes that it gets, in KiB, in order.
    pub sizes_kib: Vec<u64>,
}

impl SharedHugePages {
    /// What the system says now. Empty where it has none.
    pub fn look() -> Self {
        let folder = "/sys/kernel/mm/transparent_hugepage";
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        Self::of(names, |name| read(folder, name))
    }

    fn of(names: impl Iterator<Item = String>, read: impl Fn(&str) -> String) -> Self {
        let global = chosen(&read("shmem_enabled"));
        let gets = |choice: &str| matches!(choice, "always" | "within_size" | "force");
        let gets_size = |name: String| -> Option<u64> {
            let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let own = chosen(&read(&format!("{name}/shmem_enabled")));
            gets(if own == "inherit" { &global } else { &own }).then_some(kib)
        };
        let mut sizes_kib: Vec<u64> = names.filter_map(gets_size).collect();
        // Kernels before 6.11 have one size and no folder for it that says so.
        if sizes_kib.is_empty() && gets(&global) {
            sizes_kib.push(2048);
        }
        sizes_kib.sort_unstable();
        Self { sizes_kib }
    }
}

/// A file's text; nothing where it cannot be read.
fn read(folder: &str, name: &str) -> String {
    fs::read_to_string(Path::new(folder).join(name)).unwrap_or_default()
}

/// The word in brackets.
fn chosen(text: &str) -> String {
    let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map_or_else(String::new, |(word, _)| word.to_owned())
}

impl fmt::Display for SharedHugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sizes_kib.is_empty() {
            return f.write_str("none of its own accord");
        }
        let sizes: Vec<_> = self.sizes_kib.iter().map(|kib| format!("{kib} KiB")).collect();
        write!(f, "{} (memory comes and goes quicker; entries stay small)", sizes.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of these files.
    fn reader(files: &[(&str, &str)]) -> impl Fn(&str) -> String {
        move |name| {
            let file = files.iter().find(|(file, _)| *file == name);
            file.map_or_else(String::new, |(_, text)| (*text).to_owned())
        }
    }

    #[test]
    fn a_pool_says_what_is_free_and_what_to_do() {
        let files = [
            ("nr_hugepages", "40\n"),
            ("free_hugepages", "30\n"),
            ("resv_hugepages", "12\n"),
            ("surplus_hugepages", "8\n"),
            ("nr_overcommit_hugepages", "10\n"),
        ];
        let pool = HugePool::of(reader(&files));
        assert_eq!(pool, HugePool { pages: 32, free: 18, overcommit: 2 });
        assert_eq!(pool.to_string(), "18 of 32 are free, and 2 more are made if there is memory");
        assert_eq!(pool.remedy(20), "as root: `echo 34 > /proc/sys/vm/nr_hugepages`");
        let none = HugePool::of(reader(&[]));
        assert_eq!(none, HugePool::default());
        assert_eq!(none.remedy(64), "as root: `echo 64 > /proc/sys/vm/nr_hugepages`");
    }

    #[test]
    fn shared_memory_gets_the_sizes_that_are_chosen_for_it() {
        let words = |chosen: &str| {
            let all = ["always", "inherit", "within_size", "advise", "never", "deny", "force"];
            all.map(|word| if word == chosen { format!("[{word}]") } else { word.into() }).join(" ")
        };
        let sizes = |global: &str, large: &str, small: &str| {
            let (global, large, small) = (words(global), words(large), words(small));
            let files = [
                ("shmem_enabled", global.as_str()),
                ("hugepages-2048kB/shmem_enabled", large.as_str()),
                ("hugepages-64kB/shmem_enabled", small.as_str()),
            ];
            let names = ["enabled", "hugepages-2048kB", "hugepages-64kB"].map(str::to_owned);
            SharedHugePages::of(names.into_iter(), reader(&files)).sizes_kib
        };
        assert!(sizes("never", "inherit", "never").is_empty());
        assert!(sizes("advise", "inherit", "advise").is_empty(), "nobody advises");
        assert_eq!(sizes("always", "inherit", "never"), [2048]);
        assert_eq!(sizes("never", "inherit", "within_size"), [64]);
        assert_eq!(sizes("always", "inherit", "inherit"), [64, 2048]);
        let old = [("shmem_enabled", "always [within_size] never")];
        let none = std::iter::empty();
        assert_eq!(SharedHugePages::of(none, reader(&old)).sizes_kib, [2048]);
        assert!(SharedHugePages::of(std::iter::empty(), reader(&[])).sizes_kib.is_empty());
    }
}
