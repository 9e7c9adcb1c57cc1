//! Kernels.

mod lab;

use hmmap_core::{
    Access,
    backend::{ArrayArgument, DeviceError, LaunchWork},
    fence::FenceState,
    kernel::{Field, FieldKind, KernelId, ParamLayout, Source},
    units::PAGE_BYTES,
};
use lab::{Lab, PATIENCE, SAXPY, floats, lab, saxpy_layout, watched};

fn floats_at(lab: &Lab, span: hmmap_core::host::HostSpan, value: impl Fn(u64) -> f32) {
    lab.write(span, |at| value(at / 4).to_ne_bytes()[(at % 4) as usize]);
}

#[test]
fn saxpy_over_device_memory() {
    let Some(lab) = lab(watched()) else { return };
    let (n, len_bytes) = (100_000, 7 * PAGE_BYTES);
    let (x, y) = (lab.span(len_bytes), lab.span(len_bytes));
    floats_at(&lab, x, |i| i as f32);
    floats_at(&lab, y, |i| 1000.0 - i as f32);
    let (dx, dy) = (lab.reserve_backed(len_bytes), lab.reserve_backed(len_bytes));
    let sent = lab.submit(&[], &[lab.up(x, dx.memory, 0), lab.up(y, dy.memory, 0)], &[]).unwrap();
    let first = lab.saxpy(2.0, dx.address, dy.address, n, &[sent]).unwrap();
    let second = lab.saxpy(1.0, dx.address, dy.address, n, &[first]).unwrap();
    lab.finish(lab.submit(&[second], &[lab.down(y, dy.memory, 0)], &[]).unwrap());
    let got = floats(&lab.read(y));
    for (i, value) in got.iter().take(n as usize).enumerate() {
        let i = i as f32;
        assert_eq!(*value, 2.0f32.mul_add(i, 1000.0 - i) + i);
    }
    assert_eq!(got[n as usize], 1000.0 - n as f32, "past the end nothing is written");
    lab.device.release(dx.memory);
    lab.device.release(dy.memory);
    lab.close();
}

#[test]
fn saxpy_over_a_window_of_host_memory() {
    let Some(lab) = lab(watched()) else { return };
    if !lab.device.facts().capabilities.host_window.is_proved() {
        return lab::skip(&lab.device.facts().capabilities.host_window.to_string());
    }
    let (n, len_bytes) = (16_384, PAGE_BYTES);
    let (x, y) = (lab.span(len_bytes), lab.span(len_bytes));
    floats_at(&lab, x, |i| i as f32);
    floats_at(&lab, y, |_| 0.5);
    let (wx, wy) = (lab.device.open_window(x).unwrap(), lab.device.open_window(y).unwrap());
    for round in 1..4 {
        lab.finish(lab.saxpy(1.0, wx.address, wy.address, n, &[]).unwrap());
        let got = floats(&lab.read(y));
        assert!(got.iter().enumerate().all(|(i, v)| *v == (i as f32).mul_add(round as f32, 0.5)));
    }
    lab.device.close_window(wx.window);
    lab.device.close_window(wy.window);
    lab.close();
}

#[test]
fn a_layout_that_differs_never_reaches_the_driver() {
    let Some(lab) = lab(watched()) else { return };
    let mut fields: Vec<Field> = saxpy_layout().fields().to_vec();
    fields.swap(0, 1);
    fields[0].offset_bytes = 0;
    fields[1].offset_bytes = 8;
    let error = lab.device.prepare(&SAXPY, &ParamLayout::new(fields)).unwrap_err();
    let DeviceError::LayoutMismatch { kernel, offset_bytes, passed, expected, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((kernel, offset_bytes), ("saxpy", 0));
    assert_eq!((passed, expected), (Some(FieldKind::U64), Some(FieldKind::Address)));
    lab.close();
}

#[test]
fn a_kernel_is_prepared_once_and_one_that_was_not_is_refused() {
    let Some(lab) = lab(watched()) else { return };
    let first = lab.device.prepare(&SAXPY, &saxpy_layout()).unwrap();
    assert_eq!(lab.device.prepare(&SAXPY, &saxpy_layout()), Ok(first));
    static BROKEN: Source = Source {
        name: "broken",
        spirv: b"not SPIR-V..",
        ptx: "",
        workgroup: [1, 1, 1],
        twin: None,
    };
    let error = lab.device.prepare(&BROKEN, &saxpy_layout()).unwrap_err();
    assert!(matches!(error, DeviceError::BadShader { kernel: "broken", .. }), "{error}");
    let array = ArrayArgument { address: 0, len_bytes: 0, access: Access::Read, scattered: None };
    let unknown = lab.device.submit_launch(&LaunchWork {
        kernel: KernelId(99),
        source: &SAXPY,
        groups: [1, 1, 1],
        params: &[],
        layout: &ParamLayout::default(),
        arrays: &[array],
        waits: &[],
    });
    assert!(matches!(unknown, Err(DeviceError::Misuse { .. })));
    lab.close();
}

#[test]
fn fences_end_in_order_and_stay_ended() {
    let Some(lab) = lab(watched()) else { return };
    let len_bytes = PAGE_BYTES;
    let (dx, dy) = (lab.reserve_backed(len_bytes), lab.reserve_backed(len_bytes));
    let points: Vec<_> =
        (0..50).map(|_| lab.saxpy(1.0, dx.address, dy.address, 64, &[]).unwrap()).collect();
    assert!(points.windows(2).all(|two| two[0].value < two[1].value));
    lab.finish(points[49]);
    assert!(points.iter().all(|point| lab.device.poll(*point) == FenceState::Ok));
    let mut never = points[49];
    never.value += 1000;
    let before = std::time::Instant::now();
    let timeout = std::time::Duration::from_millis(20);
    assert_eq!(lab.device.wait(never, timeout), FenceState::Pending);
    assert!(before.elapsed() >= timeout);
    assert_eq!(lab.device.poll(never), FenceState::Pending);
    assert_eq!(lab.device.wait(points[0], PATIENCE), FenceState::Ok);
    lab.close();
}
