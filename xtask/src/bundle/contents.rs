//! What lies in a bundle, and whether it keeps its promises.

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use walkdir::WalkDir;

use super::elf::Needs;

/// Every file of a bundle, by name.
#[derive(Debug, Default)]
pub(super) struct Contents(Vec<File>);

#[derive(Debug)]
struct File {
    /// From the top of the bundle.
    name: String,
    bytes: Vec<u8>,
}

impl File {
    /// What keeps it from being used elsewhere. A program that cannot be read is one finding.
    fn problems(&self, local: &[PathBuf]) -> Vec<String> {
        let mut found = match Needs::read(&self.bytes) {
            Ok(needs) => needs.map(|needs| needs.problems()).unwrap_or_default(),
            Err(error) => vec![format!("cannot be checked: {error:#}")],
        };
        let named = local.iter().filter(|path| has(&self.bytes, path.as_os_str().as_bytes()));
        found.extend(
            named.map(|path| format!("names {}, a folder of this machine", path.display())),
        );
        found
    }
}

impl Contents {
    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in WalkDir::new(root).sort_by_file_name() {
            let entry = entry?;
            if entry.file_type().is_file() {
                let name = entry.path().strip_prefix(root)?.to_string_lossy().into_owned();
                files.push(File { name, bytes: std::fs::read(entry.path())? });
            }
        }
        Ok(Self(files))
    }

    /// Their sizes together.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|file| file.bytes.len() as u64).sum()
    }

    /// What is wrong, a line each: too large, a program that would not start elsewhere, a path of `local` in a file.
    pub(super) fn findings(&self, limit_bytes: u64, local: &[PathBuf]) -> Vec<String> {
        let of_file = |file: &File| {
            let name = file.name.clone();
            file.problems(local).into_iter().map(move |problem| format!("{name} {problem}"))
        };
        let mut found: Vec<String> = self.0.iter().flat_map(of_file).collect();
        if self.bytes() > limit_bytes {
            found.push(format!("{} are more than {}", mib(self.bytes()), mib(limit_bytes)));
        }
        found
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.0 {
            let needs = Needs::read(&file.bytes).ok().flatten();
            let glibc = needs.and_then(|needs| needs.glibc());
            let glibc = glibc.map_or(String::new(), |glibc| format!("  glibc {glibc}"));
            writeln!(f, "  {:<32} {:>10}{glibc}", file.name, mib(file.bytes.len() as u64))?;
        }
        Ok(())
    }
}

/// Bytes as MiB with two digits after the point.
pub(super) fn mib(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}

/// True if `part` occurs in `bytes`, followed by a slash: `/a/b` does not occur in `/a/bc`.
fn has(bytes: &[u8], part: &[u8]) -> bool {
    let part = [part, b"/"].concat();
    let places = bytes.iter().enumerate().filter(|(_, byte)| **byte == part[0]);
    places.into_iter().any(|(at, _)| bytes[at..].starts_with(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_add_up_and_the_limit_holds() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/a"), [0; 1000]).unwrap();
        std::fs::write(dir.path().join("b"), [0; 24]).unwrap();
        let contents = Contents::read(dir.path()).unwrap();
        assert_eq!(contents.bytes(), 1024);
        assert_eq!(contents.findings(1024, &[]), [""; 0]);
        assert_eq!(contents.findings(1023, &[]).len(), 1);
        assert_eq!(mib(10 << 20), "10.00 MiB");
        assert!(contents.to_string().contains("bin/a"));
    }

    #[test]
    fn folders_of_this_machine_are_found_in_any_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("run.sh"), "exec /build/tree/bin\n").unwrap();
        std::fs::write(dir.path().join("good.sh"), "exec /build/treehouse/bin\n").unwrap();
        let contents = Contents::read(dir.path()).unwrap();
        let found = contents.findings(1024, &["/build/tree".into()]);
        assert_eq!(found, ["run.sh names /build/tree, a folder of this machine"]);
    }

    #[test]
    fn a_program_that_cannot_be_read_is_said_to_be_unchecked() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("broken"), b"\x7fELF").unwrap();
        let found = Contents::read(dir.path()).unwrap().findings(1024, &[]);
        assert!(found[0].starts_with("broken cannot be checked: "), "{found:?}");
    }
}
