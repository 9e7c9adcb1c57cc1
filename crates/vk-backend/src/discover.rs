//! Finds the Vulkan devices of this machine.

use std::{
    cmp::Reverse,
    fmt,
    sync::{Arc, Weak},
};

use hmmap_core::backend::{Device, DeviceError, DeviceSummary, OpenContext, Provider};
use parking_lot::Mutex;

use crate::{
    Messages,
    device::VulkanDevice,
    error::{DiscoverError, LeftOut},
    gpu::{Gpu, Owner, Queues},
    instance::Instance,
    options::Options,
    physical::Physical,
    queue_plan::QueuePlan,
};

/// What there is.
#[derive(Debug)]
pub struct Discovery {
    /// The devices that can be used, the best first.
    pub providers: Vec<Arc<VulkanProvider>>,
    /// Those that cannot, with the reason.
    pub left_out: Vec<LeftOut>,
    /// What the validation layer says, from now on too.
    pub messages: Arc<Messages>,
}

/// Looks for Vulkan devices. Nothing is opened.
///
/// # Errors
/// There is no loader, or none that is new enough; the validation layer was asked for and is missing.
pub fn discover(options: &Options) -> Result<Discovery, DiscoverError> {
    let instance = Arc::new(Instance::new(options)?);
    let messages = Arc::clone(instance.messages());
    let (mut providers, mut left_out) = (Vec::new(), Vec::new());
    for handle in instance.physical_devices()? {
        let mut physical = Physical::query(&instance, handle);
        if let Some(limit) = options.memory_limit_bytes {
            physical.summary.memory_bytes = physical.summary.memory_bytes.min(limit);
        }
        match physical.plan() {
            Ok(plan) => {
                let (instance, options) = (Arc::clone(&instance), options.clone());
                let last = Mutex::default();
                let source = Source::Made(plan);
                providers.push(Arc::new(VulkanProvider {
                    instance,
                    physical,
                    source,
                    options,
                    last,
                }));
            }
            Err(reason) => left_out.push(LeftOut { name: physical.summary.name, reason }),
        }
    }
    providers.sort_by_key(|provider| {
        (provider.summary().kind, Reverse(provider.summary().memory_bytes))
    });
    Ok(Discovery { providers, left_out, messages })
}

/// A Vulkan device that could be opened.
pub struct VulkanProvider {
    instance: Arc<Instance>,
    physical: Physical,
    source: Source,
    options: Options,
    last: Mutex<Weak<VulkanDevice>>,
}

/// Where the logical device comes from.
enum Source {
    /// It is made when the provider is opened.
    Made(QueuePlan),
    /// The program made it, and destroys it.
    Lent { device: Box<ash::Device>, queues: Queues },
}

impl VulkanProvider {
    /// A device that the program made.
    pub(crate) fn lent(
        instance: Instance,
        physical: Physical,
        device: ash::Device,
        queues: Queues,
        options: Options,
    ) -> Self {
        let source = Source::Lent { device: Box::new(device), queues };
        let (instance, last) = (Arc::new(instance), Mutex::default());
        Self { instance, physical, source, options, last }
    }

    /// The device that was opened last, while it is open.
    pub fn device(&self) -> Option<Arc<VulkanDevice>> {
        self.last.lock().upgrade()
    }
}

impl Provider for VulkanProvider {
    fn summary(&self) -> &DeviceSummary {
        &self.physical.summary
    }

    fn open(&self, context: OpenContext) -> Result<Arc<dyn Device>, DeviceError> {
        let (instance, physical) = (Arc::clone(&self.instance), self.physical.clone());
        let gpu = match &self.source {
            Source::Made(plan) => Gpu::create(instance, physical, *plan)?,
            Source::Lent { device, queues } => {
                let (device, queues) = (ash::Device::clone(device), queues.clone());
                Gpu::around(instance, device, physical, queues, Owner::Program)
            }
        };
        let device = Arc::new(VulkanDevice::open(&Arc::new(gpu), &self.options, &context)?);
        *self.last.lock() = Arc::downgrade(&device);
        Ok(device)
    }
}

impl fmt::Debug for VulkanProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanProvider")
            .field("summary", &self.physical.summary)
            .finish_non_exhaustive()
    }
}
