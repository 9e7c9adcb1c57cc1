//! The suite on the simulated device, by several seeds: late, out of order, with garbage wherever nothing was promised; by guards, and by
//! plain indexing.

use hmmap_conformance::modes;

mod harness;

fn main() {
    let mut setups = modes::simulated();
    let mut others = modes::indexing(&setups[..1], &modes::RUNGS);
    others.extend(modes::on_huge_pages(&setups[..1]));
    setups.extend(others);
    harness::run(harness::tests(setups))
}
