//! The suite on the simulated device, by several seeds: late, out of order, with garbage wherever nothing was promised; by guards, and by
//! plain indexing.

use hmmap_conformance::modes;

mod harness;

fn main() {
    let mut setups = modes::simulated();
    setups.extend(modes::indexing(&setups[..1], &modes::RUNGS));
    harness::run(harness::tests(setups))
}
