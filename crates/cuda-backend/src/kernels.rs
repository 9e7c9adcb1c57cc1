//! Kernels made ready: one module for each PTX text, one function for each source.
#![allow(unsafe_code, reason = "loads modules and looks functions up")]

use std::{collections::HashMap, ffi::CString, sync::Arc};

use hmmap_core::{
    backend::DeviceError,
    kernel::{KernelId, ParamLayout, Source},
};
use parking_lot::{Mutex, RwLock};

use crate::{
    code,
    context::{Context, Current},
    driver::Raw,
    ptx,
};

/// `CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK`.
const MAX_THREADS_PER_BLOCK: i32 = 0;

/// A kernel that can be launched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) function: Raw,
    pub(crate) workgroup: [u32; 3],
    /// How many bytes the driver reads of the parameter block.
    pub(crate) param_bytes: u32,
}

/// Every prepared kernel of one device. Modules live as long as the device: a text is a `static`, so there are few.
#[derive(Debug)]
pub(crate) struct Kernels {
    context: Arc<Context>,
    ready: RwLock<Vec<Ready>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the source's address, which identifies a kernel, with the layout that it was checked against.
    kernels: HashMap<usize, (KernelId, ParamLayout)>,
    /// By the text's address: kernels of one family share one.
    modules: HashMap<usize, Raw>,
}

impl Kernels {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self { context: Arc::clone(context), ready: RwLock::default(), known: Mutex::default() }
    }

    /// Makes a kernel ready; the second time it is known.
    pub(crate) fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        let key = std::ptr::from_ref(source).addr();
        let mut known = self.known.lock();
        if let Some((id, checked)) = known.kernels.get(&key)
            && checked == layout
        {
            return Ok(*id);
        }
        let param_bytes = ptx::check(source, layout)?;
        let current = self.context.enter()?;
        let module = match known.modules.get(&source.ptx.as_ptr().addr()) {
            Some(module) => *module,
            None => {
                let module = load(&current, source)?;
                known.modules.insert(source.ptx.as_ptr().addr(), module);
                module
            }
        };
        let function = function(&current, module, source)?;
        let mut ready = self.ready.write();
        let id = KernelId(ready.len() as u32);
        ready.push(Ready { function, workgroup: source.workgroup, param_bytes });
        known.kernels.insert(key, (id, layout.clone()));
        Ok(id)
    }

    /// A prepared kernel.
    pub(crate) fn get(&self, id: KernelId) -> Option<Ready> {
        self.ready.read().get(id.0 as usize).copied()
    }
}

/// Has the driver compile a text for its device.
fn load(current: &Current<'_>, source: &Source) -> Result<Raw, DeviceError> {
    let kernel = source.name;
    let bad = |reason| DeviceError::BadShader { kernel, reason };
    let text = CString::new(source.ptx).map_err(|_| bad("the PTX holds a zero byte"))?;
    let mut module = 0;
    let (names, values) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the context is current; the text ends with a zero byte and outlives the call; there are no options.
    let code = unsafe {
        (current.api().cuModuleLoadDataEx)(&raw mut module, text.as_ptr().cast(), 0, names, values)
    };
    match code {
        code::UNSUPPORTED_PTX_VERSION => {
            Err(bad("the CUDA driver is older than the PTX; driver 525 or newer has PTX 8.0"))
        }
        code::INVALID_PTX => Err(bad("the CUDA driver does not accept the PTX")),
        code::NO_BINARY_FOR_GPU => Err(bad("the PTX is for newer devices than this one")),
        code => {
            current.done_for("cuModuleLoadDataEx", source.ptx.len() as u64, code).map(|()| module)
        }
    }
}

fn function(current: &Current<'_>, module: Raw, source: &Source) -> Result<Raw, DeviceError> {
    let kernel = source.name;
    let bad = |reason| DeviceError::BadShader { kernel, reason };
    let name = CString::new(kernel).map_err(|_| bad("its name holds a zero byte"))?;
    let mut function = 0;
    // SAFETY: the context is current, the module is live, the name ends with a zero byte and outlives the call.
    let code =
        unsafe { (current.api().cuModuleGetFunction)(&raw mut function, module, name.as_ptr()) };
    if code == code::NOT_FOUND {
        return Err(bad("the compiled PTX has no function of its name"));
    }
    current.done("cuModuleGetFunction", code)?;
    let mut most = 0;
    // SAFETY: the context is current, the function is live, the pointer is to a local.
    let code = unsafe {
        (current.api().cuFuncGetAttribute)(&raw mut most, MAX_THREADS_PER_BLOCK, function)
    };
    current.done("cuFuncGetAttribute", code)?;
    let threads: u32 = source.workgroup.iter().product();
    if threads > most.unsigned_abs() {
        return Err(bad("this device has no room for a workgroup of it"));
    }
    Ok(function)
}

impl Drop for Kernels {
    fn drop(&mut self) {
        let Ok(current) = self.context.enter_anyway() else { return };
        for module in self.known.get_mut().modules.values() {
            // SAFETY: loaded here, unloaded once; streams have ended their work before the kernels go (field order of the device).
            current.given("cuModuleUnload", unsafe { (current.api().cuModuleUnload)(*module) });
        }
    }
}
