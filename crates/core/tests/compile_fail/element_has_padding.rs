use bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Padded {
    byte: u8,
    word: u32,
}

fn main() {
    let mem = hmmap_core::Runtime::new(Vec::new(), hmmap_core::Options::default()).unwrap();
    let _ = hmmap_core::SharedVec::<Padded>::new(&mem, 10);
}
