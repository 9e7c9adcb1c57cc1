#![allow(dead_code)]
include!("common.rs");

fn main() {
    let mem = runtime();
    let y = vec(&mem);
    let slice = y.host(..).unwrap();
    drop(y);
    println!("{}", slice[0]);
}
