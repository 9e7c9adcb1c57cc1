//! The kernel that wgpu and vulkano run, and the size of its grid.

use anyhow::Context as _;
use naga::{back::spv, front::wgsl, valid};

/// What wgpu is given.
pub(crate) const WGSL: &str = include_str!("fill.wgsl");

const GROUP: u32 = 256;
/// Groups of a big launch. hmmap bounds its grids too.
const MOST_GROUPS: u32 = 1024;

/// How many groups a launch over so many elements has.
pub(crate) fn groups(len: u32) -> u32 {
    len.div_ceil(GROUP).min(MOST_GROUPS)
}

/// The kernel's arguments, as words of 32 bits.
pub(crate) fn arguments(value: f32, len: u32) -> [u32; 4] {
    [value.to_bits(), len, groups(len) * GROUP, 0]
}

/// The same kernel as SPIR-V, for vulkano.
pub(crate) fn spirv() -> anyhow::Result<Vec<u32>> {
    let module = wgsl::parse_str(WGSL).context("the kernel's text")?;
    let mut validator =
        valid::Validator::new(valid::ValidationFlags::all(), valid::Capabilities::empty());
    let info = validator.validate(&module).context("the kernel")?;
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    Ok(spv::write_vec(&module, &info, &options, None)?)
}
