//! A state's name: equal for states that differ only in the numbers of their fences or in which page is called 0.

use std::hash::{DefaultHasher, Hash, Hasher};

use hmmap_core::{coherence::Log, fence::FencePoint, node::NodeId, units::PageMask};

use crate::world::{DEVICES, NODES, PAGES, TIMELINES, World, own_node, timeline_index};

/// 128 bits, so that two of some millions of states share a name with odds below 1e-24.
pub(crate) type Key = (u64, u64);

pub(crate) fn key(world: &World) -> Key {
    let name = |page: fn(usize) -> usize| {
        let mut bytes = Bytes(Vec::with_capacity(512));
        Namer { world, page }.write(&mut bytes);
        bytes.0
    };
    let bytes = name(|page| page).min(name(|page| PAGES - 1 - page));
    let (mut one, mut two) = (DefaultHasher::new(), DefaultHasher::new());
    one.write(&bytes);
    two.write_u8(1);
    two.write(&bytes);
    (one.finish(), two.finish())
}

/// Collects what is hashed.
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn write_isize(&mut self, discriminant: isize) {
        self.0.push(discriminant as u8);
    }

    fn write_usize(&mut self, length: usize) {
        self.0.push(length as u8);
    }

    fn finish(&self) -> u64 {
        0
    }
}

struct Namer<'a, P> {
    world: &'a World,
    /// What each place is called that a page is written at.
    page: P,
}

impl<P: Fn(usize) -> usize + Copy> Namer<'_, P> {
    fn write(&self, hasher: &mut Bytes) {
        let World { log, copies, histories, in_flight, ended, .. } = self.world;
        self.log(log, hasher);
        for place in 0..PAGES {
            let page = (self.page)(place);
            copies.iter().for_each(|node| hasher.write_u8(node[page]));
            histories[page].hash(hasher);
        }
        hasher.write_usize(in_flight.len());
        for work in in_flight {
            self.point(work.point).hash(hasher);
            for item in &work.items {
                (item.effect, self.mask(item.pages), self.mask(item.reads)).hash(hasher);
                for place in 0..PAGES {
                    let page = (self.page)(place);
                    hasher.write(&[item.after[page], item.makes[page]]);
                }
            }
            work.waits.iter().for_each(|wait| self.point(*wait).hash(hasher));
            hasher.write_u8(u8::from(work.doomed));
            let behind: [u8; TIMELINES] = std::array::from_fn(|t| self.place(t, work.behind[t]));
            behind.hash(hasher);
        }
        ended.iter().for_each(|(point, state)| (self.point(*point), state).hash(hasher));
        (self.world.backed, self.world.health).hash(hasher);
        self.mask(self.world.guarded).hash(hasher);
    }

    fn log(&self, log: &Log, hasher: &mut Bytes) {
        let nodes = std::iter::once(NodeId::HOST).chain((0..DEVICES).map(own_node));
        debug_assert_eq!(NODES, DEVICES + 1);
        nodes.for_each(|node| self.mask(log.settled().valid_on(node)).hash(hasher));
        self.mask(log.settled().lost()).hash(hasher);
        for promise in log.promises().iter().filter(|promise| promise.is_pending()) {
            (promise.effect, self.mask(promise.pages)).hash(hasher);
            promise.fences().for_each(|fence| self.point(fence).hash(hasher));
            hasher.write_u8(u8::MAX);
        }
        // What has ended is folded page by page, so how its pages were grouped does not matter, only its place.
        for place in 0..PAGES {
            let page = PageMask::from_bits(1 << (self.page)(place));
            let mut pending = 0;
            for promise in log.promises() {
                pending += u8::from(promise.is_pending());
                if !promise.is_pending() && promise.pages.overlaps(page) {
                    let mut ending = *promise;
                    ending.pages = PageMask::EMPTY;
                    (pending, ending).hash(hasher);
                }
            }
            hasher.write_u8(u8::MAX);
        }
    }

    /// A fence as its timeline and its place among the values that still matter there.
    fn point(&self, point: FencePoint) -> (u8, u8) {
        let timeline = timeline_index(point.timeline);
        (timeline as u8, self.place(timeline, point.value))
    }

    fn place(&self, timeline: usize, value: u64) -> u8 {
        let in_flight = self.world.in_flight.iter().map(|work| work.point);
        let known = in_flight.chain(self.world.ended.iter().map(|(point, _)| *point));
        let same = known.filter(|known| timeline_index(known.timeline) == timeline);
        same.filter(|known| known.value <= value).count() as u8
    }

    /// The two pages that are modelled, and the rest of the block with its pages all alike.
    fn mask(&self, mask: PageMask) -> PageMask {
        let bit = |place: usize| (mask.bits() >> (self.page)(place) & 1) << place;
        let modelled = (0..PAGES).fold(0, |sum, place| sum | bit(place));
        PageMask::from_bits(modelled | mask.bits() & !((1 << PAGES) - 1))
    }
}
