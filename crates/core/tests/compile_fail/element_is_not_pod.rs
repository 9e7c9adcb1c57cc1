use hmmap_core::{Options, Runtime, SharedVec};

fn main() {
    let mem = Runtime::new(Vec::new(), Options::default()).unwrap();
    let _ = SharedVec::<bool>::new(&mem, 10);
}
