//! Kernels: what runs on a device, and how its arguments are named.
//!
//! A kernel is a Rust struct whose fields say what is touched and how ([`Read`], [`Update`], [`Write`]),
//! a [`Source`] with the code for each kind of device, and an `unsafe impl` of [`Kernel`] that promises that
//! code and fields agree. Given that promise, launching is safe: the arguments carry pointer, length, coherence and borrow at once.
//!
//! ```text
//! struct Saxpy { x: Read, y: Update, a }     what users write
//!        | bind
//! Arguments { params: bytes, layout, arrays } what the engine reads: addresses are filled in when the pages are where they must be
//!        |
//! shader struct { x, x_len, y, y_len, n, threads, a }    what the device sees
//! ```
//!
//! **Parameter block.** C layout, at most [`MAX_PARAM_BYTES`]. Each array is an address and a `u64` length in
//! elements; then the grid (`n, threads` for a [`Grid::Linear`], `nx, ny` for a [`Grid::Plane`]); then `u64` scalars,
//! then 4-byte scalars. A device compares this layout with the shader's own before it accepts the kernel.

mod arguments;
mod grid;
mod layout;
mod twin;

pub use arguments::{Argument, ArgumentFault, Arguments, MAX_PARAM_BYTES};
pub(crate) use arguments::{BoundArguments, BoundArray};
pub use grid::Grid;
pub use layout::{Difference, Field, FieldKind, ParamLayout};
pub use twin::{Twin, TwinArray};

#[cfg(doc)]
use crate::vec::{Read, Update, Write};

/// A kernel made ready on one device; the numbering is the device's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KernelId(pub u32);

/// The code of one kernel for every kind of device. Made once, as a `static`.
#[derive(Debug)]
pub struct Source {
    /// The kernel's name: its entry point in SPIR-V and PTX, and its name in errors and traces.
    pub name: &'static str,
    /// One SPIR-V module with the entry point `name` and a push constant block. Empty: not for Vulkan.
    pub spirv: &'static [u8],
    /// PTX text with the entry `name` that takes the same struct by value. Empty: not for CUDA.
    pub ptx: &'static str,
    /// Invocations in a workgroup, as the code declares it.
    pub workgroup: [u32; 3],
    /// The same computation in Rust: what the embedded device runs, and the tests' oracle.
    /// It runs inside the device's own rayon pool, so it may use parallel iterators.
    pub twin: Option<fn(&Twin<'_>)>,
}

/// A kernel with its arguments, ready to be launched.
///
/// # Safety
/// An implementation promises, for every value of the type:
/// 1. The code in [`Source`] touches memory only through the arrays that [`Kernel::bind`] lists, within their lengths,
///    whatever the other arguments, the array contents and the grid are.
/// 2. It does not write an array bound by [`Arguments::read`], and overwrites every byte of one bound by [`Arguments::write`]
///    whole, before it reads any of it.
/// 3. Every bit pattern that it leaves in an array is a valid `T` (always so for `T: Pod`), and
///    concurrent invocations write a location only by atomic operations, or each its own.
/// 4. [`Kernel::bind`] lists the parameters in the order and with the types of the code's own struct.
#[allow(unsafe_code, reason = "defining a kernel is the unsafe act; launching one is safe")]
pub unsafe trait Kernel {
    /// The code. The address identifies the kernel, so return the same `static` each time.
    fn source() -> &'static Source;

    /// Lists the parameters, in the order of the shader's struct.
    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>);
}
