//! The coherence table: where a page is, what is in flight on it, who touches it, and what that must lead to.
//!
//! Written down apart from the rules that the library ships, so that the two can disagree. Places are relative to who touches: for a device,
//! *device* is its own node and *other* another device's; for the host, *device* is whichever device has the page.
//!
//! On a device that works on host memory ([`Model::Unified`]) a page is on the host or nowhere, and only what is in flight matters.
//!
//! Where devices copy out of each other's memory ([`Model::Direct`]) a page can be on two devices and not on the host.
//!
//! Not in the table: work in flight on a page that is on three nodes, which is the rows of two nodes
//! over again.

use std::fmt;

/// Where kernels work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Model {
    /// On host memory in place.
    Unified,
    /// On the device's own memory; copies between devices go through the host.
    Migrate,
    /// On the device's own memory; devices copy out of each other's.
    Direct,
}

/// Which copies of a page are current.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Place {
    /// None: never written, reads as zero.
    Empty,
    /// The host's.
    Host,
    /// The device's.
    Device,
    /// The host's and the device's.
    HostAndDevice,
    /// Another device's.
    Other,
    /// The host's and another device's.
    HostAndOther,
    /// The host's and two devices'.
    HostAndBoth,
    /// Two devices', and not the host's: there are direct copies only for that.
    Both,
    /// None, and there was one.
    Lost,
}

/// What is in flight on a page, the thing that others have to mind most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Flight {
    /// Nothing.
    Idle,
    /// A copy or a fill to the device that has the page.
    CopyIn,
    /// A copy to the host.
    CopyHome,
    /// A kernel that writes it, on the device that has it.
    Write,
    /// A kernel that reads it, or an older copy of it, on the device that has or had it.
    Read,
    /// A kernel of another device that writes it in host memory.
    OtherWrite,
    /// A kernel of another device that reads it in host memory.
    OtherRead,
}

/// Who touches a page, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Touch {
    /// The host reads.
    HostRead,
    /// The host reads and writes.
    HostUpdate,
    /// The host overwrites the page to its last byte.
    HostWriteWhole,
    /// The host overwrites a part of the page.
    HostWritePart,
    /// The host gives up what the page holds.
    Discard,
    /// A kernel reads.
    DeviceRead,
    /// A kernel reads and writes.
    DeviceUpdate,
    /// A kernel overwrites the page to its last byte.
    DeviceWriteWhole,
    /// A kernel overwrites a part of the page.
    DeviceWritePart,
    /// The page is brought to a device ahead of a kernel that reads it.
    Prefetch,
    /// The vector is dropped.
    Drop,
}

/// One row: where a page is, what is in flight on it, and who touches it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Row {
    /// Where the page is.
    pub place: Place,
    /// What is in flight on it.
    pub flight: Flight,
    /// Who touches it.
    pub touch: Touch,
}

/// What a row must lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// Where the page is afterwards; `None`: the access is refused because the data are lost, and the page stays as it is.
    pub after: Option<Place>,
    /// The page is copied to the host.
    pub home: bool,
    /// The page is copied from the host to the device.
    pub into: bool,
    /// The page is copied from another device to the device.
    pub across: bool,
    /// The page is filled with zeros on the device.
    pub zero: bool,
    /// The host waits for the device, if what is in flight has not ended meanwhile. Otherwise it never waits.
    pub waits: bool,
}

impl Touch {
    /// Every touch.
    pub const ALL: [Self; 11] = [
        Self::HostRead,
        Self::HostUpdate,
        Self::HostWriteWhole,
        Self::HostWritePart,
        Self::Discard,
        Self::DeviceRead,
        Self::DeviceUpdate,
        Self::DeviceWriteWhole,
        Self::DeviceWritePart,
        Self::Prefetch,
        Self::Drop,
    ];

    /// True when a kernel touches, or is about to.
    pub const fn by_device(self) -> bool {
        matches!(
            self,
            Self::DeviceRead
                | Self::DeviceUpdate
                | Self::DeviceWriteWhole
                | Self::DeviceWritePart
                | Self::Prefetch
        )
    }

    const fn writes(self) -> bool {
        !matches!(self, Self::HostRead | Self::DeviceRead | Self::Prefetch | Self::Drop)
    }

    /// True when what the page held before matters.
    const fn needs_data(self) -> bool {
        !matches!(self, Self::DeviceWriteWhole | Self::HostWriteWhole | Self::Discard | Self::Drop)
    }
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 9] = [
        Self::Empty,
        Self::Host,
        Self::Device,
        Self::HostAndDevice,
        Self::Other,
        Self::HostAndOther,
        Self::HostAndBoth,
        Self::Both,
        Self::Lost,
    ];

    /// What can be in flight on a page that is here.
    pub const fn flights(self, model: Model) -> &'static [Flight] {
        use Flight::{CopyHome, CopyIn, Idle, OtherRead, OtherWrite, Read, Write};
        match (model, self) {
            (_, Self::Empty | Self::Lost) => &[Idle],
            (Model::Unified, Self::Host) => &[Idle, Read, Write, OtherRead, OtherWrite],
            (Model::Unified, _) => &[],
            (Model::Migrate, Self::Both) => &[],
            (_, Self::Host) => &[Idle, Read],
            (_, Self::Device | Self::Other) => &[Idle, CopyIn, Write, Read],
            (_, Self::HostAndDevice | Self::HostAndOther) => &[Idle, CopyIn, CopyHome, Read],
            (_, Self::HostAndBoth | Self::Both) => &[Idle],
        }
    }

    const fn on_host(self) -> bool {
        matches!(self, Self::Host | Self::HostAndDevice | Self::HostAndOther | Self::HostAndBoth)
    }

    /// The same with a copy on the host.
    pub(crate) const fn and_on_host(self) -> Self {
        match self {
            Self::Device => Self::HostAndDevice,
            Self::Other => Self::HostAndOther,
            Self::Both => Self::HostAndBoth,
            other => other,
        }
    }

    const fn on_device(self) -> bool {
        matches!(self, Self::Device | Self::HostAndDevice | Self::HostAndBoth | Self::Both)
    }
}

impl Row {
    /// Every row of the table.
    pub fn all(model: Model) -> Vec<Self> {
        let mut rows = Vec::new();
        for place in Place::ALL {
            for flight in place.flights(model) {
                let touches = Touch::ALL.iter();
                rows.extend(touches.map(|touch| Self { place, flight: *flight, touch: *touch }));
            }
        }
        rows.retain(|row| row.exists());
        rows
    }

    /// Neither the host nor the end of a vector tells one device from another.
    fn exists(&self) -> bool {
        let other = matches!(self.place, Place::Other | Place::HostAndOther)
            || matches!(self.flight, Flight::OtherRead | Flight::OtherWrite);
        self.touch.by_device() || !other
    }

    /// What the row must lead to.
    pub fn expected(&self, model: Model) -> Expected {
        match model {
            Model::Unified => self.expected_unified(),
            Model::Migrate | Model::Direct => self.expected_migrate(model),
        }
    }

    fn expected_unified(&self) -> Expected {
        let (place, touch) = (self.place, self.touch);
        let after = match (place, touch) {
            (place, Touch::Drop) => Some(place),
            (Place::Lost, touch) if touch.needs_data() => None,
            (_, Touch::Discard) => Some(Place::Empty),
            _ => Some(Place::Host),
        };
        let waits = match self.flight {
            Flight::Write => !touch.by_device(),
            Flight::Read => !touch.by_device() && touch.writes(),
            Flight::OtherWrite => true,
            Flight::OtherRead => touch.writes(),
            Flight::Idle | Flight::CopyIn | Flight::CopyHome => false,
        };
        let waits = waits && touch != Touch::Drop;
        Expected { after, home: false, into: false, across: false, zero: false, waits }
    }

    fn expected_migrate(&self, model: Model) -> Expected {
        let (place, touch) = (self.place, self.touch);
        let nothing = Expected {
            after: Some(place),
            home: false,
            into: false,
            across: false,
            zero: false,
            waits: false,
        };
        if touch == Touch::Drop {
            return nothing;
        }
        if place == Place::Lost && touch.needs_data() {
            return Expected { after: None, ..nothing };
        }
        if touch.by_device() { self.by_device(model) } else { self.by_host(nothing) }
    }

    fn by_host(&self, nothing: Expected) -> Expected {
        let (place, touch) = (self.place, self.touch);
        let after = match place {
            _ if touch == Touch::Discard => Place::Empty,
            _ if touch.writes() => Place::Host,
            Place::Empty => Place::Host,
            Place::Device => Place::HostAndDevice,
            Place::Both => Place::HostAndBoth,
            stays => stays,
        };
        let home = touch.needs_data() && !place.on_host() && place != Place::Empty;
        // A copy that comes in from the host reads what is about to change there; a fill does not.
        let read_here = self.flight == Flight::CopyIn && place.on_host();
        let waits = home || self.flight == Flight::CopyHome || (read_here && touch.writes());
        Expected { after: Some(after), home, waits, ..nothing }
    }

    fn by_device(&self, model: Model) -> Expected {
        let (place, touch) = (self.place, self.touch);
        let after = match place {
            _ if touch.writes() => Place::Device,
            Place::Empty => Place::Device,
            Place::Host => Place::HostAndDevice,
            Place::Other if model == Model::Direct => Place::Both,
            Place::Other | Place::HostAndOther => Place::HostAndBoth,
            stays => stays,
        };
        let lacks = !place.on_device() && touch.needs_data();
        let zero = lacks && place == Place::Empty;
        let across = lacks && model == Model::Direct && place == Place::Other;
        let into = lacks && !zero && !across;
        let home = into && !place.on_host();
        let others_copy_home = place == Place::HostAndOther && self.flight == Flight::CopyHome;
        // A copy out of another device's memory counts once that device was seen to have lived through it.
        let waits = home || across || (into && others_copy_home);
        Expected { after: Some(after), home, into, across, zero, waits }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}", self.place, self.flight, self.touch)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Host => "on host",
            Self::Device => "on device",
            Self::HostAndDevice => "on host and device",
            Self::Other => "on other device",
            Self::HostAndOther => "on host and other device",
            Self::HostAndBoth => "on host and both devices",
            Self::Both => "on both devices",
            Self::Lost => "lost",
        })
    }
}

impl fmt::Display for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::CopyIn => "copy to device in flight",
            Self::CopyHome => "copy to host in flight",
            Self::Write => "write in flight",
            Self::Read => "read in flight",
            Self::OtherWrite => "other device's write in flight",
            Self::OtherRead => "other device's read in flight",
        })
    }
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostRead => "host reads",
            Self::HostUpdate => "host updates",
            Self::HostWriteWhole => "host overwrites it whole",
            Self::HostWritePart => "host overwrites a part",
            Self::Discard => "discarded",
            Self::DeviceRead => "device reads",
            Self::DeviceUpdate => "device updates",
            Self::DeviceWriteWhole => "device writes it whole",
            Self::DeviceWritePart => "device writes a part",
            Self::Prefetch => "prefetched",
            Self::Drop => "dropped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_as_many_rows_as_its_page_says() {
        // Pairs of place and flight, as a device tells them apart, times five; as the host does, times five and the end.
        assert_eq!(Row::all(Model::Migrate).len(), 21 * 5 + 13 * 6);
        assert_eq!(Row::all(Model::Direct).len(), 22 * 5 + 14 * 6);
        assert_eq!(Row::all(Model::Unified).len(), 7 * 5 + 5 * 6);
    }

    #[test]
    fn after_a_write_the_writer_is_alone_and_whole_writes_move_nothing() {
        for model in [Model::Unified, Model::Migrate, Model::Direct] {
            for row in Row::all(model) {
                let expected = row.expected(model);
                let Some(after) = expected.after else { continue };
                if row.touch == Touch::Discard {
                    assert_eq!(after, Place::Empty, "{row}");
                } else if row.touch.writes() {
                    assert!(matches!(after, Place::Host | Place::Device), "{row}");
                }
                if !row.touch.needs_data() {
                    let moves = expected.home || expected.into || expected.across || expected.zero;
                    assert!(!moves, "{row}");
                }
            }
        }
    }
}
