//! The thinnest way through: a vector, a kernel, the vector again, on the test double of the driver.

use std::sync::Arc;

use hmmap::kernels::Saxpy;
use hmmap_core::{MemoryModel, Options as RuntimeOptions, Runtime, SharedVec, backend::Provider};
use hmmap_cuda::{Options, discover};
use hmmap_cuda_fixture::Fixture;

#[test]
fn a_kernel_runs_and_its_result_comes_home() {
    let fixture = Fixture::load().unwrap();
    let found = discover(&Options::default());
    let provider = Arc::clone(found.providers.first().unwrap());
    assert!(provider.summary().name.contains("test double"), "{:?}", provider.summary());
    let options =
        RuntimeOptions { memory_model: MemoryModel::Migrate, ..RuntimeOptions::default() };
    let mem = Runtime::new(vec![Arc::clone(&provider) as Arc<dyn Provider>], options).unwrap();
    let device = mem.devices().next().unwrap().0;
    for (name, _, capability) in mem.facts(device).unwrap().capabilities.table() {
        println!("{name}: {capability}");
    }
    let n = 3_000_000;
    let x = SharedVec::from_fn(&mem, n, |i| i as f32).unwrap();
    let mut y = SharedVec::from_fn(&mem, n, |_| 1.0_f32).unwrap();
    // Opening the device has tried it, too.
    let in_one_call = || fixture.calls().get("cuMemcpyBatchAsync").copied().unwrap_or(0);
    let tried = in_one_call();
    mem.launch(n, Saxpy { x: x.read(), y: y.update(), a: 2.0 }).unwrap();
    assert_eq!(in_one_call(), tried + 1, "both vectors go up in one call");
    let there = y.residency(..).unwrap();
    println!("{there:?}");
    for (i, got) in y.host(..).unwrap().iter().enumerate() {
        assert_eq!(*got, 2.0 * i as f32 + 1.0);
    }
    println!("{:?}", fixture.calls());
    assert_eq!(fixture.violations(), [""; 0]);
    drop((x, y, mem));
    drop((provider, found));
    assert_eq!(fixture.violations(), [""; 0]);
    assert_eq!(fixture.left(), [0; 8], "something was not given back");
}
