#![allow(dead_code)]
include!("common.rs");

fn main() {
    let mem = runtime();
    let mut y = vec(&mem);
    let _ = mem.launch(10, Saxpy { x: y.read(), y: y.update() });
}
