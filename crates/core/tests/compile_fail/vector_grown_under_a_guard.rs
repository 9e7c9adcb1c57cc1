#![allow(dead_code)]
include!("common.rs");

fn main() {
    let mem = runtime();
    let mut y = vec(&mem);
    let slice = y.host(..).unwrap();
    y.push(1.0).unwrap();
    println!("{}", slice[0]);
}
