//! What a kernel's SPIR-V says of itself, compared with what the Rust side passes. Pure: nothing malformed reaches a driver.
//!
//! A kernel is one module with a compute entry point of the kernel's name and one push constant block of device addresses,
//! 64-bit and 32-bit numbers. The block may be nested structs, as compilers wrap the entry point's parameters.

mod capabilities;
mod module;

use hmmap_core::{
    backend::DeviceError,
    kernel::{Field, FieldKind, MAX_PARAM_BYTES, ParamLayout, Source},
};
use spirv::StorageClass;

use self::module::{Module, Type};
use crate::{features::Features, physical::Limits};

/// The deepest nesting of structs in a parameter block: compilers need two.
const DEEPEST: u32 = 3;

/// What a device can run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) features: Features,
    /// The newest SPIR-V, as in a module's header.
    pub(crate) spirv_version: u32,
    pub(crate) limits: Limits,
}

/// Checks a kernel's code against the device and against the layout that launches will pass.
///
/// # Errors
/// [`DeviceError::NoShader`], [`DeviceError::BadShader`], [`DeviceError::LayoutMismatch`].
pub(crate) fn check(
    source: &'static Source,
    passed: &ParamLayout,
    target: &Target,
) -> Result<(), DeviceError> {
    let kernel = source.name;
    if source.spirv.is_empty() {
        return Err(DeviceError::NoShader { kernel, format: "SPIR-V" });
    }
    let bad = |reason| DeviceError::BadShader { kernel, reason };
    let module = Module::read(source.spirv).map_err(bad)?;
    if module.version > target.spirv_version {
        return Err(bad("it is a newer version of SPIR-V than the driver knows"));
    }
    for capability in &module.capabilities {
        let needed = capabilities::needs(*capability)
            .ok_or_else(|| bad("it declares a capability that kernels here cannot use"))?;
        if let Some(missing) = target.features.first_missing(needed) {
            return Err(bad(missing_feature(missing)));
        }
    }
    if module.has_descriptors {
        return Err(bad("it uses descriptors; kernels take device addresses in push constants"));
    }
    let workgroup = workgroup(&module, kernel).map_err(bad)?;
    if workgroup != source.workgroup {
        return Err(bad("its workgroup size is not the one that its `Source` declares"));
    }
    let invocations = workgroup.iter().map(|size| u64::from(*size)).product::<u64>();
    let fits = workgroup.iter().zip(target.limits.workgroup).all(|(size, limit)| *size <= limit);
    if !fits || invocations > u64::from(target.limits.invocations) {
        return Err(bad("its workgroup is larger than the device takes"));
    }
    let expected = layout(&module).map_err(bad)?;
    match passed.first_difference(&expected) {
        None => Ok(()),
        Some(difference) => Err(DeviceError::LayoutMismatch {
            kernel,
            format: "SPIR-V",
            offset_bytes: difference.offset_bytes,
            passed: difference.ours,
            expected: difference.theirs,
        }),
    }
}

/// What is read of a kernel's code before a driver sees it, for a fuzzer: workgroup size and parameters.
///
/// # Errors
/// What is wrong with the code.
#[cfg(feature = "test-doubles")]
pub fn reflect(code: &[u8], kernel: &str) -> Result<([u32; 3], ParamLayout), &'static str> {
    let module = Module::read(code)?;
    Ok((workgroup(&module, kernel)?, layout(&module)?))
}

/// A reason has to be a constant; the features that kernels run into most are named.
fn missing_feature(name: &'static str) -> &'static str {
    match name {
        "shaderFloat64" => "it needs shaderFloat64, which the device lacks",
        "shaderFloat16" => "it needs shaderFloat16, which the device lacks",
        "shaderInt8" => "it needs shaderInt8, which the device lacks",
        "shaderInt16" => "it needs shaderInt16, which the device lacks",
        "shaderBufferInt64Atomics" => "it needs shaderBufferInt64Atomics, which the device lacks",
        "shaderBufferFloat32AtomicAdd" => {
            "it needs shaderBufferFloat32AtomicAdd, which the device lacks"
        }
        _ => "it needs a feature that the device lacks",
    }
}

fn workgroup(module: &Module, name: &str) -> Result<[u32; 3], &'static str> {
    let mut entries = module.entries.iter().filter(|(_, entry)| entry == name);
    let Some((function, _)) = entries.next() else {
        return Err("it has no compute entry point of the kernel's name");
    };
    let constant = |id: &u32| module.constants.get(id).copied();
    let by_ids = |ids: &[u32]| match ids {
        [x, y, z] => Some([constant(x)?, constant(y)?, constant(z)?]),
        _ => None,
    };
    const SPECIALISED: &str = "its workgroup size is not a constant";
    if let Some(id) = module.workgroup_size {
        let ids = module.composites.get(&id).ok_or(SPECIALISED)?;
        return by_ids(ids).ok_or(SPECIALISED);
    }
    if let Some(ids) = module.local_size_ids.get(function) {
        return by_ids(ids).ok_or(SPECIALISED);
    }
    module.local_size.get(function).copied().ok_or("it declares no workgroup size")
}

/// The push constant block as the code lays it out.
fn layout(module: &Module) -> Result<ParamLayout, &'static str> {
    let block = match module.push_constants.as_slice() {
        [] => return Ok(ParamLayout::default()),
        [pointer] => match module.types.get(pointer) {
            Some(Type::Pointer { to, .. }) => *to,
            _ => return Err("its push constant block has no type"),
        },
        _ => return Err("it has several push constant blocks"),
    };
    let mut fields = Vec::new();
    flatten(module, block, 0, DEEPEST, &mut fields)?;
    fields.sort_by_key(|field| field.offset_bytes);
    let end = |field: &Field| field.offset_bytes as usize + field.kind.size_bytes() as usize;
    if fields.last().is_some_and(|last| end(last) > MAX_PARAM_BYTES) {
        return Err("its parameters are longer than every device accepts (128 bytes)");
    }
    Ok(ParamLayout::new(fields))
}

fn flatten(
    module: &Module,
    id: u32,
    offset_bytes: u32,
    depth: u32,
    fields: &mut Vec<Field>,
) -> Result<(), &'static str> {
    const UNKNOWN: &str =
        "a parameter has a type that cannot be passed (address, u64, u32, i32, f32 can)";
    let address = StorageClass::PhysicalStorageBuffer as u32;
    let kind = match module.types.get(&id) {
        Some(Type::Pointer { class, .. }) if *class == address => FieldKind::Address,
        Some(Type::Int { width: 64, signed: 0 }) => FieldKind::U64,
        Some(Type::Int { width: 32, signed: 0 }) => FieldKind::U32,
        Some(Type::Int { width: 32, .. }) => FieldKind::I32,
        Some(Type::Float { width: 32 }) => FieldKind::F32,
        Some(Type::Struct(members)) if depth > 0 && members.len() <= MAX_PARAM_BYTES / 4 => {
            for (number, member) in members.iter().enumerate() {
                let within = module.offsets.get(&(id, number as u32));
                let within = *within.ok_or("a parameter has no offset")?;
                let at = offset_bytes.checked_add(within).ok_or(UNKNOWN)?;
                flatten(module, *member, at, depth - 1, fields)?;
            }
            return Ok(());
        }
        _ => return Err(UNKNOWN),
    };
    fields.push(Field { offset_bytes, kind });
    Ok(())
}

#[cfg(test)]
mod tests;
