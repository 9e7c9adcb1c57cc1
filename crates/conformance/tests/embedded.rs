//! The suite on the embedded CPU device: on the host's node, on a node of its own by blocks, and whole; by guards, and by plain indexing on
//! every rung of what a system may offer for it; on huge pages.

use hmmap_conformance::modes;

mod harness;

fn main() {
    let mut setups = modes::embedded();
    let mut others = modes::indexing(&setups[..2], &modes::RUNGS);
    others.extend(modes::on_huge_pages(&setups[..2]));
    setups.extend(others);
    harness::run(harness::tests(setups))
}
