//! What the ledger tells policies, and what it makes of their answers.

use super::*;

fn key(offset_bytes: u64, units: u32) -> BufferKey {
    BufferKey { offset_bytes, units }
}

fn note(kernel: u32, buffer: BufferKey, units: Range<u32>) -> Note {
    let used = Used { buffer, units, access: Access::Read };
    Note { doing: Doing::Kernel(kernel), uses: SmallVec::from_iter([used]) }
}

fn tell(ledger: &Ledger, note: Note) {
    ledger.note(note.doing, note.uses.into_iter());
}

fn ask(
    ledger: &Ledger,
    coming: Option<Note>,
    leavers: &[Leaver],
    wanted: usize,
) -> (Vec<usize>, u64) {
    ledger.choose(Told { coming, queue: &[] }, leavers, wanted)
}

fn leavers_of(buffer: BufferKey, group: GroupId) -> Vec<Leaver> {
    let copies = Copies::Clean;
    (0..buffer.units).map(|unit| Leaver { buffer, unit, group, copies }).collect()
}

fn leavers(buffer: BufferKey) -> Vec<Leaver> {
    leavers_of(buffer, GroupId::DEFAULT)
}

/// Names whom the least recently used would leave for last.
struct Youngest;

impl Policy for Youngest {
    fn launched(&mut self, _now: u64, _launch: &eviction::Launch) {}
    fn victims(&mut self, candidates: &[Candidate], wanted: usize, victims: &mut Vec<u32>) {
        let mut order: Vec<_> = candidates.iter().map(|one| (one.last_use, one.block)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        victims.extend(order.into_iter().take(wanted).map(|(_, block)| block));
    }
}

#[test]
fn the_least_recently_used_unit_goes_first_whatever_was_said_before_the_notes_overflowed() {
    let ledger = Ledger::new(&Eviction::LeastRecentlyUsed);
    let (a, b) = (key(0, 2), key(1 << 30, 3));
    tell(&ledger, note(0, a, 0..2));
    for _ in 0..MOST_NOTES {
        tell(&ledger, note(0, b, 0..3));
    }
    tell(&ledger, note(0, a, 1..2));
    let all: Vec<_> = leavers(a).into_iter().chain(leavers(b)).collect();
    let (victims, ignored) = ask(&ledger, Some(note(0, b, 1..2)), &all, 5);
    assert_eq!((victims.as_slice(), ignored), (&[0, 2, 4, 1, 3][..], 0));
    assert_eq!(ledger.0.lock().first, MOST_NOTES as u64 + 3);
}

#[test]
fn what_left_and_came_back_arrived_when_it_came_back() {
    let ledger = Ledger::new(&Eviction::FirstCome);
    let a = key(0, 3);
    tell(&ledger, note(0, a, 0..3));
    assert_eq!(ask(&ledger, None, &leavers(a), 1).0, [0]);
    ledger.gone(a, 0..1);
    tell(&ledger, note(0, a, 0..1));
    assert_eq!(ask(&ledger, None, &leavers(a), 3).0, [1, 2, 0]);
}

#[test]
fn the_devices_policy_says_how_many_leave_a_group_and_the_groups_own_which() {
    let ledger = Ledger::new(&Eviction::LeastRecentlyUsed);
    let (group, a, b) = (GroupId::of(7), key(0, 2), key(1 << 30, 3));
    ledger.add_policy(group, &Eviction::custom(|| Youngest));
    for unit in [(b, 0), (a, 0), (b, 1), (b, 2), (a, 1)] {
        tell(&ledger, note(0, unit.0, unit.1..unit.1 + 1));
    }
    let all: Vec<_> = leavers(a).into_iter().chain(leavers_of(b, group)).collect();
    let (victims, ignored) = ask(&ledger, None, &all, 3);
    // By use: b0, a0, b1; of the group, its policy names the youngest first.
    assert_eq!((victims.as_slice(), ignored), (&[4, 0, 3][..], 0));
    ledger.forget_group(group);
    assert_eq!(ask(&ledger, None, &all, 3).0, [2, 0, 3]);
}

#[test]
fn a_policy_that_panicked_is_not_asked_again() {
    struct Panics;
    impl Policy for Panics {
        fn launched(&mut self, _now: u64, _launch: &eviction::Launch) {}
        fn victims(&mut self, _: &[Candidate], _: usize, _: &mut Vec<u32>) {
            panic!("a policy's own")
        }
    }
    let ledger = Ledger::new(&Eviction::custom(|| Panics));
    let a = key(0, 2);
    tell(&ledger, note(0, a, 1..2));
    let ask = || ask(&ledger, None, &leavers(a), 2).0;
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask)).unwrap_err();
    assert_eq!(ask(), [0, 1]);
}

#[test]
fn buffers_that_are_gone_give_their_numbers_back() {
    let ledger = Ledger::new(&Eviction::LeastRecentlyUsed);
    for number in 0..1000 {
        tell(&ledger, note(0, key(number, 7), 0..7));
    }
    let kept = key(999, 7);
    ask(&ledger, None, &leavers(kept), 1);
    assert_eq!(ledger.0.lock().used.len(), 7000);
    ledger.forget_all_but(&[kept]);
    assert_eq!(ledger.0.lock().numbers.of.len(), 1);
    ask(&ledger, Some(note(0, key(0, 7), 0..7)), &[], 0);
    assert!(ledger.0.lock().numbers.known(key(0, 7), 0).unwrap() < 7);
}
