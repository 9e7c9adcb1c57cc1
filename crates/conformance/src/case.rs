//! A case: a name, what it shows, what it needs, and the program that shows it.

use std::{collections::BTreeSet, fmt, panic::Location};

use hmmap_core::{
    Error, Options,
    backend::{Capabilities, Capability, DeviceError},
    host::{HostFaults, HostPages, HugePool},
};
use parking_lot::Mutex;

use crate::{
    revocation,
    rig::Rig,
    setup::{Code, HostStyle, Profile, Setup},
    table::{Model, Row},
};

/// So many huge pages are enough for the vectors of any case.
const HUGE_PAGES: u64 = 64;

/// One case of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it is about; cases of one group share a file.
    pub group: &'static str,
    /// Its name, unique in its group.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// What a setup must have for it.
    pub needs: &'static [Need],
    /// The program.
    pub run: fn(&Context<'_>) -> Result<(), CaseFailure>,
}

impl Case {
    /// `group::name`.
    pub fn path(&self) -> String {
        format!("{}::{}", self.group, self.name)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.path()).finish()
    }
}

/// What a case needs of a setup.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Need {
    /// A second device.
    TwoDevices,
    /// Devices with memory of their own.
    Migrate,
    /// Devices that work on host memory.
    Unified,
    /// Single blocks of a vector can have memory.
    Sparse,
    /// Kernels' Rust twins run on the device.
    Twins,
    /// Kernels' compiled code runs on the device.
    Compiled,
    /// The host asks for ranges: plain indexing brings more than what is touched when it sees a stream.
    Guards,
    /// A page that the host reads stays where it was.
    Sharing,
    /// A device's memory can be given out to another of its kind.
    Exports,
    /// Kernels reach host memory in place.
    Window,
    /// Devices copy out of each other's memory.
    Direct,
}

/// Why a case failed.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum CaseFailure {
    /// The library refused what it should have done.
    #[error("{at}: {}", chain(.source))]
    Refused {
        /// Which step of the case.
        at: &'static Location<'static>,
        /// What the library said.
        source: Error,
    },
    /// Something is not as it must be.
    #[error("{at}: {what}")]
    Broken {
        /// Which step of the case.
        at: &'static Location<'static>,
        /// What was seen and what should have been.
        what: String,
    },
}

impl CaseFailure {
    #[track_caller]
    pub(crate) fn broken(what: String) -> Self {
        Self::Broken { at: Location::caller(), what }
    }
}

impl From<Error> for CaseFailure {
    #[track_caller]
    fn from(source: Error) -> Self {
        Self::Refused { at: Location::caller(), source }
    }
}

/// An error with everything that it says it comes from.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Ends the case with a sentence unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err($crate::case::CaseFailure::broken(format!($($sentence)+)));
        }
    };
}
pub(crate) use ensure;

/// What a case is given: the setup, and where it records the rows that it saw.
#[derive(Debug)]
pub struct Context<'a> {
    setup: &'a Setup,
    case: &'static Case,
    seen: Mutex<BTreeSet<Row>>,
    model: Mutex<Option<Model>>,
    revoked: Mutex<BTreeSet<revocation::Row>>,
    faults: Mutex<bool>,
}

/// What a case has seen.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) rows: BTreeSet<Row>,
    pub(crate) model: Option<Model>,
    pub(crate) revoked: BTreeSet<revocation::Row>,
    /// The host's touches fault.
    pub(crate) faults: bool,
}

impl<'a> Context<'a> {
    pub(crate) fn new(setup: &'a Setup, case: &'static Case) -> Self {
        Self {
            setup,
            case,
            seen: Mutex::default(),
            model: Mutex::default(),
            revoked: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    /// The setup that is tested.
    pub fn setup(&self) -> &'a Setup {
        self.setup
    }

    /// The first number in the small profile, the second in the full one.
    pub fn scaled(&self, small: usize, full: usize) -> usize {
        match self.setup.profile {
            Profile::Small => small,
            Profile::Full => full,
        }
    }

    /// Random numbers of this case in this setup, the same each time.
    pub fn random(&self) -> fastrand::Rng {
        let mix = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        fastrand::Rng::with_seed(self.case.path().bytes().fold(self.setup.seed, mix))
    }

    /// A fresh runtime on one fresh device.
    pub fn rig(&self) -> Result<Rig<'_>, CaseFailure> {
        Rig::new(self, self.options(), 1)
    }

    /// A fresh runtime on two fresh devices.
    pub fn rig_of_two(&self) -> Result<Rig<'_>, CaseFailure> {
        Rig::new(self, self.options(), 2)
    }

    /// A fresh runtime with these options on one fresh device.
    pub fn rig_with(&self, options: Options) -> Result<Rig<'_>, CaseFailure> {
        Rig::new(self, options, 1)
    }

    /// A fresh runtime with these options on two fresh devices.
    pub fn rig_of_two_with(&self, options: Options) -> Result<Rig<'_>, CaseFailure> {
        Rig::new(self, options, 2)
    }

    /// The options of the setup.
    pub fn options(&self) -> Options {
        let host_faults = match self.setup.host_style {
            HostStyle::Guards => HostFaults::Auto,
            HostStyle::Indexing(rung) => rung,
        };
        let Setup { memory_model, host_pages, device_copies, .. } = *self.setup;
        Options { memory_model, host_faults, host_pages, device_copies, ..Options::default() }
    }

    pub(crate) fn cover(&self, rows: impl Iterator<Item = Row>) {
        self.seen.lock().extend(rows);
    }

    pub(crate) fn found_model(&self, model: Model) {
        *self.model.lock() = Some(model);
    }

    /// The case has proved a row of the revocation table.
    pub(crate) fn revoked(&self, row: revocation::Row) {
        self.revoked.lock().insert(row);
    }

    pub(crate) fn found_faults(&self, faults: bool) {
        *self.faults.lock() = faults;
    }

    /// What was seen.
    pub(crate) fn into_found(self) -> Found {
        Found {
            rows: self.seen.into_inner(),
            model: self.model.into_inner(),
            revoked: self.revoked.into_inner(),
            faults: self.faults.into_inner(),
        }
    }

    /// Why there is no device in this mode: it, or its driver, does not have what the mode is about.
    pub(crate) fn lacks_device(&self) -> Option<String> {
        let pool = HugePool::look();
        if self.setup.host_pages == HostPages::Huge && pool.free + pool.overcommit < HUGE_PAGES {
            let remedy = "as root: `echo 64 > /proc/sys/vm/nr_hugepages`";
            return Some(format!("fewer than {HUGE_PAGES} huge pages are free; {remedy}"));
        }
        match self.rig() {
            Err(CaseFailure::Refused {
                source: Error::Device { source: DeviceError::Unsupported { what }, .. },
                ..
            }) => Some(what.to_owned()),
            Ok(rig) => self
                .setup
                .must_be
                .and_then(|check| rig.runtime.facts(rig.device()).ok().and_then(check)),
            Err(_) => None,
        }
    }

    /// What the setup lacks for the case; `None` when it has everything.
    pub(crate) fn lacks(&self) -> Result<Option<String>, CaseFailure> {
        for need in self.case.needs {
            if let Some(reason) = self.lacks_one(*need)? {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    fn lacks_one(&self, need: Need) -> Result<Option<String>, CaseFailure> {
        let no = |condition: bool, reason: &str| condition.then(|| reason.to_owned());
        let model = || Ok::<_, CaseFailure>(self.rig()?.model());
        Ok(match need {
            Need::TwoDevices => no(self.setup.second.is_none(), "the setup has one device only"),
            Need::Migrate => no(model()? == Model::Unified, "the device works on host memory"),
            Need::Unified => no(model()? != Model::Unified, "the device has memory of its own"),
            Need::Sparse => {
                let capabilities = self.capabilities()?;
                let reason = || format!("no sparse backing ({})", capabilities.sparse);
                (!Capability::is_proved(&capabilities.sparse)).then(reason)
            }
            Need::Twins => no(self.setup.code == Code::Compiled, "the device runs no Rust twins"),
            Need::Compiled => no(self.setup.code == Code::Twins, "the device runs Rust twins"),
            Need::Guards => no(self.setup.host_style != HostStyle::Guards, "the host indexes"),
            Need::Exports => {
                let export = self.capabilities()?.export;
                (!export.is_proved()).then(|| format!("no memory that is given out ({export})"))
            }
            Need::Window => {
                let window = self.capabilities()?.host_window;
                (!window.is_proved()).then(|| format!("no host memory in place ({window})"))
            }
            Need::Direct => {
                let rig = self.rig_of_two()?;
                let route = rig.runtime.route(rig.device(), rig.other())?;
                (!route.is_direct()).then(|| format!("copies go {route}"))
            }
            Need::Sharing => no(!self.setup.shares_pages(), "what the host reads leaves devices"),
        })
    }

    fn capabilities(&self) -> Result<Capabilities, CaseFailure> {
        let rig = self.rig()?;
        Ok(rig.runtime.facts(rig.device())?.capabilities.clone())
    }
}
