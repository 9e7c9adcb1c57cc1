//! Finds the devices of this machine and puts the best first.

#[cfg_attr(not(feature = "cuda"), path = "cuda_disabled.rs")]
mod cuda;
#[cfg_attr(not(feature = "vulkan"), path = "vulkan_disabled.rs")]
mod vulkan;

use std::{fmt, ops::Deref, sync::Arc};

use hmmap_core::{
    Error, Options, Runtime,
    backend::Provider,
    embedded::{EmbeddedOptions, EmbeddedProvider},
};

/// The devices of this machine and the memory shared with them: a [`Runtime`] that was made by looking around.
#[derive(Clone, Debug)]
pub struct Hmmap {
    runtime: Runtime,
    absent: Arc<[Absent]>,
}

/// What looking around came to.
#[derive(Debug, Default)]
struct Found {
    providers: Vec<Arc<dyn Provider>>,
    absent: Vec<Absent>,
}

/// A kind of device that was looked for and is not there, or not usable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Absent {
    /// What was looked for: `vulkan`, `cuda`, or one device's name.
    pub what: String,
    /// Why it is not there.
    pub reason: String,
    /// What would change it.
    pub remedy: String,
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {}: {}; {}", self.what, self.reason, self.remedy)
    }
}

/// Which devices to look for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Choice {
    /// Every device, the best first, the embedded one last.
    #[default]
    Best,
    /// The embedded CPU device alone.
    Embedded,
    /// Vulkan devices alone.
    Vulkan,
    /// CUDA devices alone; none in programs built without the feature `cuda`.
    Cuda,
}

/// How an [`Hmmap`] is made.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    choice: Choice,
    options: Options,
    embedded: EmbeddedOptions,
    vulkan: vulkan::Options,
    cuda: cuda::Options,
    more: Vec<Arc<dyn Provider>>,
}

impl Hmmap {
    /// Finds every device. The best is the default: a GPU if there is one, else a software Vulkan driver if one is installed, else
    /// the embedded CPU device, which is always there.
    ///
    /// # Errors
    /// [`Error::Host`] when the system grants no address window. Drivers that are missing are no error: see [`Hmmap::absent`].
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// A runtime over a Vulkan device that the program made itself
    /// ([`hmmap_vulkan::VulkanProvider::from_existing`]), and the embedded CPU device. [`Runtime::acquire`] lends vectors to the
    /// program's own command buffers.
    ///
    /// # Errors
    /// As [`Hmmap::new`].
    #[cfg(feature = "vulkan")]
    pub fn from_vulkan(provider: Arc<hmmap_vulkan::VulkanProvider>) -> Result<Self, Error> {
        Self::builder().devices(Choice::Embedded).device(provider).build()
    }

    /// A runtime over a CUDA context that the program made itself
    /// ([`hmmap_cuda::CudaProvider::from_existing`]), and the embedded CPU device. [`Runtime::acquire`] lends vectors to work on the
    /// program's own streams.
    ///
    /// # Errors
    /// As [`Hmmap::new`].
    #[cfg(feature = "cuda")]
    pub fn from_cuda(provider: Arc<hmmap_cuda::CudaProvider>) -> Result<Self, Error> {
        Self::builder().devices(Choice::Embedded).device(provider).build()
    }

    /// Says what to look for, and how the runtime behaves.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What was looked for and is not there, with what would change it.
    pub fn absent(&self) -> &[Absent] {
        &self.absent
    }
}

impl Deref for Hmmap {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

impl Builder {
    /// Which devices to look for.
    #[must_use]
    pub fn devices(mut self, choice: Choice) -> Self {
        self.choice = choice;
        self
    }

    /// How the runtime behaves.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// How the embedded CPU device is set up.
    #[must_use]
    pub fn embedded(mut self, options: EmbeddedOptions) -> Self {
        self.embedded = options;
        self
    }

    /// How Vulkan devices are looked for and set up.
    #[cfg(feature = "vulkan")]
    #[must_use]
    pub fn vulkan(mut self, options: crate::vulkan::Options) -> Self {
        self.vulkan = options;
        self
    }

    /// How CUDA devices are set up.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn cuda(mut self, options: crate::cuda::Options) -> Self {
        self.cuda = options;
        self
    }

    /// Adds a device of the application's own, before those that are found.
    #[must_use]
    pub fn device(mut self, provider: Arc<dyn Provider>) -> Self {
        self.more.push(provider);
        self
    }

    /// Looks around and makes the runtime. Devices are opened when they are first used.
    ///
    /// # Errors
    /// As [`Hmmap::new`]; [`Error::TooManyDevices`].
    pub fn build(self) -> Result<Hmmap, Error> {
        let mut found = Found::default();
        if matches!(self.choice, Choice::Best | Choice::Vulkan) {
            vulkan::find(&self.vulkan, &mut found);
        }
        if matches!(self.choice, Choice::Best | Choice::Cuda) {
            cuda::find(&self.cuda, &mut found);
        }
        found.providers.sort_by_key(|provider| provider.summary().kind);
        let mut providers = self.more;
        providers.append(&mut found.providers);
        if matches!(self.choice, Choice::Best | Choice::Embedded) {
            providers.push(Arc::new(EmbeddedProvider::new(self.embedded)));
        }
        let runtime = Runtime::new(providers, self.options)?;
        Ok(Hmmap { runtime, absent: found.absent.into() })
    }
}
