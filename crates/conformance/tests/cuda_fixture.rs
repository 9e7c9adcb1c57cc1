//! The suite on the CUDA device over the test double of its driver: every mode of the device, in both memory models; by guards and by plain
//! indexing. What the double has to say about a call fails the case: work that is not ordered, memory that goes away under it.
//!
//! Nothing here ran on an NVIDIA device: the modes' names say `fixture`, and so does the device in the report.

use std::sync::Arc;

use hmmap_conformance::modes;
use hmmap_cuda::Options;
use hmmap_cuda_fixture::Fixture;

mod harness;

fn main() {
    let fixture = match Fixture::load() {
        Ok(fixture) => Arc::new(fixture),
        Err(error) => panic!("{error}"),
    };
    let setups = match modes::cuda("cuda_fixture", &Options::default()) {
        Ok(setups) => setups,
        Err(reason) => panic!("the fixture has no device: {reason}"),
    };
    let mut all = setups.clone();
    // As on Vulkan: unified and the first that migrates on the best two rungs, that one on the others too.
    let (first, others) = modes::RUNGS.split_at(2);
    all.extend(modes::indexing(&setups[..2], first));
    all.extend(modes::indexing(&setups[1..2], others));
    all.extend(modes::on_huge_pages(&setups[1..2]));
    let watched = all.into_iter().map(|setup| {
        let fixture = Arc::clone(&fixture);
        setup.complaints(move || fixture.violations())
    });
    harness::run(harness::tests(watched.collect()))
}
