//! What apt's tools print, as data. Pure.

use crate::mesa::{MesaVersion, parse_version};

/// One version of a package that can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// As Debian writes it, epoch and revision included.
    pub(crate) version: String,
    /// The suite it comes from, `bookworm-backports`.
    pub(crate) suite: String,
}

impl Candidate {
    /// The Mesa release in the version, for Mesa's packages.
    pub(crate) fn mesa(&self) -> Option<MesaVersion> {
        parse_version(&self.version)
    }

    /// The release that has to be named for apt to choose this version: backports are not chosen by default.
    pub(crate) fn release(&self) -> Option<&str> {
        self.suite.ends_with("-backports").then_some(self.suite.as_str())
    }
}

/// The lines of `apt-cache madison`: `package | version | address suite/component arch Packages`.
pub(crate) fn parse_madison(text: &str) -> Vec<Candidate> {
    text.lines().filter_map(parse_madison_line).collect()
}

fn parse_madison_line(line: &str) -> Option<Candidate> {
    let mut columns = line.split('|').map(str::trim);
    let version = columns.nth(1)?.to_owned();
    let mut origin = columns.next()?.split_whitespace();
    let suite = origin.nth(1)?.split('/').next()?.to_owned();
    let kind = origin.last()?;
    (kind == "Packages").then_some(Candidate { version, suite })
}

/// The package names in a `Depends` field; of alternatives the first, without versions and architectures.
pub(crate) fn parse_depends(field: &str) -> Vec<String> {
    let first_word = |item: &str| {
        let name = item.trim().split(['|', ' ', '(', ':']).next().unwrap_or_default();
        name.to_owned()
    };
    field.split(',').map(first_word).filter(|name| !name.is_empty()).collect()
}

/// Which of `wanted` is not `installed`, by lines of `name status`.
pub(crate) fn not_installed(wanted: &[String], status: &str) -> Vec<String> {
    let installed = |name: &String| {
        status.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(name) && words.next() == Some("installed")
        })
    };
    wanted.iter().filter(|name| !installed(name)).cloned().collect()
}

/// The libraries that `ldd` did not find.
pub(crate) fn parse_ldd_missing(text: &str) -> Vec<String> {
    let missing =
        |line: &str| line.trim().strip_suffix("=> not found").map(|l| l.trim().to_owned());
    text.lines().filter_map(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_lines_give_version_and_suite() {
        let text = "\
mesa-vulkan-drivers | 25.0.7-2~bpo12+1 | http://mirror.example/debian bookworm-backports/main amd64 Packages
mesa-vulkan-drivers | 22.3.6-1+deb12u2 | http://mirror.example/debian bookworm/main amd64 Packages
      mesa | 22.3.6-1 | http://mirror.example/debian bookworm/main Sources
N: Unable to locate package x
";
        let found = parse_madison(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].suite, "bookworm-backports");
        assert_eq!(found[0].release(), Some("bookworm-backports"));
        assert_eq!(found[0].mesa(), Some(MesaVersion { major: 25, minor: 0 }));
        assert_eq!(found[1].release(), None);
        assert_eq!(parse_madison(""), []);
    }

    #[test]
    fn depends_gives_the_first_alternative_without_versions() {
        let field = "libvulkan1, python3:any | python3-minimal:any, libc6 (>= 2.34)\n";
        assert_eq!(parse_depends(field), ["libvulkan1", "python3", "libc6"]);
        assert_eq!(parse_depends("\n"), [""; 0]);
    }

    #[test]
    fn a_package_removed_but_configured_counts_as_missing() {
        let wanted = ["a", "b", "c", "ab"].map(String::from);
        let status = "a installed\nb config-files\nabc installed\n";
        assert_eq!(not_installed(&wanted, status), ["b", "c", "ab"]);
    }

    #[test]
    fn ldd_names_what_it_did_not_find() {
        let text = "\tlinux-vdso.so.1 (0x00)\n\tlibLLVM-15.so.1 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x0)\n";
        assert_eq!(parse_ldd_missing(text), ["libLLVM-15.so.1"]);
    }
}
