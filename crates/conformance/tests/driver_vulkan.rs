//! The suite on the Vulkan driver that the environment names, in every mode of the device, watched by the validation layer where there is one.
//!
//! `VK_DRIVER_FILES` (or `VK_ICD_FILENAMES`) names the driver and `HMMAP_TEST_LAYER_PATH` says where the layer is;
//! `cargo xtask test` sets both. A mode that the driver has nothing for is skipped by name.

use hmmap_conformance::modes;
use hmmap_vulkan::{Options, Validation};
use libtest_mimic::Trial;

mod harness;

fn main() {
    let setups = if driver_is_named() {
        let layer = std::env::var_os("HMMAP_TEST_LAYER_PATH").is_some();
        let validation = if layer { Validation::On } else { Validation::Off };
        modes::vulkan(&Options { validation, ..Options::default() }).map(|mut setups| {
            // Unified and the first that migrates; and on that one also the rungs that differ from the best one not in what a driver is
            // asked, but in who may fault.
            let (first, others) = modes::RUNGS.split_at(2);
            let mut indexing = modes::indexing(&setups[..2], first);
            indexing.extend(modes::indexing(&setups[1..2], others));
            indexing.extend(modes::on_huge_pages(&setups[1..2]));
            setups.extend(indexing);
            setups
        })
    } else {
        Err("no Vulkan driver is named by VK_DRIVER_FILES".to_owned())
    };
    harness::run(match setups {
        Ok(setups) => harness::tests(setups),
        Err(reason) => modes::VULKAN.iter().map(|mode| skipped(mode, reason.clone())).collect(),
    })
}

fn driver_is_named() -> bool {
    ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(|name| std::env::var_os(name).is_some())
}

fn skipped(mode: &str, reason: String) -> Trial {
    Trial::test(format!("{mode}::driver"), move || {
        println!("HMMAP-SKIP: {reason}");
        Ok(())
    })
}
