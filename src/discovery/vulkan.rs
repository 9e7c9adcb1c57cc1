//! Vulkan devices, when built with the feature `vulkan`.

use std::sync::Arc;

use hmmap_core::backend::Provider;
pub(super) use hmmap_vulkan::Options;

use super::{Absent, Found};

/// Looks for Vulkan devices.
pub(super) fn find(options: &Options, found: &mut Found) {
    let discovery = match hmmap_vulkan::discover(options) {
        Ok(discovery) => discovery,
        Err(error) => return found.absent.push(absent(error.to_string())),
    };
    if discovery.providers.is_empty() && discovery.left_out.is_empty() {
        found.absent.push(absent("there is a loader, and no driver behind it".into()));
    }
    found.absent.extend(discovery.left_out.into_iter().map(|device| Absent {
        what: device.name,
        reason: device.reason.to_string(),
        remedy: "a newer driver may have it".into(),
    }));
    let providers = discovery.providers.into_iter();
    found.providers.extend(providers.map(|provider| provider as Arc<dyn Provider>));
}

fn absent(reason: String) -> Absent {
    let remedy = "install a driver: the GPU's own, or `apt install libvulkan1 mesa-vulkan-drivers` for one in software";
    Absent { what: "Vulkan".into(), reason, remedy: remedy.into() }
}
