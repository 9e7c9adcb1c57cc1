#![allow(dead_code)]
include!("common.rs");

fn main() {
    let mem = runtime();
    let mut y = vec(&mem);
    let slice = y.host_mut(..).unwrap();
    let _ = mem.launch(10, Fill { y: y.write() });
    slice[0] = 1.0;
}
