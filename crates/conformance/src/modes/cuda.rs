//! The modes of CUDA devices, of the driver that answers: NVIDIA's, or in tests the double that was loaded in its place.

use std::sync::Arc;

use hmmap_core::{MemoryModel, backend::Provider};
use hmmap_cuda::{Backing, HostCopies, Options, discover};

use super::lacks;
use crate::setup::Setup;

/// What the modes of a CUDA device are about, after the name of the driver.
pub const CUDA: [&str; 5] = ["unified", "blocks", "whole", "staging", "direct"];

/// The CUDA modes of each device of this machine, named `driver` and then as in [`CUDA`]. With more than one device, the modes of the second and
/// later ones end in its number.
///
/// # Errors
/// Why there is no device.
pub fn cuda(driver: &str, options: &Options) -> Result<Vec<Setup>, String> {
    let whole = Options { backing: Backing::Whole, ..options.clone() };
    let staging = Options { host_copies: HostCopies::Staging, ..options.clone() };
    let mode = |nth: usize, model, options: &Options| {
        let name = CUDA.get(nth).copied().unwrap_or_default();
        of_devices(&format!("{driver}_{name}"), model, options)
    };
    let mut setups = mode(0, MemoryModel::Unified, options)?;
    let blocks = mode(1, MemoryModel::Migrate, options)?.into_iter();
    setups.extend(
        blocks.map(|setup| {
            setup.must_be(|facts| lacks("sparse backing", &facts.capabilities.sparse))
        }),
    );
    let by_whole = mode(2, MemoryModel::Migrate, &whole)?;
    setups.extend(by_whole.into_iter().map(Setup::backs_whole));
    let staging = mode(3, MemoryModel::Migrate, &staging)?.into_iter();
    setups.extend(staging.map(|setup| {
        setup.must_be(|facts| {
            let direct = facts.capabilities.direct_copy.is_proved();
            direct.then(|| "copies go directly although they were to bounce".to_owned())
        })
    }));
    let across = mode(4, MemoryModel::Migrate, &whole)?.into_iter();
    setups.extend(across.map(|setup| {
        let setup = setup.backs_whole().direct();
        setup.must_be(|facts| lacks("memory that is given out", &facts.capabilities.export))
    }));
    Ok(setups)
}

/// One mode, of each device.
fn of_devices(name: &str, model: MemoryModel, options: &Options) -> Result<Vec<Setup>, String> {
    let found = discover(options);
    if found.providers.is_empty() {
        let reasons: Vec<_> = found.left_out.iter().map(|one| one.reason.to_string()).collect();
        return Err(reasons.join("; "));
    }
    let setup = |(number, provider): (usize, Arc<hmmap_cuda::CudaProvider>)| {
        let name = if number == 0 { name.to_owned() } else { format!("{name}_{number}") };
        Setup::new(name, model, move || Arc::clone(&provider) as Arc<dyn Provider>).compiled()
    };
    Ok(found.providers.into_iter().enumerate().map(setup).collect())
}
