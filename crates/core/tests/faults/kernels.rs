//! Three kernels over elements of a quarter page, so that ranges cover pages whole and in part and the oracle is small.

use hmmap_core::{
    Kernel, Read, Source, Update, Write,
    kernel::{Arguments, Twin},
};

const LANES: usize = 4096;

/// 16 KiB, all lanes equal.
pub(crate) type Element = [u32; LANES];

#[allow(dead_code, reason = "not every test program that has these kernels counts pages")]
pub(crate) const PER_PAGE: usize = (64 << 10) / size_of::<Element>();

pub(crate) fn element(value: u32) -> Element {
    [value; LANES]
}

/// The value of an element whose lanes are all equal.
pub(crate) fn value(element: &Element) -> Option<u32> {
    element.iter().all(|lane| *lane == element[0]).then_some(element[0])
}

const fn source(name: &'static str, twin: fn(&Twin<'_>)) -> Source {
    Source { name, spirv: &[], ptx: "", workgroup: [64, 1, 1], twin: Some(twin) }
}

/// Overwrites `y` with a value.
pub(crate) struct Fill<'a> {
    pub(crate) y: Write<'a, Element>,
    pub(crate) value: u32,
}

static FILL: Source = source("fill", |twin| {
    let value = twin.u32(0);
    twin.write::<Element>(0).iter_mut().for_each(|y| *y = element(value));
});

// SAFETY: the twin, the only code, goes through safe slices, overwrites its Write argument whole, and reads parameters in the order of `bind`.
unsafe impl Kernel for Fill<'_> {
    fn source() -> &'static Source {
        &FILL
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.write(&self.y).grid().u32(self.value);
    }
}

/// Overwrites `y` with `x`.
pub(crate) struct Copy<'a> {
    pub(crate) x: Read<'a, Element>,
    pub(crate) y: Write<'a, Element>,
}

static COPY: Source = source("copy", |twin| {
    twin.write::<Element>(1).copy_from_slice(twin.read::<Element>(0));
});

// SAFETY: the twin, the only code, goes through safe slices and overwrites its Write argument whole.
unsafe impl Kernel for Copy<'_> {
    fn source() -> &'static Source {
        &COPY
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).write(&self.y).grid();
    }
}

/// Adds `x` to `y`.
pub(crate) struct Add<'a> {
    pub(crate) x: Read<'a, Element>,
    pub(crate) y: Update<'a, Element>,
}

static ADD: Source = source("add", |twin| {
    let (x, y) = (twin.read::<Element>(0), twin.write::<Element>(1));
    for (y, x) in y.iter_mut().flatten().zip(x.iter().flatten()) {
        *y = y.wrapping_add(*x);
    }
});

// SAFETY: the twin, the only code, goes through safe slices and writes only its Update argument.
unsafe impl Kernel for Add<'_> {
    fn source() -> &'static Source {
        &ADD
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid();
    }
}
