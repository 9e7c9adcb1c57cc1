//! How many random cases a property is tried on, and which.

use proptest::test_runner::{Config, RngSeed};

/// The same cases on every machine, so that a change is judged by what it changed; with `HMMAP_DEEP`, twenty times as many and
/// new ones each time.
pub(crate) fn cases(usual: u32) -> Config {
    match std::env::var_os("HMMAP_DEEP") {
        None => Config { cases: usual, rng_seed: RngSeed::Fixed(0), ..Config::default() },
        Some(_) => Config { cases: usual.saturating_mul(20), ..Config::default() },
    }
}
