//! The loader and the instance: owned handles.
#![allow(unsafe_code, reason = "loads the Vulkan library and owns the instance")]

use std::{
    ffi::{CStr, c_void},
    fmt,
    path::Path,
    sync::Arc,
};

use ash::{ext, vk};

use crate::{
    error::DiscoverError,
    messages::Messages,
    options::{Options, Validation},
};

const LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";
/// What instances are asked for: devices need 1.2, and the validation layers in use today know no more than 1.3 without complaint.
const NEWEST: u32 = vk::API_VERSION_1_3;
const OLDEST: u32 = vk::API_VERSION_1_2;

/// A Vulkan instance, and the loader that it needs.
///
/// # Invariants
/// `raw` is a live instance; when `owned` is there, it was made here, and `owned.entry` keeps the library loaded for as long.
pub(crate) struct Instance {
    raw: ash::Instance,
    api_version: u32,
    messages: Arc<Messages>,
    owned: Option<Owned>,
}

/// What only an instance made here has.
struct Owned {
    messenger: Option<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    /// Last: the library is unloaded after everything else is gone.
    _entry: ash::Entry,
}

impl Instance {
    /// Loads the loader and makes an instance.
    pub(crate) fn new(options: &Options) -> Result<Self, DiscoverError> {
        let entry = load(options)?;
        // SAFETY: the entry is loaded.
        let found = unsafe { entry.try_enumerate_instance_version() };
        let found = found.ok().flatten().unwrap_or(vk::API_VERSION_1_0);
        if found < OLDEST {
            return Err(DiscoverError::OldLoader { major: 1, minor: vk::api_version_minor(found) });
        }
        let watched = options.validation != Validation::Off;
        if watched && !has_layer(&entry) {
            return Err(DiscoverError::NoValidationLayer);
        }
        Self::create(entry, found.min(NEWEST), options.validation)
    }

    fn create(
        entry: ash::Entry,
        api_version: u32,
        validation: Validation,
    ) -> Result<Self, DiscoverError> {
        let messages = Arc::new(Messages::default());
        let application = vk::ApplicationInfo::default()
            .application_name(c"hmmap")
            .engine_name(c"hmmap")
            .api_version(api_version);
        let mut enables = vec![vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
        if validation == Validation::GpuAssisted {
            enables = vec![
                vk::ValidationFeatureEnableEXT::GPU_ASSISTED,
                vk::ValidationFeatureEnableEXT::GPU_ASSISTED_RESERVE_BINDING_SLOT,
            ];
        }
        let mut features =
            vk::ValidationFeaturesEXT::default().enabled_validation_features(&enables);
        let (layers, extensions) = ([LAYER.as_ptr()], [ext::debug_utils::NAME.as_ptr()]);
        let mut during_creation = messenger_info(&messages);
        let mut info = vk::InstanceCreateInfo::default().application_info(&application);
        if validation != Validation::Off {
            info = info
                .enabled_layer_names(&layers)
                .enabled_extension_names(&extensions)
                .push_next(&mut features)
                .push_next(&mut during_creation);
        }
        // SAFETY: the structures that `info` points to outlive the call, and the names are C strings.
        let raw = unsafe { entry.create_instance(&info, None) }.map_err(|result| {
            DiscoverError::Driver { call: "vkCreateInstance", code: result.as_raw() }
        })?;
        let mut instance = Self {
            owned: Some(Owned { messenger: None, _entry: entry.clone() }),
            raw,
            api_version,
            messages,
        };
        if validation != Validation::Off {
            instance.listen(&entry)?;
        }
        Ok(instance)
    }

    fn listen(&mut self, entry: &ash::Entry) -> Result<(), DiscoverError> {
        let listener = ext::debug_utils::Instance::new(entry, &self.raw);
        let info = messenger_info(&self.messages);
        // SAFETY: the extension was enabled; the messages that the callback gets as user data live as long as the instance,
        // which destroys the messenger first.
        let messenger = unsafe { listener.create_debug_utils_messenger(&info, None) };
        let messenger = messenger.map_err(|result| DiscoverError::Driver {
            call: "vkCreateDebugUtilsMessengerEXT",
            code: result.as_raw(),
        })?;
        if let Some(owned) = &mut self.owned {
            owned.messenger = Some((listener, messenger));
        }
        Ok(())
    }

    /// Wraps an instance that the program made and destroys.
    ///
    /// # Safety
    /// The instance lives until every clone of the returned value and every device made from it is gone.
    pub(crate) unsafe fn of_program(raw: ash::Instance, api_version: u32) -> Self {
        Self { raw, api_version, messages: Arc::default(), owned: None }
    }

    /// The handle. Whoever uses it holds `self`.
    pub(crate) fn raw(&self) -> &ash::Instance {
        &self.raw
    }

    /// The version that the instance was made for.
    pub(crate) fn api_version(&self) -> u32 {
        self.api_version
    }

    /// True when the validation layer watches.
    pub(crate) fn is_watched(&self) -> bool {
        self.owned.as_ref().is_some_and(|owned| owned.messenger.is_some())
    }

    /// What the validation layer says.
    pub(crate) fn messages(&self) -> &Arc<Messages> {
        &self.messages
    }

    /// The instance's physical devices.
    pub(crate) fn physical_devices(&self) -> Result<Vec<vk::PhysicalDevice>, DiscoverError> {
        // SAFETY: the instance is live.
        unsafe { self.raw.enumerate_physical_devices() }.map_err(|result| DiscoverError::Driver {
            call: "vkEnumeratePhysicalDevices",
            code: result.as_raw(),
        })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let Some(owned) = &self.owned else { return };
        // SAFETY: (1) both handles were made here and are destroyed once, (2) devices hold the instance, so none is left.
        unsafe {
            if let Some((listener, messenger)) = &owned.messenger {
                listener.destroy_debug_utils_messenger(*messenger, None);
            }
            self.raw.destroy_instance(None);
        }
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("messages", &self.messages).finish_non_exhaustive()
    }
}

fn load(options: &Options) -> Result<ash::Entry, DiscoverError> {
    let system = || {
        // SAFETY: loading runs the library's initialisers; whoever installed a Vulkan loader, or names one in the options, vouches for it.
        unsafe { ash::Entry::load() }
    };
    let named = |path: &Path| {
        // SAFETY: as above.
        unsafe { ash::Entry::load_from(path) }
    };
    let loaded = match &options.loader {
        Some(path) => named(path),
        None => system().or_else(|missing| match &options.loader_fallback {
            Some(path) => named(path),
            None => Err(missing),
        }),
    };
    loaded.map_err(|error| DiscoverError::NoLoader { reason: error.to_string() })
}

fn has_layer(entry: &ash::Entry) -> bool {
    // SAFETY: the entry is loaded.
    let layers = unsafe { entry.enumerate_instance_layer_properties() }.unwrap_or_default();
    layers.iter().any(|layer| layer.layer_name_as_c_str() == Ok(LAYER))
}

fn messenger_info(messages: &Arc<Messages>) -> vk::DebugUtilsMessengerCreateInfoEXT<'static> {
    use vk::{
        DebugUtilsMessageSeverityFlagsEXT as Severity, DebugUtilsMessageTypeFlagsEXT as Kind,
    };
    vk::DebugUtilsMessengerCreateInfoEXT::default()
        .message_severity(Severity::ERROR | Severity::WARNING)
        .message_type(Kind::VALIDATION)
        .pfn_user_callback(Some(heard))
        .user_data(Arc::as_ptr(messages).cast_mut().cast())
}

/// # Safety
/// Called by the layer alone, with `user_data` as `messenger_info` set it and data that is valid for the call.
unsafe extern "system" fn heard(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    user_data: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: by the contract of the callback, (1) `data` and its message are valid for the call, (2) `user_data` is the `Messages` of
    // an instance that is still alive, shared and never mutated but through its lock.
    unsafe {
        let text = (*data).message_as_c_str().map(CStr::to_string_lossy).unwrap_or_default();
        let id = (*data).message_id_name_as_c_str().map(CStr::to_string_lossy).unwrap_or_default();
        (*user_data.cast_const().cast::<Messages>()).hear(&id, &text);
    }
    vk::FALSE
}
