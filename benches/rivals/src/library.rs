//! What a library has to show: the same few moves, each written as a user of that library writes it.

use std::ops::Range;

use serde::Serialize;

/// Elements everywhere: four bytes, and exact for every integer that the checks use.
pub(crate) type Element = f32;

/// The device as the library itself names it. Libraries on Vulkan must all say the same, or the figures are not comparable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Device {
    /// Its name.
    pub(crate) name: String,
    /// The driver and its version.
    pub(crate) driver: String,
}

/// A library, with a device opened.
pub(crate) trait Library {
    /// Its name in tables and records.
    fn name(&self) -> &'static str;

    /// Its version, where the lock file has none of that name.
    fn version(&self) -> Option<String> {
        None
    }

    /// What it runs on.
    fn device(&self) -> &Device;

    /// An array of so many elements on the device, with all that moving it to and fro needs: whatever can be made once is made
    /// here and is not timed.
    fn array(&self, len: usize) -> anyhow::Result<Box<dyn Array>>;
}

/// The two ends of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// The library is about to be used.
    Begins,
    /// Others are.
    Ends,
}

/// Looks at what came home. The clock stops when it is called.
pub(crate) type See<'a> = &'a mut dyn FnMut(&[Element]);

/// One array on a device. Every method returns when what it does has been done, not when it has been asked for.
pub(crate) trait Array {
    /// Its turn begins, or ends; nothing of it is timed. For a library whose threads would disturb the others.
    fn turn(&mut self, _turn: Turn) {}

    /// Takes the array to the device from a slice of the application's own.
    fn up(&mut self, data: &[Element]) -> anyhow::Result<()>;

    /// Puts data where the library lets an application make them, so that [`Array::up_in_place`] has no slice to copy from.
    /// False where the library has no such place.
    fn make_in_place(&mut self, data: &[Element]) -> anyhow::Result<bool>;

    /// Takes what was made in place to the device. Once for each [`Array::make_in_place`].
    fn up_in_place(&mut self) -> anyhow::Result<()>;

    /// What [`Array::launch`] writes from now on.
    fn set_value(&mut self, value: Element) -> anyhow::Result<()>;

    /// Has a kernel of 256 threads a group write the value to every element.
    fn launch(&mut self) -> anyhow::Result<()>;

    /// Brings the whole array home, as a slice.
    fn down(&mut self, see: See<'_>) -> anyhow::Result<()>;

    /// Reads parts as a user does who leaves it to the library what has to move. What keeps track of whole buffers moves the whole buffer.
    fn parts(&mut self, parts: &[Range<usize>], see: See<'_>) -> anyhow::Result<()> {
        self.down(&mut |all| {
            for part in parts {
                see(&all[part.clone()]);
            }
        })
    }

    /// Reads parts as a user does who says himself what is to be copied. False where that is no different from [`Array::parts`], or cannot be said.
    fn parts_by_hand(&mut self, _parts: &[Range<usize>], _see: See<'_>) -> anyhow::Result<bool> {
        Ok(false)
    }

    /// What the device itself holds, whatever the host may have a copy of.
    fn on_the_device(&mut self) -> anyhow::Result<Vec<Element>> {
        let mut found = Vec::new();
        self.down(&mut |all| found = all.to_vec())?;
        Ok(found)
    }
}
