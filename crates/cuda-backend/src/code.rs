//! What the driver's result codes mean here.

use hmmap_core::backend::DeviceError;

pub(crate) const OUT_OF_MEMORY: u32 = 2;
pub(crate) const NO_BINARY_FOR_GPU: u32 = 209;
pub(crate) const INVALID_PTX: u32 = 218;
pub(crate) const UNSUPPORTED_PTX_VERSION: u32 = 222;
pub(crate) const NOT_FOUND: u32 = 500;
/// Work has not ended: no error of a query.
pub(crate) const NOT_READY: u32 = 600;
const NOT_SUPPORTED: u32 = 801;

/// True for a code after which nothing of the context works: what was on the device is gone.
const fn is_end(code: u32) -> bool {
    matches!(
        code,
        // Deinitialised, device unavailable, no or no valid context, ECC error that cannot be corrected, NVLink error.
        4 | 46 | 201 | 214 | 220
        // Illegal address, launch timeout, context destroyed, assertion, hardware stack error, illegal instruction, misaligned address,
        // invalid address space, invalid program counter, launch failed.
        | 700 | 702 | 709 | 710 | 714
            ..=719
        // Error of the device that is contained, or from outside; unknown.
        | 721 | 999
    )
}

/// What a code of `call`, which is not zero, means.
pub(crate) fn meaning(call: &'static str, code: u32, asked_bytes: u64) -> DeviceError {
    match code {
        OUT_OF_MEMORY if asked_bytes > 0 => DeviceError::OutOfMemory { asked_bytes },
        NOT_SUPPORTED => DeviceError::Unsupported { what: call },
        code if is_end(code) => DeviceError::Lost,
        code => DeviceError::Driver { call, code: code.cast_signed() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_meaning_and_unknown_ones_their_number() {
        assert_eq!(meaning("f", 2, 7), DeviceError::OutOfMemory { asked_bytes: 7 });
        assert_eq!(meaning("f", 2, 0), DeviceError::Driver { call: "f", code: 2 });
        assert_eq!(meaning("f", 700, 0), DeviceError::Lost);
        assert_eq!(meaning("f", 709, 0), DeviceError::Lost);
        assert_eq!(meaning("f", 918, 0), DeviceError::Driver { call: "f", code: 918 });
    }
}
