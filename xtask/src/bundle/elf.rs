//! What a program needs of the machine that it starts on, read from its ELF file.
//!
//! A dynamic program lists the libraries that it is linked with (`DT_NEEDED`) and, for each, the versions of the
//! symbols that it takes from there (`.gnu.version_r`). glibc adds a version with each release that has new symbols, so
//! the greatest one is the oldest glibc that will do.

use std::fmt;

use anyhow::{Context as _, Result};
use object::elf::{DT_NEEDED, EM_X86_64, FileHeader64};
use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _};
use object::{Endianness, ReadRef};

/// A glibc release, or the version of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Glibc {
    major: u32,
    minor: u32,
    patch: u32,
}

/// The oldest glibc that a bundle promises to run on: Debian 12's.
pub(super) const OLDEST: Glibc = Glibc { major: 2, minor: 36, patch: 0 };

/// The C library's own libraries, and the unwinder's, which glibc itself loads when a thread is cancelled and which
/// distributions therefore install with it.
const WITH_GLIBC: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "librt.so.1",
    "libpthread.so.0",
    "ld-linux-x86-64.so.2",
    "libgcc_s.so.1",
];

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 { write!(f, ".{}", self.patch) } else { Ok(()) }
    }
}

impl Glibc {
    /// The release that the version of a symbol asks for, `GLIBC_2.2.5`. `None` for what is no release: the library's
    /// private symbols, or another library's versions.
    pub(super) fn of_symbol(version: &str) -> Option<Self> {
        let rest = version.strip_prefix("GLIBC_")?;
        if rest == "ABI_DT_RELR" {
            return Some(OLDEST); // no symbol: packed relocations, understood since that release
        }
        let mut parts = rest.split('.').map(|part| part.parse().ok());
        let (major, minor) = (parts.next()??, parts.next()??);
        let patch = parts.next().unwrap_or(Some(0))?;
        parts.next().is_none().then_some(Self { major, minor, patch })
    }
}

/// What one program or library needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) x86_64: bool,
    /// Libraries by name.
    pub(super) libraries: Vec<String>,
    /// Versions of symbols, of all libraries.
    pub(super) versions: Vec<String>,
}

impl Needs {
    /// Reads an ELF file; `None` for a file of another kind.
    ///
    /// # Errors
    ///
    /// The file begins as an ELF file, and is broken.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>> {
        if !bytes.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        Self::of_elf(bytes).context("not a whole ELF file of 64 bits").map(Some)
    }

    fn of_elf<'a, R: ReadRef<'a>>(bytes: R) -> Result<Self> {
        let file = ElfFile64::<Endianness, R>::parse(bytes)?;
        let (endian, header): (_, &FileHeader64<_>) = (file.endian(), file.elf_header());
        let sections = file.elf_section_table();
        let mut needs = Self { x86_64: header.e_machine(endian) == EM_X86_64, ..Self::default() };
        if let Some((entries, strings)) = sections.dynamic(endian, bytes)? {
            let strings = sections.strings(endian, bytes, strings)?;
            for entry in entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED) {
                let name = entry.string(endian, strings)?;
                needs.libraries.push(String::from_utf8_lossy(name).into_owned());
            }
        }
        if let Some((mut files, strings)) = sections.gnu_verneed(endian, bytes)? {
            let strings = sections.strings(endian, bytes, strings)?;
            while let Some((_, mut versions)) = files.next()? {
                while let Some(version) = versions.next()? {
                    let name = version.name(endian, strings)?;
                    needs.versions.push(String::from_utf8_lossy(name).into_owned());
                }
            }
        }
        Ok(needs)
    }

    /// The oldest glibc that will do; `None` where nothing of it is used.
    pub(super) fn glibc(&self) -> Option<Glibc> {
        self.versions.iter().filter_map(|version| Glibc::of_symbol(version)).max()
    }

    /// What would keep it from starting on a machine with glibc [`OLDEST`] and nothing else.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.x86_64 {
            found.push("is not for x86-64: build the bundle on such a machine".to_owned());
        }
        let foreign = self.libraries.iter().filter(|name| !WITH_GLIBC.contains(&name.as_str()));
        found.extend(foreign.map(|name| format!("needs the library {name}")));
        if let Some(glibc) = self.glibc().filter(|&glibc| glibc > OLDEST) {
            found.push(format!(
                "needs glibc {glibc}, more than {OLDEST}: build the bundle on Debian 12, or in a container of it"
            ));
        }
        let private = self.versions.iter().filter(|version| *version == "GLIBC_PRIVATE");
        found.extend(private.map(|_| "needs glibc's private symbols".to_owned()));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glibc(major: u32, minor: u32, patch: u32) -> Option<Glibc> {
        Some(Glibc { major, minor, patch })
    }

    #[test]
    fn versions_of_symbols_are_read_as_numbers() {
        assert_eq!(Glibc::of_symbol("GLIBC_2.34"), glibc(2, 34, 0));
        assert_eq!(Glibc::of_symbol("GLIBC_2.2.5"), glibc(2, 2, 5));
        assert!(Glibc::of_symbol("GLIBC_2.4") < Glibc::of_symbol("GLIBC_2.34"));
        assert_eq!(Glibc::of_symbol("GLIBC_ABI_DT_RELR"), Some(OLDEST));
        for other in ["GLIBC_PRIVATE", "GCC_3.0", "GLIBC_2", "GLIBC_2.3.4.5", "GLIBCXX_3.4", ""] {
            assert_eq!(Glibc::of_symbol(other), None, "{other}");
        }
        assert_eq!(OLDEST.to_string(), "2.36");
        assert_eq!(glibc(2, 2, 5).unwrap().to_string(), "2.2.5");
    }

    #[test]
    fn this_very_program_needs_the_c_library() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = Needs::read(&bytes).unwrap().unwrap();
        assert!(needs.libraries.iter().any(|name| name == "libc.so.6"), "{needs:?}");
        assert!(needs.glibc() >= glibc(2, 17, 0), "{needs:?}");
        assert_eq!(needs.x86_64, cfg!(target_arch = "x86_64"));
    }

    #[test]
    fn a_file_of_another_kind_needs_nothing_and_a_broken_one_is_an_error() {
        assert_eq!(Needs::read(b"#!/bin/sh\n").unwrap(), None);
        assert!(Needs::read(b"\x7fELF and no more").is_err());
    }

    #[test]
    fn each_need_beyond_the_promise_is_a_problem() {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let good = Needs {
            x86_64: true,
            libraries: strings(&WITH_GLIBC),
            versions: strings(&["GLIBC_2.36", "GLIBC_2.2.5", "GCC_3.0"]),
        };
        assert_eq!(good.problems(), [""; 0]);
        let libraries = strings(&["libc.so.6", "libssl.so.3"]);
        let versions = strings(&["GLIBC_2.38", "GLIBC_2.39", "GLIBC_PRIVATE"]);
        let found = Needs { x86_64: false, libraries, versions }.problems();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[1].contains("libssl.so.3") && found[2].contains("2.39, more than 2.36"));
    }
}
