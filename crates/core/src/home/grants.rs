//! Which pages are granted. Pure: nothing is asked and nothing waited for here.

use std::{fmt, sync::Arc};

use super::{Grant, Home, Keep};
use crate::{access::Access, directory::PageSpan, peer::Confirmation};

/// The grants of one imported buffer, under its lock.
pub(crate) struct Grants {
    home: Arc<dyn Home>,
    most: Grant,
    pages: Vec<Option<Grant>>,
    /// Recalls under way.
    recalls: Vec<Recalling>,
    /// How many recalls there were.
    recalled: u64,
    /// The import ends: nothing is granted any more.
    is_closed: bool,
}

/// A recall under way.
#[derive(Clone, Debug)]
pub(crate) struct Recalling {
    id: u64,
    pub(crate) span: PageSpan,
    pub(crate) keep: Keep,
    /// What was granted, for what.
    pub(crate) held: Vec<(PageSpan, Grant)>,
    /// Given when it is over.
    pub(crate) over: Arc<Confirmation>,
}

/// What an access lacks.
pub(crate) enum Asked {
    /// These pages have to be asked for.
    Home { home: Arc<dyn Home>, span: PageSpan, grant: Grant, recalled: u64 },
    /// They are being recalled.
    Wait(Arc<Confirmation>),
    /// They will never be granted.
    Never(PageSpan),
}

impl Grants {
    pub(crate) fn new(home: Arc<dyn Home>, most: Grant, pages: u64) -> Self {
        let pages = vec![None; pages as usize];
        Self { home, most, pages, recalls: Vec::new(), recalled: 0, is_closed: false }
    }

    fn of(&self, span: PageSpan) -> &[Option<Grant>] {
        &self.pages[span.first as usize..span.end as usize]
    }

    /// What keeps `access` from these pages.
    pub(crate) fn lacking(&self, span: PageSpan, access: Access) -> Option<Asked> {
        let grant = if access.writes() { Grant::Write } else { Grant::Read };
        let held = self.of(span);
        let first = held.iter().position(|page| *page < Some(grant))?;
        let more = held[first..].iter().take_while(|page| **page < Some(grant)).count();
        let first = span.first + first as u64;
        let span = PageSpan { first, end: first + more as u64 };
        if grant > self.most || self.is_closed {
            return Some(Asked::Never(span));
        }
        if let Some(recall) = self.recalls.iter().find(|recall| recall.span.overlaps(span)) {
            return Some(Asked::Wait(recall.over.clone()));
        }
        let (home, recalled) = (self.home.clone(), self.recalled);
        Some(Asked::Home { home, span, grant, recalled })
    }

    /// Takes note of a grant that was asked for when `recalled` recalls had begun. The pages that had none before; `None` when it may have been recalled
    /// meanwhile.
    pub(crate) fn give(
        &mut self,
        span: PageSpan,
        grant: Grant,
        recalled: u64,
    ) -> Option<Vec<PageSpan>> {
        if self.recalled != recalled || self.is_closed {
            return None;
        }
        let new = stretches(self.of(span), span.first, |page| page.is_none());
        for page in &mut self.pages[span.first as usize..span.end as usize] {
            *page = (*page).max(Some(grant));
        }
        Some(new.into_iter().map(|(span, _)| span).collect())
    }

    /// Nobody gets these pages from now on.
    pub(crate) fn start_recall(&mut self, span: PageSpan, keep: Keep) -> Recalling {
        self.recalled += 1;
        let mut held = stretches(self.of(span), span.first, |page| page == Some(Grant::Read));
        held.extend(stretches(self.of(span), span.first, |page| page == Some(Grant::Write)));
        let mut held: Vec<(PageSpan, Grant)> =
            held.into_iter().filter_map(|(span, grant)| Some((span, grant?))).collect();
        // What an earlier recall leaves for reading is this one's to take.
        for earlier in self.recalls.iter().filter(|earlier| earlier.keep == Keep::Reading) {
            let stays = earlier.held.iter().filter(|(stays, _)| stays.overlaps(span));
            held.extend(stays.map(|(stays, _)| {
                let (first, end) = (stays.first.max(span.first), stays.end.min(span.end));
                (PageSpan { first, end }, Grant::Read)
            }));
        }
        self.pages[span.first as usize..span.end as usize].fill(None);
        let recall = Recalling { id: self.recalled, span, keep, held, over: Arc::default() };
        self.recalls.push(recall.clone());
        recall
    }

    /// The recall is over; what may be read on is granted for that.
    pub(crate) fn finish_recall(&mut self, recall: &Recalling) {
        self.recalls.retain(|one| one.id != recall.id);
        let stays = recall.keep == Keep::Reading && !self.is_closed;
        for (span, _) in recall.held.iter().filter(|_| stays) {
            for page in span.first..span.end {
                // A later recall has it already.
                let is_wanted = |later: &Recalling| {
                    later.span.overlaps(PageSpan { first: page, end: page + 1 })
                };
                if !self.recalls.iter().any(is_wanted) {
                    self.pages[page as usize] = Some(Grant::Read);
                }
            }
        }
        // Whoever asked before that knows less than we do.
        self.recalled += u64::from(stays);
    }

    /// Nothing is granted any more.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The pages of `span` that may be read and not written.
    pub(crate) fn only_read(&self, span: PageSpan) -> Vec<PageSpan> {
        let parts = stretches(self.of(span), span.first, |page| page < Some(Grant::Write));
        parts.into_iter().map(|(span, _)| span).collect()
    }
}

/// Neighbouring pages that are like this, counted from `first`.
fn stretches(
    pages: &[Option<Grant>],
    first: u64,
    is_meant: impl Fn(Option<Grant>) -> bool,
) -> Vec<(PageSpan, Option<Grant>)> {
    let mut found: Vec<(PageSpan, Option<Grant>)> = Vec::new();
    for (page, held) in (first..).zip(pages).filter(|(_, held)| is_meant(**held)) {
        match found.last_mut() {
            Some((span, known)) if span.end == page && known == held => span.end += 1,
            _ => found.push((PageSpan { first: page, end: page + 1 }, *held)),
        }
    }
    found
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let granted = self.pages.iter().flatten().count();
        f.debug_struct("Grants").field("granted", &granted).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::home::{HomeError, Recalled};

    struct Nobody;

    impl Home for Nobody {
        fn grant(&self, _: Range<usize>, _: Grant) -> Result<(), HomeError> {
            Err(HomeError::Gone)
        }
        fn closed(&self, _: &Recalled) {}
    }

    fn span(first: u64, end: u64) -> PageSpan {
        PageSpan { first, end }
    }

    fn grants(most: Grant) -> Grants {
        Grants::new(Arc::new(Nobody), most, 8)
    }

    fn asked(grants: &Grants, of: PageSpan, access: Access) -> (PageSpan, Grant, u64) {
        match grants.lacking(of, access) {
            Some(Asked::Home { span, grant, recalled, .. }) => (span, grant, recalled),
            _ => panic!("nothing to ask for"),
        }
    }

    #[test]
    fn a_grant_that_was_recalled_meanwhile_is_asked_for_again() {
        let mut grants = grants(Grant::Write);
        let (of, grant, before) = asked(&grants, span(2, 5), Access::Read);
        assert_eq!((of, grant), (span(2, 5), Grant::Read));
        let recall = grants.start_recall(span(4, 6), Keep::Nothing);
        assert_eq!(grants.give(of, grant, before), None);
        assert!(matches!(grants.lacking(span(2, 5), Access::Read), Some(Asked::Wait(_))));
        grants.finish_recall(&recall);
        assert_eq!(grants.give(of, grant, before), None, "still from before");
        let (of, grant, now) = asked(&grants, span(2, 5), Access::Read);
        assert_eq!(grants.give(of, grant, now), Some(vec![span(2, 5)]));
        assert!(grants.lacking(span(2, 5), Access::Read).is_none());
    }

    #[test]
    fn only_what_lacks_is_asked_for_and_reading_can_stay() {
        let mut grants = grants(Grant::Write);
        assert!(grants.give(span(0, 2), Grant::Read, 0).is_some());
        assert!(grants.give(span(2, 4), Grant::Write, 0).is_some());
        assert_eq!(asked(&grants, span(0, 8), Access::Read).0, span(4, 8));
        assert_eq!(asked(&grants, span(0, 8), Access::Update).0, span(0, 2));
        assert_eq!(grants.only_read(span(0, 4)), [span(0, 2)]);
        let recall = grants.start_recall(span(1, 4), Keep::Reading);
        assert_eq!(recall.held, [(span(1, 2), Grant::Read), (span(2, 4), Grant::Write)]);
        grants.finish_recall(&recall);
        assert!(grants.lacking(span(0, 4), Access::Read).is_none());
        assert_eq!(grants.only_read(span(0, 4)), [span(0, 4)]);
    }

    #[test]
    fn a_later_recall_takes_what_an_earlier_one_leaves() {
        let mut grants = grants(Grant::Write);
        assert!(grants.give(span(0, 4), Grant::Write, 0).is_some());
        let first = grants.start_recall(span(0, 4), Keep::Reading);
        let second = grants.start_recall(span(1, 8), Keep::Nothing);
        assert_eq!(second.held, [(span(1, 4), Grant::Read)]);
        grants.finish_recall(&first);
        assert!(grants.lacking(span(0, 1), Access::Read).is_none());
        grants.finish_recall(&second);
        assert_eq!(asked(&grants, span(0, 4), Access::Read).0, span(1, 4));
    }

    #[test]
    fn what_is_never_granted_is_not_asked_for() {
        let mut grants = grants(Grant::Read);
        assert!(matches!(grants.lacking(span(0, 1), Access::Update), Some(Asked::Never(_))));
        grants.close();
        assert!(matches!(grants.lacking(span(0, 1), Access::Read), Some(Asked::Never(_))));
        assert_eq!(grants.give(span(0, 1), Grant::Read, 0), None);
    }
}
