//! (skeleton)
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "each shipped kernel vouches for its code by `unsafe impl Kernel`")]
pub mod kernels;
