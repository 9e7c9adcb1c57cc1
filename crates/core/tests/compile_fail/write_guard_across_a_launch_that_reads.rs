#![allow(dead_code)]
include!("common.rs");

fn main() {
    let mem = runtime();
    let mut x = vec(&mem);
    let slice = x.host_mut(..).unwrap();
    let _ = mem.launch(10, Sum { x: x.read() });
    slice[0] = 1.0;
}
