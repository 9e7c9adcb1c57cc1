//! The suite on the simulated device, by several seeds: late, out of order, with garbage wherever nothing was promised.

mod harness;

fn main() {
    harness::run(harness::tests(hmmap_conformance::modes::simulated()))
}
