//! Memory that several processes map: vectors with a file of their own. The other process is played by a second mapping of the file in this
//! one (`stranger`), as bare as what a process gets that is sent the descriptor.

#[path = "../peers/card.rs"]
#[allow(dead_code, reason = "shared with the tests of peers")]
mod card;
mod exporter;
mod imported;
mod imported_races;
#[path = "../host_faults/kernels.rs"]
#[allow(dead_code, reason = "shared with the tests of page faults")]
mod kernels;
mod lent;
mod lent_on;
#[path = "../host_faults/rig.rs"]
#[allow(dead_code, reason = "shared with the tests of page faults")]
mod rig;
mod shareable;
mod stranger;
