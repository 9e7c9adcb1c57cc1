// Included by each program.
use hmmap_core::{
    Kernel, Options, Read, Runtime, SharedVec, Source, Update, Write, kernel::Arguments,
};

static SOURCE: Source =
    Source { name: "two", spirv: &[], ptx: "", workgroup: [64, 1, 1], twin: None };

/// Reads `x` and updates `y`.
pub struct Saxpy<'a> {
    pub x: Read<'a, f32>,
    pub y: Update<'a, f32>,
}

// SAFETY: it has no code at all.
unsafe impl Kernel for Saxpy<'_> {
    fn source() -> &'static Source {
        &SOURCE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid();
    }
}

/// Overwrites `y`.
pub struct Fill<'a> {
    pub y: Write<'a, f32>,
}

// SAFETY: it has no code at all.
unsafe impl Kernel for Fill<'_> {
    fn source() -> &'static Source {
        &SOURCE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.write(&self.y).grid();
    }
}

/// Reads `x`.
pub struct Sum<'a> {
    pub x: Read<'a, f32>,
}

// SAFETY: it has no code at all.
unsafe impl Kernel for Sum<'_> {
    fn source() -> &'static Source {
        &SOURCE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).grid();
    }
}

pub fn runtime() -> Runtime {
    Runtime::new(Vec::new(), Options::default()).unwrap()
}

pub fn vec(mem: &Runtime) -> SharedVec<f32> {
    SharedVec::new(mem, 10).unwrap()
}
