//! House rules that no compiler checks, over every file of the repository.
//!
//! | rule | why |
//! |---|---|
//! | a file of more than 450 lines gives its reason: `// long file: ...` among its first lines | files that are read whole |
//! | no module called `utils`, `helpers`, `types`, `base`, `misc` | a name that says what is inside |
//! | `unsafe` only in the files that SAFETY.md names, and every such file has some | unsafe code has an address |
//! | no notes to do something later | issues are for that |
//! | no address of a package registry or mirror, no path of somebody's home | a clone works anywhere |
//! | no blanks at line ends, one newline at the end of a file | quiet diffs |
//!
//! [`rules`] looks at one file's text and is pure; this module walks.

mod rules;
mod tokens;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use walkdir::{DirEntry, WalkDir};

use rules::{File, Finding};

/// Text files, by the end of their names. Data that came from elsewhere has other ends.
const TEXT: [&str; 10] =
    [".rs", ".toml", ".md", ".py", ".sh", ".slang", ".slangh", ".yml", ".json", ".ci/run"];
/// Written by programs.
const GENERATED: [&str; 3] = ["Cargo.lock", "shaders/out/", "benches/results/"];
/// Hidden, and ours all the same.
const OURS: [&str; 4] = [".cargo", ".ci", ".config", ".github"];

/// Looks at every file under `root`; one line for each finding.
///
/// # Errors
///
/// A file cannot be read.
pub(crate) fn findings(root: &Path) -> Result<Vec<String>> {
    let listed = std::fs::read_to_string(root.join("SAFETY.md")).ok();
    let listed = listed.map(|text| rules::unsafe_files(&text));
    let mut found: Vec<Finding> = Vec::new();
    let mut with_unsafe = BTreeSet::new();
    for entry in WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(is_ours) {
        let entry = entry?;
        let path = entry.path().strip_prefix(root)?.to_string_lossy().into_owned();
        if !entry.file_type().is_file() || !is_text(&path) {
            continue;
        }
        let text = std::fs::read_to_string(entry.path())?;
        let file = File { path: &path, text: &text };
        found.extend(rules::of_every_file(file));
        if path.ends_with(".rs") {
            found.extend(rules::of_rust(file));
            let uses = tokens::lines_with_unsafe(&text);
            if let (Some(&line), true) = (uses.first(), rules::needs_listing(&path)) {
                with_unsafe.insert(path.clone());
                found.extend(rules::unlisted(file, line, listed.as_ref()));
            }
        }
    }
    found.extend(rules::stale(listed.as_ref(), &with_unsafe));
    Ok(found.iter().map(Finding::to_string).collect())
}

/// Leaves out hidden folders, build folders (cargo marks them) and other checkouts.
fn is_ours(entry: &DirEntry) -> bool {
    if entry.depth() == 0 || !entry.file_type().is_dir() {
        return true;
    }
    let name = entry.file_name().to_string_lossy();
    let hidden = name.starts_with('.') && !OURS.contains(&name.as_ref());
    let marked = ["CACHEDIR.TAG", ".git"].iter().any(|mark| entry.path().join(mark).exists());
    !hidden && !marked
}

fn is_text(path: &str) -> bool {
    TEXT.iter().any(|end| path.ends_with(end))
        && !GENERATED.iter().any(|start| path.starts_with(start))
        && !path.ends_with("Cargo.lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_sees_our_files_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("src/lib.rs", "fn a() {} \n");
        write(".ci/run", "x \n");
        write("shaders/out/a.json", "x \n");
        write("Cargo.lock", "x \n");
        write("data.mtx", "x \n");
        write(".dev/a.rs", "x \n");
        write("built/CACHEDIR.TAG", "");
        write("built/a.rs", "x \n");
        write("other/.git", "gitdir: elsewhere\n");
        write("other/a.rs", "x \n");
        let found = findings(dir.path()).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with(".ci/run:1: ") && found[1].starts_with("src/lib.rs:1: "));
    }

    #[test]
    fn unsafe_code_is_held_against_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        write("src/map.rs", "\nunsafe fn a() {}\n");
        write("src/calm.rs", "// unsafe\nfn a() { let _ = \"unsafe\"; }\n");
        assert_eq!(findings(dir.path()).unwrap(), [""; 0], "there is no list yet");
        write("SAFETY.md", "| `src/calm.rs` | nothing |\n");
        let found = findings(dir.path()).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("src/map.rs:2: "), "{found:?}");
        assert!(found[1].contains("src/calm.rs"), "{found:?}");
        write("SAFETY.md", "| `src/map.rs` | maps |\n");
        assert_eq!(findings(dir.path()).unwrap(), [""; 0]);
    }
}
