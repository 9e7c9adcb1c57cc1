#![allow(dead_code)]
include!("common.rs");

struct Both<'a>(Write<'a, f32>, Write<'a, f32>);

fn main() {
    let mem = runtime();
    let mut y = vec(&mem);
    let _ = Both(y.write(), y.write());
}
