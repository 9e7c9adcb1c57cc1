//! A runtime over simulated devices, and the test's hands on them.

use std::sync::Arc;

use hmmap_core::{
    DeviceId, Error, Options, Runtime, SharedVec,
    backend::{DeviceError, Provider},
    embedded::Backing,
    fence::{FencePoint, FenceState},
    simulated::{Queues, SimulatedControl, SimulatedMemory, SimulatedOptions, SimulatedProvider},
};

use crate::kernels::{Element, Fill};

/// How a device is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) memory: SimulatedMemory,
    pub(crate) backing: Backing,
    pub(crate) queues: Queues,
}

pub(crate) const OWN: Device =
    Device { memory: SimulatedMemory::Own, backing: Backing::Blocks, queues: Queues::Two };

/// A runtime over simulated devices.
#[derive(Clone, Debug)]
pub(crate) struct Rig {
    pub(crate) runtime: Runtime,
    pub(crate) controls: Vec<SimulatedControl>,
}

impl Rig {
    /// A runtime over these devices; each lends it at most so much of its memory.
    pub(crate) fn new(seed: u64, devices: &[Device], limit_bytes: Option<u64>) -> Self {
        let numbered = devices.iter().zip(0..);
        let providers = numbered.map(|(Device { memory, backing, queues }, number)| {
            SimulatedProvider::new(SimulatedOptions {
                seed: seed.wrapping_mul(31) + number,
                memory: *memory,
                backing: *backing,
                queues: *queues,
                ..SimulatedOptions::default()
            })
        });
        let providers: Vec<SimulatedProvider> = providers.collect();
        let controls = providers.iter().map(SimulatedProvider::control).collect();
        let shared = providers.into_iter().map(|provider| Arc::new(provider) as Arc<dyn Provider>);
        let options = Options { device_memory_limit_bytes: limit_bytes, ..Options::default() };
        Self { runtime: Runtime::new(shared.collect(), options).unwrap(), controls }
    }

    /// How a launch that was accepted stands, as its device knows.
    pub(crate) fn fate(&self, fence: FencePoint) -> FenceState {
        let records = self.controls[fence.timeline.device().index()].records();
        let record = records.iter().find(|record| record.fence == fence);
        record.expect("the device accepted it").state
    }

    /// Takes back what was to fail.
    pub(crate) fn end_faults(&self) {
        for control in &self.controls {
            control.fail_nth_work(0);
            control.faults().fail_nth_call(0, DeviceError::Injected);
        }
    }

    /// Drops the runtime. Nobody broke the device contract, and all device memory came back.
    pub(crate) fn finish(self) {
        let Self { runtime, controls } = self;
        for control in &controls {
            control.run_all();
        }
        // What was dropped with work in flight is given back by the next who comes by.
        drop(SharedVec::<Element>::new(&runtime, 1).unwrap());
        for number in 0..controls.len() {
            let Ok(memory) = runtime.device_memory(device(number)) else { continue };
            assert!(
                memory.used_bytes == 0 || is_lost(&runtime, number),
                "device {number}: {memory:?} with no vector left"
            );
        }
        drop(runtime);
        for (number, control) in controls.iter().enumerate() {
            assert_eq!(control.violations(), [], "device {number}");
            assert_eq!(control.used_bytes(), 0, "device {number}: memory was not given back");
        }
    }
}

/// Whether a launch is refused because the device is lost.
fn is_lost(runtime: &Runtime, number: usize) -> bool {
    let mut y = SharedVec::new(runtime, 1).unwrap();
    let answer = runtime.launch_on(device(number), 1, Fill { y: y.write(), value: 0 });
    matches!(answer, Err(Error::Device { source: DeviceError::Lost, .. }))
}

pub(crate) fn device(number: usize) -> DeviceId {
    DeviceId::new(number).unwrap()
}
