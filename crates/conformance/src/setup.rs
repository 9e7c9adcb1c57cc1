//! What is tested: a device in one mode of it.

use std::{fmt, sync::Arc};

use hmmap_core::{
    DeviceCopies, MemoryModel,
    backend::{DeviceFacts, Provider},
    host::{HostFaults, HostPages},
};

use crate::case::{Case, Need};

/// Makes a device that nobody has used.
type Factory = Arc<dyn Fn() -> Arc<dyn Provider> + Send + Sync>;
/// Says what a device has to complain about since it was asked last.
type Complaints = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Says why an open device is not what a mode is about.
type Check = fn(&DeviceFacts) -> Option<String>;

/// Which code of a kernel a device runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    Twins,
    Compiled,
}

/// How memory is put under vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Backing {
    /// By block where the device proved that it can.
    AsProved,
    Whole,
}

/// How long the suite may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Profile {
    /// Seconds, for every change.
    #[default]
    Small,
    /// Minutes: more steps, more seeds, larger vectors.
    Full,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small => "small",
            Self::Full => "full",
        })
    }
}

/// The group whose cases go through the coherence table row by row.
pub const TABLE: &str = "coherence";
/// The group whose cases prove the rows of the revocation table.
pub const PEERS: &str = "peers";

/// How the suite's host reads and writes vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum HostStyle {
    /// By `host` and `host_mut`.
    #[default]
    Guards,
    /// By plain slices, on this rung of what the system offers.
    Indexing(HostFaults),
}

/// A device in one mode of it. Each case makes fresh devices from it.
#[derive(Clone)]
pub struct Setup {
    pub(crate) mode: String,
    pub(crate) memory_model: MemoryModel,
    pub(crate) first: Factory,
    pub(crate) second: Option<Factory>,
    pub(crate) complaints: Option<Complaints>,
    pub(crate) must_be: Option<Check>,
    pub(crate) code: Code,
    pub(crate) host_style: HostStyle,
    pub(crate) device_copies: DeviceCopies,
    pub(crate) host_pages: HostPages,
    backing: Backing,
    pub(crate) profile: Profile,
    pub(crate) seed: u64,
}

impl Setup {
    /// The mode called `mode`, of the device that `device` makes. The second device, for cases that need two, is one more of the
    /// same make; see [`Setup::second`] and [`Setup::single`].
    pub fn new(
        mode: impl Into<String>,
        memory_model: MemoryModel,
        device: impl Fn() -> Arc<dyn Provider> + Send + Sync + 'static,
    ) -> Self {
        let first: Factory = Arc::new(device);
        Self {
            mode: mode.into(),
            memory_model,
            second: Some(Arc::clone(&first)),
            first,
            complaints: None,
            must_be: None,
            code: Code::Twins,
            host_style: HostStyle::Guards,
            device_copies: DeviceCopies::ThroughHost,
            host_pages: HostPages::Ordinary,
            backing: Backing::AsProved,
            profile: Profile::Small,
            seed: 1,
        }
    }

    /// The second device is one of another make.
    #[must_use]
    pub fn second(
        mut self,
        device: impl Fn() -> Arc<dyn Provider> + Send + Sync + 'static,
    ) -> Self {
        self.second = Some(Arc::new(device));
        self
    }

    /// There is no second device; cases that need two are skipped.
    #[must_use]
    pub fn single(mut self) -> Self {
        self.second = None;
        self
    }

    /// Asks the devices after each case what they have to complain about; a case with complaints has failed.
    #[must_use]
    pub fn complaints(
        mut self,
        complaints: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.complaints = Some(Arc::new(complaints));
        self
    }

    /// Looks at the open device; cases are skipped with the reason when it is not what the mode is about.
    #[must_use]
    pub fn must_be(mut self, check: fn(&DeviceFacts) -> Option<String>) -> Self {
        self.must_be = Some(check);
        self
    }

    /// The device runs kernels' compiled code, not their Rust twins.
    #[must_use]
    pub fn compiled(mut self) -> Self {
        self.code = Code::Compiled;
        self
    }

    /// The suite's host indexes vectors instead of asking for slices, on one rung of what the system offers; the mode's name says so.
    #[must_use]
    pub fn indexing(mut self, rung: HostFaults) -> Self {
        let name = match rung {
            HostFaults::Auto => "index",
            HostFaults::NoSharing => "index_no_sharing",
            HostFaults::UserModeOnly => "index_user_mode",
            HostFaults::Off => "index_off",
        };
        self.mode = format!("{}_{name}", self.mode);
        self.host_style = HostStyle::Indexing(rung);
        self
    }

    /// The host's memory is of huge pages; the mode's name says so. Cases are skipped where the system has too few.
    #[must_use]
    pub fn on_huge_pages(mut self) -> Self {
        self.mode = format!("{}_huge", self.mode);
        self.host_pages = HostPages::Huge;
        self
    }

    /// The mode is about memory under whole vectors; cases about single blocks do not concern it.
    #[must_use]
    pub fn backs_whole(mut self) -> Self {
        self.backing = Backing::Whole;
        self
    }

    /// Devices copy out of each other's memory where they can, which the mode is about; elsewhere in the suite they go through the host.
    #[must_use]
    pub fn direct(mut self) -> Self {
        self.device_copies = DeviceCopies::Auto;
        self
    }

    /// How long the suite may take.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// What random choices begin with.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// True when the case is about devices of this kind at all.
    pub fn concerns(&self, case: &Case) -> bool {
        // Where reading takes pages from devices, or vectors or blocks come home whole, other states follow than the table's cases look for.
        let whole = self.host_style == HostStyle::Indexing(HostFaults::Off) || self.moves_blocks();
        if (whole || !self.shares_pages()) && case.group == TABLE {
            return false;
        }
        case.needs.iter().all(|need| match need {
            Need::Migrate => self.memory_model != MemoryModel::Unified,
            Need::Unified => self.memory_model != MemoryModel::Migrate,
            Need::Twins => self.code == Code::Twins,
            Need::Compiled => self.code == Code::Compiled,
            Need::Sparse => self.backing == Backing::AsProved,
            Need::Guards => self.host_style == HostStyle::Guards,
            Need::Sharing => self.shares_pages(),
            Need::TwoDevices | Need::Window => true,
            // Only memory under a whole vector is given out.
            Need::Exports => self.backing == Backing::Whole,
            Need::Direct => self.device_copies == DeviceCopies::Auto,
        })
    }

    /// True when every row of the coherence table has to be seen. A host that indexes vectors cannot wait for lost pages or for one row alone.
    pub fn goes_through_the_table(&self) -> bool {
        self.host_style == HostStyle::Guards
    }

    /// True when a page that the host reads stays on devices.
    pub(crate) fn shares_pages(&self) -> bool {
        self.host_style != HostStyle::Indexing(HostFaults::NoSharing)
    }

    /// True when a touch moves a block at least.
    pub(crate) fn moves_blocks(&self) -> bool {
        self.host_pages == HostPages::Huge && self.host_style != HostStyle::Guards
    }

    /// True when kernels work on host memory in place.
    pub fn is_unified(&self) -> bool {
        self.memory_model == MemoryModel::Unified
    }

    /// The mode's name.
    pub fn mode(&self) -> &str {
        &self.mode
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("mode", &self.mode)
            .field("memory_model", &self.memory_model)
            .field("two_devices", &self.second.is_some())
            .field("profile", &self.profile)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}
