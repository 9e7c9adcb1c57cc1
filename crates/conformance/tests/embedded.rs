//! The suite on the embedded CPU device: on the host's node, on a node of its own by blocks, and whole.

mod harness;

fn main() {
    harness::run(harness::tests(hmmap_conformance::modes::embedded()))
}
