//! Device memory that another device reaches in place: two devices of one driver, by opaque descriptor, and by dma-buf where the driver really
//! exports it.

mod lab;

use std::sync::Arc;

use hmmap_core::{
    backend::{Across, AcrossWork, Capability, DeviceError, Exported, Handle, Imported},
    fence::FencePoint,
    p2p::HandleKinds,
    units::{BLOCK_BYTES, PAGE_BYTES},
};
use hmmap_vulkan::{Backing, Options};
use lab::{Lab, floats, lab, pattern, watched};

/// An opaque descriptor, or a dma-buf where the driver gives memory out as that alone.
const ANY: HandleKinds = HandleKinds::OPAQUE_FD.or(HandleKinds::DMA_BUF);

/// Two devices whose memory can be given out.
fn pair() -> Option<[Lab; 2]> {
    let options = || Options { backing: Backing::Committed, ..watched() };
    let pair = [lab(options())?, lab(options())?];
    for lab in &pair {
        let can = &lab.device.facts().capabilities;
        if !can.export.is_proved() && !can.dma_buf.is_proved() {
            lab::skip(&format!("memory that is given out: {}", can.export));
            return None;
        }
    }
    Some(pair)
}

fn floats_at(lab: &Lab, span: hmmap_core::host::HostSpan, value: impl Fn(u64) -> f32) {
    lab.write(span, |at| value(at / 4).to_ne_bytes()[(at % 4) as usize]);
}

fn across(lab: &Lab, waits: &[FencePoint], copy: Across) -> Result<FencePoint, DeviceError> {
    lab.device.submit_between(&AcrossWork { waits, copies: &[copy] })
}

#[test]
fn a_kernel_of_one_device_works_in_the_memory_of_another() {
    let Some([owner, user]) = pair() else { return };
    for len_bytes in [3 * PAGE_BYTES, 5 * BLOCK_BYTES] {
        let n = len_bytes / 4;
        // Not the first reservation, so that an offset which is ignored shows.
        let other = owner.reserve_backed(2 * PAGE_BYTES);
        let (dx, dy) = (owner.reserve_backed(len_bytes), owner.reserve_backed(len_bytes));
        let (x, y) = (owner.span(len_bytes), owner.span(len_bytes));
        floats_at(&owner, x, |i| (i % 1000) as f32);
        floats_at(&owner, y, |_| 3.0);
        owner.move_now(&[owner.up(x, dx.memory, 0), owner.up(y, dy.memory, 0)]);
        let take = |memory| -> Imported {
            user.device.import(&owner.device.export(memory, ANY).unwrap()).unwrap()
        };
        let (ix, iy) = (take(dx.memory), take(dy.memory));
        user.finish(user.saxpy(2.0, ix.address, iy.address, n, &[]).unwrap());
        owner.move_now(&[owner.down(y, dy.memory, 0)]);
        let got = floats(&owner.read(y));
        for (i, value) in got.iter().enumerate() {
            assert_eq!(*value, 2.0 * (i % 1000) as f32 + 3.0, "element {i} of {n}");
        }
        user.device.release(ix.memory);
        user.device.release(iy.memory);
        for memory in [dx, dy, other] {
            owner.device.release(memory.memory);
        }
    }
    let [owner, user] = [owner, user];
    user.close();
    owner.close();
}

#[test]
fn one_device_copies_out_of_the_memory_of_another_and_into_it() {
    let Some([owner, user]) = pair() else { return };
    let len_bytes = 4 * PAGE_BYTES;
    let theirs = owner.reserve_backed(len_bytes);
    let sent = owner.span(len_bytes);
    owner.write(sent, pattern(5));
    owner.move_now(&[owner.up(sent, theirs.memory, 0)]);
    let exported = owner.device.export(theirs.memory, ANY).unwrap();
    let taken = user.device.import(&exported).unwrap();
    let own = user.reserve_backed(len_bytes);
    let (page, back) = (PAGE_BYTES, user.span(len_bytes));
    let (from, to) = (taken.memory, own.memory);
    let copy = Across { from, from_bytes: page, to, to_bytes: 0, len_bytes: 2 * page };
    let copied = across(&user, &[], copy).unwrap();
    let down = user.down(back, own.memory, 0);
    user.finish(user.submit(&[copied], &[down], &[]).unwrap());
    let (all, got) = (owner.read(sent), user.read(back));
    assert_eq!(got[..2 * page as usize], all[page as usize..3 * page as usize]);
    // And back: the first page of the copy over the last of the original.
    let (from, to) = (own.memory, taken.memory);
    let copy = Across { from, from_bytes: 0, to, to_bytes: 3 * page, len_bytes: page };
    user.finish(across(&user, &[], copy).unwrap());
    owner.move_now(&[owner.down(sent, theirs.memory, 0)]);
    assert_eq!(owner.read(sent)[3 * page as usize..], all[page as usize..2 * page as usize]);
    // Bytes past the end of what was given out are nobody's.
    let (from, to) = (taken.memory, own.memory);
    let copy = Across { from, from_bytes: 3 * page, to, to_bytes: 0, len_bytes: 2 * page };
    assert!(matches!(across(&user, &[], copy), Err(DeviceError::Misuse { .. })));
    user.device.release(taken.memory);
    user.device.release(own.memory);
    owner.device.release(theirs.memory);
    user.close();
    owner.close();
}

#[test]
fn two_reservations_of_one_allocation_are_taken_in_once_and_survive_the_owner() {
    let Some([owner, user]) = pair() else { return };
    let (one, two) = (owner.reserve_backed(PAGE_BYTES), owner.reserve_backed(PAGE_BYTES));
    let export = |memory| owner.device.export(memory, ANY).unwrap();
    let (first, second) = (export(one.memory), export(two.memory));
    assert_eq!(first.allocation, second.allocation, "small reservations share a chunk");
    let (taken, other) =
        (user.device.import(&first).unwrap(), user.device.import(&second).unwrap());
    let apart = second.offset_bytes.abs_diff(first.offset_bytes);
    assert_eq!(other.address.abs_diff(taken.address), apart);
    user.device.release(other.memory);
    let (x, back) = (user.span(PAGE_BYTES), user.span(PAGE_BYTES));
    floats_at(&user, x, |i| i as f32);
    drop((first, second));
    owner.device.release(one.memory);
    owner.device.release(two.memory);
    // The owner's device goes; an import keeps the driver's memory.
    owner.close();
    let own = user.reserve_backed(PAGE_BYTES);
    user.move_now(&[user.up(x, own.memory, 0)]);
    let (from, to) = (own.memory, taken.memory);
    let copy = Across { from, from_bytes: 0, to, to_bytes: 0, len_bytes: PAGE_BYTES };
    let there = across(&user, &[], copy).unwrap();
    let n = PAGE_BYTES / 4;
    let worked = user.saxpy(1.0, own.address, taken.address, n, &[there]).unwrap();
    let (from, to) = (taken.memory, own.memory);
    let home = Across { from, from_bytes: 0, to, to_bytes: 0, len_bytes: PAGE_BYTES };
    let home = across(&user, &[worked], home).unwrap();
    user.finish(user.submit(&[home], &[user.down(back, own.memory, 0)], &[]).unwrap());
    assert!(floats(&user.read(back)).iter().enumerate().all(|(i, v)| *v == 2.0 * i as f32));
    user.device.release(taken.memory);
    user.device.release(own.memory);
    user.close();
}

#[test]
fn strangers_handles_are_refused_with_what_is_wrong() {
    let Some([owner, user]) = pair() else { return };
    let theirs = owner.reserve_backed(PAGE_BYTES);
    let good = owner.device.export(theirs.memory, ANY).unwrap();
    let refused = |exported: Exported| user.device.import(&exported).unwrap_err();
    let fresh = || Exported { allocation: u64::MAX, ..good.clone() };
    let unsupported = |what| DeviceError::Unsupported { what };
    let foreign = unsupported("an opaque descriptor of another driver or device");
    // A dma-buf is for anybody, and says itself which memory it is.
    if good.kind == HandleKinds::OPAQUE_FD {
        assert_eq!(refused(Exported { driver: [7; 16], ..fresh() }), foreign);
        assert_eq!(refused(Exported { device: [7; 16], ..fresh() }), foreign);
        let wrong = Exported { memory_type: 31, ..fresh() };
        assert_eq!(refused(wrong), unsupported("memory of that type under a buffer"));
    }
    let wrong = Exported { kind: HandleKinds::IN_DRIVER, ..fresh() };
    assert_eq!(refused(wrong), unsupported("a handle of this kind"));
    let wrong = Exported { handle: Handle::InProcess(Arc::new(())), ..fresh() };
    assert_eq!(refused(wrong), unsupported("a handle of another backend"));
    let wrong = Exported { offset_bytes: good.allocation_bytes, ..fresh() };
    assert!(matches!(refused(wrong), DeviceError::Misuse { .. }));
    let none = owner.device.export(theirs.memory, HandleKinds::NONE).unwrap_err();
    assert_eq!(none, unsupported("a handle of a kind that was asked for"));
    owner.device.release(theirs.memory);
    user.close();
    owner.close();
}

#[test]
fn memory_that_is_bound_block_by_block_is_not_given_out() {
    let Some(lab) = lab::sparse_lab(watched()) else { return };
    let memory = lab.device.reserve(2 * BLOCK_BYTES).unwrap();
    assert!(!memory.backs_whole);
    let refused = lab.device.export(memory.memory, ANY).unwrap_err();
    let what = "giving out memory that is bound block by block";
    assert_eq!(refused, DeviceError::Unsupported { what });
    lab.device.release(memory.memory);
    lab.close();
}

#[test]
fn a_dma_buf_is_for_anyone_and_claimed_only_where_it_was_tried() {
    let Some([owner, user]) = pair() else { return };
    let theirs = owner.reserve_backed(PAGE_BYTES);
    let given = owner.device.export(theirs.memory, HandleKinds::DMA_BUF);
    match &owner.device.facts().capabilities.dma_buf {
        Capability::Proved => {
            let taken = user.device.import(&given.unwrap()).unwrap();
            user.device.release(taken.memory);
        }
        why => {
            assert_eq!(
                given.unwrap_err(),
                DeviceError::Unsupported { what: "a handle of a kind that was asked for" },
            );
            lab::skip(&format!("a dma-buf of device memory: {why}"));
        }
    }
    owner.device.release(theirs.memory);
    user.close();
    owner.close();
}

#[test]
fn what_is_given_out_is_closed_when_another_program_starts() {
    let Some([owner, user]) = pair() else { return };
    let theirs = owner.reserve_backed(PAGE_BYTES);
    let given = owner.device.export(theirs.memory, ANY).unwrap();
    let Handle::Fd(fd) = &given.handle else { panic!("no descriptor") };
    let flags = rustix::io::fcntl_getfd(fd).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    owner.device.release(theirs.memory);
    user.close();
    owner.close();
}
