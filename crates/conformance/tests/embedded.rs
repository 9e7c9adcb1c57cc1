//! The suite on the embedded CPU device: on the host's node, on a node of its own by blocks, and whole; by guards, and by plain indexing on
//! every rung of what a system may offer for it.

use hmmap_conformance::modes;

mod harness;

fn main() {
    let mut setups = modes::embedded();
    setups.extend(modes::indexing(&setups[..2], &modes::RUNGS));
    harness::run(harness::tests(setups))
}
