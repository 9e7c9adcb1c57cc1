//! A "network card" gathers a vector by bus address, segment after segment, while its owner goes on computing on a device, which moves it.
//!
//! `cargo run --release --example 08_network_card`
//!
//! New here: `map_peer` gives addresses to somebody outside of the library; they are taken back before the pages change, and the card maps again.
//! `11_lent_to_a_card` has the other direction.
#![allow(unsafe_code, reason = "a card reads memory by address")]

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use hmmap::{
    Choice, Hmmap, MemoryModel, Options, SharedVec,
    core::peer::{AddressLimits, Peer, PeerMapping, Place, Reach, Revoked},
    kernels::Saxpy,
};

/// The card: it reaches host memory, as cards do, in segments of at most 1 MiB, and tells when a packet is on its way.
#[derive(Default)]
struct Card {
    sending: Mutex<(bool, Vec<Revoked>)>,
}

impl Peer for Card {
    fn name(&self) -> &str {
        "example card"
    }

    fn limits(&self) -> AddressLimits {
        AddressLimits { max_segment_bytes: 1 << 20, ..AddressLimits::default() }
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        let reason = || "this card reaches host memory only".to_owned();
        if place.device.is_none() { Reach::Hops(1) } else { Reach::No { reason: reason() } }
    }

    fn revoke(&self, revoked: Revoked) {
        let mut sending = self.sending.lock().unwrap();
        // In the middle of a packet it answers when that has gone.
        if sending.0 { sending.1.push(revoked) } else { revoked.confirm() }
    }
}

impl Card {
    /// Sends what is mapped: here, adds it up. `None` when it was taken back first.
    fn send(&self, mapping: &PeerMapping) -> Result<Option<f64>> {
        let segments = mapping.segments()?;
        self.sending.lock().unwrap().0 = true;
        let sum = (!mapping.retry(segments.stamp())).then(|| {
            let words = segments.list().iter().flat_map(|segment| {
                let start = segment.addr as *const f32;
                // SAFETY: the address is good until this card confirms, which it does below; volatile, as hardware reads.
                (0..segment.len_bytes as usize / 4)
                    .map(move |i| unsafe { start.add(i).read_volatile() })
            });
            words.map(f64::from).sum()
        });
        let mut sending = self.sending.lock().unwrap();
        sending.0 = false;
        sending.1.drain(..).for_each(|revoked| revoked.confirm());
        Ok(sum)
    }
}

fn main() -> Result<()> {
    run(Choice::Best)
}

pub(crate) fn run(choice: Choice) -> Result<()> {
    let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
    let mem = Hmmap::builder().devices(choice).options(options).build()?;
    println!("computes on {}", mem.facts(mem.default_device()?)?.summary.name);
    let (n, rounds) = (1 << 20, 20);
    let ones = SharedVec::from_fn(&mem, n, |_| 1.0f32)?;
    let mut y = SharedVec::<f32>::new(&mem, n)?;
    let card = Arc::new(Card::default());
    let mapping = y.map_peer(card.clone(), ..)?;
    println!("the card has {} segments of y", mapping.segments()?.list().len());

    let sent = std::thread::scope(|scope| -> Result<Vec<f64>> {
        let sender = scope.spawn(|| -> Result<Vec<f64>> {
            let mut sent = Vec::new();
            while sent.last() != Some(&((rounds * n) as f64)) {
                sent.extend(card.send(&mapping)?);
            }
            Ok(sent)
        });
        for _ in 0..rounds {
            mem.launch(n, Saxpy { a: 1.0, x: ones.read(), y: y.update() })?.wait()?;
        }
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let stats = mem.stats();
    println!(
        "sent {} packets while {rounds} kernels wrote y; the last is the last state",
        sent.len()
    );
    println!("  {stats}");
    y.residency(..)?.iter().for_each(|run| println!("  {run}"));
    ensure!(
        sent.iter().all(|sum| sum % n as f64 == 0.0),
        "a packet was half of one state: {sent:?}"
    );
    ensure!(sent.is_sorted(), "a packet was older than the one before it");
    Ok(())
}
