//! Code that is no SPIR-V, and SPIR-V that was tampered with: reading it must end, with an answer or a reason, and never panic.
//!
//! From nothing a fuzzer does not come to a module, so most inputs are changes to one that ships.
#![no_main]

use arbitrary::Arbitrary;
use hmmap_core::kernel::MAX_PARAM_BYTES;
use hmmap_vulkan::reflect;
use libfuzzer_sys::fuzz_target;

const SHIPPED: [(&str, &[u8]); 4] = [
    ("saxpy", include_bytes!("../../shaders/out/saxpy.spv")),
    ("matmul_f32", include_bytes!("../../shaders/out/matmul_f32.spv")),
    ("spmv_csr_f32", include_bytes!("../../shaders/out/spmv_csr_f32.spv")),
    ("mandelbrot_u32", include_bytes!("../../shaders/out/mandelbrot_u32.spv")),
];

#[derive(Debug, Arbitrary)]
enum Code {
    Bytes(Vec<u8>),
    /// Words of a shipped module that are replaced, and words that are put in.
    Tampered {
        module: u8,
        replaced: Vec<(u16, u32)>,
        inserted: Vec<(u16, u32)>,
        kept: Option<u16>,
    },
}

fn tampered(
    shipped: &[u8],
    replaced: &[(u16, u32)],
    inserted: &[(u16, u32)],
    kept: Option<u16>,
) -> Vec<u8> {
    let words = shipped.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().unwrap()));
    let mut words: Vec<u32> = words.collect();
    for &(at, word) in replaced {
        let at = usize::from(at) % words.len();
        words[at] = word;
    }
    for &(at, word) in inserted {
        words.insert(usize::from(at) % words.len(), word);
    }
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    if let Some(kept) = kept {
        bytes.truncate(usize::from(kept));
    }
    bytes
}

fuzz_target!(|code: Code| {
    let (name, bytes) = match &code {
        Code::Bytes(bytes) => (SHIPPED[0].0, bytes.clone()),
        Code::Tampered { module, replaced, inserted, kept } => {
            let (name, shipped) = SHIPPED[usize::from(*module) % SHIPPED.len()];
            (name, tampered(shipped, replaced, inserted, *kept))
        }
    };
    if let Ok((_, layout)) = reflect(&bytes, name) {
        let ends = layout.fields().iter().map(|field| field.offset_bytes + field.kind.size_bytes());
        assert!(ends.max().unwrap_or(0) as usize <= MAX_PARAM_BYTES, "{layout:?}");
        let in_order = layout.fields().is_sorted_by_key(|field| field.offset_bytes);
        assert!(in_order, "{layout:?}");
    }
});
