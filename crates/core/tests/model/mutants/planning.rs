//! Wrong answers to "what has to happen first?".

use hmmap_core::{
    access::Access,
    coherence::{BlockState, Needs, needs},
    node::NodeId,
    units::PageMask,
};

use crate::rules::Rules;

/// A write needs nothing, even where it covers a page only in part.
pub(crate) struct PartialWriteNeedsNothing;

impl Rules for PartialWriteNeedsNothing {
    fn needs(
        &self,
        state: &BlockState,
        node: NodeId,
        access: Access,
        pages: PageMask,
        _whole: PageMask,
    ) -> Needs {
        needs(state, node, access, pages, pages)
    }
}

/// An update is planned like a write.
pub(crate) struct UpdateNeedsNothing;

impl Rules for UpdateNeedsNothing {
    fn needs(
        &self,
        state: &BlockState,
        node: NodeId,
        access: Access,
        pages: PageMask,
        whole: PageMask,
    ) -> Needs {
        let access = if access.writes() { Access::Write } else { access };
        needs(state, node, access, pages, whole)
    }
}

/// Empty pages are used as they are.
pub(crate) struct NothingIsZeroed;

impl Rules for NothingIsZeroed {
    fn needs(
        &self,
        state: &BlockState,
        node: NodeId,
        access: Access,
        pages: PageMask,
        whole: PageMask,
    ) -> Needs {
        Needs { zero: PageMask::EMPTY, ..needs(state, node, access, pages, whole) }
    }
}

/// A lost page is as good as an empty one.
pub(crate) struct LostPagesReadAsZero;

impl Rules for LostPagesReadAsZero {
    fn needs(
        &self,
        state: &BlockState,
        node: NodeId,
        access: Access,
        pages: PageMask,
        whole: PageMask,
    ) -> Needs {
        let mut needs = needs(state, node, access, pages, whole);
        needs.zero = needs.zero.or(needs.lost);
        needs.lost = PageMask::EMPTY;
        needs
    }
}

/// Whatever a device needs comes from the host, whether the host has it or not.
pub(crate) struct StaleNodeIsCopiedFrom;

impl Rules for StaleNodeIsCopiedFrom {
    fn needs(
        &self,
        state: &BlockState,
        node: NodeId,
        access: Access,
        pages: PageMask,
        whole: PageMask,
    ) -> Needs {
        let mut needs = needs(state, node, access, pages, whole);
        if !node.is_host() {
            needs.copy.iter_mut().for_each(|(from, _)| *from = NodeId::HOST);
        }
        needs
    }
}
