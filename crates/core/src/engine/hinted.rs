//! What hints make of decisions.

use crate::{
    error::Error,
    hints::{Hint, HintEffect, NoEffect},
    node::NodeId,
    runtime::Inner,
};

impl Inner {
    /// Whether a hint changes anything here. Opens the device that it speaks of.
    pub(crate) fn effect_of(&self, hint: Hint) -> Result<HintEffect, Error> {
        let device = hint.node().and_then(NodeId::device);
        let open = device.map(|device| self.open(device)).transpose()?;
        let reaches = open.map(|open| (open.node, &open.device.facts().capabilities.host_window));
        let why = match (hint, reaches) {
            (Hint::AccessedBy(_), None) => NoEffect::HostReachesNoDevice,
            (Hint::AccessedBy(_) | Hint::PreferredLocation(_), Some((node, _)))
                if node.is_host() =>
            {
                NoEffect::NothingMoves
            }
            (Hint::AccessedBy(_), Some((_, window))) if !window.is_proved() => NoEffect::NoWindow,
            (Hint::Random, _) if self.user_view().is_none() => NoEffect::NoFaults,
            _ => return Ok(HintEffect::Acts),
        };
        Ok(HintEffect::KeptOnly(why))
    }
}
