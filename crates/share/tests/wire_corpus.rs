//! What the fuzzer of the wire format starts from and what it found, replayed.

mod hostile;

use std::{fs, path::Path};

#[test]
fn the_corpus_of_the_fuzzer_reads_to_an_end() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    let mut messages = 0;
    for path in &names {
        let input = fs::read(path).unwrap();
        let end = std::panic::catch_unwind(|| hostile::play(&input));
        match end {
            Ok(is_message) => {
                // Names that begin so say what has to come of them.
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                assert!(!name.starts_with("good-") || is_message, "{name} was refused");
                assert!(!name.starts_with("bad-") || !is_message, "{name} was believed");
                messages += usize::from(is_message);
            }
            Err(_) => panic!("{path:?}"),
        }
    }
    assert!(names.len() >= 20 && messages >= 10, "{messages} of {}", names.len());
}
