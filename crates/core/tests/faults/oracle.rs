//! What vectors must hold: the replay of everything that was accepted and did not fail.

use std::{cell::RefCell, ops::Range, sync::Arc};

use hmmap_core::{
    Access, Error, Fence, Hint, NodeId, SharedVec,
    fence::{FencePoint, FenceState},
    peer::Peer,
};

use crate::{
    kernels::{Add, Copy, Element, Fill, PER_PAGE, element, value},
    rig::{Rig, device},
};

/// A vector's number, and some of its elements.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) vec: usize,
    pub(crate) at: Range<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Fill(u32),
    /// Another vector's elements from here on.
    Copy(usize, usize),
    Add(usize, usize),
    /// Reported as lost.
    Lost,
}

#[derive(Clone, Debug)]
struct Event {
    part: Part,
    change: Change,
    /// `None`: the host did it, or was told.
    fence: Option<FencePoint>,
}

/// Vectors, and all that was done to them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rig: Rig,
    pub(crate) vecs: Vec<SharedVec<Element>>,
    /// Vectors above these are written; those are shared with others and only read.
    history: RefCell<Vec<Event>>,
    start: Vec<Vec<u32>>,
    /// Nothing was made to fail so far, so nothing may.
    pub(crate) faultless: bool,
}

/// How often an access may be told of failures in a row before it works: once for each vector and each fault.
const MOST_REPORTS: usize = 12;

impl World {
    pub(crate) fn new(rig: &Rig, lens: &[usize]) -> Self {
        let vecs = lens.iter().map(|len| SharedVec::new(&rig.runtime, *len).unwrap()).collect();
        Self {
            rig: rig.clone(),
            vecs,
            history: RefCell::default(),
            start: lens.iter().map(|len| vec![0; *len]).collect(),
            faultless: true,
        }
    }

    /// What a vector holds; `None` where it was lost.
    fn replay(&self) -> Vec<Vec<Option<u32>>> {
        let start = self.start.iter().map(|vec| vec.iter().copied().map(Some).collect());
        let mut now: Vec<Vec<Option<u32>>> = start.collect();
        for Event { part, change, fence } in self.history.borrow().iter() {
            let fate = fence.map_or(FenceState::Ok, |fence| self.rig.fate(fence));
            if matches!(fate, FenceState::Failed(_) | FenceState::Lost) {
                continue;
            }
            let ended = fate == FenceState::Ok;
            let source = |from: usize, first: usize| now[from][first..].to_vec();
            let new: Vec<Option<u32>> = match *change {
                Change::Fill(value) => vec![Some(value); part.at.len()],
                Change::Lost => vec![None; part.at.len()],
                Change::Copy(from, first) => source(from, first),
                Change::Add(from, first) => {
                    let old = now[part.vec][part.at.clone()].iter();
                    let sums = old.zip(source(from, first));
                    sums.map(|(y, x)| Some(y.as_ref()?.wrapping_add(x?))).collect()
                }
            };
            for (slot, new) in now[part.vec][part.at.clone()].iter_mut().zip(new) {
                let lost = matches!(change, Change::Lost);
                assert!(new.is_some() || lost || !ended, "{fence:?} ended Ok on lost elements");
                *slot = new;
            }
        }
        now
    }

    fn happened(&self, part: Part, change: Change, fence: Option<FencePoint>) {
        self.history.borrow_mut().push(Event { part, change, fence });
    }

    /// An error is one that can come of a fault, and faults there were. What is lost is remembered.
    fn expect_error(&self, error: &Error, vec: Option<usize>) {
        assert!(!self.faultless, "nothing was made to fail: {error:?}");
        match error {
            Error::WorkFailed { .. } | Error::DeviceLost { .. } | Error::Device { .. } => {}
            // A device that says once that it has no memory is a device too small for anything.
            Error::OutOfDeviceMemory { .. } => {}
            Error::DataLost { bytes } => {
                if let Some(vec) = vec {
                    let page = (64 << 10) / PER_PAGE as u64;
                    let first = (bytes.start / page) as usize;
                    let end = (bytes.end / page) as usize;
                    let at = first..end.min(self.vecs[vec].len());
                    assert!(!at.is_empty(), "{bytes:?} is no part of vector {vec}");
                    self.happened(Part { vec, at }, Change::Lost, None);
                }
            }
            other => panic!("not an error that a fault can cause: {other:?}"),
        }
    }

    /// The answer, when it is one; otherwise an error that a fault can cause.
    pub(crate) fn expect<R>(&self, answer: Result<R, Error>) -> Option<R> {
        answer.map_err(|error| self.expect_error(&error, None)).ok()
    }

    /// Tries an access until it is not told of anything new. `None` when the elements are lost or the device refuses.
    fn persist<R>(&self, vec: usize, mut access: impl FnMut() -> Result<R, Error>) -> Option<R> {
        for _ in 0..MOST_REPORTS {
            match access() {
                Ok(result) => return Some(result),
                Err(error) => {
                    self.expect_error(&error, Some(vec));
                    if matches!(error, Error::DataLost { .. }) {
                        let again = access().err();
                        assert_eq!(again, Some(error), "a loss is reported until overwritten");
                        return None;
                    }
                }
            }
        }
        panic!("vector {vec} reports failures without end");
    }

    /// The host reads; what it finds must be what the replay says.
    pub(crate) fn read(&self, part: &Part) {
        let Part { vec, at } = part.clone();
        let Some(found) = self.persist(vec, || self.vecs[vec].host(at.clone())) else { return };
        let found: Vec<Option<u32>> = found.iter().map(value).collect();
        let expected = &self.replay()[vec][at.clone()];
        for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
            let place = at.start + place;
            assert!(
                expected.is_some(),
                "vector {vec}, element {place}: lost, and read as {found:?}"
            );
            assert_eq!(found, expected, "vector {vec}, element {place} (`None`: torn)");
        }
    }

    /// The host writes, and reads back.
    pub(crate) fn host_write(&mut self, part: &Part, value: u32) {
        self.host_change(part, value, |vec, at| {
            vec.host_mut(at).map(|slots| slots.fill(element(value)))
        });
    }

    /// The host overwrites, without asking what was there, and reads back.
    pub(crate) fn host_overwrite(&mut self, part: &Part, value: u32) {
        self.host_change(part, value, |vec, at| {
            vec.overwrite(at).map(|slots| slots.fill(element(value)))
        });
    }

    /// The host gives elements up, and reads zeros.
    pub(crate) fn discard(&mut self, part: &Part) {
        self.host_change(part, 0, |vec, at| vec.discard(at));
    }

    fn host_change(
        &mut self,
        part: &Part,
        value: u32,
        change: impl Fn(&mut SharedVec<Element>, Range<usize>) -> Result<(), Error>,
    ) {
        let Part { vec, at } = part.clone();
        let mut told = 0;
        while let Err(error) = change(&mut self.vecs[vec], at.clone()) {
            self.expect_error(&error, Some(vec));
            told += 1;
            assert!(told < MOST_REPORTS, "vector {vec} reports failures without end");
            if matches!(error, Error::DataLost { .. }) {
                return;
            }
        }
        self.happened(part.clone(), Change::Fill(value), None);
        self.read(part);
    }

    fn launched(&self, answer: Result<Fence, Error>, part: &Part, change: Change) -> Option<Fence> {
        match answer {
            Ok(fence) => {
                if fence.point().is_some() {
                    self.happened(part.clone(), change, fence.point());
                }
                Some(fence)
            }
            // Which of its vectors a launch speaks of is not said, so a loss is learnt by the next access of the host.
            Err(error) => self.expect(Err(error)),
        }
    }

    pub(crate) fn fill(&mut self, on: usize, part: &Part, value: u32) -> Option<Fence> {
        let y = self.vecs[part.vec].write().range(part.at.clone());
        let answer = self.rig.runtime.launch_on(device(on), part.at.len(), Fill { y, value });
        self.launched(answer, part, Change::Fill(value))
    }

    /// Two vectors, of which the second is written. The same number twice gives `None`.
    fn two(
        &mut self,
        x: usize,
        y: usize,
    ) -> Option<(&SharedVec<Element>, &mut SharedVec<Element>)> {
        let [x, y] = self.vecs.get_disjoint_mut([x, y]).ok()?;
        Some((x, y))
    }

    pub(crate) fn copy(&mut self, on: usize, x: usize, first: usize, part: &Part) -> Option<Fence> {
        let runtime = self.rig.runtime.clone();
        let at = part.at.clone();
        let (from, y) = self.two(x, part.vec)?;
        let x_part = from.read().range(first..first + at.len());
        let kernel = Copy { x: x_part, y: y.write().range(at.clone()) };
        let answer = runtime.launch_on(device(on), at.len(), kernel);
        self.launched(answer, part, Change::Copy(x, first))
    }

    pub(crate) fn add(&mut self, on: usize, x: usize, first: usize, part: &Part) -> Option<Fence> {
        let runtime = self.rig.runtime.clone();
        let at = part.at.clone();
        let (from, y) = self.two(x, part.vec)?;
        let x_part = from.read().range(first..first + at.len());
        let kernel = Add { x: x_part, y: y.update().range(at.clone()) };
        let answer = runtime.launch_on(device(on), at.len(), kernel);
        self.launched(answer, part, Change::Add(x, first))
    }

    pub(crate) fn prefetch(&mut self, on: usize, part: &Part) -> Option<Fence> {
        let answer = self.vecs[part.vec].prefetch(part.at.clone(), device(on));
        answer.map_err(|error| self.expect_error(&error, Some(part.vec))).ok()
    }

    pub(crate) fn prefetch_home(&mut self, part: &Part) -> Option<Fence> {
        let answer = self.vecs[part.vec].prefetch(part.at.clone(), NodeId::HOST);
        answer.map_err(|error| self.expect_error(&error, Some(part.vec))).ok()
    }

    /// Lent on a device, mapped there for a peer that writes nothing, and taken back.
    pub(crate) fn lend_on(&mut self, on: usize, vec: usize, peer: Arc<dyn Peer>) {
        let nothing = SharedVec::new(&self.rig.runtime, 0).unwrap();
        match std::mem::replace(&mut self.vecs[vec], nothing).lend_on(device(on)) {
            Ok(lent) => {
                let mapped = lent.map_peer(peer, .., Access::Update).map(drop);
                self.vecs[vec] = lent.take_back().unwrap();
                if let Err(error) = mapped {
                    self.expect_error(&error, Some(vec));
                }
            }
            Err(refused) => {
                self.vecs[vec] = refused.value;
                self.expect_error(&refused.source, Some(vec));
            }
        }
    }

    /// Something is said, which changes nothing that anybody reads.
    pub(crate) fn hint(&mut self, part: &Part, hint: Hint) {
        self.expect(self.vecs[part.vec].hint(part.at.clone(), hint));
    }

    /// A fence says how its work ended.
    pub(crate) fn wait(&self, fence: &Fence) {
        let answer = fence.wait();
        let Some(point) = fence.point() else { return assert_eq!(answer, Ok(())) };
        match (self.rig.fate(point), answer) {
            (FenceState::Ok, Ok(())) => {}
            (FenceState::Failed(failure), Err(Error::WorkFailed { source, .. })) => {
                assert_eq!(failure, source);
            }
            (FenceState::Lost, Err(Error::DeviceLost { .. })) => {}
            (state, answer) => panic!("the device says {state:?}, the fence {answer:?}"),
        }
    }

    /// The vector ends, with whatever is in flight on it, and another begins.
    pub(crate) fn begin_anew(&mut self, vec: usize) {
        let len = self.vecs[vec].len();
        self.vecs[vec] = SharedVec::new(&self.rig.runtime, len).unwrap();
        self.happened(Part { vec, at: 0..len }, Change::Fill(0), None);
    }

    /// A vector whose elements are a good copy on the host is a good one whatever else happens.
    pub(crate) fn read_all(&self) {
        for (vec, shared) in self.vecs.iter().enumerate() {
            // In pieces, so that one lost page does not hide the others.
            for first in (0..shared.len()).step_by(PER_PAGE) {
                let at = first..(first + PER_PAGE).min(shared.len());
                self.read(&Part { vec, at });
            }
        }
    }
}
