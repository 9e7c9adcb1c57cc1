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
    Tampered { module: u8, edits: Vec<Edit>, kept_bytes: Option<u16> },
}

/// A change to one word of a module; places count from the start, around the end.
#[derive(Debug, Arbitrary)]
enum Edit {
    Set {
        at: u16,
        word: u32,
    },
    /// One word becomes another's equal: ids are small numbers that are there already.
    Equate {
        at: u16,
        from: u16,
    },
    Insert {
        at: u16,
        word: u32,
    },
}

fn tampered(shipped: &[u8], edits: &[Edit], kept_bytes: Option<u16>) -> Vec<u8> {
    let words = shipped.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().unwrap()));
    let mut words: Vec<u32> = words.collect();
    for edit in edits {
        let place = |at: u16| usize::from(at) % words.len();
        match *edit {
            Edit::Set { at, word } => {
                let at = place(at);
                words[at] = word;
            }
            Edit::Equate { at, from } => {
                let (at, from) = (place(at), place(from));
                words[at] = words[from];
            }
            Edit::Insert { at, word } => words.insert(place(at), word),
        }
    }
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    if let Some(kept) = kept_bytes {
        bytes.truncate(usize::from(kept));
    }
    bytes
}

fuzz_target!(|code: Code| {
    let (name, bytes) = match &code {
        Code::Bytes(bytes) => (SHIPPED[0].0, bytes.clone()),
        Code::Tampered { module, edits, kept_bytes } => {
            let (name, shipped) = SHIPPED[usize::from(*module) % SHIPPED.len()];
            (name, tampered(shipped, edits, *kept_bytes))
        }
    };
    if let Ok((_, layout)) = reflect(&bytes, name) {
        let ends = layout.fields().iter().map(|field| field.offset_bytes + field.kind.size_bytes());
        assert!(ends.max().unwrap_or(0) as usize <= MAX_PARAM_BYTES, "{layout:?}");
        let in_order = layout.fields().is_sorted_by_key(|field| field.offset_bytes);
        assert!(in_order, "{layout:?}");
    }
});
