//! Errors, and how they read: each carries its numbers, and says what to do where that helps.
//!
//! `cargo run --release --example 06_errors`
//!
//! New here: nothing that a vector held is gone after any of them. A panic is printed in between: it is caught.

use anyhow::{Result, bail, ensure};
use hmmap::{
    Choice, DeviceId, Error, Hmmap, Kernel, MemoryModel, Options, SharedVec, Source, Update,
    WithoutRoom,
    core::kernel::{Arguments, Twin},
    kernels::{Fill, Mandelbrot},
};

fn main() -> Result<()> {
    run(Choice::Best)
}

pub(crate) fn run(choice: Choice) -> Result<()> {
    let limit = Some(8 << 20);
    let memory_model = MemoryModel::Migrate;
    let without_room = WithoutRoom::Refuse;
    let options = Options {
        device_memory_limit_bytes: limit,
        memory_model,
        without_room,
        ..Options::default()
    };
    let mem = Hmmap::builder().devices(choice).options(options).build()?;
    let mut v = SharedVec::from_fn(&mem, 1000, |i| i as u32)?;

    say(v.host(990..1010), |e| matches!(e, Error::OutOfRange { end: 1010, len: 1000, .. }))?;
    let endless = SharedVec::<u64>::new(&mem, usize::MAX);
    say(endless, |e| matches!(e, Error::LengthOverflow { len: usize::MAX, element_bytes: 8 }))?;

    let Some(ninth) = DeviceId::new(9) else { bail!("a runtime has room for nine devices") };
    let fill = Fill { out: v.write(), value: 1 };
    say(mem.launch_on(ninth, 1, fill), |e| matches!(e, Error::NoSuchDevice { asked: 9, .. }))?;
    let (out, x0, y0, dx, dy, max_iter) = (v.write(), 0.0, 0.0, 1.0, 1.0, 9);
    let far = mem.launch((1 << 30, 1 << 30), Mandelbrot { out, x0, y0, dx, dy, max_iter });
    say(far, |e| matches!(e, Error::GridTooLarge { .. }))?;
    let elsewhere = Hmmap::builder().devices(Choice::Embedded).build()?;
    let foreign = elsewhere.launch(1000, Fill { out: v.write(), value: 1 });
    say(foreign, |e| matches!(e, Error::ForeignVector { argument: 0, .. }))?;

    let mut large = SharedVec::<u32>::new(&mem, 4 << 20)?;
    let full = mem.launch(large.len(), Fill { out: large.write(), value: 1 });
    say(full, |e| matches!(e, Error::OutOfDeviceMemory { limit_bytes: 0x80_0000, .. }))?;

    // A kernel of our own that goes wrong. The embedded device, the last one, runs its Rust code.
    let embedded = mem.devices().map(|(id, _)| id).last().unwrap_or(ninth);
    mem.launch_on(embedded, 1000, Wrong { v: v.update() })?;
    say(v.host(..), |e| matches!(e, Error::WorkFailed { .. }))?;
    ensure!(v.host(..)?.iter().enumerate().all(|(i, v)| *v == i as u32), "an error lost data");
    println!("v holds what it held before all this; {}", mem.stats());
    Ok(())
}

/// Prints the error with its causes, and checks that it is the right one.
fn say<T>(result: Result<T, Error>, right: impl Fn(&Error) -> bool) -> Result<()> {
    let Err(error) = result else { bail!("that went well, which it should not") };
    ensure!(right(&error), "another error was to be expected than {error:?}");
    println!("- {:#}", anyhow::Error::new(error));
    Ok(())
}

struct Wrong<'a> {
    v: Update<'a, u32>,
}

static WRONG: Source = Source {
    name: "wrong",
    spirv: &[],
    ptx: "",
    workgroup: [256, 1, 1],
    twin: Some(|launch: &Twin<'_>| launch.write::<u32>(0)[launch.n()] = 1), // one past the last
};

// SAFETY: the twin is the only code; it goes through a checked slice of the one array, which is an Update, and reads no scalar.
unsafe impl Kernel for Wrong<'_> {
    fn source() -> &'static Source {
        &WRONG
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.update(&self.v).grid();
    }
}
