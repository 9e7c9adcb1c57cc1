#![allow(dead_code)]
include!("common.rs");

fn argument(mem: &Runtime) -> Read<'_, f32> {
    let x = vec(mem);
    x.read()
}

fn main() {}
