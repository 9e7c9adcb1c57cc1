//! A "network card" scatters packets into a vector by bus address; between packets the vector is its owner's, who computes on a device with what came.
//!
//! `cargo run --release --example 11_lent_to_a_card`
//!
//! New here: whoever else is to write a vector has it lent (`lend`): its owner gives up slices and launches until he takes it back, and nobody's addresses outlive that.
#![allow(unsafe_code, reason = "a card writes memory by address")]

use std::sync::Arc;

use anyhow::{Result, ensure};
use hmmap::{
    Access, Choice, Hmmap, MemoryModel, Options, SharedVec,
    core::peer::{AddressLimits, Peer, PeerMapping, Place, Reach, Revoked},
    kernels::Saxpy,
};

/// It writes on the thread of whoever calls it, so nothing is under way when it is asked to stop.
struct Card;

impl Peer for Card {
    fn name(&self) -> &str {
        "example card"
    }

    fn limits(&self) -> AddressLimits {
        AddressLimits { max_segment_bytes: 1 << 18, ..AddressLimits::default() }
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        let reason = || "this card reaches host memory only".to_owned();
        if place.device.is_none() { Reach::Hops(1) } else { Reach::No { reason: reason() } }
    }

    fn revoke(&self, revoked: Revoked) {
        revoked.confirm();
    }
}

/// A packet arrives: its parts go to the segments in turn. How many there were.
fn scatter(mapping: &PeerMapping, packet: &[f32]) -> Result<usize> {
    let segments = mapping.segments()?;
    let mut rest = packet.iter();
    for segment in segments.list() {
        let start = segment.addr as *mut f32;
        for (i, word) in rest.by_ref().take(segment.len_bytes as usize / 4).enumerate() {
            // SAFETY: an address of a mapping for writing, inside of its segment, which the card has until it confirms; volatile, as hardware writes.
            unsafe { start.add(i).write_volatile(*word) };
        }
    }
    Ok(segments.list().len())
}

fn main() -> Result<()> {
    run(Choice::Best)
}

pub(crate) fn run(choice: Choice) -> Result<()> {
    let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
    let mem = Hmmap::builder().devices(choice).options(options).build()?;
    let (n, packets) = (1 << 19, 5);
    let mut sum = SharedVec::<f32>::new(&mem, n)?;
    let mut x = SharedVec::<f32>::new(&mem, n)?;
    for packet in 1..=packets {
        let lent = x.lend()?;
        let mapping = lent.map_peer(Arc::new(Card), .., Access::Update)?;
        let parts = scatter(&mapping, &vec![packet as f32; n])?;
        println!("packet {packet} came in {parts} parts; the last word is {}", lent.load(n - 1)?);
        x = lent.take_back()?;
        // What it still has are no addresses.
        ensure!(scatter(&mapping, &[-1.0]).is_err(), "the card can write what is not lent");
        mem.launch(n, Saxpy { a: 1.0, x: x.read(), y: sum.update() })?;
    }
    ensure!(sum.host(..)?.iter().all(|sum| *sum == 15.0), "a packet is missing");
    println!("{}", mem.stats());
    Ok(())
}
