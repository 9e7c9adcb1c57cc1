//! What took the only copies of a vector's pages, so that it can be said of each page.

use std::ops::Range;

use crate::{
    host::Spoiler,
    units::{PAGES_PER_BLOCK, PageMask},
};

/// So many are known of one vector; then the oldest goes.
const MOST: usize = 32;

/// The last that may have taken each page. Says nothing about whether the page is lost, which the directory does.
#[derive(Debug, Default)]
pub(crate) struct Spoils {
    /// The newest is the last.
    known: Vec<Spoil>,
}

#[derive(Debug)]
struct Spoil {
    blocks: Range<u32>,
    /// Of each of these blocks.
    pages: PageMask,
    by: Spoiler,
}

impl Spoils {
    pub(crate) fn add(&mut self, blocks: Range<u32>, pages: PageMask, by: Spoiler) {
        self.known.retain(|old| {
            let covers = blocks.start <= old.blocks.start && old.blocks.end <= blocks.end;
            !(covers && pages.contains(old.pages))
        });
        if self.known.len() == MOST {
            self.known.remove(0);
        }
        self.known.push(Spoil { blocks, pages, by });
    }

    /// What took a page.
    pub(crate) fn of(&self, page: u64) -> Option<Spoiler> {
        let (block, page) = ((page / PAGES_PER_BLOCK) as u32, (page % PAGES_PER_BLOCK) as u32);
        let page = PageMask::span(page, page + 1);
        let mut newest_first = self.known.iter().rev();
        let found =
            newest_first.find(|one| one.blocks.contains(&block) && one.pages.overlaps(page));
        found.map(|one| one.by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::DeviceId;

    fn by(number: usize) -> Spoiler {
        Spoiler::Device(DeviceId::new(number).unwrap())
    }

    #[test]
    fn the_newest_that_has_the_page_counts() {
        let mut spoils = Spoils::default();
        spoils.add(0..4, PageMask::FULL, by(0));
        spoils.add(1..2, PageMask::span(3, 5), by(1));
        spoils.add(2..3, PageMask::FULL, by(2));
        let of = |spoils: &Spoils, pages: [u64; 6]| pages.map(|page| spoils.of(page));
        let wanted = [0, 0, 1, 1, 0, 2].map(|number| Some(by(number)));
        assert_eq!(of(&spoils, [0, 34, 35, 36, 37, 64]), wanted);
        assert_eq!(spoils.of(128), None);
        spoils.add(0..4, PageMask::FULL, by(3));
        assert_eq!((spoils.of(35), spoils.known.len()), (Some(by(3)), 1));
    }

    #[test]
    fn however_many_there_were_some_are_known() {
        let mut spoils = Spoils::default();
        for block in 0..1000 {
            spoils.add(block..block + 1, PageMask::FULL, by(block as usize % 4));
        }
        assert_eq!(spoils.known.len(), MOST);
        assert_eq!((spoils.of(999 * 32), spoils.of(0)), (Some(by(3)), None));
    }
}
