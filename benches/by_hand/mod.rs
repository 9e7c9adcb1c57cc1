//! The image and the conjugate gradients example, written by hand in Vulkan: what the suite `e2e` compares the library with.
//!
//! As a careful programmer would write them who knows the problem: memory for each array, staging buffers that the host writes
//! and reads, one submission for all that can go together, barriers only where something depends on something, and a wait only where the
//! host needs a result. The kernels are the library's own. Pipelines are made before, everything else is part of the program.
//!
//! This folder is a module of `crates/bench`, which has the pieces ([`crate::raw`]).

mod gradients;
mod image;

pub(crate) use gradients::Gradients;
pub(crate) use image::Image;
