//! Datagrams that nobody sends, and datagrams that were tampered with: reading one must end, and what is read has one form.
//!
//! What was found here is replayed by the ordinary tests, from `crates/share/tests/corpus`; that folder is a good corpus to start from, too.
#![no_main]

#[path = "../../crates/share/tests/hostile/mod.rs"]
mod hostile;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    hostile::play(input);
});
