//! The smallest kernel that reads and writes; the twin is all the code there is.

use hmmap_core::{
    Kernel, Source, Update,
    kernel::{Arguments, Twin},
};

/// Adds one to each element.
pub(crate) struct Increment<'a>(pub(crate) Update<'a, u32>);

static INCREMENT: Source = Source {
    name: "increment",
    spirv: &[],
    ptx: "",
    workgroup: [256, 1, 1],
    twin: Some(|twin: &Twin<'_>| {
        twin.write::<u32>(0).iter_mut().take(twin.n()).for_each(|x| *x += 1);
    }),
};

// SAFETY: the twin, the only code, goes through a safe slice and writes the Update argument alone.
unsafe impl Kernel for Increment<'_> {
    fn source() -> &'static Source {
        &INCREMENT
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.0).grid();
    }
}
