//! What the model knows and the rules do not: which bytes are really where.
//!
//! A page's bytes are stood in for by a version, the number of the write that made them. Each copy holds a version or nothing that
//! anybody may read. A page's history says which writes were accepted, in what order, and what became of them; version 0 is the
//! page as it was made, full of zeros, which no copy holds until somebody fills it. A discard makes another such version; what a copy
//! holds of any of them is the same, [`ZEROS`].

use smallvec::SmallVec;

/// The number of a write in its page's history.
pub(crate) type Version = u8;

/// What a copy holds when nobody may read it: torn bytes, another page's, or an old version.
pub(crate) const GARBAGE: Version = u8::MAX;

/// What a copy holds that was filled with zeros.
pub(crate) const ZEROS: Version = u8::MAX - 1;

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Fate {
    Pending,
    Done,
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
struct Entry {
    fate: Fate,
    makes: Makes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
enum Makes {
    /// The page as it was made.
    FirstZeros,
    Bytes,
    /// A discard.
    ZerosAgain,
}

/// The writes to one page, in the order in which they were accepted.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub(crate) struct History(SmallVec<[Entry; 4]>);

impl History {
    pub(crate) fn new() -> Self {
        Self(smallvec::smallvec![Entry { fate: Fate::Done, makes: Makes::FirstZeros }])
    }

    /// The write that was accepted last.
    pub(crate) fn last(&self) -> Version {
        (self.0.len() - 1) as Version
    }

    /// Accepts a write.
    pub(crate) fn push(&mut self) -> Version {
        self.0.push(Entry { fate: Fate::Pending, makes: Makes::Bytes });
        self.last()
    }

    /// The page is made zeros again.
    pub(crate) fn push_zeros(&mut self) {
        self.0.push(Entry { fate: Fate::Done, makes: Makes::ZerosAgain });
    }

    pub(crate) fn end(&mut self, version: Version, fate: Fate) {
        self.0[version as usize].fate = fate;
    }

    /// What someone must find who was accepted when `after` was the last write: the last one that did not fail.
    pub(crate) fn expected(&self, after: Version) -> (Version, Fate) {
        let found = (0..=after).rev().find(|v| self.0[*v as usize].fate != Fate::Failed);
        let version = found.expect("version 0 never fails");
        (self.held(version), self.0[version as usize].fate)
    }

    /// What a copy holds that has the last write that was done.
    pub(crate) fn newest(&self) -> Version {
        self.held(self.newest_done())
    }

    /// What a copy holds that has this version.
    fn held(&self, version: Version) -> Version {
        if self.0[version as usize].makes != Makes::Bytes { ZEROS } else { version }
    }

    /// True when the last write that was done is a discard: then zeros that were there before are as good by luck alone.
    pub(crate) fn is_discarded(&self) -> bool {
        self.0[self.newest_done() as usize].makes == Makes::ZerosAgain
    }

    fn newest_done(&self) -> Version {
        let found = (0..=self.last()).rev().find(|v| self.0[*v as usize].fate == Fate::Done);
        found.expect("version 0 is done")
    }

    /// What a copy holds that is filled with zeros; [`GARBAGE`] when nobody can want to read zeros any more.
    pub(crate) fn zeros(&self) -> Version {
        if self.0.iter().any(|entry| entry.makes != Makes::Bytes) { ZEROS } else { GARBAGE }
    }

    /// The versions that still matter: what is pending, the newest that is done, and what readers in flight may have to find.
    pub(crate) fn relevant(&self, readers: impl Iterator<Item = Version>) -> u32 {
        let pending = (0..=self.last()).filter(|v| self.0[*v as usize].fate == Fate::Pending);
        let mut keep = pending.fold(1 << self.newest_done(), |sum, v| sum | 1u32 << v);
        for after in readers {
            for version in (0..=after).rev() {
                match self.0[version as usize].fate {
                    Fate::Failed => {}
                    Fate::Pending => keep |= 1 << version,
                    Fate::Done => {
                        keep |= 1 << version;
                        break;
                    }
                }
            }
        }
        keep
    }

    /// Forgets what does not matter and numbers the rest anew.
    pub(crate) fn compact(&mut self, keep: u32) {
        let mut version = 0u32;
        self.0.retain(|_| {
            version += 1;
            keep & (1 << (version - 1)) != 0
        });
    }
}

/// The new number of a version that is kept, [`GARBAGE`] for others.
pub(crate) fn renumber(version: Version, keep: u32) -> Version {
    if version == GARBAGE || keep & (1 << version) == 0 {
        return GARBAGE;
    }
    (keep & ((1u32 << version) - 1)).count_ones() as Version
}

/// The new number of the last kept version that is not after `version`.
pub(crate) fn renumber_down(version: Version, keep: u32) -> Version {
    let upto = keep & ((1u64 << (version + 1)) - 1) as u32;
    upto.count_ones().saturating_sub(1) as Version
}
