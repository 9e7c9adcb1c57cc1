#![allow(dead_code)]
include!("common.rs");

fn launch(mem: &Runtime, y: &SharedVec<f32>) {
    let _ = mem.launch(10, Fill { y: y.write() });
}

fn main() {}
