//! The rules, each over one file's path and text. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

/// A file of the repository.
#[derive(Clone, Copy, Debug)]
pub(super) struct File<'a> {
    /// From the top of the repository, with slashes.
    pub(super) path: &'a str,
    pub(super) text: &'a str,
}

/// Something to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    path: String,
    /// From 1; 0 stands for the file as a whole.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

const MAX_LINES: usize = 450;
const NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "types", "base", "misc", "stuff"];

/// In two pieces each, so that this file does not break its own rule.
const LATER: [(&str, &str); 3] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")];
const ADDRESSES: [(&str, &str); 9] = [
    ("index.", "crates.io"),
    ("static.", "crates.io"),
    ("deb.", "debian.org"),
    ("snapshot.", "debian.org"),
    ("archive.", "ubuntu.com"),
    ("security.", "ubuntu.com"),
    ("pypi", ".org/simple"),
    ("files.", "pythonhosted.org"),
    ("registry.", "npmjs.org"),
];
const HOMES: [(&str, &str); 3] = [("/ho", "me/"), ("/ro", "ot/"), ("/Us", "ers/")];

/// Rules for text of any kind.
pub(super) fn of_every_file(file: File<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let mut add = |what: &str| found.push(at(file, index + 1, what));
        if line.ends_with([' ', '\t', '\r']) {
            add("blanks at the end of the line");
        }
        if LATER.iter().any(|(a, b)| has_word(line, &format!("{a}{b}"))) {
            add("a note to do something later: do it, or open an issue");
        }
        if ADDRESSES.iter().any(|(a, b)| line.contains(&format!("{a}{b}"))) {
            add("the address of a package registry or mirror: a clone uses its own machine's");
        }
        if HOMES.iter().any(|(a, b)| has_home(line, &format!("{a}{b}"))) {
            add("a path of somebody's home: a clone lies elsewhere");
        }
    }
    if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
        found.push(at(file, file.text.lines().count(), "not exactly one newline at the end"));
    }
    found
}

/// Rules for Rust.
pub(super) fn of_rust(file: File<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let count = file.text.lines().count();
    let excused = file.text.lines().take(5).any(|line| line.starts_with("// long file: "));
    if count > MAX_LINES && !excused {
        let what = format!(
            "{count} lines, at most {MAX_LINES}: split it, or say why not in `// long file: ...` on its first line"
        );
        found.push(at(file, 0, &what));
    }
    let named = |part: &std::ffi::OsStr| NAMES.iter().find(|name| part == **name).copied();
    let path = Path::new(file.path);
    let stem = path.file_stem().and_then(named);
    let folder = path.parent().and_then(|dir| dir.iter().find_map(named));
    if let Some(name) = stem.or(folder) {
        let what = format!("`{name}` says nothing about what is inside: name the module after it");
        found.push(at(file, 0, &what));
    }
    found
}

/// The Rust files that SAFETY.md names: what stands in backticks and ends in `.rs`.
pub(super) fn unsafe_files(safety: &str) -> BTreeSet<String> {
    let quoted = safety.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|word| word.ends_with(".rs")).map(str::to_owned).collect()
}

/// True for library and program code, and for benchmarks, parts of which are programs by hand. Tests and examples define kernels, which is an
/// unsafe act by design.
pub(super) fn needs_listing(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let outside = ["tests", "examples"];
    (parts.contains(&"src") || parts.first() == Some(&"benches"))
        && !parts.iter().any(|part| outside.contains(part) || *part == "tests.rs")
}

/// The finding for a file with unsafe code that the list lacks.
pub(super) fn unlisted(
    file: File<'_>,
    line: usize,
    listed: Option<&BTreeSet<String>>,
) -> Option<Finding> {
    let missing = listed.is_some_and(|listed| !listed.contains(file.path));
    missing.then(|| at(file, line, "unsafe code in a file that SAFETY.md does not name"))
}

/// The findings for files that the list names and that have no unsafe code.
pub(super) fn stale(
    listed: Option<&BTreeSet<String>>,
    with_unsafe: &BTreeSet<String>,
) -> Vec<Finding> {
    let unneeded = listed.into_iter().flatten().filter(|path| !with_unsafe.contains(*path));
    let finding = |path: &String| Finding {
        path: String::from("SAFETY.md"),
        line: 0,
        what: format!("names {path}, where there is no unsafe code"),
    };
    unneeded.map(finding).collect()
}

fn at(file: File<'_>, line: usize, what: &str) -> Finding {
    Finding { path: file.path.to_owned(), line, what: what.to_owned() }
}

/// True if `word` stands in `line` with no letter, digit or underscore beside it.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(inside) && !line[start + word.len()..].starts_with(inside)
    })
}

/// True if a path under `home` is named: the folder of a person follows.
fn has_home(line: &str, home: &str) -> bool {
    line.match_indices(home).any(|(start, _)| {
        let begins =
            !line[..start].ends_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_');
        begins
            && line[start + home.len()..].starts_with(|c: char| c.is_ascii_lowercase() || c == '.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(text: &str) -> Vec<Finding> {
        of_every_file(File { path: "a.md", text })
    }

    fn rust(path: &str, text: &str) -> Vec<Finding> {
        of_rust(File { path, text })
    }

    #[test]
    fn blanks_and_the_last_newline() {
        assert_eq!(every("a\nb\n"), []);
        assert_eq!(every(""), []);
        assert_eq!(every("a \nb\t\n").len(), 2);
        assert_eq!(every("a").len(), 1);
        assert_eq!(every("a\n\n").len(), 1);
    }

    #[test]
    fn notes_for_later_are_words_of_their_own() {
        assert_eq!(every(&format!("// {}{}: x\n", "TO", "DO")).len(), 1);
        assert_eq!(every(&format!("{}{}(me)\n", "FIX", "ME")).len(), 1);
        assert_eq!(every(&format!("a{}{}s MAX_{}{}\n", "TO", "DO", "XX", "X")), []);
    }

    #[test]
    fn addresses_and_homes() {
        assert_eq!(every(&format!("URIs: http://deb.{}/debian\n", "debian.org")).len(), 1);
        assert_eq!(every("see https://docs.rs/ash and https://crates.io/crates/ash\n"), []);
        assert_eq!(every(&format!("cd /ho{}/ann/x\n", "me")).len(), 1);
        assert_eq!(every(&format!("https://x.example/ho{}/ann\n", "me")), []);
    }

    #[test]
    fn long_files_need_a_reason() {
        let long = "x\n".repeat(MAX_LINES + 1);
        assert_eq!(rust("src/a.rs", &long).len(), 1);
        assert_eq!(rust("src/a.rs", &"x\n".repeat(MAX_LINES)), []);
        assert_eq!(rust("src/a.rs", &format!("// long file: one table\n{long}")), []);
    }

    #[test]
    fn module_names_say_something() {
        assert_eq!(rust("crates/a/src/utils.rs", "").len(), 1);
        assert_eq!(rust("crates/a/src/helpers/mod.rs", "").len(), 1);
        assert_eq!(rust("crates/a/src/database.rs", ""), []);
    }

    #[test]
    fn the_list_is_what_stands_in_backticks() {
        let text = "| `src/a.rs` and `src/b.rs` | maps `memory` |\nsrc/c.rs\n";
        let listed: Vec<String> = unsafe_files(text).into_iter().collect();
        assert_eq!(listed, ["src/a.rs", "src/b.rs"]);
        assert!(needs_listing("crates/core/src/vec/guard.rs"));
        assert!(needs_listing("benches/by_hand/image.rs"));
        assert!(!needs_listing("crates/core/tests/guard.rs"));
        assert!(!needs_listing("examples/own-kernel/src/main.rs"));
        assert!(!needs_listing("crates/core/src/embedded/tests.rs"));
    }
}
