//! Memory goes back.

use std::fs;

use super::Verdict;
use crate::{
    case::{Case, CaseFailure, Context, ensure},
    rig::{BLOCK, PAGE},
};

const GROUP: &str = "memory";

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "devices_get_theirs_back",
        "when all vectors are gone, a runtime uses no device memory",
        &[],
        device_memory,
    ),
    Case::new(
        GROUP,
        "the_system_gets_its_back",
        "vectors that come and go leave the process no larger",
        &[],
        host_memory,
    ),
];

fn device_memory(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let mut random = cx.random();
    let mut vecs = Vec::new();
    for step in 0..cx.scaled(60, 600) {
        let mut vec = rig.zeros(random.usize(1..3 * BLOCK))?;
        if random.bool() {
            let start = random.usize(0..vec.len());
            rig.fill(rig.device(), &mut vec, start.., step as f32)?;
        }
        vecs.push(vec);
        if vecs.len() > 10 {
            drop(vecs.swap_remove(random.usize(0..vecs.len())));
        }
    }
    vecs.iter().try_for_each(|vec| rig.host_read(vec, ..))?;
    drop(vecs);
    rig.settle()?;
    rig.sweep()?;
    let used = rig.used_bytes()?;
    ensure!(used == 0, "{used} bytes of device memory are used by nobody");
    Ok(())
}

fn host_memory(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    let (len, rounds) = (8 * BLOCK, cx.scaled(24, 200));
    let mut after_warm_up = 0;
    for round in 0..rounds {
        let mut vec = rig.filled(len, |i| i as f32)?;
        rig.fill(rig.device(), &mut vec, PAGE.., 1.0)?;
        rig.host_read(&vec, ..)?;
        let small: Vec<_> = (0..50).map(|_| rig.filled(PAGE, |_| 1.0)).collect::<Result<_, _>>()?;
        drop((vec, small));
        if round == rounds / 4 {
            after_warm_up = resident_bytes()?;
        }
    }
    let grown = resident_bytes()?.saturating_sub(after_warm_up);
    // One vector is 16 MiB; what allocators and drivers keep for later comes on top.
    let limit = 64 << 20;
    ensure!(grown < limit, "{rounds} rounds left the process {} MiB larger", grown >> 20);
    Ok(())
}

/// Memory that this process has at the moment, shared memory included, in bytes.
fn resident_bytes() -> Result<u64, CaseFailure> {
    let status = fs::read_to_string("/proc/self/status")
        .map_err(|error| CaseFailure::broken(format!("/proc/self/status: {error}")))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| CaseFailure::broken("no VmRSS in /proc/self/status".to_owned()))
}
