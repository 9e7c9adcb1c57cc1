//! The planner: from the directory and an access to copies and fills. Pure.

use std::ops::Range;

use smallvec::SmallVec;

use crate::{
    access::Access,
    coherence,
    directory::{Directory, PageSpan},
    node::{MAX_NODES, NodeId},
    units::{PAGES_PER_BLOCK, PageMask},
};

/// One contiguous copy of pages from node to node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) pages: PageSpan,
}

/// What an access needs, in runs of neighbouring pages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: SmallVec<[Step; 4]>,
    pub(crate) zeros: SmallVec<[PageSpan; 2]>,
    /// The first stretch that cannot be had.
    pub(crate) lost: Option<PageSpan>,
}

/// Pages accessed and how: `span` are all that are touched, `inside` those that are covered to the last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    pub(crate) node: NodeId,
    pub(crate) access: Access,
    pub(crate) span: PageSpan,
    pub(crate) inside: PageSpan,
}

impl Request {
    /// The host's access to pages, all of them covered whole.
    pub(crate) fn by_host(access: Access, span: PageSpan) -> Self {
        Self { node: NodeId::HOST, access, span, inside: span }
    }
}

/// Plans one access. Copies nothing that is valid already or about to be overwritten.
pub(crate) fn plan(directory: &Directory, request: Request) -> Plan {
    let mut plan = Plan::default();
    directory.look(request.span, |blocks, pages, run| {
        let state = run.log.promised();
        // Only the first and the last page of a range can be covered in part, so all blocks but those two are alike.
        for part in alike(blocks, request) {
            let whole = request.inside.in_block(part.start).and(pages);
            let reaches_end = request.inside.end == directory.pages();
            let whole = if reaches_end { whole.or(past_end(directory, part.start)) } else { whole };
            let needs = coherence::needs(&state, request.node, request.access, pages, whole);
            for (from, mask) in needs.copy {
                for span in spans(part.clone(), mask, directory.pages()) {
                    plan.push_step(Step { from, to: request.node, pages: span });
                }
            }
            for span in spans(part.clone(), needs.zero, directory.pages()) {
                push_span(&mut plan.zeros, span);
            }
            if plan.lost.is_none() {
                plan.lost = spans(part, needs.lost, directory.pages()).next();
            }
        }
    });
    plan
}

impl Plan {
    /// True when everything is where it is needed.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.zeros.is_empty() && self.lost.is_none()
    }

    /// Joins the step to a neighbour; each block lists its sources one after another, so the neighbour is among the last few.
    fn push_step(&mut self, step: Step) {
        let recent = self.steps.iter_mut().rev().take(MAX_NODES);
        let joins = |last: &&mut Step| last.from == step.from && last.pages.end == step.pages.first;
        match recent.into_iter().find(joins) {
            Some(last) => last.pages.end = step.pages.end,
            None => self.steps.push(step),
        }
    }
}

fn push_span(spans: &mut SmallVec<[PageSpan; 2]>, span: PageSpan) {
    match spans.last_mut() {
        Some(last) if last.end == span.first => last.end = span.end,
        _ => spans.push(span),
    }
}

/// `blocks` in at most three parts within which every block is covered alike.
fn alike(blocks: Range<u32>, request: Request) -> impl Iterator<Item = Range<u32>> {
    let (start, end) = (blocks.start, blocks.end);
    let edges = if request.access == Access::Write && request.inside != request.span {
        [start, (start + 1).min(end), end.saturating_sub(1).max((start + 1).min(end)), end]
    } else {
        [start, end, end, end]
    };
    (0..3).map(move |i| edges[i]..edges[i + 1]).filter(|part| !part.is_empty())
}

/// The pages of `block` that lie past the buffer's end: they follow its last page.
fn past_end(directory: &Directory, block: u32) -> PageMask {
    let base = u64::from(block) * PAGES_PER_BLOCK;
    let used = directory.pages().saturating_sub(base).min(PAGES_PER_BLOCK);
    PageMask::span(used as u32, PAGES_PER_BLOCK as u32)
}

/// The same pages of each of several blocks, as runs of neighbouring pages that end with the buffer.
pub(crate) fn spans(
    blocks: Range<u32>,
    mask: PageMask,
    pages: u64,
) -> impl Iterator<Item = PageSpan> {
    let whole = mask == PageMask::FULL;
    let groups = if whole && !blocks.is_empty() { 1 } else { blocks.len() as u32 };
    let clip =
        move |first: u64, end: u64| PageSpan { first: first.min(pages), end: end.min(pages) };
    (0..groups)
        .flat_map(move |group| {
            let base = u64::from(blocks.start + group) * PAGES_PER_BLOCK;
            let all_end = u64::from(blocks.end) * PAGES_PER_BLOCK;
            mask.spans().map(move |span| {
                let end = if whole { all_end } else { base + u64::from(span.end) };
                clip(base + u64::from(span.start), end)
            })
        })
        .filter(|span| !span.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{coherence::Effect, node::DeviceId};

    const HOST: NodeId = NodeId::HOST;

    fn device(index: usize) -> NodeId {
        NodeId::of_device(DeviceId::new(index).unwrap())
    }

    fn request(access: Access, first: u64, end: u64, inside: (u64, u64)) -> Request {
        Request {
            node: device(0),
            access,
            span: PageSpan { first, end },
            inside: PageSpan { first: inside.0, end: inside.1 },
        }
    }

    fn written(pages: u64, spans: &[(u64, u64, NodeId)]) -> Directory {
        let mut directory = Directory::new(pages);
        for (first, end, on) in spans {
            directory.change(PageSpan { first: *first, end: *end }, |_, pages, run| {
                run.backed.insert(*on);
                run.log.done(Effect::Write { on: *on }, pages);
            });
        }
        directory
    }

    fn steps(plan: &Plan) -> Vec<(NodeId, u64, u64)> {
        let mut steps: Vec<_> =
            plan.steps.iter().map(|step| (step.from, step.pages.first, step.pages.end)).collect();
        steps.sort_by_key(|(_, first, _)| *first);
        steps
    }

    #[test]
    fn neighbouring_pages_become_one_copy_across_blocks() {
        let directory = written(100, &[(0, 100, HOST)]);
        let plan = plan(&directory, request(Access::Read, 0, 100, (0, 100)));
        assert_eq!(steps(&plan), [(HOST, 0, 100)]);
    }

    #[test]
    fn what_is_there_is_not_copied_and_each_page_comes_from_a_holder() {
        let directory = written(100, &[(0, 100, HOST), (10, 50, device(0)), (50, 70, device(1))]);
        let plan = plan(&directory, request(Access::Update, 0, 100, (0, 100)));
        assert_eq!(steps(&plan), [(HOST, 0, 10), (device(1), 50, 70), (HOST, 70, 100)]);
        assert!(plan.zeros.is_empty());
    }

    #[test]
    fn a_write_copies_only_the_pages_it_covers_in_part() {
        let directory = written(100, &[(0, 100, HOST)]);
        let in_part = plan(&directory, request(Access::Write, 5, 80, (6, 79)));
        assert_eq!(steps(&in_part), [(HOST, 5, 6), (HOST, 79, 80)]);
        let whole = plan(&directory, request(Access::Write, 0, 100, (0, 100)));
        assert_eq!(steps(&whole), []);
        let one_page = plan(&directory, request(Access::Write, 40, 41, (0, 0)));
        assert_eq!(steps(&one_page), [(HOST, 40, 41)]);
    }

    #[test]
    fn empty_pages_are_zeroed_before_they_are_read() {
        let directory = written(64, &[(8, 16, HOST)]);
        let plan = plan(&directory, request(Access::Read, 0, 64, (0, 64)));
        assert_eq!(steps(&plan), [(HOST, 8, 16)]);
        assert_eq!(
            plan.zeros.as_slice(),
            [PageSpan { first: 0, end: 8 }, PageSpan { first: 16, end: 64 }]
        );
    }
}
