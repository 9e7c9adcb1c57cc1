//! A sysfs that somebody tampered with: reading it must end, and what is said of its functions must hold together.
//!
//! What was found here is replayed by the ordinary tests, from `crates/core/tests/pci/corpus`; that folder is a good corpus to start
//! from, too.
#![no_main]

#[path = "../../crates/core/tests/pci/hostile.rs"]
mod hostile;
#[path = "../../crates/core/tests/pci/spec.rs"]
mod spec;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| hostile::play(input));
