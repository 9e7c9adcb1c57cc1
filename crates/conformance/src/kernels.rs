//! Kernels of the suite's own: what the shipped ones are too well behaved for.
#![allow(unsafe_code, reason = "defines kernels")]

use std::sync::OnceLock;

use hmmap::kernels::Saxpy;
use hmmap_core::{
    Kernel, Read, Source, Update,
    kernel::{Arguments, Twin},
};

/// Adds one to every byte. Has a Rust twin only.
pub(crate) struct Increment<'a> {
    pub(crate) bytes: Update<'a, u8>,
}

static INCREMENT: Source = Source {
    name: "increment_u8",
    spirv: &[],
    ptx: "",
    workgroup: [256, 1, 1],
    twin: Some(|launch: &Twin<'_>| {
        launch.write::<u8>(0).iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    }),
};

// SAFETY: the twin, the only code, goes through a safe slice of an Update argument; the parameters are the array and the grid.
unsafe impl Kernel for Increment<'_> {
    fn source() -> &'static Source {
        &INCREMENT
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.bytes).grid();
    }
}

/// Writes a half of its array and then panics. Has a Rust twin only.
pub(crate) struct Panics<'a> {
    pub(crate) y: Update<'a, f32>,
}

static PANICS: Source = Source {
    name: "panics",
    spirv: &[],
    ptx: "",
    workgroup: [256, 1, 1],
    twin: Some(|launch: &Twin<'_>| {
        let y = launch.write::<f32>(0);
        let half = y.len() / 2;
        y[..half].fill(-1.0);
        // A panic that prints nothing.
        std::panic::resume_unwind(Box::new("on purpose"));
    }),
};

// SAFETY: as for `Increment`.
unsafe impl Kernel for Panics<'_> {
    fn source() -> &'static Source {
        &PANICS
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.y).grid();
    }
}

/// Has no code for any device.
pub(crate) struct NoCode<'a> {
    pub(crate) y: Update<'a, f32>,
}

static NO_CODE: Source =
    Source { name: "no_code", spirv: &[], ptx: "", workgroup: [256, 1, 1], twin: None };

// SAFETY: there is no code that could break a promise.
unsafe impl Kernel for NoCode<'_> {
    fn source() -> &'static Source {
        &NO_CODE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.y).grid();
    }
}

/// Lists saxpy's parameters with a `u32` where its compiled code has an `f32`.
pub(crate) struct WrongLayout<'a> {
    pub(crate) x: Read<'a, f32>,
    pub(crate) y: Update<'a, f32>,
}

// SAFETY: a kernel whose list differs from its code must not reach a driver, and has no other code. Where it does, it is saxpy with 0.0
// as its factor, whose promises are those of `Saxpy`: the bits of the `u32` are those of the `f32`.
unsafe impl Kernel for WrongLayout<'_> {
    fn source() -> &'static Source {
        static SOURCE: OnceLock<Source> = OnceLock::new();
        SOURCE.get_or_init(|| {
            let saxpy = <Saxpy<'_> as Kernel>::source();
            Source {
                name: saxpy.name,
                spirv: saxpy.spirv,
                ptx: saxpy.ptx,
                workgroup: saxpy.workgroup,
                twin: None,
            }
        })
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid().u32(0);
    }
}

/// Lists a scalar before its arrays, which no kernel may.
pub(crate) struct WrongOrder<'a> {
    pub(crate) y: Update<'a, f32>,
}

// SAFETY: as for `NoCode`.
unsafe impl Kernel for WrongOrder<'_> {
    fn source() -> &'static Source {
        &NO_CODE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.u32(1).update(&self.y).grid();
    }
}
