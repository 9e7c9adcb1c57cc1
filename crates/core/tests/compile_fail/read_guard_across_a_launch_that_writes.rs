#![allow(dead_code)]
include!("common.rs");

fn main() {
    let mem = runtime();
    let (x, mut y) = (vec(&mem), vec(&mem));
    let slice = y.host(..).unwrap();
    let _ = mem.launch(10, Saxpy { x: x.read(), y: y.update() });
    println!("{}", slice[0]);
}
