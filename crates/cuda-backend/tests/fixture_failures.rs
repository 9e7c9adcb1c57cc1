//! Every entry point of the driver fails once, at each of its first calls, in a program that uses all that the device does. The program gets what it should
//! have got, or an error; never wrong bytes, a panic or a hang; and the double has nothing to say against the calls that follow.
//!
//! The double counts calls of all devices of the process, so this is a program of its own.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hmmap::kernels::{Fill, Saxpy};
use hmmap_core::{
    DeviceId, Error, MemoryModel, Options as RuntimeOptions, Runtime, SharedVec,
    backend::{DeviceError, Provider},
};
use hmmap_cuda::{Backing, HostCopies, Options, discover};
use hmmap_cuda_fixture::{Code, Fixture};

/// So many calls of one entry point fail, one after the other.
const MOST_CALLS: u64 = 4;

/// What the program does wrong when it comes to an end without an error.
#[derive(Debug)]
enum Ended {
    /// As it should.
    Well,
    /// The library said that it could not.
    Refused(Error),
    /// There is no device.
    NoDevice,
}

impl Ended {
    fn is_lost(&self) -> bool {
        let lost = DeviceError::Lost;
        matches!(self, Self::Refused(Error::Device { source, .. }) if *source == lost)
    }
}

fn runtime(options: &Options) -> Option<Runtime> {
    let found = discover(options);
    let provider = Arc::clone(found.providers.first()?) as Arc<dyn Provider>;
    let deadline = Some(Duration::from_secs(30));
    let options = RuntimeOptions {
        memory_model: MemoryModel::Migrate,
        own_fence_deadline: deadline,
        ..RuntimeOptions::default()
    };
    Runtime::new(vec![provider], options).ok()
}

/// Small and large vectors, kernels on both, home and back, and a vector that goes while it is used.
fn program(mem: &Runtime) -> Result<(), Error> {
    let device = mem.devices().next().map_or_else(|| DeviceId::new(0).unwrap(), |(id, _)| id);
    for n in [5_000, 700_000] {
        let x = SharedVec::from_fn(mem, n, |i| (i % 1000) as f32)?;
        let mut y = SharedVec::<f32>::new(mem, n)?;
        mem.launch(n, Fill { out: y.write(), value: 1.0 })?;
        mem.launch(n, Saxpy { x: x.read(), y: y.update(), a: 2.0 })?;
        check(&y, |i| 2.0 * (i % 1000) as f32 + 1.0)?;
        y.host_mut(..10)?.fill(0.0);
        y.prefetch(.., device)?;
        mem.launch(n, Saxpy { x: x.read(), y: y.update(), a: 1.0 })?;
        check(&y, |i| {
            let x = (i % 1000) as f32;
            if i < 10 { x } else { 3.0 * x + 1.0 }
        })?;
        mem.launch(n, Saxpy { x: x.read(), y: y.update(), a: 1.0 })?;
    }
    Ok(())
}

fn check(vec: &SharedVec<f32>, value: impl Fn(usize) -> f32) -> Result<(), Error> {
    let host = vec.host(..)?;
    let wrong = host.iter().enumerate().find(|(i, got)| **got != value(*i));
    assert!(wrong.is_none(), "{wrong:?} of {vec:?}");
    Ok(())
}

fn run(options: &Options) -> Ended {
    let Some(mem) = runtime(options) else { return Ended::NoDevice };
    match program(&mem) {
        Ok(()) => Ended::Well,
        Err(error) => Ended::Refused(error),
    }
}

/// Calls that only give back: when one fails, what it was for stays with the driver.
fn gives_back(call: &str) -> bool {
    let parts = ["Release", "Free", "Unmap", "Unregister", "Destroy", "Unload", "PopCurrent"];
    parts.iter().any(|part| call.contains(part))
}

#[test]
fn any_call_may_fail() {
    let fixture = Fixture::load().unwrap();
    let modes = [
        Options::default(),
        Options { backing: Backing::Whole, ..Options::default() },
        Options { host_copies: HostCopies::Staging, ..Options::default() },
    ];
    let (mut rounds, mut refused, mut said) = (0, 0, BTreeSet::new());
    for options in &modes {
        let before = fixture.calls();
        assert!(matches!(run(options), Ended::Well));
        assert_eq!(
            fixture.left(),
            [0; 8],
            "something was not given back by a program that ended well"
        );
        let made = fixture.calls().into_iter().map(|(call, count)| {
            let earlier = before.get(&call).copied().unwrap_or(0);
            (call, count - earlier)
        });
        for (call, count) in made.filter(|(_, count)| *count > 0) {
            for nth in 1..=count.min(MOST_CALLS) {
                for code in [Code::OUT_OF_MEMORY, Code::ILLEGAL_ADDRESS] {
                    let what = format!("call {nth} of {call} answers {code:?} with {options:?}");
                    fixture.fail(&call, nth, code);
                    let fired = fixture.fired();
                    let ended = run(options);
                    fixture.fail("", 0, code);
                    rounds += 1;
                    refused += usize::from(!matches!(ended, Ended::Well));
                    if let Ended::Refused(error) = &ended {
                        said.insert(error.to_string());
                    }
                    let told = fixture.violations();
                    // Of a device that is lost no work runs any more, so what it touches may go.
                    let is_lost = code == Code::ILLEGAL_ADDRESS;
                    assert!(is_lost || told.is_empty(), "{what}: {ended:?}: {told:?}");
                    assert_eq!(fixture.fired(), fired + 1, "{what}: it was not made");
                    // A device that is lost gives back what it can; what its driver keeps goes with the context.
                    if !is_lost && !ended.is_lost() && !gives_back(&call) {
                        assert_eq!(fixture.left()[..3], [0; 3], "{what}: {ended:?}");
                    }
                    fixture.reset();
                }
            }
        }
    }
    println!("{said:#?}");
    println!("{rounds} calls failed, {refused} of the programs could not go on");
    assert!(rounds > 300 && refused > 0 && refused < rounds, "{refused} of {rounds}");
}
