//! What an access needs before it may begin.

use smallvec::SmallVec;

use super::BlockState;
use crate::{access::Access, node::NodeId, units::PageMask};

/// What has to happen before an agent on a node may access pages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// Copies onto the node: from where, which pages.
    pub copy: SmallVec<[(NodeId, PageMask); 2]>,
    /// Pages to fill with zeros on the node.
    pub zero: PageMask,
    /// Pages that cannot be had: they were lost.
    pub lost: PageMask,
}

impl Needs {
    /// True when the access may begin as things are.
    pub fn is_nothing(&self) -> bool {
        self.copy.is_empty() && self.zero.is_empty() && self.lost.is_empty()
    }
}

/// What `access` to `pages` by an agent on `node` needs. `whole` are the pages that the access covers to the last byte: only
/// there does [`Access::Write`] need nothing; elsewhere it is an [`Access::Update`].
///
/// Never copies what is valid already or about to be overwritten; prefers the host's copy, then the lowest node's.
pub fn needs(
    state: &BlockState,
    node: NodeId,
    access: Access,
    pages: PageMask,
    whole: PageMask,
) -> Needs {
    let read = match access {
        Access::Read | Access::Update => pages,
        Access::Write => pages.without(whole),
    };
    let mut missing = read.without(state.valid_on(node));
    let mut needs = Needs::default();
    if missing.is_empty() {
        return needs;
    }
    needs.lost = missing.and(state.lost());
    needs.zero = missing.and(state.empty());
    missing = missing.without(needs.lost).without(needs.zero);
    for (holder, held) in state.holders() {
        let from_here = missing.and(*held);
        if !from_here.is_empty() {
            needs.copy.push((*holder, from_here));
            missing = missing.without(from_here);
        }
    }
    needs
}
