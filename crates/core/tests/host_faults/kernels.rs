//! Kernels of the tests; the twins are all the code there is.

use std::{thread, time::Duration};

use hmmap_core::{
    Kernel, Read, Source, Update, Write,
    kernel::{Arguments, Twin},
};

/// `y += x`.
pub(crate) struct Add<'a> {
    pub(crate) x: Read<'a, u32>,
    pub(crate) y: Update<'a, u32>,
}

static ADD: Source = source("add", |twin| {
    let (x, y) = (twin.read::<u32>(0), twin.write::<u32>(1));
    for (y, x) in y.iter_mut().zip(x).take(twin.n()) {
        *y = y.wrapping_add(*x);
    }
});

/// `y[i] = seed + i`, after a pause.
pub(crate) struct Count<'a> {
    pub(crate) y: Write<'a, u32>,
    pub(crate) seed: u32,
    pub(crate) pause_ms: u32,
}

static COUNT: Source = source("count", |twin| {
    thread::sleep(Duration::from_millis(u64::from(twin.u32(1))));
    let (y, seed) = (twin.write::<u32>(0), twin.u32(0));
    for (i, y) in y.iter_mut().enumerate().take(twin.n()) {
        *y = seed.wrapping_add(i as u32);
    }
});

/// Panics after half of it.
pub(crate) struct Break<'a> {
    pub(crate) y: Update<'a, u32>,
}

static BREAK: Source = source("break", |twin| {
    let y = twin.write::<u32>(0);
    let half = y.len() / 2;
    y[..half].fill(666);
    panic!("as the test wants it");
});

const fn source(name: &'static str, twin: fn(&Twin<'_>)) -> Source {
    Source { name, spirv: &[], ptx: "", workgroup: [64, 1, 1], twin: Some(twin) }
}

// SAFETY: the twin, the only code, goes through safe slices, writes only the Update argument, and reads parameters in the order of `bind`.
unsafe impl Kernel for Add<'_> {
    fn source() -> &'static Source {
        &ADD
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid();
    }
}

// SAFETY: as for Add; a launch over the whole length overwrites the Write argument whole.
unsafe impl Kernel for Count<'_> {
    fn source() -> &'static Source {
        &COUNT
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.write(&self.y).grid().u32(self.seed).u32(self.pause_ms);
    }
}

// SAFETY: as for Add.
unsafe impl Kernel for Break<'_> {
    fn source() -> &'static Source {
        &BREAK
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.y).grid();
    }
}
