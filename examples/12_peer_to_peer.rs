//! One PCI device copies within the memory of another one, which holds a vector: peer to peer, by I/O address, until the owner wants the vector back.
//!
//! `cargo run --release --features vfio --example 12_peer_to_peer`
//!
//! The devices are QEMU's `edu` (does DMA) and `ivshmem` (has memory in window 2), both behind an IOMMU and bound to `vfio-pci`. `cargo xtask lab` makes a machine that has them
//! and runs this there. For devices of your own change what is marked 1 to 4.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use hmmap::{
    Access, Options, Runtime, SharedVec,
    vfio::{RegisterWindow, VfioDomain, VfioPeer},
};

/// 1: vendor and device numbers, as in sysfs.
const CARD: [&str; 2] = ["0x1234", "0x11e8"];
const MEMORY: [&str; 2] = ["0x1af4", "0x1110"];
const LEN_BYTES: u64 = 2048;

/// The name of a device, such as `0000:03:00.0`.
fn find(numbers: [&str; 2]) -> Option<String> {
    let devices = fs::read_dir("/sys/bus/pci/devices").ok()?.flatten();
    let found = devices.map(|entry| entry.path()).find(|device| {
        let is = |(file, number)| {
            fs::read_to_string(device.join(file)).is_ok_and(|n| n.trim() == number)
        };
        ["vendor", "device"].into_iter().zip(numbers).all(is)
    });
    found?.file_name()?.to_str().map(str::to_owned)
}

/// 2: the driver. What goes into its registers as an address is a segment's, as it is.
fn dma(edu: &RegisterWindow, from: u64, to: u64, command: u32) -> Result<()> {
    [(0x80, from), (0x88, to), (0x90, LEN_BYTES)]
        .into_iter()
        .try_for_each(|(at, value)| edu.write_u64(at, value))?;
    edu.write_u32(0x98, command)?;
    while edu.read_u32(0x98)? & 1 != 0 {
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What it moved, in words; `None` where there are no such devices.
pub(crate) fn run() -> Result<Option<usize>> {
    let (Some(card), Some(memory)) = (find(CARD), find(MEMORY)) else { return Ok(None) };
    // One domain for each: the card sees what its own domain maps, and nothing else.
    let domain = VfioDomain::open(&[&card])?;
    let device = domain.device(&card)?;
    device.enable_dma()?;
    let edu = device.window(0)?;
    // 3: which window is memory. It is a device of the runtime like any other, but that no kernels run there.
    let window = VfioDomain::open(&[&memory])?.device(&memory)?.memory(2)?;
    let mem = Runtime::new(vec![window], Options::default())?;
    let x = SharedVec::from_fn(&mem, 1 << 16, |i| i as u32)?;
    // All of it goes there, and stays for as long as it is lent.
    let lent = x.lend_on(mem.default_device()?)?;
    // 4: how many address bits the card has, and how it is stopped. It does nothing unless told, so it has stopped when it is asked to. What is queued would be a fence:
    // `PeerMapping::attach`.
    let peer = VfioPeer::new("edu", domain.clone(), 28, |revoked| revoked.confirm());
    let mapping = lent.map_peer(peer, .., Access::Update)?;
    let start = mapping.segments()?.list()[0].addr;
    dma(&edu, start, 0x4_0000, 0b01)?; // the first 2 KiB of the window, into its own buffer,
    dma(&edu, 0x4_0000, start + LEN_BYTES, 0b11)?; // and from there into the next 2 KiB
    let x = lent.take_back()?;
    // It has no address any more: the IOMMU blocks what it does now.
    dma(&edu, 0x4_0000, start + 2 * LEN_BYTES, 0b11)?;
    let words = LEN_BYTES as usize / 4;
    ensure!(domain.mapping_count() == 0 && x[..words] == x[words..2 * words], "not what it copied");
    ensure!(x[2 * words] == 2 * words as u32, "it wrote what it had lost");
    Ok(Some(words))
}

fn main() -> Result<()> {
    match run()? {
        Some(words) => println!("{words} words went within one device's memory, by another device"),
        None => println!("there are no PCI devices {CARD:?} and {MEMORY:?} here (cargo xtask lab)"),
    }
    Ok(())
}
