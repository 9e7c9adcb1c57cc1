#![allow(dead_code)]
include!("common.rs");

fn main() {
    let mem = runtime();
    let mut y = vec(&mem);
    let held = mem.acquire(mem.default_device().unwrap(), [y.update().into()]);
    println!("{:?}", y.host(..));
    drop(held);
}
