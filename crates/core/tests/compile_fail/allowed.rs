//! What the other programs get wrong, done right.
#![allow(dead_code)]
include!("common.rs");

fn main() {
    let mem = runtime();
    let (x, mut y) = (vec(&mem), vec(&mem));
    let before = y.host(..).unwrap()[0];
    // A slice for reading may be out while kernels read.
    let slice = x.host(..).unwrap();
    assert!(mem.launch(10, Sum { x: x.read() }).is_err(), "there is no device");
    assert!(mem.launch(10, Saxpy { x: x.read(), y: y.update() }).is_err());
    assert!(mem.launch(10, Fill { y: y.write() }).is_err());
    assert_eq!(slice[0], before);
    y.host_mut(..).unwrap()[0] = 1.0;
    y.push(2.0).unwrap();
    assert_eq!(y.host(..).unwrap()[0], 1.0);
}
