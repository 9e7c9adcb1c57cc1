//! Shaders instrumented by the validation layer: accesses outside of any buffer are found, which software drivers hide.

mod lab;

use hmmap_core::units::{BLOCK_BYTES, PAGE_BYTES};
use hmmap_vulkan::{Options, Validation};
use lab::{Lab, lab, watched};

fn assisted() -> Option<Lab> {
    if watched().validation == Validation::Off {
        lab::skip("no validation layer is named by HMMAP_TEST_LAYER_PATH");
        return None;
    }
    lab(Options { validation: Validation::GpuAssisted, ..watched() })
}

#[test]
fn a_sound_launch_is_silent() {
    let Some(lab) = assisted() else { return };
    let (x, y) = (lab.reserve_backed(BLOCK_BYTES), lab.reserve_backed(PAGE_BYTES));
    lab.finish(lab.saxpy(2.0, x.address, y.address, PAGE_BYTES / 4, &[]).unwrap());
    lab.device.release(x.memory);
    lab.device.release(y.memory);
    lab.close();
}

#[test]
fn a_host_pointer_in_place_of_a_device_address_is_found() {
    let Some(lab) = assisted() else { return };
    let y = lab.reserve_backed(PAGE_BYTES);
    let host = lab.span(PAGE_BYTES);
    lab.write(host, |_| 0);
    let pointer = lab.arena.view().pointer(host).addr() as u64;
    let run = lab.saxpy(2.0, pointer, y.address, PAGE_BYTES / 4, &[]).unwrap();
    // With robust checks the layer may end the work in its own way; what counts is that it speaks.
    lab.device.wait(run, lab::PATIENCE);
    lab.device.release(y.memory);
    let messages = std::sync::Arc::clone(&lab.messages);
    drop(lab);
    let said = messages.first();
    assert!(said.iter().any(|text| text.contains("access")), "{said:?}");
}
