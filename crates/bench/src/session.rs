//! What cases share: the chosen device under each memory model, and the machine's limits.

use std::{cell::RefCell, fmt, rc::Rc};

use hmmap::{
    DeviceId, Hmmap, Options,
    core::backend::{DeviceFacts, DeviceSummary},
};

use crate::{
    BenchError,
    case::{Case, Model},
    limit::{self, Limit},
};

/// Which device, and under which memory model.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionOptions {
    /// A device's number, or part of its name or of its programming interface. `None`: the default device.
    pub device: Option<String>,
    /// Run what can be run under this model. `None`: each case under the one that it is about.
    pub model: Option<Model>,
}

/// The device under test. Opened under a memory model when a case first needs it.
pub struct Session {
    options: SessionOptions,
    summary: DeviceSummary,
    device: DeviceId,
    /// One for each [`Model`].
    open: [Option<Hmmap>; 2],
    limit: SharedLimit,
}

/// The machine's limits. They keep the memory that they measure with, so one is enough for all cases.
pub(crate) type SharedLimit = Rc<RefCell<Box<dyn Limit>>>;

impl Session {
    /// Finds the device and the limit to compare it with.
    ///
    /// # Errors
    /// [`BenchError::NoSuchDevice`]; whatever the library or the driver answers.
    pub fn new(options: SessionOptions) -> Result<Self, BenchError> {
        let mem = Hmmap::new()?;
        let (device, summary) = choose(&mem, options.device.as_deref())?;
        let summary = summary.clone();
        let limit = Rc::new(RefCell::new(limit::of_device(&summary)?));
        Ok(Self { options, summary, device, open: [None, None], limit })
    }

    /// What the times are compared with, in words.
    pub fn limit_name(&self) -> &'static str {
        self.limit.borrow().name()
    }

    /// The device under test.
    pub fn summary(&self) -> &DeviceSummary {
        &self.summary
    }

    /// What the device was found to be able to do.
    ///
    /// # Errors
    /// Whatever it answered when it was opened.
    pub fn facts(&mut self) -> Result<DeviceFacts, BenchError> {
        let mem = self.open(self.options.model.unwrap_or(Model::Migrate))?;
        Ok(mem.facts(self.device)?.clone())
    }

    /// Its number.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    pub(crate) fn asked_model(&self) -> Option<Model> {
        self.options.model
    }

    /// The runtime that a case runs in, and the device.
    pub(crate) fn runtime(&mut self, case: &Case) -> Result<(Hmmap, DeviceId), BenchError> {
        let model = case.model(self.options.model)?;
        Ok((self.open(model)?, self.device))
    }

    pub(crate) fn limit(&self) -> SharedLimit {
        self.limit.clone()
    }

    fn open(&mut self, model: Model) -> Result<Hmmap, BenchError> {
        let slot = &mut self.open[model as usize];
        if let Some(mem) = slot {
            return Ok(mem.clone());
        }
        let options = Options { memory_model: model.into(), ..Options::default() };
        let mem = Hmmap::builder().options(options).build()?;
        mem.facts(self.device)?;
        *slot = Some(mem.clone());
        Ok(mem)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("device", &self.summary.name).finish_non_exhaustive()
    }
}

/// The device that `asked` means: its number, or the first whose name or programming interface has it in it; without words, the default one.
///
/// # Errors
/// [`BenchError::NoSuchDevice`].
pub fn choose<'a>(
    mem: &'a Hmmap,
    asked: Option<&str>,
) -> Result<(DeviceId, &'a DeviceSummary), BenchError> {
    let fits = |device: DeviceId, summary: &DeviceSummary| {
        let Some(asked) = asked else { return true };
        let has = |text: &str| text.to_lowercase().contains(&asked.to_lowercase());
        match asked.parse::<usize>() {
            Ok(number) => device.index() == number,
            Err(_) => has(summary.api) || has(&summary.name),
        }
    };
    mem.devices().find(|(device, summary)| fits(*device, summary)).ok_or_else(|| {
        let there = mem.devices().map(|(id, summary)| format!("{}: {}", id.index(), summary.name));
        BenchError::NoSuchDevice {
            asked: asked.unwrap_or_default().to_owned(),
            there: there.collect::<Vec<_>>().join(", "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(asked: Option<&str>) -> Result<String, BenchError> {
        let mem = Hmmap::builder().devices(hmmap::Choice::Embedded).build()?;
        choose(&mem, asked).map(|(_, summary)| summary.api.to_owned())
    }

    #[test]
    fn a_device_is_chosen_by_number_name_or_interface() {
        for asked in [None, Some("0"), Some("EMBEDDED"), Some("cpu device")] {
            assert_eq!(chosen(asked).unwrap(), "embedded", "{asked:?}");
        }
        for asked in ["7", "radeon"] {
            let error = chosen(Some(asked)).unwrap_err().to_string();
            assert!(error.contains(asked) && error.contains("0: embedded"), "{error}");
        }
    }
}
