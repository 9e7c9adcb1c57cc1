use super::*;

const SAXPY: &[u8] = include_bytes!("../../../../shaders/out/saxpy.spv");

static SOURCE: Source =
    Source { name: "saxpy", spirv: SAXPY, ptx: "", workgroup: [256, 1, 1], twin: None };

fn target() -> Target {
    Target {
        features: Features::REQUIRED,
        spirv_version: 0x0001_0500,
        limits: Limits {
            buffer_bytes: u64::MAX,
            allocation_bytes: u64::MAX,
            allocations: 4096,
            sparse_bytes: u64::MAX,
            atom_bytes: 64,
            import_align_bytes: 4096,
            groups: [65_535; 3],
            workgroup: [1024, 1024, 64],
            invocations: 1024,
        },
    }
}

fn saxpy_layout() -> ParamLayout {
    use FieldKind::{Address, F32, U64};
    let kinds = [Address, U64, Address, U64, U64, U64, F32];
    let field = |(number, kind): (usize, &FieldKind)| Field {
        offset_bytes: 8 * number as u32,
        kind: *kind,
    };
    ParamLayout::new(kinds.iter().enumerate().map(field))
}

/// A kernel over other bytes or with another name.
fn leaked(spirv: Vec<u8>, name: &'static str, workgroup: [u32; 3]) -> &'static Source {
    Box::leak(Box::new(Source { name, spirv: spirv.leak(), ptx: "", workgroup, twin: None }))
}

fn reason(source: &'static Source, target: &Target) -> &'static str {
    match check(source, &saxpy_layout(), target) {
        Err(DeviceError::BadShader { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_shipped_kernel_is_what_it_says() {
    assert_eq!(check(&SOURCE, &saxpy_layout(), &target()), Ok(()));
}

#[test]
fn another_order_of_parameters_is_a_mismatch_with_its_place() {
    let mut fields: Vec<Field> = saxpy_layout().fields().to_vec();
    fields[1].kind = FieldKind::Address;
    let error = check(&SOURCE, &ParamLayout::new(fields), &target()).unwrap_err();
    let DeviceError::LayoutMismatch { offset_bytes, passed, expected, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((offset_bytes, passed), (8, Some(FieldKind::Address)));
    assert_eq!(expected, Some(FieldKind::U64));
    let short = ParamLayout::new(saxpy_layout().fields()[..6].to_vec());
    let error = check(&SOURCE, &short, &target()).unwrap_err();
    assert!(matches!(error, DeviceError::LayoutMismatch { offset_bytes: 48, passed: None, .. }));
}

#[test]
fn broken_code_is_refused_with_a_reason() {
    let size = [256, 1, 1];
    let none = check(leaked(Vec::new(), "saxpy", size), &saxpy_layout(), &target());
    assert_eq!(none, Err(DeviceError::NoShader { kernel: "saxpy", format: "SPIR-V" }));
    let mut magic = SAXPY.to_vec();
    magic[0] ^= 1;
    assert!(reason(leaked(magic, "saxpy", size), &target()).contains("magic"));
    let odd = SAXPY[..SAXPY.len() - 1].to_vec();
    assert!(reason(leaked(odd, "saxpy", size), &target()).contains("whole number"));
    assert!(reason(leaked(SAXPY[..300].to_vec(), "saxpy", size), &target()).contains("middle"));
    assert!(reason(leaked(SAXPY.to_vec(), "other", size), &target()).contains("entry point"));
    assert!(reason(leaked(SAXPY.to_vec(), "saxpy", [64, 1, 1]), &target()).contains("workgroup"));
}

#[test]
fn what_the_device_lacks_is_named() {
    let without = Target { features: Features::ADDRESS, ..target() };
    assert!(reason(&SOURCE, &without).contains("feature"));
    let old = Target { spirv_version: 0x0001_0400, ..target() };
    assert!(reason(&SOURCE, &old).contains("newer"));
    let mut small = target();
    small.limits.invocations = 128;
    assert!(reason(&SOURCE, &small).contains("larger"));
}

#[test]
fn no_prefix_and_no_flipped_bit_makes_the_reader_panic() {
    for len in 0..SAXPY.len() {
        let _ = Module::read(&SAXPY[..len]);
    }
    for bit in 0..SAXPY.len() * 8 {
        let mut bytes = SAXPY.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(module) = Module::read(&bytes) {
            let _ = (workgroup(&module, "saxpy"), layout(&module));
        }
    }
}
